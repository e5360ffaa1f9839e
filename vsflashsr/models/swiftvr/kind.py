"""Bundles of kind ``swiftvr``: pre-upscale, causal encoder, a DiT with windowed attention over a chunk, causal decoder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from ...arguments import Arguments
from ...bundle import Bundle, ColorFix
from ...errors import FlashsrError
from ...model import ModelSpec
from ...runtimes.backend import Backend, DeviceBackend, HostBackend
from ...runtimes.graph import DeviceGraph, GraphCall
from ..kind import TILE_REMEDY, LoadedModel, Size, label_of
from .calls import StepOf, step_calls
from .device.memory import step_shape
from .device.model import DeviceSwiftVRModel
from .device.step import DeviceStep
from .host import HostExecutor, SwiftVRModel
from .options import Options
from .section import Section, files_of, read_section
from .step import TOKEN_PX, grid_of

_REMEDY = f"{TILE_REMEDY}, or a smaller clip_len in model_options"


@dataclass(frozen=True, slots=True)
class SwiftVRKind:
    """See ``Kind``."""

    bundle: Bundle
    scale: int
    """Of the pre-upscale, and so of the output: any will do, as the model restores and doesn't resize. Trained at 4."""
    section: Section
    options: Options
    color_fix: ColorFix
    plain: bool = False
    fixed: Size | None = None
    fixes_whole_frames: bool = False
    chroma: None = None

    @property
    def multiple(self) -> int:
        """See ``Kind.multiple``."""
        return TOKEN_PX // self.scale if TOKEN_PX % self.scale == 0 else TOKEN_PX

    @property
    def spec(self) -> ModelSpec:
        """With the schedule of the ``clip_len`` that was asked for."""
        options = self.options
        return dataclasses.replace(
            self.bundle.spec(self.scale),
            schedule=options.schedule,
            preroll=options.preroll,
            max_segment=options.max_segment,
            chunk=options.clip_len,
        )

    def graphs(self, size: Size) -> list[GraphCall]:
        """See ``Kind.graphs``."""
        return list(self._calls(size))

    def load(self, backend: Backend, size: Size, *, tiles: int | None) -> LoadedModel:
        """See ``Kind.load``."""
        if backend.place == "host":
            return self._on_host(backend, size)
        return self._on_device(backend, size, tiles or 1)

    def _on_host(self, backend: HostBackend, size: Size) -> LoadedModel:
        if self.bundle.precision == "bf16":
            raise FlashsrError(
                f"the bundle {str(self.bundle.folder)!r} is bf16, which ONNX Runtime can't run on the CPU; "
                "export it as fp32 or fp16"
            )
        calls = self._calls(size)
        graphs = calls.loaded(backend.load(list(calls)))
        return LoadedModel(SwiftVRModel(self.spec, HostExecutor(self.section, graphs)))

    def _on_device(self, backend: DeviceBackend, size: Size, runs: int) -> LoadedModel:
        calls = self._calls(size)
        graphs = calls.loaded(backend.load(list(calls)))
        shape = step_shape(self.section, self.options, dtype=self.bundle.precision, low=size, scale=self.scale)
        step = DeviceStep(
            backend.device, graphs, calls, shape, runs=runs, captured=backend.captures, remedy=_REMEDY
        )
        return LoadedModel(DeviceSwiftVRModel(self.spec, step), step.memory)

    def _calls(self, size: Size) -> StepOf[GraphCall]:
        def label(path: Path) -> str:
            return label_of(self.bundle, path, size)

        grid = grid_of(*(self.scale * side for side in size))
        return step_calls(self.bundle.folder, self.section, self.options, size, grid, label, self._module)

    def _module(self, part: str, layer: int, device: str) -> DeviceGraph:
        from .network.graphs import torch_graph

        return torch_graph(self.bundle, self.section, part, layer, device)


def read_swiftvr(bundle: Bundle, scale: int, arguments: Arguments) -> SwiftVRKind:
    """See ``KindReader``."""
    where = f"the bundle {str(bundle.folder)!r}"
    section = read_section(where, bundle.section)
    for name in files_of(section):
        if name not in bundle.files:
            raise FlashsrError(f"{where}: {name!r} has no sha256 under 'files'; export the bundle again")
    options = section.options.overridden(arguments.model_options)
    return SwiftVRKind(bundle, scale, section, options, arguments.color_fix or bundle.color_fix)
