"""A GPU for scripts with resident frames: software Vulkan holds the frames, and the mock driver maps the memory they lie in.

Only in a process of its own (``test_resident_device.run``): what is put in place stays there.
"""

from __future__ import annotations

import sys
import unittest.mock
from collections import Counter
from pathlib import Path
from typing import Any

import vapoursynth as vs

from vsflashsr import flashsr, staying
from vsflashsr.gpu import driver, frames, probe
from vsflashsr.models.flashvsr import kind

from .fake_tensorrt import FakeTensorRT
from .host_kernels import HostKernels
from .host_planes import HostPlanes
from .mock_cuda import MockDriver


class ResidentGpu:
    """In this process from now on.

    Args:
        engines: a folder for them.
        seed: of what the mock leaves open.
        same: is it the GPU that VapourSynth's frames are on?
    """

    def __init__(self, engines: Path, seed: int = 1, *, same: bool = True) -> None:
        own = bytes.fromhex(vs.core.vulkan_device_info["uuid"])
        self.mock = MockDriver(seed=seed, total_bytes=1 << 30, uuid=own if same else bytes(16))
        self._engines = engines
        patched: dict[tuple[Any, str], Any] = {
            (driver, "_module"): self.mock,
            (probe, "device_count"): lambda: 1,
            (frames, "KernelLibrary"): lambda device, kernels: HostPlanes(self.mock),
            (kind, "KernelLibrary"): lambda device, kernels: HostKernels(self.mock),
        }
        for (module, name), value in patched.items():
            setattr(module, name, value)
        modules: dict[str, Any] = sys.modules
        modules["tensorrt"] = FakeTensorRT(self.mock)

    def __call__(self, clip: vs.VideoNode, scale: float = 2, **arguments: Any) -> vs.VideoNode:
        return flashsr(clip, scale, engine_dir=self._engines, **{"backend": "tensorrt", **arguments})

    def crossing(self, clip: vs.VideoNode, scale: float = 2, **arguments: Any) -> vs.VideoNode:
        """The same, with the model's part on the host's side of the bus."""
        with unittest.mock.patch.object(staying, "stay", lambda *_, **__: None):
            return self(clip, scale, **arguments)

    @property
    def copies(self) -> dict[str, int]:
        """Bytes that were copied between host and device, by direction."""
        found: Counter[str] = Counter()
        for name, arguments in self.mock.calls:
            if name in ("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync"):
                found[name] += arguments[2]
        return found
