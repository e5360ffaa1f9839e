"""What a graph declares against what it will be called with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vsflashsr.errors import FlashsrError
from vsflashsr.runtimes.graph import Shape, Tensor, require_shapes

DECLARED = {
    name: Tensor(name, shape, np.dtype(np.float32))
    for name, shape in {"frames": (8, 3, "h", "w"), "state.mean": (1, None, "h", "2*w")}.items()
}


@pytest.mark.parametrize(
    ("given", "misfit"),
    [
        ({"frames": (8, 3, 16, 24), "state.mean": (1, 7, 16, 48)}, None),
        ({"frames": (8, 3, 16, 24)}, None),
        ({"frames": (25, 3, 16, 24)}, "frames"),
        ({"frames": (8, 3, 16)}, "frames"),
        ({"frames": (8, 3, 16, 24), "state.mean": (1, 7, 24, 48)}, "state.mean"),
        ({"frames": (8, 3, 16, 24), "state.mean": (2, 7, 16, 48)}, "state.mean"),
    ],
)
def test_shapes_that_a_graph_cannot_have_are_refused(given: dict[str, Shape], misfit: str | None) -> None:
    if misfit is None:
        return require_shapes(Path("x2.onnx"), DECLARED, given)
    with pytest.raises(FlashsrError, match=f"takes '{misfit}' of shape .*; correct the bundle"):
        require_shapes(Path("x2.onnx"), DECLARED, given)
