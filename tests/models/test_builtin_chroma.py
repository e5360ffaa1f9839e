"""The shipped graphs of chroma are faithful: flat stays flat, grey grey, no colour appears that wasn't there, and detail does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
import vapoursynth as vs

import vsflashsr
from vsflashsr import flashsr

from ..support.clips import planes

Picture = npt.NDArray[np.float32]

BUNDLES = Path(vsflashsr.__file__).parent / "bundles"
GRAPHS = [("builtin", 2), ("builtin", 4), ("builtin-hq", 2), ("builtin-hq", 4)]


@pytest.fixture(scope="module", params=GRAPHS, ids=lambda p: f"{p[0]}-x{p[1]}")
def named(request: pytest.FixtureRequest) -> tuple[str, int]:
    found: tuple[str, int] = request.param
    return found


def run(named: tuple[str, int], frames: Picture) -> Picture:
    """What the bundle's graph makes of three planes."""
    bundle, scale = named
    name = json.loads((BUNDLES / bundle / "bundle.json").read_text(encoding="utf-8"))["scales"][str(scale)]["chroma"]
    session = ort.InferenceSession(str(BUNDLES / bundle / name), providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {"frames": frames[None]})
    out: Picture = made[0]
    return out


def blocks(seed: int, size: int = 64) -> Picture:
    """Luma and chroma that change at the same places, softened a little."""
    rng = np.random.default_rng(seed)
    sheet = np.kron(rng.uniform(-0.4, 0.4, (3, size // 8, size // 8)), np.ones((1, 8, 8))).astype(np.float32)
    sheet[0] += 0.5
    soft: Picture = (sheet + np.roll(sheet, 1, 1) + np.roll(sheet, 1, 2)) / np.float32(3)
    return soft


@pytest.mark.parametrize("level", [(0.0, 0.0, 0.0), (0.3, -0.5, 0.5), (1.0, 0.1, -0.2)])
def test_flat_stays_flat(named: tuple[str, int], level: tuple[float, float, float]) -> None:
    flat = np.ones((3, 48, 64), np.float32) * np.asarray(level, np.float32)[:, None, None]
    assert np.array_equal(run(named, flat), flat)


def test_grey_stays_grey(named: tuple[str, int]) -> None:
    grey = blocks(1)
    grey[1:] = 0
    assert np.array_equal(run(named, grey), grey)


def test_no_colour_appears_that_was_not_around(named: tuple[str, int]) -> None:
    """Within the range of three blocks and a fifth of it."""
    frames = blocks(2)
    made, scale = run(named, frames), named[1]
    assert np.array_equal(made[0], frames[0])
    assert np.abs(made[1:] - frames[1:]).max() > 0.02
    for top in range(0, 64, scale):
        for left in range(0, 64, scale):
            around = frames[1:, max(0, top - scale) : top + 2 * scale, max(0, left - scale) : left + 2 * scale]
            low, high = around.min((1, 2)), around.max((1, 2))
            room = 0.2 * (high - low) + 1e-5
            block = made[1:, top : top + scale, left : left + scale]
            assert (block.max((1, 2)) <= high + room).all() and (block.min((1, 2)) >= low - room).all()


def test_edges_of_colour_are_nearer_to_where_luma_has_them(named: tuple[str, int]) -> None:
    """A disc of another colour and brightness, made small and large again: less is left of the error than with Spline36."""
    bundle, scale = named
    side = 96 * scale
    down, across = np.mgrid[0:side, 0:side] - side / 2
    disc = np.clip(side / 4 - np.hypot(down, across) + 0.5, 0, 1)
    whole = [np.rint(low + disc * (high - low)) for low, high in ((60, 190), (90, 160), (170, 100))]
    blank = vs.core.std.BlankClip(width=side, height=side, format=vs.YUV444P8, length=1, keep=True)

    def put(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        out = f.copy()
        for p in range(3):
            np.copyto(np.asarray(out[p]), whole[p].astype(np.uint8))
        return out

    truth = blank.std.ModifyFrame(blank, put).std.SetFrameProps(_Matrix=1, _Range=0)
    truth = truth.resize.Bicubic(format=vs.YUV420P8)
    low = truth.resize.Bicubic(96, 96, filter_param_a=0, filter_param_b=0.5)
    errors = []
    for predicted in (True, False):
        out = flashsr(low, scale, model=bundle, model_options={"chroma": predicted})
        pairs = zip(planes(out.get_frame(0))[1:], planes(truth.get_frame(0))[1:], strict=True)
        errors.append(sum(float(np.square(a.astype(float) - b).mean()) for a, b in pairs))
    assert errors[0] < 0.8 * errors[1], errors
