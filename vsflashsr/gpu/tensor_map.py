"""Tensor maps: what a kernel on compute capability 9.0 and newer needs to copy boxes of a tensor by the hardware's own engine.

A map is a parameter that is passed by value, as `("map", TensorMap)` among a launch's arguments; the kernel declares it as a
grid constant (CUDA C++ programming guide, tensor map; CUDA driver API, tensor map object management).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from ..errors import FlashsrError
from . import driver

SIZE_BYTES = 128
_ITEM_BYTES = {"fp16": 2, "bf16": 2, "fp32": 4, "u8": 1}
_TYPES = {"fp16": "FLOAT16", "bf16": "BFLOAT16", "fp32": "FLOAT32", "u8": "UINT8"}
_SWIZZLES = (0, 32, 64, 128)


class TensorMap(ctypes.Structure):
    """What the driver encoded, opaque."""

    _fields_ = (("opaque", ctypes.c_uint64 * (SIZE_BYTES // 8)),)


def tiled(
    address: int, dtype: str, shape: Sequence[int], strides_bytes: Sequence[int], box: Sequence[int], *, swizzle: int = 0
) -> TensorMap:
    """A map of device memory from which a kernel copies boxes, zeros where they reach beyond it.

    Args:
        address: of the first value, a multiple of 16.
        dtype: "fp16", "bf16", "fp32" or "u8".
        shape: the fastest axis last, 1 to 5 axes.
        strides_bytes: of all axes but the last, whose values lie side by side; multiples of 16.
        box: what one copy takes, at most 256 along an axis.
        swizzle: bytes over which banks of shared memory are exchanged: 0, 32, 64 or 128; the box's last axis fits into it.

    Raises:
        FlashsrError: a value that the hardware doesn't take, or the driver refuses.
    """
    if dtype not in _TYPES or swizzle not in _SWIZZLES:
        raise FlashsrError(f"a tensor map is of {', '.join(_TYPES)} with a swizzle of {_SWIZZLES}, got {dtype!r} and {swizzle}")
    if not 1 <= len(shape) <= 5 or len(box) != len(shape) or len(strides_bytes) != len(shape) - 1:
        raise FlashsrError(
            f"a tensor map has 1 to 5 axes, a box of as many and one stride less, got {shape}, {box}, {strides_bytes}"
        )
    if address <= 0 or address % 16 or any(stride % 16 for stride in strides_bytes):
        raise FlashsrError(f"a tensor map's address and strides are multiples of 16, got {address:#x} and {strides_bytes}")
    row_bytes = box[-1] * _ITEM_BYTES[dtype]
    if not all(1 <= side <= 256 for side in box) or row_bytes % 16 or (swizzle and row_bytes > swizzle):
        raise FlashsrError(f"a tensor map can't copy boxes of {box} in {dtype} with a swizzle of {swizzle}")
    api = driver.api()
    swizzles = api.CUtensorMapSwizzle
    made = driver.check(
        api.cuTensorMapEncodeTiled(
            getattr(api.CUtensorMapDataType, f"CU_TENSOR_MAP_DATA_TYPE_{_TYPES[dtype]}"),
            len(shape),
            address,
            [api.cuuint64_t(side) for side in reversed(shape)],
            [api.cuuint64_t(stride) for stride in reversed(strides_bytes)],
            [api.cuuint32_t(side) for side in reversed(box)],
            [api.cuuint32_t(1)] * len(shape),
            api.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            getattr(swizzles, f"CU_TENSOR_MAP_SWIZZLE_{f'{swizzle}B' if swizzle else 'NONE'}"),
            api.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
            api.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        ),
        "describe a tensor",
    )
    found = TensorMap()
    ctypes.memmove(ctypes.addressof(found), made.getPtr(), SIZE_BYTES)
    return found
