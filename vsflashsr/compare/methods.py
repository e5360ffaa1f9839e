"""Ways of upscaling that are compared, by name: resizers, the built-in models, and any other model by its path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FlashsrError

if TYPE_CHECKING:
    import vapoursynth as vs

ALIASES = {"hq": "builtin-hq"}
_NNEDI3_REMEDY = "pip install 'vsflashsr[compare]', or leave the method nnedi3 out"


@dataclass(frozen=True, slots=True)
class Method:
    """One way of upscaling."""

    name: str
    """As it is shown."""
    upscale: Callable[[vs.VideoNode, float], vs.VideoNode]
    """(clip, scale) → the clip ``scale`` times as large, in the clip's format."""


def method(name: str, options: Mapping[str, Any], model_options: Mapping[str, Any]) -> Method:
    """The method of a name.

    Args:
        name: "lanczos", "nnedi3", a model's name, a bundle's folder or an ``.onnx`` file.
        options: arguments of ``flashsr``, for every model.
        model_options: ``model_options`` for models that aren't built in, which have none.

    Raises:
        FlashsrError: nnedi3's plugin isn't there.
    """
    match name.lower():
        case "lanczos":
            return Method("Lanczos", _lanczos)
        case "nnedi3":
            import vapoursynth as vs

            if not hasattr(vs.core, "znedi3"):
                raise FlashsrError(f"the method nnedi3 needs the plugin znedi3, got none; {_NNEDI3_REMEDY}")
            return Method("nnedi3", _nnedi3)
    from ..models.locate import builtin_names

    model = ALIASES.get(name, name)
    built_in = model in builtin_names()
    own: dict[str, Any] = {} if built_in or not model_options else {"model_options": dict(model_options)}

    def upscale(clip: vs.VideoNode, scale: float) -> vs.VideoNode:
        from ..filter import flashsr

        return flashsr(clip, scale, model=model, **options, **own)

    return Method(model if built_in else Path(model).name, upscale)


def _target(clip: vs.VideoNode, scale: float) -> tuple[int, int]:
    from ..formats import output_size

    return (
        output_size(clip.width, scale, clip.format.subsampling_w),
        output_size(clip.height, scale, clip.format.subsampling_h),
    )


def _lanczos(clip: vs.VideoNode, scale: float) -> vs.VideoNode:
    return clip.resize.Lanczos(*_target(clip, scale))


def _nnedi3(clip: vs.VideoNode, scale: float) -> vs.VideoNode:
    """Luma doubled by nnedi3 until it is large enough, then Spline36; chroma by Spline36, as in the built-in models.

    nnedi3 leaves the old lines where they were, which puts the picture half a new pixel up and to the left: after k
    doublings by (2^k - 1) / 2, which the resizer takes back.
    """
    import vapoursynth as vs

    core = vs.core.core
    width, height = _target(clip, scale)
    family = clip.format.color_family
    whole = clip.resize.Point(format=vs.YUV444P16, matrix=1) if family == vs.RGB else clip
    luma = whole if family == vs.GRAY else core.std.ShufflePlanes(whole, 0, vs.GRAY)
    bits = luma.format.bits_per_sample if luma.format.sample_type == vs.INTEGER else 16
    original = luma.format.id
    luma = luma.resize.Point(format=core.query_video_format(vs.GRAY, vs.INTEGER, bits).id)
    doublings = 0
    while 1 << doublings < scale:
        for _ in range(2):
            luma = luma.znedi3.nnedi3(field=1, dh=True, nsize=0, nns=4, qual=2, etype=0, pscrn=2).std.Transpose()
        doublings += 1
    shift = -((1 << doublings) - 1) / 2
    luma = luma.resize.Spline36(width, height, format=original, src_left=shift, src_top=shift)
    if family == vs.GRAY:
        return core.std.CopyFrameProps(luma, clip)
    chroma = whole.resize.Spline36(width, height)
    joined = core.std.ShufflePlanes([luma, chroma, chroma], [0, 1, 2], vs.YUV)
    if family == vs.RGB:
        joined = joined.resize.Point(format=clip.format.id, matrix_in=1)
    return core.std.CopyFrameProps(joined, clip)
