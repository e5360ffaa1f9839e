"""From what the user named to a model that is ready to step: built-in name, bundle folder or bare ``.onnx`` file."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..bundle import Bundle, ColorFix, Precision, load_bundle
from ..errors import FlashsrError
from ..geometry import Tiling, tile_sizes, tiling
from ..gpu.budget import MemoryPlan, MemoryRefusedError
from ..model import Model
from .frame.host import FrameModel
from .library import installed, installed_names
from .published import PUBLISHED
from .recurrent.host import RecurrentModel
from .tiled import TiledModel

if TYPE_CHECKING:
    from ..runtimes.backend import DeviceBackend

_log = logging.getLogger(__name__)

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
    tile: int | tuple[int, int] | Literal["auto"] | None = None
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
    memory: str = ""
    """What it takes of a GPU, in words."""


class DeviceModel(Model[Any], Protocol):
    """A model on a device, which knows what it takes there."""

    @property
    def memory(self) -> MemoryPlan: ...


def nearest_scale(scales: Iterable[int], wanted: float) -> int:
    """The scale whose ratio to ``wanted`` is closest to 1; of two alike, the larger."""
    return min(scales, key=lambda s: (round(abs(math.log(s / wanted)), 9), -s))


def builtin_names() -> list[str]:
    """Names of the models in the package."""
    return sorted(path.parent.name for path in BUNDLES.glob("*/bundle.json"))


def locate(model: str | Path | None) -> Path:
    """Where a model lies: a built-in name, a bundle's folder, an ``.onnx`` file or a name in the user's library.

    None: the built-in default.

    Raises:
        FlashsrError: there is nothing.
    """
    names = builtin_names()
    if model is None:
        model = DEFAULT
    if isinstance(model, str) and model in names:
        return BUNDLES / model
    path = Path(model).expanduser()
    if path.exists():
        return path
    if isinstance(model, str) and (own := installed(model)) is not None:
        return own
    if model in PUBLISHED:
        raise FlashsrError(f"the model {model!r} isn't here yet; vsflashsr models get {model}")
    names += installed_names()
    raise FlashsrError(
        f"there is no model {str(model)!r}; give a bundle's folder, an .onnx file, or one of {', '.join(map(repr, names))}"
    )


def open_model(request: ModelRequest, backend: DeviceBackend | None = None) -> OpenedModel:
    """Open the model for frames of ``request.width`` x ``request.height``, on a device or (``backend`` None) on the CPU.

    Raises:
        FlashsrError: it can't be read, doesn't fit together, doesn't have what was asked for, or needs too much memory.
    """
    path = locate(request.model)
    if path.is_dir():
        return _from_bundle(load_bundle(path), request, backend)
    if path.suffix.lower() != ".onnx":
        raise FlashsrError(f"a model is a bundle's folder or an .onnx file, got {str(path)!r}")
    _refuse_options(path.name, request)
    frame = FrameModel(path, threads=request.threads)
    _check_precision(path.name, frame.precision, request)
    return _open_frame(path, path.stem, request, backend, request.color_fix or "none", frame)


def _from_bundle(bundle: Bundle, request: ModelRequest, backend: DeviceBackend | None) -> OpenedModel:
    _check_precision(bundle.name, bundle.precision, request)
    scale = nearest_scale(bundle.scales, request.scale)
    color_fix = request.color_fix or bundle.color_fix
    match bundle.kind:
        case "flashvsr":
            return _open_flashvsr(bundle, scale, request, backend, color_fix)
        case "recurrent":
            _refuse_options(bundle.name, request)
            if backend is None:
                recurrent = RecurrentModel(bundle, scale, threads=request.threads)
                return OpenedModel(_tiled(recurrent, request, _tiling(request, None)), bundle.name, color_fix)
            return _on_device(
                lambda size, tiles: backend.recurrent(bundle, scale, size, runs=tiles or 1),
                request,
                None,
                bundle.name,
                color_fix,
            )
        case "frame":
            _refuse_options(bundle.name, request)
            path = bundle.path(bundle.scales[scale].step)
            frame = FrameModel(path, threads=request.threads, value_range=bundle.value_range, scale=scale)
            return _open_frame(path, bundle.name, request, backend, color_fix, frame)


def _open_frame(
    path: Path,
    name: str,
    request: ModelRequest,
    backend: DeviceBackend | None,
    color_fix: ColorFix,
    frame: FrameModel,
) -> OpenedModel:
    """A single-frame upscaler, which the CPU has had a look at (``frame``)."""
    if backend is None:
        return OpenedModel(_tiled(frame, request, _tiling(request, frame.graph.size)), name, color_fix)
    return _on_device(lambda size, _: backend.frame(path, frame, size), request, frame.graph.size, name, color_fix)


def _open_flashvsr(
    bundle: Bundle, scale: int, request: ModelRequest, backend: DeviceBackend | None, color_fix: ColorFix
) -> OpenedModel:
    from .flashvsr.host.model import FlashVSRModel
    from .flashvsr.options import Options

    options = {"seed": request.seed, "color_fix": color_fix, **request.options}
    # Unknown ones are refused before anything is opened.
    Options().overridden(options)

    # Statistics are the whole frame's: a tile's own would give each tile a tint of its own.
    unfixed = {**options, "color_fix": "none"}
    if backend is None:
        tile = _tiling(request, None)
        flashvsr = FlashVSRModel(bundle, scale, threads=request.threads, options=options if tile is None else unfixed)
        left: ColorFix = "none" if tile is None else options["color_fix"]
        return OpenedModel(_tiled(flashvsr, request, tile), bundle.name, left)

    def opened(size: tuple[int, int], tiles: int | None) -> DeviceModel:
        own = options if tiles is None else unfixed
        return backend.flashvsr(bundle, scale, size, runs=tiles or 1, options=own)

    return _on_device(opened, request, None, bundle.name, options["color_fix"], fixes_itself=True, multiple=128 // scale)


def _on_device(
    opener: Callable[[tuple[int, int], int | None], DeviceModel],
    request: ModelRequest,
    fixed: tuple[int, int] | None,
    name: str,
    color_fix: ColorFix,
    *,
    fixes_itself: bool = False,
    multiple: int = 8,
) -> OpenedModel:
    """The largest of the tilings in question whose model fits on the device.

    ``opener`` takes (height, width) and the number of tiles, None for the whole frame. ``fixes_itself``: it makes the colour fix
    then.
    """
    tile = _tiling(request, fixed)
    choices = [tile]
    overlap = DEFAULT_OVERLAP if request.overlap is None else request.overlap
    if request.tile == "auto":
        choices += [(h, w) for w, h in tile_sizes(request.width, request.height, multiple, overlap)]
    for last, choice in ((choice is choices[-1], choice) for choice in choices):
        count = None if choice is None else len(_plan(request, choice).tiles)
        try:
            model = opener(choice or (request.height, request.width), count)
        except MemoryRefusedError as error:
            if last:
                raise
            _log.info("%s", error)
            continue
        left: ColorFix = "none" if fixes_itself and choice is None else color_fix
        return OpenedModel(_tiled(model, request, choice), name, left, f"{model.memory}{_in_tiles(choice, count)}")
    raise AssertionError("there is always a choice")


def _in_tiles(tile: tuple[int, int] | None, count: int | None) -> str:
    return "" if tile is None else f", in {count} tiles of {tile[1]}x{tile[0]}"


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


def _tiling(request: ModelRequest, fixed: tuple[int, int] | None) -> tuple[int, int] | None:
    """(height, width) of the tiles that are asked for, or that a graph of one size needs; None: the whole frame."""
    match request.tile:
        case None | "auto":
            tile = fixed
        case int() as side:
            tile = (side, side)
        case (int() as width, int() as height):
            tile = (height, width)
    if fixed is not None and tile != fixed:
        raise FlashsrError(f"the model takes {fixed[1]}x{fixed[0]} only, got tile={request.tile}; leave tile out")
    if tile is None:
        if request.overlap is not None and request.tile is None:
            raise FlashsrError(f"overlap is between tiles, got overlap={request.overlap} without tile; give tile too")
        return None
    if fixed is None:
        # A tile larger than the picture would only be padding.
        return min(tile[0], request.height), min(tile[1], request.width)
    return None if tile == (request.height, request.width) else tile


def _plan(request: ModelRequest, tile: tuple[int, int]) -> Tiling:
    overlap = request.overlap if request.overlap is not None else min(DEFAULT_OVERLAP, (min(tile) - 1) // 4)
    return tiling(request.width, request.height, tile[1], tile[0], overlap)


def _tiled[State](model: Model[State], request: ModelRequest, tile: tuple[int, int] | None) -> Model[Any]:
    """``model`` in tiles, if there are any."""
    return model if tile is None else TiledModel(model, _plan(request, tile))
