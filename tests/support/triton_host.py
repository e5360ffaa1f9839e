"""Runs launches on the CPU, in Triton's interpreter, on memory of this process.

The interpreter must be chosen before Triton is imported, and whoever compiles kernels must not have chosen it. So tests that
interpret are marked `@interpreted`, which runs them in a process of their own (one for all of them).
"""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import multiprocessing
import os
import sys
import unittest.mock
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vsflashsr.gpu.kernels.kernel import Kernel, KernelSet, Launch
from vsflashsr.models.flashvsr.kernels.launches import Attention, attention_scratch
from vsflashsr.models.flashvsr.kernels.table import KERNELS
from vsflashsr.models.flashvsr.windows import WINDOW_TOKENS

_CHOICE = "TRITON_INTERPRET"
_CAPABILITY = 90
_NUMBERS = {"p": np.uint64, "i32": np.int32, "i64": np.int64, "f32": np.float32}


def interpreted[**P, R](test: Callable[P, R]) -> Callable[P, R]:
    """A test of module level with arguments that can be pickled, run where Triton interprets."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if interpreting():
            return test(*args, **kwargs)
        return _worker().submit(run, *args, **kwargs).result()

    return run


def interpreting() -> bool:
    """Whether `run_launch` works in this process."""
    return os.environ.get(_CHOICE) == "1"


@functools.cache
def _worker() -> ProcessPoolExecutor:
    # Not forked: the parent may have imported Triton, and has threads.
    # One thread for NumPy's products: the interpreter's are small, and threads that wait for each other on busy cores
    # took ten times as long (2026-11-22).
    main = sys.modules["__main__"]
    # vs-jetpack, once imported, says that a main module without a file is "<string>": a process can't be spawned from that.
    if not Path(getattr(main, "__file__", None) or __file__).is_file():
        del main.__file__
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with unittest.mock.patch.dict(os.environ, {_CHOICE: "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}):
        pool.submit(int).result()
    atexit.register(pool.shutdown)
    return pool


def run_launches(launches: Iterable[Launch], kernels: KernelSet = KERNELS) -> None:
    """All of them, in order."""
    for launch in launches:
        run_launch(launch, kernels)


def run_launch(launch: Launch, kernels: KernelSet = KERNELS, **constants: int) -> None:
    """Addresses are those of this process (the mock device's are). `constants` replace those it is compiled with for a GPU."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    assert interpreting(), "TRITON_INTERPRET=1 has to be set before Triton is imported: mark the test @interpreted"
    kernel = kernels.kernels()[launch.kernel]
    types = {
        "fp16": tl.float16, "bf16": tl.bfloat16, "fp32": tl.float32, "i32": tl.int32, "i64": tl.int64, "f32": tl.float32,
    }  # fmt: skip
    values: list[Any] = []
    # Given as the interpreter's own tensors: to find out the type of anything else it imports torch.
    for (_, type_), (kind, value) in zip(kernel.arguments, launch.args, strict=True):
        own = tl.pointer_type(types[type_[1:]]) if kind == "p" else types[kind]
        values.append(tl.tensor(TensorHandle(np.array([value], _NUMBERS[kind]), own), own))
    # Whole windows at once: the interpreter's time goes by the number of operations, not by their size.
    whole = {"BLOCK_N": WINDOW_TOKENS} if "BLOCK_N" in kernels.tuning(kernel, _CAPABILITY).constants else {}
    if "LANES" in kernel.constants:
        given = dict(zip((name for name, _ in kernel.arguments), (value for _, value in launch.args), strict=True))
        whole["LANES"] = 1 << (int(given.get("dim", 8 * given.get("eighths", 0))) - 1).bit_length()
    with _mended():
        _function(kernels, kernel)[launch.grid](*values, **{**kernel.constants, **whole, **constants})


@contextlib.contextmanager
def _mended() -> Iterator[None]:
    """Triton's interpreter (3.7.1), faster and right about bfloat16.

    It patches `triton.language` anew at every call of a function in a kernel, which is a third of its time; once per function
    and launch does. It truncates to bfloat16 where a GPU rounds, and multiplies matrices of it as if their bits were integers.
    """
    from triton import language as tl
    from triton.runtime import interpreter
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    patch_language, convert, dot = interpreter._patch_lang, interpreter._convert_float, InterpreterBuilder.create_dot
    patched: dict[Any, Any] = {}

    def once(function: Any) -> Any:
        if function not in patched:
            patched[function] = patch_language(function)
        return patched[function]

    def converted(values: Any, source: Any, target: Any, rounding: Any) -> Any:
        if source == tl.float32 and target == tl.bfloat16:
            return bf16_bits(values)
        return convert(values, source, target, rounding)

    def widened(handle: Any) -> Any:
        return TensorHandle(bf16_values(handle.data), tl.float32) if handle.dtype.scalar == tl.bfloat16 else handle

    def product(builder: Any, a: Any, b: Any, *others: Any) -> Any:
        return dot(builder, widened(a), widened(b), *others)

    with (
        unittest.mock.patch.object(interpreter, "_patch_lang", once),
        unittest.mock.patch.object(interpreter, "_convert_float", converted),
        unittest.mock.patch.object(InterpreterBuilder, "create_dot", product),
    ):
        yield


def bf16_bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Rounded to nearest even. Finite values only."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def bf16_values(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """What the bits mean."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _function(kernels: KernelSet, kernel: Kernel) -> Any:
    return getattr(importlib.import_module(f"{kernels.package}.sources.{kernel.module}"), kernel.function)


def unset(shape: tuple[int, ...], dtype: Any = np.float32) -> npt.NDArray[Any]:
    """An array at a multiple of 512 bytes, as on a device, full of 0xA5: what is read unwritten is noticed."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.full(size + 512, 0xA5, np.uint8)
    start = -raw.ctypes.data % 512
    out: npt.NDArray[Any] = raw[start : start + size].view(dtype).reshape(shape)
    return out


def placed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A copy of the array at a multiple of 512 bytes."""
    out = unset(array.shape, array.dtype)
    out[...] = array
    return out


def kept_by(shape: Attention, scratch: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """(heads, nq, nk) as the lists say it; checks that they ascend."""
    at = attention_scratch(shape)
    rows = shape.heads * shape.queries
    counts = scratch[at.counts :][: rows * 4].view(np.int32)
    lists = scratch[at.lists :][: rows * shape.keys * 4].view(np.int32).reshape(rows, shape.keys)
    order = scratch[at.order :][: rows * 4].view(np.int32).reshape(shape.heads, shape.queries)
    mask = np.zeros((rows, shape.keys), np.bool_)
    for row, count in enumerate(counts):
        assert (np.diff(lists[row, :count]) > 0).all()
        mask[row, lists[row, :count]] = True
    for head, own in enumerate(counts.reshape(shape.heads, -1)):
        np.testing.assert_array_equal(order[head], np.argsort(-own, kind="stable"))
    return mask.reshape(shape.heads, shape.queries, shape.keys)
