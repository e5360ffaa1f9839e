"""Bundles of kind ``flashvsr``: pre-upscale, projector, a DiT in pieces between our own attention, decoder, colour fix."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...arguments import Arguments
from ...bundle import Bundle, ColorFix
from ...errors import FlashsrError
from ...geometry import padded
from ...gpu.kernels.library import KernelLibrary
from ...runtimes.backend import Backend, DeviceBackend, HostBackend
from ...runtimes.graph import DeviceGraph, GraphCall
from ..kind import TILE_REMEDY, LoadedModel, Size, label_of, said_once
from .calls import StepOf, step_calls
from .device.model import DeviceFlashVSRModel, step_shape
from .device.step import DeviceStep
from .host.executor import load_executor
from .host.model import FlashVSRModel
from .kernels.table import KERNELS
from .options import Options
from .section import Section, files_of, read_section
from .windows import BLOCK_PX, Grid

_REMEDY = f"{TILE_REMEDY}, or a smaller kv_ratio in model_options"


@dataclass(frozen=True, slots=True)
class FlashVSRKind:
    """See ``Kind``."""

    bundle: Bundle
    scale: int
    """Of the pre-upscale, and so of the output: 2, 3 or 4. The model was trained for 4."""
    section: Section
    options: Options
    fixed: Size | None = None
    fixes_whole_frames: bool = True
    plain: bool = False
    chroma: None = None

    @property
    def multiple(self) -> int:
        """See ``Kind.multiple``."""
        return BLOCK_PX // self.scale

    @property
    def color_fix(self) -> ColorFix:
        """See ``Kind.color_fix``."""
        return self.options.color_fix

    def graphs(self, size: Size) -> list[GraphCall]:
        """See ``Kind.graphs``."""
        return list(self._calls(size))

    def load(self, backend: Backend, size: Size, *, tiles: int | None) -> LoadedModel:
        """See ``Kind.load``."""
        options = self.options if tiles is None else dataclasses.replace(self.options, color_fix="none")
        if backend.place == "host":
            return self._on_host(backend, size, options)
        return self._on_device(backend, size, options, tiles or 1)

    def _on_host(self, backend: HostBackend, size: Size, options: Options) -> LoadedModel:
        if self.bundle.precision == "bf16":
            raise FlashsrError(
                f"the bundle {str(self.bundle.folder)!r} is bf16, which ONNX Runtime can't run on the CPU; "
                "export it as fp32 or fp16"
            )
        executor = load_executor(backend, self.bundle.folder, self.section, self._calls(size))
        return LoadedModel(FlashVSRModel(self.bundle.spec(self.scale), options, executor))

    def _on_device(self, backend: DeviceBackend, size: Size, options: Options, runs: int) -> LoadedModel:
        library = self._library(backend)
        calls = self._calls(size, library)
        graphs = calls.loaded(backend.load(list(calls)))
        step = DeviceStep(
            backend.device,
            library,
            graphs,
            self.section,
            step_shape(self.section, options, dtype=self.bundle.precision, low=size, scale=self.scale),
            padding=options.padding,
            color_fix=options.color_fix,
            runs=runs,
            captured=backend.captures,
            remedy=_REMEDY,
        )
        model = DeviceFlashVSRModel(self.bundle.spec(self.scale), step, options.seed)
        return LoadedModel(model, model.memory)

    def _library(self, backend: DeviceBackend) -> KernelLibrary:
        library = KernelLibrary(backend.device, KERNELS)
        if backend.captures:
            return library
        from .network.block_sparse import library_of

        return library_of(library, backend.device, self.section.heads, self.section.head_dim, self.bundle.precision)

    def _calls(self, size: Size, library: KernelLibrary | None = None) -> StepOf[GraphCall]:
        """`library`: kernels of the device that the graphs are loaded on, if they are."""
        grid = Grid(*(padded(self.scale * side, BLOCK_PX) // BLOCK_PX for side in size))

        def label(path: Path) -> str:
            return label_of(self.bundle, path, size)

        modules = None if library is None else partial(self._module, library)
        return step_calls(self.bundle.folder, self.section, self.options, grid, label, modules)

    def _module(self, library: KernelLibrary, part: str, layer: int, device: str) -> DeviceGraph:
        from .network.graphs import torch_graph

        return torch_graph(self.bundle, self.section, part, layer, device, library)


def read_flashvsr(bundle: Bundle, scale: int, arguments: Arguments) -> FlashVSRKind:
    """See ``KindReader``."""
    where = f"the bundle {str(bundle.folder)!r}"
    section = read_section(where, bundle.section)
    for name in files_of(section):
        if name not in bundle.files:
            raise FlashsrError(f"{where}: {name!r} has no sha256 under 'files'; export the bundle again")
    said = said_once(arguments, {"seed": arguments.seed, "color_fix": arguments.color_fix})
    return FlashVSRKind(bundle, scale, section, section.options.overridden(said))
