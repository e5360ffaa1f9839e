"""RealViformer's graph on the mock device: the frames of the CPU to the bit from engines, and to rounding from torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the toy bundle is made by the exporter, which needs the extra 'export'")
pytest.importorskip("filelock", reason="needs the extra 'rtx'")

from vsflashsr import flashsr
from vsflashsr.arguments import Arguments
from vsflashsr.model import fetched
from vsflashsr.models.opening import read_kind
from vsflashsr.runtimes.onnxruntime import CpuBackend

from ...support.clips import digest, rgb_clip
from ...support.flashvsr_small import frames
from ...support.mock_cuda import mock_device
from ...support.realviformer_small import small_bundle
from ...support.torch_device import OnMock
from ...test_filter_device import gpu


def test_engines_on_the_device_give_the_frames_of_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Across a cut, out of order: state that stays on the device is that of the frame before, and of no other."""
    clip = rgb_clip(frames(6, 18, 21), cuts=(3,))
    cpu = flashsr(clip, 4, model=small_bundle(), backend="onnxruntime", threads=1)
    order = [2, 5, 0, 3]
    wanted = {n: digest(cpu.get_frame(n)) for n in order}
    with gpu(monkeypatch, tmp_path, seed=2) as card:
        out = card(clip, 4, model=small_bundle())
        assert {n: digest(out.get_frame(n)) for n in order} == wanted
        del out


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-4), pytest.param("fp16", 0.02, marks=pytest.mark.long)])
def test_torch_runs_the_graph(precision: str, tolerance: float) -> None:
    size = (18, 21)
    kind = read_kind(Arguments(model=small_bundle(precision), scale=4))
    host = kind.load(CpuBackend(1), size, tiles=None).model
    with mock_device(seed=1, total_bytes=1 << 30) as (device, mock):
        model = kind.load(OnMock(device, mock), size, tiles=None).model
        own, other = None, None
        for n, frame in enumerate(frames(3, *size)):
            (made,), own = model.step([frame], [n], own)
            (wanted,), other = host.step([frame], [n], other)
            np.testing.assert_allclose(fetched(made), fetched(wanted), atol=tolerance)
        del own
