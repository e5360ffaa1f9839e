"""scripts/fp8_numerics.py: eight bits reach the layers that are named, and no others."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch", reason="it rounds torch's layers")

from trt_build.flashvsr.torch_executor import TorchExecutor  # noqa: E402

from ..support.flashvsr_small import small_checkpoint  # noqa: E402

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "fp8_numerics.py"))


def test_shares_are_of_all_layers() -> None:
    share = SCRIPT["share"]
    assert share(SCRIPT["PARTS"]) == pytest.approx(1)
    assert share(["ffn_in"]) == share(["ffn_out"]) == pytest.approx(0.33, abs=0.005)
    assert share(["q"]) == share(["cross_o"]) == pytest.approx(0.0566, abs=0.001)


@pytest.mark.parametrize(("parts", "changed"), [((), "none"), (("k",), "k"), (("ffn_in",), "all"), (("head",), "none")])
def test_only_what_is_named_is_rounded(parts: tuple[str, ...], changed: str) -> None:
    executor = TorchExecutor(small_checkpoint())
    torch.manual_seed(0)
    x, attended = torch.randn(2, 24, executor.heads * executor.head_dim).unbind()
    plain = executor.middle(0, x, attended)
    with SCRIPT["in_eight_bits"](executor, parts, None):
        made = executor.middle(0, x, attended)
    names = ("x", "q", "k", "v")
    differs = {
        name for name, a, b in zip(names, plain, made, strict=True) if not torch.allclose(a, b, rtol=1e-6, atol=1e-6)
    }
    assert differs == {"none": set(), "k": {"k"}, "all": set(names)}[changed]
