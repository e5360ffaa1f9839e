"""Models opened beside the filter, as it opens them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vsflashsr.arguments import Arguments, OptionValue
from vsflashsr.bundle import Bundle
from vsflashsr.models.flashvsr.calls import step_calls
from vsflashsr.models.flashvsr.host.executor import Observer, OnnxExecutor, load_executor
from vsflashsr.models.flashvsr.host.model import FlashVSRModel
from vsflashsr.models.flashvsr.section import read_section
from vsflashsr.models.flashvsr.windows import Grid
from vsflashsr.models.opening import graphs_ahead, read_kind
from vsflashsr.runtimes.engines.key import EngineRequest, Target
from vsflashsr.runtimes.engines.requests import engine_requests
from vsflashsr.runtimes.onnxruntime import CpuBackend


def engines_of(
    model: Path, sizes: Sequence[tuple[int, int]], target: Target, *, scale: float = 4, **options: OptionValue
) -> tuple[EngineRequest, ...]:
    """The engines that a model needs for frames of these (width, height)."""
    wanted = Arguments(model=model, scale=scale, model_options=options)
    return engine_requests(graphs_ahead(wanted, [(height, width) for width, height in sizes]), target)


def host_flashvsr(folder: Path, scale: int, *, threads: int | None = None, **options: OptionValue) -> FlashVSRModel:
    """A bundle of kind ``flashvsr`` on the CPU."""
    kind = read_kind(Arguments(model=folder, scale=scale, model_options=options))
    model = kind.load(CpuBackend(threads), (8, 8), tiles=None).model
    assert isinstance(model, FlashVSRModel)
    return model


def host_executor(bundle: Bundle, *, observer: Observer | None = None, **options: Any) -> OnnxExecutor:
    """What runs its step."""
    section = read_section("test", bundle.section)
    calls = step_calls(
        bundle.folder, section, section.options.overridden(options), Grid(1, 1), lambda path: path.stem
    )
    return load_executor(CpuBackend(), bundle.folder, section, calls, observer)
