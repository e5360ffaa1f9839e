"""The kernels of tokens, patches and frames in Triton's interpreter, against the NumPy reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from vsflashsr import colour_fix
from vsflashsr.models.flashvsr.host.step import from_patches, to_patches
from vsflashsr.models.flashvsr.kernels import launches
from vsflashsr.models.flashvsr.kernels.launches import AxisTables, Planes, Resize
from vsflashsr.models.flashvsr.kernels.tables import ResizeTable, resize_table
from vsflashsr.models.flashvsr.noise import latent_noise, signed
from vsflashsr.models.flashvsr.windows import Grid, window_order
from vsflashsr.resample import coefficients, resize

from ...support.triton_host import interpreted, placed, run_launch, run_launches, unset

pytest.importorskip("triton", reason="the kernels are Triton's")

type Array = npt.NDArray[Any]


def drawn(shape: tuple[int, ...], seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@interpreted
@pytest.mark.parametrize(("rows", "cols", "slices", "dim"), [(1, 1, 3, 32), (2, 2, 1, 544)])
def test_tokens_are_brought_into_window_order(rows: int, cols: int, slices: int, dim: int) -> None:
    grid = Grid(rows, cols)
    latents = [placed(drawn((grid.slice_tokens // 2, dim), seed).astype(np.float16)) for seed in range(2 * slices)]
    out = unset((slices * grid.slice_tokens, dim), np.float16)
    for latent, tokens in enumerate(latents):
        run_launch(launches.gather_latent(tokens.ctypes.data, out.ctypes.data, grid, latent, dim * 2))
    np.testing.assert_array_equal(out, np.concatenate(latents)[window_order(grid, slices)])


@interpreted
def test_patches_and_latents_turn_into_each_other() -> None:
    grid, slices = Grid(2, 1), 3
    noise = placed(drawn((16, 2 * slices, 32, 16)))
    patches = unset((slices * grid.slice_tokens, 64))
    run_launch(launches.to_patches(noise.ctypes.data, patches.ctypes.data, grid, slices))
    np.testing.assert_array_equal(patches, to_patches(noise, grid))
    back = unset(noise.shape)
    run_launch(launches.from_patches(patches.ctypes.data, back.ctypes.data, grid, slices))
    np.testing.assert_array_equal(back, from_patches(patches, grid))
    np.testing.assert_array_equal(back, noise)


@interpreted
def test_latents_come_out_one_after_the_other_for_the_decoder() -> None:
    grid, slices = Grid(1, 2), 1
    patches = placed(drawn((slices * grid.slice_tokens, 64)))
    out = unset((2 * slices, 16, 16, 32))
    plane = launches.latent_values(grid)
    launch = launches.from_patches(
        patches.ctypes.data, out.ctypes.data, grid, slices, frame_stride=16 * plane, channel_stride=plane
    )
    run_launch(launch)
    np.testing.assert_array_equal(out, from_patches(patches, grid).transpose(1, 0, 2, 3))


@pytest.mark.parametrize(("size", "target"), [(7, 28), (33, 66), (5, 15), (1, 4), (40, 40), (31, 13)])
def test_resize_tables_hold_the_reference_s_coefficients(size: int, target: int) -> None:
    """Enlarged, kept, and shrunk; a single row."""
    table = resize_table(size, target)
    matrix = np.zeros((target, size + table.taps))
    for row, start in enumerate(table.starts):
        matrix[row, start : start + table.taps] = table.weights[row]
    np.testing.assert_array_equal(matrix[:, :size], coefficients(size, target).astype(np.float32))
    assert not matrix[:, size:].any()
    assert np.abs(table.whole_weights.sum(axis=1) - (1 << 22)).max() <= table.taps, "units of 2^-22"


def on_device(table: ResizeTable, held: list[Array]) -> AxisTables:
    arrays = [placed(part) for part in (table.starts, table.weights, table.whole_weights)]
    held += arrays
    return AxisTables(*(array.ctypes.data for array in arrays))


@interpreted
@pytest.mark.parametrize(
    ("height", "width", "scale", "mode"), [(9, 33, 4, "reflect"), (17, 14, 2, "edge"), (1, 5, 3, "reflect")]
)
def test_frames_are_upscaled_and_padded(height: int, width: int, scale: int, mode: Any) -> None:
    """8-bit frames to the bit, deeper ones as near as float32 sums are; both in one call."""
    frames = np.random.default_rng(height).random((2, 3, height, width)).astype(np.float32)
    frames[0] = np.rint(frames[0] * 255) / np.float32(255)
    frames[:, 1] = (frames[:, 1] > 0.5).astype(np.float32)  # overshoots, which are cut off after each axis
    tall, wide = height * scale, width * scale
    padded_tall, padded_wide = -(-tall // 32) * 32, -(-wide // 32) * 32
    rows, cols, held = resize_table(height, tall), resize_table(width, wide), list[Array]()
    shape = Resize(height, width, tall, wide, padded_tall, padded_wide, mode == "reflect", rows.taps, cols.taps)
    source, exact = placed(frames), placed(np.array([1, 0], np.int32))
    scratch, out = unset((launches.resize_scratch_bytes(shape, 2),), np.uint8), unset((2, 3, padded_tall, padded_wide))
    addresses = on_device(rows, held), on_device(cols, held)
    run_launches(
        launches.resize(
            shape, 2, source.ctypes.data, exact.ctypes.data, *addresses, out.ctypes.data, scratch.ctypes.data
        )
    )
    wanted = resize(frames, tall, wide) * np.float32(2) - np.float32(1)
    wanted = np.pad(wanted, ((0, 0), (0, 0), (0, padded_tall - tall), (0, padded_wide - wide)), mode=mode)
    np.testing.assert_array_equal(out[0], wanted[0])
    np.testing.assert_allclose(out[1], wanted[1], rtol=0, atol=1e-6)


class Frames:
    """Made frames and frames before, padded, and what the reference makes of their corner."""

    def __init__(self, frames: int, height: int, width: int, emitted: str = "fp32") -> None:
        self.planes = Planes(frames * 3, height, width, -(-height // 128) * 128, -(-width // 128) * 128, emitted)
        shape = frames, 3, self.planes.padded_height, self.planes.padded_width
        self.made, self.before = placed(drawn(shape) * 0.5 + 0.2), placed(drawn(shape, 1) * 0.2 - 0.4)
        self.out = unset((frames, 3, height, width), {"fp16": np.float16, "fp32": np.float32}[emitted])

    def cropped(self, frames: Array) -> npt.NDArray[np.float32]:
        out: npt.NDArray[np.float32] = frames[..., : self.planes.height, : self.planes.width]
        return out


def shown(frames: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """As `FlashVSRModel` gives them out."""
    out: npt.NDArray[np.float32] = np.clip(frames * np.float32(0.5) + np.float32(0.5), 0, 1)
    return out


TO_RIGHT = {"fp32": 1e-6, "fp16": 2.0**-12 + 1e-6}
"""How far finished frames, from 0 to 1, may be from the reference's: halves are rounded."""


