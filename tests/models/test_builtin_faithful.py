"""The shipped graphs are faithful: a run begun at the preroll is the long one, what went leaves nothing, flat stays flat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest

import vsflashsr

Picture = npt.NDArray[np.float32]

STEP = np.float32(1 / 219)
"""A step of 8 bit; luma is 0..1 for 16..235."""
PREROLL = 8
"""Less than the bundles' 12, which real clips ask for."""
BUNDLES = Path(vsflashsr.__file__).parent / "bundles"
HEIGHT, WIDTH = 48, 64
GRAPHS = [("builtin", 2), ("builtin", 4), ("builtin-hq", 2), ("builtin-hq", 4)]


class Graph:
    """One of the four, run over frames from its zero state."""

    def __init__(self, name: str, scale: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        path = BUNDLES / name / f"x{scale}.onnx"
        self.scale = scale
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, frames: Iterable[Picture]) -> list[Picture]:
        """Pictures `scale` times as large, in steps of 8 bit."""
        out: list[Picture] = []
        luma: Picture | None = None
        for frame in frames:
            height, width = frame.shape
            if luma is None:
                luma = np.zeros((1, 1, height, width), np.float32)
                picture = np.zeros((1, 1, 2 * height, 2 * width), np.float32)
            feeds = {"frames": frame[None, None], "state.luma": luma, "state.picture": picture}
            made, luma, picture = self._session.run(None, feeds)
            out.append(made[0, 0] / STEP)
        return out


@pytest.fixture(scope="module", params=GRAPHS, ids=lambda p: f"{p[0]}-x{p[1]}")
def graph(request: pytest.FixtureRequest) -> Graph:
    return Graph(*request.param)


