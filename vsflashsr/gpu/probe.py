"""Is there an NVIDIA GPU with a driver? Asked of the driver itself, before any runtime that would crash without one."""

from __future__ import annotations

import ctypes
import sys

from ..errors import FlashsrError


def device_count() -> int:
    """Number of CUDA devices; 0 where there is no driver. Nothing is initialised but the driver, nothing is raised."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def require_gpu(backend: str) -> None:
    """Refuse a backend that can't do without one.

    Raises:
        FlashsrError: there is none.
    """
    if device_count() == 0:
        raise FlashsrError(
            f"backend {backend!r} needs an NVIDIA GPU and its driver, none found; use backend='auto' or 'onnxruntime'"
        )
