"""The kernels that carry planes of frames, interpreted, are what NumPy makes; and what the host does to frames."""

from __future__ import annotations

import ctypes
import importlib.util
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vsflashsr.geometry import pad
from vsflashsr.gpu.kernels.kernel import Launch
from vsflashsr.gpu.kernels.planes import PLANES, Levels, Surface, block_means, finite, kernels, move
from vsflashsr.scenes import thumbnail, thumbnail_blocks

from ..support import host_planes
from ..support.triton_host import interpreted, run_launch, unset

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="kernels are Triton's")

TYPES: dict[str, Any] = {"fp16": np.float16, "fp32": np.float32}


def view(address: int, count: int, dtype: Any) -> NDArray[Any]:
    """Memory of this process."""
    size = count * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype)


def by_both(launch: Launch, *written: NDArray[Any]) -> list[list[NDArray[Any]]]:
    """What the kernel and NumPy leave in ``written``, which both find as it is now."""
    before = [array.copy() for array in written]
    found: list[list[NDArray[Any]]] = []
    for interpreted_one in (True, False):
        for array, old in zip(written, before, strict=True):
            array[...] = old
        if interpreted_one:
            run_launch(launch, PLANES)
        else:
            host_planes.run_on_host(launch, view)
        found.append([array.copy() for array in written])
    return found


def plane(height: int, stride: int, dtype: Any, seed: int = 0) -> NDArray[Any]:
    """Random values from -0.25 to 1.25, with room to the right of each row."""
    out = unset((height, stride), dtype)
    out[...] = np.random.default_rng(seed).uniform(-0.25, 1.25, out.shape).astype(dtype)
    return out


def surface(array: NDArray[Any]) -> Surface:
    return Surface(array.ctypes.data, array.strides[0], array.dtype)


@interpreted
def moved(source_type: str, out_type: str, size: tuple[int, int], padded: tuple[int, int], checked: bool) -> None:
    source = plane(size[0], size[1] + 5, TYPES[source_type])
    out, flag = unset((padded[0], padded[1] + 3), TYPES[out_type]), unset((1,), np.int32)
    flag[0] = 0
    launch = move(
        surface(source), surface(out), size, padded, Levels(2.0, -1.0), flag=flag.ctypes.data if checked else None
    )
    (own, own_flag), (wanted, wanted_flag) = by_both(launch, out, flag)
    np.testing.assert_array_equal(own.view(np.uint8), wanted.view(np.uint8))
    assert own_flag[0] == wanted_flag[0] == 0
    if out_type == source_type == "fp32":
        rows = pad(source[None, : size[0], : size[1]], max(size[1], padded[1]), max(size[0], padded[0]))[0]
        np.testing.assert_array_equal(own[:, : padded[1]], rows[: padded[0], : padded[1]] * np.float32(2) - np.float32(1))
    if checked:
        for bad in (np.nan, np.inf, -np.inf):
            source[size[0] // 2, size[1] // 2] = bad
            assert [int(flags[0]) for _, flags in by_both(launch, out, flag)] == [1, 1]


@pytest.mark.parametrize("out_type", ["fp16", "fp32"])
@pytest.mark.parametrize("source_type", ["fp16", "fp32"])
def test_planes_are_padded_cropped_and_converted_as_numpy_does(source_type: str, out_type: str) -> None:
    moved(source_type, out_type, (13, 150), (16, 160), False)
    moved(source_type, out_type, (20, 150), (17, 131), True)


@interpreted
def looked_at(dtype: str, channels: int) -> None:
    height, width = 47, 150
    planes = [plane(height, width + 10, TYPES[dtype], seed) for seed in range(channels)]
    down, across, rows, columns = thumbnail_blocks(height, width)
    out = unset((down, across))
    launch = block_means([surface(p) for p in planes], (rows, columns), (down, across), out.ctypes.data)
    (own,), (wanted,) = by_both(launch, out)
    np.testing.assert_allclose(own, wanted, atol=1e-6)
    np.testing.assert_allclose(own, thumbnail(np.stack(planes)[:, :, :width].astype(np.float32)), atol=1e-6)
    flag = unset((1,), np.int32)
    flag[0] = 0
    launch = finite(Surface(planes[0].ctypes.data, planes[0].strides[0], planes[0].dtype), (height, width), flag.ctypes.data)
    planes[0][3, width] = np.nan  # beyond the picture
    assert [int(flags[0]) for (flags,) in by_both(launch, flag)] == [0, 0]
    planes[0][height - 1, width - 1] = np.nan
    assert [int(flags[0]) for (flags,) in by_both(launch, flag)] == [1, 1]


@pytest.mark.parametrize(("dtype", "channels"), [("fp32", 1), ("fp16", 3)])
def test_frames_are_looked_at_as_on_the_host(dtype: str, channels: int) -> None:
    looked_at(dtype, channels)


def test_levels_are_rounded_as_the_host_does(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled, too: a product and a sum are rounded one after the other."""
    from vsflashsr.gpu.kernels.compile import compiled

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
    made = compiled(PLANES, kernels()["move.fp32.fp16"], 89)
    assert made.cubin[:4] == b"\x7fELF"
    assert "mul" in made.ptx and "fma" not in made.ptx
