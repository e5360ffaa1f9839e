"""The scene-cut detector against a labelled set: synthetic shots of all contrasts, and crops of the sample clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import vapoursynth as vs

from vsflashsr import scenes
from vsflashsr.geometry import Array

CLIPS = Path(__file__).resolve().parents[1] / "samples" / "clips"
HEIGHT, WIDTH = 144, 256


def world(seed: int) -> Array:
    """A picture (2 * HEIGHT, 2 * WIDTH), 0..1, of things of many sizes."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((2 * HEIGHT, 2 * WIDTH), np.float32)
    for block in (4, 16, 32):
        picture += np.kron(rng.random((2 * HEIGHT // block, 2 * WIDTH // block)), np.ones((block, block))).astype(np.float32)
    return picture / picture.max()


def shot(seed: int, count: int, *, pan: int = 1, contrast: float = 1.0, level: float = 0.0) -> list[Array]:
    """Frames (1, HEIGHT, WIDTH) of a pan over a world, with noise of half a step of 8 bit."""
    picture, rng = world(seed), np.random.default_rng(seed)
    return [
        level
        + contrast * picture[None, n : HEIGHT + n, pan * n : pan * n + WIDTH]
        + rng.normal(0, 0.5 / 255, (1, HEIGHT, WIDTH)).astype(np.float32)
        for n in range(count)
    ]


def cuts(frames: list[Array]) -> list[int]:
    """Where the detector finds one."""
    seen = [scenes.thumbnail(f) for f in frames]
    return [n for n in range(1, len(seen)) if scenes.is_cut(seen[n - 2] if n > 1 else None, seen[n - 1], seen[n])]


@pytest.mark.parametrize(
    ("contrast", "level"), [(1.0, 0.0), (0.3, 0.6), (0.08, 0.01), (0.05, 0.4)], ids=str
)
@pytest.mark.parametrize("seed", [1, 11, 21])
def test_cut_is_found_however_dark_or_flat_the_shots(contrast: float, level: float, seed: int) -> None:
    frames = [f for k in range(3) for f in shot(seed + k, 5, contrast=contrast, level=level)]
    assert cuts(frames) == [5, 10]


@pytest.mark.parametrize("seed", [1, 11, 21])
def test_every_frame_may_be_a_new_shot(seed: int) -> None:
    assert cuts([shot(seed + k, 1)[0] for k in range(8)]) == list(range(1, 8))


@pytest.mark.parametrize("contrast", [1.0, 0.1])
def test_cut_with_one_blended_frame_is_found(contrast: float) -> None:
    one, other = shot(1, 5, contrast=contrast), shot(2, 6, contrast=contrast)
    found = cuts([*one, ((one[-1] + other[0]) / 2).astype(np.float32), *other[1:]])
    assert found
    assert set(found) <= {5, 6}
    assert 6 in found or contrast == 1.0


@pytest.mark.parametrize("pan", [0, 1, 4, 8])
def test_pan_is_no_cut(pan: int) -> None:
    assert cuts(shot(3, 16, pan=pan)) == []


def test_flash_and_fade_are_no_cuts() -> None:
    frames = shot(4, 16)
    flash = [f * 0.7 + 0.3 if n == 7 else f for n, f in enumerate(frames)]
    assert cuts(flash) == []
    assert cuts([f * np.float32(1 - n / 15) for n, f in enumerate(frames)]) == []
    other = shot(5, 16)
    pairs = enumerate(zip(frames, other, strict=True))
    assert cuts([a * np.float32(1 - n / 15) + b * np.float32(n / 15) for n, (a, b) in pairs]) == []


def test_noise_and_an_object_over_a_still_picture_are_no_cuts() -> None:
    rng = np.random.default_rng(0)
    assert cuts([np.float32(0.05) + rng.normal(0, 3 / 255, (1, HEIGHT, WIDTH)).astype(np.float32) for _ in range(12)]) == []
    assert cuts([rng.uniform(0.2, 0.4, (1, 32, 32)).astype(np.float32) for _ in range(12)]) == [], "nor is a snowstorm"
    frames = shot(6, 16, pan=0)
    for n in range(16):
        frames[n] = frames[0].copy()
        frames[n][:, 30:110, 10 * n : 10 * n + 70] = 0.9
    assert cuts(frames) == []


def test_cut_under_black_bars_is_found() -> None:
    frames = [*shot(7, 5, contrast=0.1), *shot(8, 5, contrast=0.1)]
    for frame in frames:
        frame[:, :24], frame[:, -24:] = 0, 0
    assert cuts(frames) == [5]


def sample(name: str, start: int, count: int) -> list[Array]:
    if not hasattr(vs.core, "bs"):
        pytest.skip("needs vapoursynth-bestsource")
    clip = vs.core.bs.VideoSource(str(CLIPS / name), cachemode=0, showprogress=False)[start : start + count]
    grey = vs.core.std.ShufflePlanes(clip, 0, vs.GRAY).resize.Bilinear(256, 144, format=vs.GRAYS)
    return [np.array(f[0])[None] for f in grey.frames(close=True)]


def test_real_clips_have_no_cut_inside_and_one_between() -> None:
    butterfly, bunny = sample("butterfly_270p.mp4", 0, 12), sample("bbb_480i.mpg", 0, 12)
    assert cuts(butterfly) == []
    assert cuts(bunny) == []
    for contrast in (1.0, 0.1):
        assert cuts([np.float32(contrast) * f for f in [*butterfly, *bunny]]) == [12]
