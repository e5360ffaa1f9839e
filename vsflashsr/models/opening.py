"""From what the user named to a model that is ready to step: built-in name, bundle folder or bare ``.onnx`` file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..bundle import Bundle, ColorFix, Precision, load_bundle
from ..errors import FlashsrError
from . import Model
from .frame import FrameModel
from .recurrent import RecurrentModel
from .tiled import TiledModel

BUNDLES = Path(__file__).parent.parent / "bundles"
DEFAULT = "builtin"
DEFAULT_OVERLAP = 16


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """What ``flashsr``'s arguments say about the model."""

    model: str | Path | None
    scale: float
    width: int
    height: int
    threads: int | None = None
    precision: Precision | None = None
    tile: int | tuple[int, int] | None = None
    overlap: int | None = None
    color_fix: ColorFix | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of the bundle's own defaults (``model_options``)."""


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A model and what the filter does around it."""

    model: Model[Any]
    name: str
    color_fix: ColorFix
    """Left to the filter; "none" where the model has seen to it itself."""


def nearest_scale(scales: Iterable[int], wanted: float) -> int:
    """The scale whose ratio to ``wanted`` is closest to 1; of two alike, the larger."""
    return min(scales, key=lambda s: (round(abs(math.log(s / wanted)), 9), -s))


def builtin_names() -> list[str]:
    """Names of the models in the package."""
    return sorted(path.parent.name for path in BUNDLES.glob("*/bundle.json"))


def _locate(model: str | Path | None) -> Path:
    names = builtin_names()
    if model is None:
        model = DEFAULT
    if isinstance(model, str) and model in names:
        return BUNDLES / model
    path = Path(model).expanduser()
    if not path.exists():
        raise FlashsrError(
            f"there is no model {str(model)!r}; give a bundle's folder, an .onnx file, or one of {', '.join(map(repr, names))}"
        )
    return path


def open_model(request: ModelRequest) -> OpenedModel:
    """Open the model for frames of ``request.width`` x ``request.height``.

    Raises:
        FlashsrError: it can't be read, doesn't fit together, or doesn't have what was asked for.
    """
    path = _locate(request.model)
    if path.is_dir():
        return _from_bundle(load_bundle(path), request)
    if path.suffix.lower() != ".onnx":
        raise FlashsrError(f"a model is a bundle's folder or an .onnx file, got {str(path)!r}")
    _refuse_options(path.name, request)
    frame = FrameModel(path, threads=request.threads)
    _check_precision(path.name, frame.precision, request)
    return OpenedModel(_tiled(frame, request, frame.graph.size), path.stem, request.color_fix or "none")


def _from_bundle(bundle: Bundle, request: ModelRequest) -> OpenedModel:
    _check_precision(bundle.name, bundle.precision, request)
    scale = nearest_scale(bundle.scales, request.scale)
    color_fix = request.color_fix or bundle.color_fix
    match bundle.kind:
        case "flashvsr":
            from .flashvsr.model import FlashVSRModel
            from .flashvsr.options import Options

            options = {"seed": request.seed, "color_fix": color_fix, **request.options}
            whole_frame_fix: ColorFix = "none"
            if request.tile is not None:
                # Statistics are the whole frame's: a tile's own would give each tile a tint of its own.
                Options().overridden(options)
                whole_frame_fix, options["color_fix"] = options["color_fix"], "none"
            flashvsr = FlashVSRModel(bundle, scale, threads=request.threads, options=options)
            return OpenedModel(_tiled(flashvsr, request, None), bundle.name, whole_frame_fix)
        case "recurrent":
            _refuse_options(bundle.name, request)
            recurrent = RecurrentModel(bundle, scale, threads=request.threads)
            return OpenedModel(_tiled(recurrent, request, None), bundle.name, color_fix)
        case "frame":
            _refuse_options(bundle.name, request)
            spec = bundle.scales[scale]
            frame = FrameModel(
                bundle.path(spec.step), threads=request.threads, value_range=bundle.value_range, scale=scale
            )
            return OpenedModel(_tiled(frame, request, frame.graph.size), bundle.name, color_fix)


def _check_precision(name: str, precision: Precision, request: ModelRequest) -> None:
    if request.precision not in (None, precision):
        raise FlashsrError(
            f"the model {name!r} is {precision}, got precision={request.precision!r}; "
            "export it again in that precision or leave precision out"
        )


def _refuse_options(name: str, request: ModelRequest) -> None:
    if request.options:
        raise FlashsrError(
            f"the model {name!r} has no options, got model_options={dict(request.options)}; leave it out"
        )


def _tiled[State](model: Model[State], request: ModelRequest, fixed: tuple[int, int] | None) -> Model[Any]:
    """``model`` in tiles where the user asks for them or the graph takes one size only."""
    match request.tile:
        case None:
            tile = fixed
        case int() as side:
            tile = (side, side)
        case (int() as width, int() as height):
            tile = (height, width)
    if fixed is not None and tile != fixed:
        raise FlashsrError(f"the model takes {fixed[1]}x{fixed[0]} only, got tile={request.tile}; leave tile out")
    if tile is None:
        if request.overlap is not None:
            raise FlashsrError(f"overlap is between tiles, got overlap={request.overlap} without tile; give tile too")
        return model
    if fixed is None:
        # A tile larger than the picture would only be padding.
        tile = (min(tile[0], request.height), min(tile[1], request.width))
    elif tile == (request.height, request.width):
        return model
    overlap = request.overlap if request.overlap is not None else min(DEFAULT_OVERLAP, (min(tile) - 1) // 4)
    return TiledModel(model, tile, overlap, (request.height, request.width))