def texture(seed: int) -> Picture:
    """Twice as large and more than a frame: detail of every size, and hard edges, 0.1..0.9."""
    rng = np.random.default_rng(seed)
    sheet = np.zeros((4 * HEIGHT, 4 * WIDTH), np.float32)
    for block in (2, 4, 8, 16):
        rough = rng.random((4 * HEIGHT // block, 4 * WIDTH // block), dtype=np.float32)
        sheet += np.kron(np.where(rough > 0.6, rough, 0), np.ones((block, block), np.float32))
    return (0.1 + 0.8 * sheet / sheet.max()).astype(np.float32)


def view(sheet: Picture, down: int, across: int) -> Picture:
    """A frame of it, moved by halves of a pixel, in 8 bit."""
    part = sheet[down : down + 2 * HEIGHT, across : across + 2 * WIDTH]
    small = part.reshape(HEIGHT, 2, WIDTH, 2).mean((1, 3))
    return (np.rint(small / STEP) * STEP).astype(np.float32)


def worst(a: Picture, b: Picture) -> float:
    return float(np.abs(a - b).max())


@pytest.mark.parametrize(("down", "across"), [(1, 3), (2, 0), (1, 1)], ids=["pan", "whole pixels", "half pixels"])
def test_run_begun_at_the_preroll_is_the_long_one(graph: Graph, down: int, across: int) -> None:
    sheet = texture(1)
    frames = [view(sheet, down * n, across * n) for n in range(20)]
    long = graph(frames)
    for n in (12, 19):
        assert worst(graph(frames[n - PREROLL : n + 1])[-1], long[n]) <= 1


@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_held_picture_doesn_t_change_at_a_grid_line(graph: Graph, noise: float) -> None:
    """A pan that comes to rest; a segment may begin at any frame after that."""
    sheet, rng = texture(2), np.random.default_rng(0)
    moving = [view(sheet, n, 3 * n) for n in range(12)]
    held = [moving[-1] + noise * STEP * rng.standard_normal((HEIGHT, WIDTH), np.float32) for _ in range(20)]
    long = graph([*moving, *held])[len(moving) :]
    for n in (PREROLL, 19):
        assert worst(graph(held[n - PREROLL : n + 1])[-1], long[n]) <= 1
    if not noise:
        assert worst(long[-1], long[-2]) <= 0.1


@pytest.mark.parametrize("background", ["flat", "texture", "noise"])
def test_nothing_is_left_of_what_went_seven_frames_ago(graph: Graph, background: str) -> None:
    rng = np.random.default_rng(0)
    still = np.full((HEIGHT, WIDTH), 0.3, np.float32) if background == "flat" else view(texture(3), 10, 10)
    half = 0.5 * STEP if background == "noise" else 0
    clean = [still + half * rng.standard_normal((HEIGHT, WIDTH), np.float32) for _ in range(15)]
    shown = [frame.copy() for frame in clean]
    for n in range(4):
        shown[4 + n][14:28, 16 + 2 * n : 30 + 2 * n] = 0.9
    speck = [frame.copy() for frame in clean]
    speck[7][30:32, 40:42] = 0.9
    expected = graph(clean)
    for frames in (shown, speck):
        assert worst(graph(frames)[14], expected[14]) <= 1


@pytest.mark.parametrize("contrast", [1.0, 0.5, 0.2, 0.1, 0.05])
def test_cut_that_was_missed_leaves_no_trace(graph: Graph, contrast: float) -> None:
    def shot(seed: int, count: int) -> Sequence[Picture]:
        sheet = texture(seed)
        return [np.float32(0.02 + contrast) * view(sheet, n, 3 * n) for n in range(count)]

    before, after = shot(4, 6), shot(5, 3)
    traced, clean = graph([*before, *after])[6:], graph(after)
    assert worst(traced[1], clean[1]) <= 3
    assert worst(traced[2], clean[2]) <= 2


def test_flat_stays_flat_at_every_level(graph: Graph) -> None:
    """Levels of 8 bit over the whole range, and dark ones of 10 bit."""
    for levels, bits in ((range(16, 236, 3), 8), (range(64, 160, 5), 10)):
        for level in levels:
            value = np.float32((level / 2 ** (bits - 8) - 16) / 219)
            for made in graph([np.full((16, 24), value, np.float32)] * 2):
                assert np.abs(made - value / STEP).max() * 2 ** (bits - 8) <= 0.5


def lanczos(frame: Picture, scale: int) -> Picture:
    """By Lanczos-3, edges repeated."""

    def along(x: Picture) -> Picture:
        count = x.shape[0]
        place = (np.arange(count * scale) + 0.5) / scale - 0.5
        taps = np.floor(place)[:, None] + np.arange(-2, 4)
        distance = place[:, None] - taps
        weight = np.sinc(distance) * np.sinc(distance / 3) * (np.abs(distance) < 3)
        weight /= weight.sum(1, keepdims=True)
        rows = np.clip(taps, 0, count - 1).astype(int)
        made: Picture = np.einsum("ot,otw->ow", weight, x[rows]).astype(np.float32)
        return made

    return along(along(frame).T).T


def small_print() -> Picture:
    """Lines of dark letters of 4x6 pixels on white, as a downscaler without aliasing leaves them."""
    rng, k = np.random.default_rng(6), 4
    page = np.full((64 * k, 96 * k), 0.9, np.float32)
    for top in range(3 * k, 54 * k, 10 * k):
        for left in range(3 * k, 88 * k, 7 * k):
            letter = page[top : top + 6 * k, left : left + 4 * k]
            stem = int(rng.integers(3 * k))
            letter[:, stem : stem + k] = 0.1
            for row in rng.integers(5 * k, size=2):
                letter[row : row + k] = 0.1
    tent = np.convolve(np.ones(k), np.ones(k)) / k**2
    for axis in (0, 1):
        page = np.apply_along_axis(np.convolve, axis, np.pad(page, k, mode="edge"), tent, "same")[k:-k, k:-k]
    return page[k // 2 :: k, k // 2 :: k].astype(np.float32)


def test_small_print_is_as_bright_as_it_was(graph: Graph) -> None:
    """It came out paler, by 0.5 to 1.1 steps in the mean of the page."""
    page = small_print()
    expected = float(lanczos(page, graph.scale).mean()) / STEP
    for made in graph([page] * 4):
        assert abs(float(made.mean()) - expected) <= 0.3


@pytest.mark.parametrize("shape", ["dot", "line", "step"])
def test_overshoot_is_at_most_twice_that_of_lanczos(graph: Graph, shape: str) -> None:
    frame = np.full((32, 40), 0.3, np.float32)
    places = {"dot": np.s_[16:17, 20:21], "line": np.s_[:, 20:21], "step": np.s_[:, 20:]}
    rows, columns = places[shape]
    frame[rows, columns] = 0.9

    def beyond(made: Picture) -> float:
        return max(float(made.max()) - 0.9, 0.3 - float(made.min()))

    for made in graph([frame] * 3):
        assert beyond(made * STEP) <= 2 * beyond(lanczos(frame, graph.scale))
