"""The boundary to the NVIDIA driver: where its module comes from, and what becomes of its error codes."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import FlashsrError
from .probe import device_count

_REMEDIES = {
    "CUDA_ERROR_OUT_OF_MEMORY": "use a smaller tile= or a smaller model, or close what else uses the GPU",
    "CUDA_ERROR_NO_DEVICE": "check the GPU driver with nvidia-smi, or use backend='onnxruntime'",
    "CUDA_ERROR_INVALID_DEVICE": "choose another device_id=",
    "CUDA_ERROR_DEVICE_UNAVAILABLE": "close what holds the GPU exclusively",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "this GPU isn't among those the kernels were compiled for; use backend='onnxruntime'",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": "update the GPU driver",
    "CUDA_ERROR_INVALID_IMAGE": "install vsflashsr again, or update the GPU driver",
    "CUDA_ERROR_INVALID_CONTEXT": "this is a mistake in vsflashsr (the thread has no device): report it",
    "CUDA_ERROR_ILLEGAL_ADDRESS": "run the script again, and report it if it happens twice",
    "CUDA_ERROR_LAUNCH_TIMEOUT": "use a smaller tile=, or a GPU that drives no display",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "restart the computer: its driver was updated while it ran",
}
_REMEDY = "update the GPU driver, and report it if it stays"

_module: Any = None


class DriverError(FlashsrError):
    """A call of the driver failed."""

    def __init__(self, name: str, text: str, action: str) -> None:
        super().__init__(f"the GPU driver failed to {action}, got {name} ({text}); {_REMEDIES.get(name, _REMEDY)}")
        self.name = name
        """The driver's name of the error, ``CUDA_ERROR_...``."""


def api() -> Any:
    """The module ``cuda.bindings.driver``, imported on first use.

    Raises:
        FlashsrError: cuda-python isn't installed, or there is no GPU with a driver.
    """
    global _module  # noqa: PLW0603 (one driver for each process)
    if _module is None:
        # Without a driver every function of cuda.bindings raises from the inside, so the probe comes first.
        if device_count() == 0:
            raise FlashsrError(
                "no NVIDIA GPU was found, got 0 devices from the driver; "
                "install a GPU driver and check it with nvidia-smi, or use backend='onnxruntime'"
            )
        try:
            _module = importlib.import_module("cuda.bindings.driver")
        except ImportError as error:
            raise FlashsrError(
                f"the GPU backends need cuda-python, got {error}; "
                "install it with pip install 'vsflashsr[rtx]', or use backend='onnxruntime'"
            ) from error
    return _module


@contextmanager
def use(module: Any) -> Iterator[None]:
    """Another module in the driver's place, in all threads (tests)."""
    global _module  # noqa: PLW0603
    before, _module = _module, module
    try:
        yield
    finally:
        _module = before


def check(result: tuple[Any, ...], action: str = "do what was asked") -> Any:
    """What a call of the driver returned beside its status: nothing (None), one value, or a tuple of several.

    Args:
        result: as ``cuda.bindings.driver`` returns it, (CUresult, values...).
        action: what was attempted, as in "the GPU driver failed to <action>".

    Raises:
        DriverError: the status is an error.
    """
    status, *values = result
    if int(status) != 0:
        raise _error(status, action)
    if not values:
        return None
    return values[0] if len(values) == 1 else tuple(values)


def _error(status: Any, action: str) -> DriverError:
    # A code younger than these bindings comes as a bare number, which has neither name nor text.
    if not hasattr(status, "name"):
        return DriverError(f"CUDA_ERROR {int(status)}", "unknown to the installed cuda-python", action)
    _, text = api().cuGetErrorString(status)
    return DriverError(status.name, text.decode() if text else "no description", action)
