"""Finds the compiled kernels for a GPU, loads them once, runs launches.

Where they come from, in this order:
1. The cubin in the package for the GPU's compute capability, or for a lower one of the same family.
2. The package's PTX for the oldest GPU supported, which the driver compiles for any newer one (tens of milliseconds, kept in the
   driver's own cache). It takes the part that NVRTC has elsewhere: NVRTC compiles CUDA C++, and these kernels are Triton's.
   It is PTX 8.0, which drivers from CUDA 12.0 on take.
3. An installed Triton, which compiles for this GPU and keeps the result in the user's `~/.triton`. So a source checkout works.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ...errors import FlashsrError
from ..device import Device, Stream
from ..modules import Kernel as LoadedKernel
from .kernel import KernelSet, Launch
from .manifest import FIRST_CAPABILITY, Image, Manifest, read_manifest

_log = logging.getLogger(__name__)
_NULL = ("p", 0)


@dataclass(frozen=True)
class _Loaded:
    kernel: LoadedKernel
    threads: int
    shared_bytes: int
    extra: tuple[tuple[str, int], ...]


class KernelLibrary:
    """A set of kernels on one device. Safe to use from several threads.

    Args:
        device: where they run. Its closing unloads them.
        kernels: the set.
        folder: compiled kernels, as `python -m trt_build.kernels FOLDER` makes them; None: those of the package.

    Raises:
        FlashsrError: the GPU is too old, or there are no kernels for it and no Triton; or the folder is damaged.
    """

    def __init__(self, device: Device, kernels: KernelSet, folder: Path | None = None) -> None:
        self._device, self._kernels = device, kernels
        self._folder = folder or kernels.folder
        self._capability = device.capability[0] * 10 + device.capability[1]
        self._loaded: dict[str, _Loaded] = {}
        self._lock = threading.Lock()
        if self._capability < FIRST_CAPABILITY:
            raise FlashsrError(
                f"the GPU {device.name} is too old for these kernels, got compute capability {_dotted(self._capability)}; "
                "use one of 8.0 or newer, or backend='onnxruntime'"
            )
        self._manifest = self._usable(read_manifest(self._folder))

    def made_bytes(self, output_bytes: int) -> int:
        """Device memory that it takes by itself for an attention whose output is so large: none, ours writes in place."""
        return 0

    def run(self, stream: Stream, *launches: Launch) -> None:
        """Queue them, in this order."""
        for launch in launches:
            found = self._find(launch.kernel)
            stream.launch(found.kernel, launch.grid, found.threads, found.shared_bytes, (*launch.args, *found.extra))

    def _find(self, name: str) -> _Loaded:
        found = self._loaded.get(name)
        if found is None:
            with self._lock:
                found = self._loaded.get(name) or self._load(name)
                self._loaded[name] = found
        return found

    def _load(self, name: str) -> _Loaded:
        image = self._manifest.image(name, self._capability) if self._manifest else None
        if image is not None:
            return self._module(self._read(image), image.entry, image.threads, image.shared_bytes, image.extra_pointers)
        from .compile import compiled

        _log.info("compiling the kernel %s with Triton", name)
        made = compiled(self._kernels, self._kernels.kernels()[name], self._capability)
        return self._module(made.cubin, made.entry, made.threads, made.shared_bytes, made.extra_pointers)

    def _module(self, code: bytes, entry: str, threads: int, shared_bytes: int, extra_pointers: int) -> _Loaded:
        kernel = self._device.load(code).kernel(entry)
        return _Loaded(kernel, threads, shared_bytes, (_NULL,) * extra_pointers)

    def _read(self, image: Image) -> bytes:
        path = self._folder / image.file
        try:
            code = path.read_bytes()
        except OSError as error:
            raise FlashsrError(f"a compiled kernel can't be read, got {error}; reinstall vsflashsr") from error
        if hashlib.sha256(code).hexdigest() != image.sha256:
            raise FlashsrError(f"the compiled kernel {str(path)!r} is damaged, got another sha256; reinstall vsflashsr")
        # The driver takes PTX as a string that ends in 0; a cubin says itself how long it is.
        return code + b"\0"

    def _usable(self, manifest: Manifest | None) -> Manifest | None:
        """The manifest, if it serves this GPU; None where Triton has to, and can."""
        if manifest is None:
            missing = f"nothing is compiled in {str(self._folder)!r}"
        elif manifest.sources != self._kernels.digest:
            missing = f"those in {str(self._folder)!r} were compiled from other sources"
        elif not all(manifest.image(name, self._capability) for name in self._kernels.kernels()):
            missing = f"those in {str(self._folder)!r} are not for it"
        else:
            return manifest
        if find_spec("triton") is None:
            raise FlashsrError(
                f"there are no kernels for a GPU of compute capability {_dotted(self._capability)}: {missing}; "
                "install vsflashsr from its wheel, or run python -m trt_build.kernels where Triton is installed"
            )
        _log.info("kernels are compiled with Triton as they are needed: %s", missing)
        return None


def _dotted(capability: int) -> str:
    return f"{capability // 10}.{capability % 10}"
