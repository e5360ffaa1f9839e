"""FlashVSR at its published size behind the filter, without a bundle of gigabytes: random graphs, made on the GPU."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

from vsflashsr.arguments import Arguments
from vsflashsr.gpu.kernels.library import KernelLibrary
from vsflashsr.models.flashvsr.device.model import DeviceFlashVSRModel, step_shape
from vsflashsr.models.flashvsr.device.step import DeviceStep
from vsflashsr.models.flashvsr.kernels.table import KERNELS
from vsflashsr.models.flashvsr.kind import FlashVSRKind
from vsflashsr.models.flashvsr.network.config import FlashVSRConfig
from vsflashsr.models.flashvsr.network.graphs import graph_on
from vsflashsr.models.flashvsr.network.place import CudaPlace
from vsflashsr.models.kind import LoadedModel, Size
from vsflashsr.models.opening import read_kind
from vsflashsr.runtimes.backend import Backend

from .random_flashvsr import random_graphs, section_of


@dataclass(frozen=True)
class RandomKind(FlashVSRKind):
    """A FlashVSR bundle of any size, with other graphs in the place of its own."""

    config: FlashVSRConfig = dataclasses.field(default_factory=FlashVSRConfig)
    dtype: str = "fp16"

    def load(self, backend: Backend, size: Size, *, tiles: int | None) -> LoadedModel:
        """See ``Kind.load``."""
        assert backend.place == "device"
        where = f"cuda:{backend.device.ordinal}"
        library = KernelLibrary(backend.device, KERNELS)
        place = CudaPlace(library, where)
        graphs = random_graphs(self.config, self.dtype, where, partial(graph_on, place))
        shape = step_shape(self.section, self.options, dtype=self.dtype, low=size, scale=self.scale)
        step = DeviceStep(
            backend.device,
            library,
            graphs,
            self.section,
            shape,
            padding=self.options.padding,
            color_fix=self.options.color_fix,
            runs=tiles or 1,
            captured=False,
        )
        model = DeviceFlashVSRModel(self.bundle.spec(self.scale), step, self.options.seed)
        return LoadedModel(model, model.memory)


def random_kind(arguments: Arguments, dtype: str) -> RandomKind:
    """What the arguments say, at the published size."""
    read = read_kind(arguments)
    assert isinstance(read, FlashVSRKind)
    config = FlashVSRConfig()
    return RandomKind(read.bundle, read.scale, section_of(config), read.options, config=config, dtype=dtype)
