"""FlashVSR's arithmetic of windows, positions and noise: pure, no model."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from vsflashsr.errors import FlashsrError
from vsflashsr.models.flashvsr.host.step import from_patches, to_patches
from vsflashsr.models.flashvsr.noise import latent_noise, step_noise
from vsflashsr.models.flashvsr.rope import rope_split, rotate, slice_tables
from vsflashsr.models.flashvsr.windows import Grid, local_mask, pair_budget, token_order, topk_ratio, window_order


def test_a_script_that_renders_imports_no_torch() -> None:
    code = "import sys, vsflashsr.models.flashvsr.host.model as m; sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("width", "height", "ratio", "budget"),
    [
        (1536, 1536, 2.0, 17279),
        (1280, 768, 2.0, 7199),
        (1920, 1024, 2.0, 14399),
        (1280, 640, 2.0, 5999),
        (1408, 768, 2.0, 7919),
        (2816, 1920, 2.0, 39599),
        (640, 256, 2.0, 1199),
        # Binary rounding makes it one less than 60 * ratio * S - 1 = 6599 here, in the published code as well.
        (1408, 640, 2.0, 6598),
        (1280, 768, 1.5, 5399),
    ],
)
def test_budget_is_the_published_integer(width: int, height: int, ratio: float, budget: int) -> None:
    grid = Grid(height // 128, width // 128)
    assert pair_budget(topk_ratio(ratio, grid), grid) == budget


def test_a_ratio_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(FlashsrError, match="sparse_ratio keeps no pair of windows at 128x128"):
        pair_budget(0.5, Grid(1, 1))


@pytest.mark.parametrize(("rows", "cols", "reach"), [(1, 1, 11), (3, 4, 3), (6, 10, 9), (5, 5, 4), (2, 7, 1)])
def test_local_mask_is_a_window_cut_off_at_the_borders(rows: int, cols: int, reach: int) -> None:
    mask = local_mask(Grid(rows, cols), reach).reshape(rows, cols, rows, cols)
    for (r, c, r2, c2), seen in np.ndenumerate(mask):
        low_r, low_c = r - reach // 2, c - reach // 2
        assert seen == (low_r <= r2 <= low_r + reach - 1 and low_c <= c2 <= low_c + reach - 1)


def test_window_order_puts_128_neighbours_together() -> None:
    grid = Grid(2, 3)
    order = window_order(grid, 2)
    frame, row, col = np.unravel_index(order, (4, 16, 24))
    for window in range(12):
        part = slice(128 * window, 128 * window + 128)
        assert set(frame[part] // 2) == {window // 6}
        assert set(row[part] // 8) == {window % 6 // 3}
        assert set(col[part] // 8) == {window % 3}
    assert (order[token_order(grid, 2)] == np.arange(len(order))).all()


def test_patches_are_undone() -> None:
    grid = Grid(2, 1)
    latents = np.random.default_rng(0).random((16, 6, 32, 16), np.float32)
    patches = to_patches(latents, grid)
    assert patches.shape == (6 * 16 * 8, 64)
    # Token (frame 0, row 0, column 0): its patch is ordered row, column, channel.
    assert (patches[0].reshape(2, 2, 16) == latents[:, 0, :2, :2].transpose(1, 2, 0)).all()
    assert (from_patches(patches, grid) == latents).all()


def test_head_dimensions_split_as_published() -> None:
    assert rope_split(128) == (44, 42, 42)
    assert rope_split(32) == (12, 10, 10)
    with pytest.raises(ValueError, match="got 64"):
        rope_split(64)


def test_scores_depend_on_differences_of_positions_only() -> None:
    grid, random = Grid(1, 2), np.random.default_rng(1)
    q, k = (random.standard_normal((256, 1, 24)).astype(np.float32) for _ in range(2))

    def scores(first: int) -> np.ndarray:
        turned_q = rotate(q, *slice_tables(grid, 24, first + 6))
        turned_k = rotate(k, *slice_tables(grid, 24, first))
        product: np.ndarray = np.einsum("qhd,khd->qk", turned_q, turned_k)
        return product

    # Two million latents in, which is far past any table.
    np.testing.assert_allclose(scores(0), scores(2_000_000), atol=1e-4)


def test_noise_is_a_function_of_seed_and_frame() -> None:
    assert (latent_noise(3, 77, 16, 32) == latent_noise(3, 77, 16, 32)).all()
    assert not (latent_noise(3, 77, 16, 32) == latent_noise(4, 77, 16, 32)).any()
    assert not (latent_noise(3, 77, 16, 32) == latent_noise(3, 78, 16, 32)).any()
    assert abs(float(latent_noise(0, 0, 128, 128).std()) - 1) < 0.01


def test_a_latent_has_the_same_noise_in_a_first_step_and_in_a_later_one() -> None:
    # A run from frame 0 reaches frames 25..32 in its second step, one from frame 8 in its first.
    from_zero = step_noise(5, range(25, 33), 16, 16)
    from_eight = step_noise(5, range(8, 33), 16, 16)
    assert from_eight.shape == (16, 6, 16, 16)
    assert (from_eight[:, 4:] == from_zero).all()


def test_noise_is_normal() -> None:
    """Moments, the distribution against the error function's, and no correlation of neighbours or of frames."""
    noise = latent_noise(1, 2, 256, 256).astype(np.float64).ravel()
    count = len(noise)
    assert abs(noise.mean()) < 4 / count**0.5 and abs(noise.std() - 1) < 4 / (2 * count) ** 0.5
    assert abs((noise**3).mean()) < 4 * (15 / count) ** 0.5 and abs((noise**4).mean() - 3) < 4 * (96 / count) ** 0.5
    ordered = np.sort(noise)
    expected = np.array([0.5 * math.erfc(-x / 2**0.5) for x in ordered[::997]])
    assert np.abs(expected - (np.arange(count)[::997] + 0.5) / count).max() < 2 / count**0.5
    other = latent_noise(1, 3, 256, 256).astype(np.float64).ravel()
    for a, b in ((noise[:-1], noise[1:]), (noise[:-2], noise[2:]), (noise, other)):
        assert abs((a * b).mean()) < 5 / count**0.5


def test_the_words_are_philox_s() -> None:
    """The published generator's known answers (Random123, kat_vectors: philox4x32 of 10 rounds)."""
    from vsflashsr.models.flashvsr.noise import _philox

    assert [int(word[0]) for word in _philox(0, 0, 1)] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_the_compiled_noise_rounds_every_product() -> None:
    """A fused multiply-add, or an approximate root, would be another bit here and there."""
    pytest.importorskip("triton", reason="compiling needs Triton")
    from vsflashsr.gpu.kernels.compile import compiled
    from vsflashsr.models.flashvsr.kernels.table import KERNELS, kernels

    ptx = compiled(KERNELS, kernels()["noise"], 86).ptx
    assert "fma.rn" not in ptx and "sqrt.approx" not in ptx and "sqrt.rn" in ptx and "st.global.v4" in ptx
