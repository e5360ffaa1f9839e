"""Kernels: loaded from compiled code, launched with typed arguments."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Literal

from ..errors import FlashsrError
from . import driver
from .handles import Handle, Handles
from .tensor_map import TensorMap

type Kind = Literal["p", "i32", "i64", "f32", "map"]
"""Of an argument: 64-bit pointer, integers, float, tensor map."""
type Value = int | float | TensorMap

# Kind -> C type, lowest and highest value. c_longlong, since c_long has 32 bits on Windows.
_INTEGERS: dict[str, tuple[Any, int, int]] = {
    "p": (ctypes.c_void_p, 0, 2**64 - 1),
    "i32": (ctypes.c_int, -(2**31), 2**31 - 1),
    "i64": (ctypes.c_longlong, -(2**63), 2**63 - 1),
}

DEFAULT_SHARED_BYTES = 48 << 10
"""Shared memory that every kernel may use; more has to be asked for (CUDA programming guide, compute capabilities)."""


class Module(Handle):
    """Compiled code on the device. Graphs that launch its kernels have to be closed before it.

    Args:
        owner: closes it at the latest.
        image: a cubin, or PTX.
        shared_bytes: shared memory that one block can have on this device.
    """

    what = "a module of kernels"

    def __init__(self, owner: Handles, image: bytes, shared_bytes: int) -> None:
        super().__init__(owner, int(driver.check(driver.api().cuModuleLoadData(image), "load compiled kernels")))
        self._shared_bytes = shared_bytes

    def kernel(self, name: str) -> Kernel:
        """The kernel of that name. Raises ``FlashsrError`` where there is none."""
        api = driver.api()
        function = driver.check(api.cuModuleGetFunction(self.handle, name.encode()), f"find the kernel {name!r}")
        static = driver.check(
            api.cuFuncGetAttribute(api.CUfunction_attribute.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function),
            f"ask what the kernel {name!r} needs",
        )
        return Kernel(self, name, int(function), static, self._shared_bytes)

    def _destroy(self, value: int) -> None:
        driver.check(driver.api().cuModuleUnload(value), "unload kernels")


class Kernel:
    """A function of a module. ``Stream.launch`` runs it."""

    def __init__(self, module: Module, name: str, handle: int, static_bytes: int, limit_bytes: int) -> None:
        self._module = module
        self._handle = handle
        self._static_bytes = static_bytes
        self._limit_bytes = limit_bytes
        self._allowed_bytes = DEFAULT_SHARED_BYTES - static_bytes
        self.name = name

    @property
    def handle(self) -> int:
        if self._module.closed:
            raise FlashsrError(f"kernel {self.name!r} was launched after its module was closed; load it again")
        return self._handle

    def allow_shared(self, size_bytes: int) -> None:
        """See to it that a launch may use this much dynamic shared memory.

        Raises:
            FlashsrError: the device has less.
        """
        if size_bytes <= self._allowed_bytes:
            return
        if size_bytes + self._static_bytes > self._limit_bytes:
            raise FlashsrError(
                f"kernel {self.name!r} needs {size_bytes + self._static_bytes} bytes of shared memory, "
                f"got a GPU with {self._limit_bytes}; use backend='onnxruntime'"
            )
        api = driver.api()
        driver.check(
            api.cuFuncSetAttribute(
                self.handle, api.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, size_bytes
            ),
            f"give the kernel {self.name!r} {size_bytes} bytes of shared memory",
        )
        self._allowed_bytes = size_bytes


def packed(
    kernel: str, args: Sequence[tuple[str, Value]]
) -> tuple[tuple[Value, ...], tuple[Any, ...]]:
    """Arguments as ``cuLaunchKernel`` takes them: values, C types. Raises ``FlashsrError`` for a value out of range."""
    values: list[Value] = []
    types: list[Any] = []
    for place, (kind, value) in enumerate(args):
        if kind == "map":
            if not isinstance(value, TensorMap):
                raise FlashsrError(f"argument {place} of kernel {kernel!r} is of kind 'map', got {value!r}; pass a TensorMap")
            values.append(value)
            types.append(None)  # a structure, passed by value
            continue
        if kind == "f32" and not isinstance(value, TensorMap):
            values.append(float(value))
            types.append(ctypes.c_float)
            continue
        if kind not in _INTEGERS:
            raise FlashsrError(
                f"argument {place} of kernel {kernel!r} is of kind {kind!r}; use 'p', 'i32', 'i64', 'f32' or 'map'"
            )
        ctype, low, high = _INTEGERS[kind]
        if not isinstance(value, int) or not low <= value <= high:
            raise FlashsrError(f"argument {place} of kernel {kernel!r} is of kind {kind!r}, got {value!r}; pass {low}..{high}")
        values.append(value)
        types.append(ctype)
    return tuple(values), tuple(types)
