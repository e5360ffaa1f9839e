"""``vsflashsr compare``: several ways of upscaling a clip, in one HTML file to look at."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from cyclopts import Parameter

from ..compare.methods import Method, method
from ..compare.page import Comparison, Shown, html
from ..compare.pictures import Part, Picture, busiest, data_uri, picture, sheet, to_rgb
from ..compare.scores import Scores, scores
from ..errors import FlashsrError
from .host import core_messages
from .options import FilterOptions
from .source import open_clip

if TYPE_CHECKING:
    import vapoursynth as vs

USUAL_METHODS = ("lanczos", "nnedi3", "builtin", "builtin-hq")
LOOP_PX = (640, 360)
_NO_OPTIONS = FilterOptions()


@dataclass(frozen=True, slots=True)
class Input:
    """What is upscaled, and what it is scored against."""

    clip: vs.VideoNode
    reference: vs.VideoNode | None
    said: str | None
    """The reference, in words."""


def compare(
    input: Path,
    *,
    output: Annotated[Path, Parameter(alias="-o")] = Path("compare.html"),
    scale: float = 2,
    method: Annotated[list[str] | None, Parameter(alias="-m", negative="")] = None,
    start: int | None = None,
    count: int = 48,
    pictures: int = 3,
    reference: Path | None = None,
    shrink: bool = False,
    force: bool = False,
    options: FilterOptions = _NO_OPTIONS,
) -> int:
    """Upscale a part of a clip in several ways and write one HTML file to look at them.

    The page works without a network: a slider between two methods, a loupe at 1:1 for all of them, and a short loop. With a
    reference it has PSNR and SSIM of luma, and SSIMULACRA2. Every method sees the same frames, as an encode that begins at
    --start would.

    Parameters
    ----------
    input
        A video file, or a .vpy script, whose output 0 is taken. A file that says it is interlaced goes through bwdif.
    output
        The page.
    scale
        Output size over input size, from 1 to 4; 1 for models that restore.
    method
        lanczos, nnedi3, a built-in model's name, a bundle's folder or an .onnx file; any number of times. By default lanczos,
        nnedi3 if its plugin is there, and the built-in models.
    start
        First frame; by default that at a third of the clip.
    count
        How many frames every method upscales; they are the loop.
    pictures
        How many of them are shown whole, evenly spaced.
    reference
        The same clip in the output's size, to score against.
    shrink
        Take INPUT itself as the reference: shrink it by the scale first (bicubic), then upscale that.
    force
        Replace the page if it is there.
    """
    if output.exists() and not force:
        raise FlashsrError(f"{str(output)!r} is there already; give --force to replace it, or another --output")
    if count < 1 or pictures < 1:
        raise FlashsrError(f"--count and --pictures are 1 or more, got {count} and {pictures}; leave them out")
    if reference is not None and shrink:
        raise FlashsrError("--shrink makes a reference of the input, got --reference, too; give one of them")
    with core_messages():
        part = _input(input, scale, start, count, reference, shrink)
        ways = _methods(method, options)
        comparison = _comparison(input, part, ways, scale, pictures)
    text = html(comparison)
    partial = output.with_name(output.name + ".part")
    partial.write_text(text, encoding="utf-8", newline="\n")
    partial.replace(output)
    sys.stdout.write(f"{output.resolve()}\n")
    return 0


def _input(path: Path, scale: float, start: int | None, count: int, reference: Path | None, shrink: bool) -> Input:
    from ..formats import check_clip

    clip = _progressive(open_clip(path))
    check_clip(clip)
    first = clip.num_frames // 3 if start is None else start
    if start is None:
        first = max(0, min(first, clip.num_frames - count))
    if not 0 <= first < clip.num_frames:
        raise FlashsrError(
            f"--start is a frame of the clip (0 to {clip.num_frames - 1}), got {first}; give one of them"
        )
    span = slice(first, first + count)
    if shrink:
        small, whole = _shrunk(clip, scale)
        return Input(
            small[span], whole[span], f"Scored against {path.name} itself, which was shrunk by {scale:g} for it."
        )
    if reference is None:
        return Input(clip[span], None, None)
    truth = _progressive(open_clip(reference))
    if truth.num_frames < min(span.stop, clip.num_frames):
        raise FlashsrError(
            f"the reference has the input's frames, got {truth.num_frames} for {clip.num_frames}; give the same clip, larger"
        )
    return Input(clip[span], truth[span], f"Scored against {reference.name}.")


def _progressive(clip: vs.VideoNode) -> vs.VideoNode:
    """The clip, deinterlaced to one frame a field if its first frame says that it is field-based."""
    import vapoursynth as vs

    with clip.get_frame(0) as frame:
        fields = int(frame.props.get("_FieldBased", 0))
    if fields == 0:
        return clip
    if not hasattr(vs.core, "bwdif"):
        raise FlashsrError(
            f"the clip is interlaced (_FieldBased={fields}) and the plugin bwdif isn't there; pip install 'vsflashsr[samples]', "
            "or give a .vpy that deinterlaces it"
        )
    sys.stderr.write("the clip says it is interlaced: it goes through bwdif, a frame for each field\n")
    return clip.bwdif.Bwdif(field=3 if fields == vs.FIELD_TOP else 2).std.SetFieldBased(0)


def _shrunk(clip: vs.VideoNode, scale: float) -> tuple[vs.VideoNode, vs.VideoNode]:
    """The clip ``scale`` times smaller, and as much of it from the top left as that stands for."""
    from ..formats import output_size

    across, down = clip.format.subsampling_w, clip.format.subsampling_h
    width, height = (int(side / scale) >> shift << shift for side, shift in ((clip.width, across), (clip.height, down)))
    if min(width, height) < 16:
        raise FlashsrError(
            f"the shrunk clip has 16 pixels a side or more, got {width}x{height}; give a smaller --scale"
        )
    whole = clip.std.CropAbs(output_size(width, scale, across), output_size(height, scale, down))
    return whole.resize.Bicubic(width, height, filter_param_a=0, filter_param_b=0.5), whole


def _methods(names: Sequence[str] | None, options: FilterOptions) -> list[Method]:
    import vapoursynth as vs

    if names is None:
        names = [name for name in USUAL_METHODS if name != "nnedi3" or hasattr(vs.core, "znedi3")]
        names += [] if options.model is None else [options.model]
    keywords = replace(options, model=None, format=None, model_options=None).keywords()
    own = replace(_NO_OPTIONS, model_options=options.model_options).keywords().get("model_options", {})
    return [method(name, keywords, own) for name in names]


def _comparison(path: Path, part: Input, ways: Sequence[Method], scale: float, pictures: int) -> Comparison:
    """Every method's frames, looked at once each, one method after the other."""
    clip = part.clip
    frames = _evenly(clip.num_frames, pictures)
    made = [(way, way.upscale(clip, scale)) for way in ways]
    large = made[0][1]
    if part.reference is not None and (part.reference.width, part.reference.height) != (large.width, large.height):
        raise FlashsrError(
            f"the reference has the output's size, {large.width}x{large.height}, got "
            f"{part.reference.width}x{part.reference.height}; give another --scale or --reference"
        )
    crop = _loop_part(large, frames[len(frames) // 2])
    shown = []
    columns = 1
    for way, out in made:
        sys.stderr.write(f"{way.name}: {clip.num_frames} frames of {out.width}x{out.height}\n")
        one, columns = _shown(way.name, out, frames, crop)
        shown.append(replace(one, scores=_scores(part.reference, out)))
    if part.reference is not None:
        one, columns = _shown("reference", part.reference, frames, crop)
        shown.append(replace(one, seconds_per_frame=0))
    with clip.get_frame(0) as frame:
        aspect = (frame.props.get("_SARNum", 1) or 1) / (frame.props.get("_SARDen", 1) or 1)
    return Comparison(
        title=f"{path.name}, x{scale:g}",
        source=f"{clip.width}x{clip.height} {clip.format.name}, {clip.num_frames} frames",
        width=large.width,
        height=large.height,
        aspect=aspect,
        frames=frames,
        loop_left=crop.left,
        loop_top=crop.top,
        loop_width=crop.width,
        loop_height=crop.height,
        loop_frames=clip.num_frames,
        loop_columns=columns,
        rate=float(clip.fps) or 25.0,
        reference=part.said,
        methods=shown,
    )


def _evenly(length: int, wanted: int) -> tuple[int, ...]:
    """So many frame numbers, or all there are: in the middle of equal shares of the clip."""
    wanted = min(length, wanted)
    return tuple((2 * i + 1) * length // (2 * wanted) for i in range(wanted))


def _loop_part(clip: vs.VideoNode, n: int) -> Part:
    import vapoursynth as vs

    grey = to_rgb(clip, vs.RGBS).resize.Point(format=vs.GRAYS, matrix=1)
    with grey.get_frame(n) as frame:
        return busiest(np.asarray(frame[0]), *LOOP_PX)


def _shown(name: str, out: vs.VideoNode, frames: Sequence[int], crop: Part) -> tuple[Shown, int]:
    """A method's pictures, and how many frames stand in a row of its loop."""
    import vapoursynth as vs

    rgb = to_rgb(out, vs.RGB24)
    whole: dict[int, Picture] = {}
    parts: list[Picture] = []
    seconds = 0.0
    for n in range(out.num_frames):
        started = time.perf_counter()
        # Held while it is converted, which would else be timed, too, or make it again.
        with out.get_frame(n):
            seconds += time.perf_counter() - started
            with rgb.get_frame(n) as frame:
                pixels = picture(frame)
        if n in frames:
            whole[n] = pixels
        parts.append(pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width])
    loop, columns = sheet(parts)
    uris = tuple(data_uri(whole[n]) for n in frames)
    return Shown(name, seconds / len(parts), None, uris, data_uri(loop, quality=92)), columns


def _scores(reference: vs.VideoNode | None, out: vs.VideoNode) -> Scores | None:
    return None if reference is None else scores(reference, out, range(out.num_frames))
