"""Compiles a set of kernels ahead of time (``python -m trt_build.kernels``). Needs Triton, no GPU and no driver.

Writes a cubin for each kernel and each GPU family, PTX for GPUs to come, and the manifest that `library` reads.
"""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import contextlib
import hashlib
import importlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import FlashsrError
from .kernel import CAPABILITIES, SHARED_LIMIT_BYTES, Kernel, KernelSet
from .manifest import FIRST_CAPABILITY, MANIFEST, Image, Manifest, write_manifest

_PTX_VERSION = 80
"""Of the PTX for GPUs to come: 8.0 is what drivers of CUDA 12.0 take."""
_BLACKWELL_PTX_VERSION = 87
"""The first that knows sm_120, of CUDA 12.8."""


@dataclass(frozen=True)
class Compiled:
    """One kernel for one target."""

    cubin: bytes
    ptx: str
    ttgir: str
    """Triton's last form of its own, which shows the pipelining."""
    entry: str
    threads: int
    shared_bytes: int
    extra_pointers: int
    """Null pointers to pass after the kernel's own arguments."""


def compiled(kernels: KernelSet, kernel: Kernel, capability: int, *, ptx_version: int | None = None) -> Compiled:
    """Compile a kernel of a set, or find it in Triton's cache.

    `ptx_version`: 10 * major + minor of the PTX it goes through; None: what Triton's assembler takes.

    Raises:
        FlashsrError: it needs more shared memory than the GPU has.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    choice = kernels.tuning(kernel, capability)
    constants = {**kernel.constants, **choice.constants}
    function = getattr(importlib.import_module(f"{kernels.package}.sources.{kernel.module}"), kernel.function)
    signature = dict.fromkeys(function.arg_names, "constexpr")
    signature.update({name: type_.partition("/")[0] for name, type_ in kernel.arguments})
    attributes = {
        (place,): [["tt.divisibility", 16]]
        for place, (_, type_) in enumerate(kernel.arguments)
        if (type_.startswith("*") and kernel.aligned) or type_.endswith("/16")
    }
    options = {"num_warps": choice.warps, "num_stages": choice.stages, "enable_fp_fusion": choice.fused}
    if ptx_version is None and capability == 120:
        ptx_version = _BLACKWELL_PTX_VERSION
    if ptx_version is not None:
        options["ptx_version"] = ptx_version
    with _tools(capability):
        made = triton.compile(
            ASTSource(function, signature, constants, attributes), GPUTarget("cuda", capability, 32), options
        )
    metadata, ptx = made.metadata, made.asm["ptx"]
    if metadata.global_scratch_size or metadata.profile_scratch_size:
        raise FlashsrError(
            f"the kernel {kernel.name} wants scratch memory of Triton's, which nobody gives it; change it"
        )
    # Triton drops no argument, and adds pointers to scratch memory; how many depends on its version.
    parameters = len(re.findall(r"^\s*\.param ", ptx.partition(".entry")[2].partition(")")[0], re.MULTILINE))
    shared, limit = metadata.shared, SHARED_LIMIT_BYTES.get(capability, SHARED_LIMIT_BYTES[86])
    if shared > limit:
        raise FlashsrError(
            f"the kernel {kernel.name} needs {shared} bytes of shared memory, sm_{capability} has {limit}"
        )
    return Compiled(
        made.asm["cubin"],
        ptx,
        made.asm["ttgir"],
        metadata.name,
        metadata.num_warps * 32,
        shared,
        parameters - len(kernel.arguments),
    )


@contextlib.contextmanager
def _tools(capability: int) -> Iterator[None]:
    """Triton's settings for what is shipped: no line tables; and for RTX 50 the assembler of CUDA 12.8 that Triton takes for
    older GPUs, not its newer one, so that drivers of CUDA 12.8 load the result."""
    from triton import knobs

    with knobs.compilation.scope(), knobs.nvidia.scope():
        knobs.compilation.disable_line_info = True
        if capability == 120:
            knobs.nvidia.ptxas_blackwell = knobs.nvidia.ptxas.path
        yield


@dataclass(frozen=True)
class Resources:
    """What ptxas gave one thread."""

    registers: int
    stack_bytes: int
    """Local memory: registers that were spilled."""


def resources(cubin: bytes) -> Resources:
    """By `cuobjdump`, which Triton brings along."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", str(path)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    if found is None:
        raise FlashsrError(f"cuobjdump says nothing about registers, got {said!r}")
    return Resources(int(found[1]), int(found[2]))


def build(
    kernels: KernelSet, out: Path, *, names: Sequence[str] | None = None, capabilities: Sequence[int] = CAPABILITIES
) -> Manifest:
    """Compile kernels of a set (None: all) for GPUs, and PTX for those to come, into a folder that is replaced as a whole.

    Raises:
        FlashsrError: the folder holds something else.
    """
    import triton

    if out.exists() and any(out.iterdir()) and not (out / MANIFEST).exists():
        raise FlashsrError(
            f"the folder would be replaced, but it holds no compiled kernels, got {str(out)!r}; name another"
        )
    partial = out.parent / f".{out.name}.partial"
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        manifest = Manifest(
            triton.__version__,
            kernels.digest,
            *_images(kernels, partial, names or list(kernels.kernels()), capabilities),
        )
        write_manifest(partial, manifest)
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    except BaseException:  # an interrupt too
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def _images(
    kernels: KernelSet, folder: Path, names: Sequence[str], capabilities: Sequence[int]
) -> tuple[dict[str, dict[int, Image]], dict[str, Image]]:
    """Cubins and PTX, stored; a line about each on stderr."""
    cubins: dict[str, dict[int, Image]] = {}
    ptx: dict[str, Image] = {}
    for name in names:
        kernel = kernels.kernels()[name]
        for capability in capabilities:
            started = time.perf_counter()
            made = compiled(kernels, kernel, capability)
            cubins.setdefault(name, {})[capability] = _stored(folder, f"{name}.sm{capability}.cubin", made.cubin, made)
            used = resources(made.cubin)
            sys.stderr.write(
                f"{name} sm_{capability}: {time.perf_counter() - started:.1f} s, {len(made.cubin)} bytes, "
                f"{made.threads} threads, {used.registers} registers, {used.stack_bytes} bytes spilled, "
                f"{made.shared_bytes} bytes shared\n"
            )
        made = compiled(kernels, kernel, FIRST_CAPABILITY, ptx_version=_PTX_VERSION)
        ptx[name] = _stored(folder, f"{name}.ptx", made.ptx.encode(), made)
    return cubins, ptx


def _stored(folder: Path, file: str, code: bytes, made: Compiled) -> Image:
    (folder / file).write_bytes(code)
    digest = hashlib.sha256(code).hexdigest()
    return Image(file, digest, made.entry, made.threads, made.shared_bytes, made.extra_pointers)
