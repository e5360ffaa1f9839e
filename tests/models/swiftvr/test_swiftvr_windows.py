"""Windows and their owners: every token in a window, its result from one that holds it. And what follows from ``clip_len``."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsflashsr.errors import FlashsrError
from vsflashsr.models.swiftvr.options import Options
from vsflashsr.models.swiftvr.upscale import axis
from vsflashsr.models.swiftvr.windows import rotary, starts, windows

sizes = st.integers(1, 60)
sides = st.integers(1, 17)


@pytest.mark.parametrize(
    ("size", "even", "odd"),
    [
        (16, (0,), (0,)),
        (17, (0, 1), (0, 1)),
        (32, (0, 16), (0, 16)),
        (33, (0, 16, 17), (0, 8, 17)),
        (44, (0, 16, 28), (0, 8, 24, 28)),
        (68, (0, 16, 32, 48, 52), (0, 8, 24, 40, 52)),
    ],
)
def test_the_published_starts(size: int, even: tuple[int, ...], odd: tuple[int, ...]) -> None:
    """Of the specification's table; the golden set has all to 160."""
    assert starts(size, 16, shifted=False) == even
    assert starts(size, 16, shifted=True) == odd


@given(sizes, sides, st.booleans())
def test_windows_cover_an_axis_and_stay_inside(size: int, side: int, shifted: bool) -> None:
    found = starts(size, side, shifted=shifted)
    covered = {at + k for at in found for k in range(min(side, size))}
    assert covered == set(range(size)) and list(found) == sorted(set(found))


@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), sides, sides, st.booleans())
def test_each_token_is_taken_from_a_window_that_holds_it(
    frames: int, rows: int, cols: int, height: int, width: int, shifted: bool
) -> None:
    over = windows(frames, rows, cols, (height, width), shifted=shifted)
    tokens = np.arange(frames * rows * cols)
    assert np.array_equal(over.gather.ravel()[over.owner], tokens)
    # The first that holds it, or the last.
    index = over.owner // over.gather.shape[1]
    for token in tokens[:: max(1, len(tokens) // 20)]:
        holders = np.flatnonzero((over.gather == token).any(axis=1))
        assert index[token] == (holders[-1] if shifted else holders[0])


def test_scores_depend_on_distances_only() -> None:
    """So every step may count from 0."""
    cos, sin = rotary(2, 3, 4, 24)
    x = np.random.default_rng(0).standard_normal((2, 24)).astype(np.float32)

    def turned(of: np.ndarray, token: int) -> np.ndarray:
        even, odd = of[::2], of[1::2]
        return np.stack([even * cos[token] - odd * sin[token], even * sin[token] + odd * cos[token]])

    pairs = [(0, 5), (1, 6), (12, 17)]  # one row and one column apart, and the same in the next frame
    scores = [float((turned(x[0], a) * turned(x[1], b)).sum()) for a, b in pairs]
    np.testing.assert_allclose(scores, scores[0], rtol=1e-5)


def test_the_upscale_is_bilinear_with_half_pixel_centres_and_black_beyond() -> None:
    along = axis(3, 6, 8)
    row = (np.array([0, 1, 3])[along.sources] * along.weights).sum(0)
    np.testing.assert_allclose(row, [0, 0.25, 0.75, 1.5, 2.5, 3, 0, 0])
    same = axis(5, 5, 5)
    assert np.array_equal((np.arange(5)[same.sources] * same.weights).sum(0), np.arange(5))


@pytest.mark.parametrize(("clip_len", "preroll"), [(24, 96), (12, 72), (8, 64), (4, 60)])
def test_what_follows_from_clip_len(clip_len: int, preroll: int) -> None:
    options = Options(clip_len)
    assert options.preroll == preroll and options.max_segment % clip_len == 0
    schedule = options.schedule
    assert (schedule.first_reads, schedule.first_emits) == (clip_len + 4, clip_len + 1) and schedule.look_ahead == 3


@pytest.mark.parametrize("value", [0, 3, 6, 28, 2.0, True, "8"])
def test_other_clip_lens_are_refused(value: object) -> None:
    with pytest.raises(FlashsrError, match=r"clip_len is one of 4, 8, 12, 16, 20, 24, got"):
        Options().overridden({"clip_len": value})  # type: ignore[dict-item]  # that is the point
