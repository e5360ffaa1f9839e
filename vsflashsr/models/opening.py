"""From what the user named to a model that is ready to step: name → bundle → kind → the largest tiling that fits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from ..arguments import Arguments
from ..bundle import Bundle, load_bundle
from ..errors import FlashsrError, shown
from ..runtimes.backend import Backend
from ..runtimes.graph import GraphCall
from .fitting import OpenedModel, fit
from .frame.kind import read_frame, read_frame_file
from .kind import Kind, KindReader, Size
from .locate import locate
from .recurrent.kind import read_recurrent


def _read_flashvsr(bundle: Bundle, scale: int, arguments: Arguments) -> Kind:
    """Imported when it is asked for: the large kinds take longer than all else here, and every script would wait."""
    from .flashvsr.kind import read_flashvsr

    return read_flashvsr(bundle, scale, arguments)


def _read_swiftvr(bundle: Bundle, scale: int, arguments: Arguments) -> Kind:
    """As above."""
    from .swiftvr.kind import read_swiftvr

    return read_swiftvr(bundle, scale, arguments)


KINDS: Mapping[str, KindReader] = {
    "recurrent": read_recurrent,
    "frame": read_frame,
    "flashvsr": _read_flashvsr,
    "swiftvr": _read_swiftvr,
}
"""By the ``kind`` of ``bundle.json``."""


def open_model(kind: Kind, arguments: Arguments, size: Size, backend: Backend) -> OpenedModel:
    """The model that was asked for and read (``read_kind``), for frames of ``size`` = (height, width), on a backend.

    Raises:
        FlashsrError: it can't be read, doesn't fit together, doesn't have what was asked for, or needs too much memory.
    """
    opened = fit(kind, arguments, size, backend)
    backend.keep_compiled()
    return opened


def open_chroma(kind: Kind, arguments: Arguments, size: Size, backend: Backend) -> OpenedModel | None:
    """What predicts the chroma of the model's pictures, for chroma of ``size`` = (height, width), if anything does.

    To be opened before the model itself: its memory is gone, then, when it is seen which tiles of the model fit.

    Raises:
        FlashsrError: it can't be opened.
    """
    return None if kind.chroma is None else fit(kind.chroma, arguments, size, backend)


def graphs_ahead(arguments: Arguments, sizes: Sequence[Size]) -> list[GraphCall]:
    """What ``open_model`` would load for whole frames, or for tiles, of these sizes, and ``open_chroma`` for 4:2:0 clips; nothing
    is loaded.

    Raises:
        FlashsrError: the model can't be read, or doesn't have what was asked for.
    """
    kind = read_kind(arguments)
    calls = [call for size in sizes for call in kind.graphs(size)]
    if kind.chroma is not None:
        calls += [call for h, w in sizes for call in kind.chroma.graphs((h * kind.scale // 2, w * kind.scale // 2))]
    return calls


def read_kind(arguments: Arguments) -> Kind:
    """The model that was asked for at the scale that is nearest, checked.

    Raises:
        FlashsrError: it can't be read, or doesn't have the precision or options that were asked for.
    """
    path = locate(arguments.model)
    if path.is_dir():
        bundle = load_bundle(path)
        if bundle.kind not in KINDS:
            raise FlashsrError(
                f"bundle {str(path)!r}: 'kind' is one of {', '.join(KINDS)}, got {shown(bundle.kind)}; update vsflashsr"
            )
        kind = KINDS[bundle.kind](bundle, nearest_scale(_enlarging(bundle, arguments.scale), arguments.scale), arguments)
    elif path.suffix.lower() == ".onnx":
        kind = read_frame_file(path, arguments)
        _enlarging(kind.bundle, arguments.scale)
    else:
        raise FlashsrError(f"a model is a bundle's folder or an .onnx file, got {shown(str(path))}; give one of these")
    if arguments.precision not in (None, kind.bundle.precision):
        raise FlashsrError(
            f"the model {kind.bundle.name!r} is {kind.bundle.precision}, got precision={arguments.precision!r}; "
            "export it again in that precision or leave precision out"
        )
    return kind


def _enlarging(bundle: Bundle, wanted: float) -> list[int]:
    """Those of a bundle's scales that come into question: 1 only where nothing else does.

    Raises:
        FlashsrError: the clip is to stay as large as it is, and the model can't do that.
    """
    scales = sorted(bundle.scales)
    if wanted == 1:
        if 1 in scales:
            return [1]
        raise FlashsrError(
            f"the model {bundle.name!r} enlarges by {' or '.join(map(str, scales))}, got scale=1; "
            "give a larger scale, or a model that restores (docs/models.md)"
        )
    return [scale for scale in scales if scale > 1] or scales


def nearest_scale(scales: Iterable[int], wanted: float) -> int:
    """The scale whose ratio to ``wanted`` is closest to 1; of two alike, the larger."""
    return min(scales, key=lambda s: (round(abs(math.log(s / wanted)), 9), -s))