@interpreted
@pytest.mark.parametrize(("height", "width", "emitted"), [(130, 133, "fp32"), (1, 1, "fp32"), (20, 133, "fp16")])
def test_colours_are_those_of_the_frames_before(height: int, width: int, emitted: str) -> None:
    case = Frames(1, height, width, emitted)
    planes, found = case.planes, []
    for source in (case.made, case.before):
        scratch = unset((launches.moments_scratch_bytes(planes),), np.uint8)
        out = unset((planes.count, 2))
        assert out.nbytes == launches.moments_bytes(planes)
        run_launches(launches.moments(planes, source.ctypes.data, out.ctypes.data, scratch.ctypes.data))
        found.append(out)
        cropped = case.cropped(source).astype(np.float64).reshape(planes.count, -1)
        np.testing.assert_allclose(out[:, 0], cropped.mean(axis=1), rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(out[:, 1], np.sqrt(cropped.var(axis=1) + 1e-5), rtol=1e-6)
    run_launch(
        launches.adain(planes, case.made.ctypes.data, found[0].ctypes.data, found[1].ctypes.data, case.out.ctypes.data)
    )
    wanted = colour_fix.adain(case.cropped(case.made), case.cropped(case.before))
    np.testing.assert_allclose(case.out, shown(wanted), rtol=0, atol=TO_RIGHT[emitted])


@interpreted
def test_moments_keep_their_digits_far_from_zero() -> None:
    """A nearly flat bright plane: the mean of squares less the square of the mean would be noise."""
    planes = Planes(1, 200, 300, 256, 384)
    source = np.full((1, 256, 384), np.nan, np.float32)
    source[:, :200, :300] = drawn((200, 300)) * 1e-4 + 0.9
    source, out = placed(source), unset((1, 2))
    scratch = unset((launches.moments_scratch_bytes(planes),), np.uint8)
    run_launches(launches.moments(planes, source.ctypes.data, out.ctypes.data, scratch.ctypes.data))
    exact = source[0, :200, :300].astype(np.float64)
    np.testing.assert_allclose(out[0], [exact.mean(), np.sqrt(exact.var() + 1e-5)], rtol=1e-6)
    variance = float(out[0, 1]) ** 2 - 1e-5
    assert abs(variance / exact.var() - 1) < 1e-3


@interpreted
@pytest.mark.parametrize(("height", "width", "emitted"), [(100, 140, "fp32"), (9, 20, "fp32"), (9, 20, "fp16")])
def test_wavelets_bring_the_coarse_colours(height: int, width: int, emitted: str) -> None:
    """Also frames that are smaller than the reach of the widest blur."""
    case = Frames(1, height, width, emitted)
    scratch = unset((launches.wavelet_scratch_bytes(case.planes),), np.uint8)
    addresses = (array.ctypes.data for array in (case.made, case.before, case.out, scratch))
    run_launches(launches.wavelet(case.planes, *addresses))
    wanted = colour_fix.wavelet(case.cropped(case.made), case.cropped(case.before))
    np.testing.assert_allclose(case.out, shown(wanted), rtol=0, atol=TO_RIGHT[emitted])


@interpreted
@pytest.mark.parametrize("emitted", ["fp32", "fp16"])
def test_frames_without_colour_fix_are_cropped_and_clamped(emitted: str) -> None:
    case = Frames(2, 130, 77, emitted)
    case.made[1, 2, 5, 5] = np.nan
    run_launch(launches.finish(case.planes, case.made.ctypes.data, case.out.ctypes.data))
    wanted = shown(case.cropped(case.made)).astype(case.out.dtype)
    np.testing.assert_array_equal(case.out, wanted, "NaN as well, so that it is noticed")


@interpreted
def test_the_device_draws_the_host_s_noise_to_the_bit() -> None:
    """Any seed and frame, beyond 32 bits and below 0 too."""
    grid = Grid(1, 2)
    for seed, frames in ((0, (0, 1)), (-(2**63), (2**40 + 7, 2**32 - 1)), (2**63 + 5, (12, 3))):
        keys = placed(np.array([signed(number) for number in (seed, *frames)], np.int64))
        out = unset((16, 2, 16, 32))
        run_launch(launches.noise(keys.ctypes.data, out.ctypes.data, grid, 1))
        wanted = np.stack([latent_noise(seed, frame, 16, 32) for frame in frames], axis=1)
        np.testing.assert_array_equal(out.view(np.uint32), wanted.view(np.uint32))
