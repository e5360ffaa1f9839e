"""An .onnx that scripts/export_onnx.py makes of a .pth is what flashsr takes, and makes torch's pictures."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import vapoursynth as vs

from vsflashsr import flashsr

from ..support.clips import noise
from ..support.pipe import environment

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "export_onnx.py"

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(importlib.util.find_spec("spandrel") is None, reason="spandrel isn't installed"),
]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    # Threads of torch wait by spinning, which a busy machine pays for.
    surroundings = {**environment(), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=800, env=surroundings, check=False)


def test_a_pth_becomes_an_onnx(tmp_path: Path) -> None:
    import torch
    from spandrel.architectures.Compact import Compact

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Compact(num_feat=16, num_conv=4, upscale=2)
    path = tmp_path / "ein Modell ü.pth"
    torch.save(model.state_dict(), path)
    done = run(path)
    assert done.returncode == 0, done.stderr
    assert "x2, any size" in done.stdout
    onnx = path.with_suffix(".onnx")
    # Neither of the sizes it was traced and checked with.
    clip = noise(2, 70, 54, vs.RGBS)
    with flashsr(clip, 2, model=onnx).get_frame(1) as made, clip.get_frame(1) as low:
        picture = torch.from_numpy(np.stack([np.asarray(low[p]) for p in range(3)])[None])
        with torch.inference_mode():
            expected = model.eval()(picture)[0].numpy()
        assert np.abs(np.stack([np.asarray(made[p]) for p in range(3)]) - expected).max() < 2e-3
        assert expected.std() > 0.01
    again = run(path)
    assert again.returncode == 1
    assert "is there already" in again.stderr


def test_what_is_no_model_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "no model.pth"
    path.write_bytes(b"no model")
    done = run(path)
    assert done.returncode == 1
    assert done.stderr.startswith("export_onnx: ")
    assert done.stderr.count("\n") == 1
