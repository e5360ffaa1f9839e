"""Tensor maps: what the driver is asked for, and that a kernel is given the map itself."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from vsflashsr.errors import FlashsrError
from vsflashsr.gpu import driver
from vsflashsr.gpu.tensor_map import SIZE_BYTES, TensorMap, tiled

from ..support.mock_cuda import image, mock_device

bindings: Any = pytest.importorskip("cuda.bindings.driver", reason="needs cuda-python")


class Encoding:
    """The driver's own types, and a function that notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: tuple[Any, ...] = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(bindings, name)

    def cuTensorMapEncodeTiled(self, *arguments: Any) -> tuple[Any, Any]:
        self.asked = arguments
        made = bindings.CUtensorMap()
        made.opaque = [bindings.cuuint64_t(n) for n in range(16)]
        return bindings.CUresult.CUDA_SUCCESS, made


def test_axes_are_turned_round_for_the_driver() -> None:
    """It counts them from the fastest."""
    encoding = Encoding()
    with driver.use(encoding):
        found = tiled(4096, "bf16", (300, 12, 128), (3072, 256), (128, 1, 64), swizzle=128)
    kind, rank, address, *lists, interleave, swizzle, promotion, fill = encoding.asked
    assert kind == bindings.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
    assert (rank, address) == (3, 4096)
    assert [[int(value) for value in part] for part in lists] == [[128, 12, 300], [256, 3072], [64, 1, 128], [1, 1, 1]]
    assert swizzle == bindings.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B
    assert interleave == promotion - 2 == fill == 0
    assert ctypes.sizeof(found) == SIZE_BYTES and list(found.opaque) == list(range(16))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"address": 4104}, "multiples of 16"),
        ({"strides_bytes": (8,)}, "multiples of 16"),
        ({"dtype": "fp64"}, "a tensor map is of"),
        ({"swizzle": 48}, "a swizzle of"),
        ({"box": (257, 64)}, "can't copy boxes"),
        ({"box": (16, 4)}, "can't copy boxes"),
        ({"box": (16, 64), "swizzle": 64}, "can't copy boxes"),
        ({"box": (16,)}, "1 to 5 axes"),
    ],
)
def test_what_the_hardware_does_not_take_is_refused(change: dict[str, Any], said: str) -> None:
    fields: dict[str, Any] = {"address": 4096, "dtype": "fp16", "shape": (64, 64), "strides_bytes": (128,), "box": (16, 64)}
    with driver.use(Encoding()):
        tiled(**fields)
        with pytest.raises(FlashsrError, match=said):
            tiled(**fields | change)


def test_a_kernel_is_given_the_map_and_not_where_it_lay() -> None:
    """By value: what becomes of it after the launch is no matter."""
    seen: list[int] = []
    with mock_device(seed=1) as (device, mock):
        mock.kernels["reads"] = lambda grid, args, view: seen.append(args[1].opaque[3])
        stream, out = device.stream(), device.alloc(16)
        kernel = device.load(image("reads")).kernel("reads")
        described = TensorMap()
        described.opaque[3] = 7
        stream.launch(kernel, (1, 1, 1), 32, 0, [("p", out.address), ("map", described)])
        described.opaque[3] = 9
        stream.synchronize()
        with pytest.raises(FlashsrError, match="pass a TensorMap"):
            stream.launch(kernel, (1, 1, 1), 32, 0, [("p", out.address), ("map", 3)])
    assert seen == [7]
