"""What is done to a clip, decided once, and the script that does it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import FlashsrError
from . import timing
from .fields import FieldOrder, Finding
from .source import Source
from .timing import Timing

type Treatment = Literal["none", "unflag", "bwdif", "qtgmc", "ivtc"]
"""Frames as they are; as they are, but no longer flagged as fields; two fields to two frames; film out of telecine."""
type Wish = Literal["auto", "none", "bwdif", "qtgmc", "ivtc"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """From a file to upscaled frames."""

    input: str
    track: int
    frames: int
    """Of the source, from the first on."""
    treatment: Treatment
    order: FieldOrder | None = None
    single_rate: bool = False
    """One frame for two fields: half the frames."""
    phase: int | None = None
    """Of telecine: which of five frames is the first combed one."""
    colours: Mapping[str, int] = field(default_factory=dict)
    """Properties that the source lacks, and what was assumed."""
    scale: float = 2.0
    options: Mapping[str, Any] = field(default_factory=dict)
    """``flashsr``'s other arguments; ``format`` as the name of one."""
    crop: tuple[int, int] | None = None
    """Width and height to come to exactly, where the scale can't express it."""


def treat(
    finding: Finding, flag: FieldOrder | None, wish: Wish, *, constant: bool
) -> tuple[Treatment, FieldOrder | None]:
    """What to do about fields.

    Args:
        flag: what the frames are flagged as.
        constant: is the frame rate constant? Without, a pattern of five frames has no place in time.
    """
    order = finding.order or flag or "tff"
    if wish in ("bwdif", "qtgmc"):
        return wish, order
    if wish == "ivtc":
        if finding.phase is None or not constant:
            raise FlashsrError(
                f"--deinterlace ivtc needs one 3:2 pattern throughout, got {finding.kind} ({finding.why}); "
                "give --deinterlace bwdif"
            )
        return "ivtc", order
    if wish == "none" or finding.kind == "progressive":
        return ("unflag" if flag else "none"), None
    if finding.kind == "telecine" and finding.phase is not None and constant:
        return "ivtc", order
    return "bwdif", order


def say_treatment(finding: Finding, treatment: Treatment, wish: Wish, *, single_rate: bool) -> str:
    """What was decided about fields, and why, in one line."""
    done = {
        "none": "kept as it is",
        "unflag": "not deinterlaced",
        "bwdif": "deinterlaced by bwdif",
        "qtgmc": "deinterlaced by QTGMC",
        "ivtc": "film frames put together again, four of five",
    }[treatment]
    if treatment in ("bwdif", "qtgmc"):
        done += ", one frame of two fields" if single_rate else ", a frame for each field"
    if finding.kind == "telecine" and treatment == "bwdif" and wish == "auto":
        done += " (the 3:2 pattern isn't one throughout)"
    asked = "" if wish == "auto" else f" (--deinterlace {wish})"
    return f"{finding.kind}: {done}{asked}; {finding.why}"


def assumed_colours(source: Source) -> dict[str, int]:
    """Matrix, primaries and transfer for a YUV source that names none: by its size, as players guess.

    The upscaled picture would be taken for BT.709 by its size, so that what was assumed of the small one has to be written.
    """
    from ..formats import guess_matrix

    if source.family != "YUV" or source.says.matrix is not None:
        return {}
    matrix = guess_matrix(source.height)
    found = {"_Matrix": matrix}
    if source.says.primaries is None:
        found["_Primaries"] = matrix
    if source.says.transfer is None:
        found["_Transfer"] = 1 if matrix == 1 else 6
    return found


def say_colours(source: Source, colours: Mapping[str, int]) -> str:
    """What was decided about colours, in one line."""
    if "_Matrix" not in colours:
        return "colours: as the source names them" if source.family == "YUV" else f"colours: {source.family}"
    name = "BT.709" if colours["_Matrix"] == 1 else "BT.601"
    return f"colours: the source names no matrix; {name} is assumed from its {source.height} lines, and written into the file"


def out_timing(source: Source, recipe: Recipe) -> Timing:
    """When the frames that come out are shown."""
    whole = source.timing
    if recipe.treatment == "ivtc":
        assert whole.rate is not None
        rate = whole.rate * 4 / 5
        count = out_frames(recipe)
        return Timing(tuple(whole.starts[0] + float(i / rate) for i in range(count)), rate, float(1 / rate))
    if recipe.treatment in ("bwdif", "qtgmc") and not recipe.single_rate:
        return timing.doubled(whole)
    return whole


def out_frames(recipe: Recipe) -> int:
    """How many frames come out."""
    if recipe.treatment == "ivtc":
        assert recipe.phase is not None
        fields = 2 * recipe.frames
        return sum(len(range(offset, fields, 10)) for offset in film_offsets(recipe.phase))
    return recipe.frames * (2 if recipe.treatment in ("bwdif", "qtgmc") and not recipe.single_rate else 1)


def film_offsets(phase: int) -> list[int]:
    """Which of ten fields, woven with the next, are the four film frames.

    Telecine makes of film frames A B C D the frames AA BB BC CD DD; ``phase`` is BC's place in the five. The pairs with even
    numbers are frames as they came, those with odd numbers are of two frames: C is there only so.
    """
    return sorted([2 * (phase + 2) % 10, 2 * (phase + 3) % 10, 2 * (phase + 4) % 10, (2 * phase + 1) % 10])


def script(recipe: Recipe) -> str:
    """The script as text: output 0 is upscaled, output 1 what goes into ``flashsr``.

    It takes what a worker sets of its own: ``index`` (a file for bestsource's index), ``device_id``, ``threads``.
    """
    options = {**recipe.options}
    shape = options.pop("format", None)
    arguments = [f"scale={recipe.scale!r}"]
    arguments += [f"{name}={value!r}" for name, value in options.items()]
    if shape is not None:
        arguments.append(f"format=vs.{shape}")
    free = tuple(name for name in ("device_id", "threads") if name not in options)
    lines = [
        '"""Written by vsflashsr upscale. Output 0 is the upscaled clip, output 1 what goes into flashsr."""',
        "",
        "import vapoursynth as vs",
        "from vsflashsr import flashsr",
        "",
        "core = vs.core",
        'index = globals().get("index")  # where bestsource keeps its index; without, in the cache of its own',
        'cache = {"cachemode": 4, "cachepath": index} if index else {}',
        f"machine = {{name: int(globals()[name]) for name in {free!r} if name in globals()}}",
        "",
        f"clip = core.bs.VideoSource({recipe.input!r}, track={recipe.track}, **cache)",
        f"clip = clip[:{recipe.frames}]",
    ]
    if recipe.colours:
        tags = ", ".join(f"{name}={value}" for name, value in recipe.colours.items())
        lines.append(f"clip = clip.std.SetFrameProps({tags})  # the source doesn't say; assumed from its size")
    lines += _fields(recipe)
    call = ", ".join(["clip", *arguments])
    lines += ["", f"out = flashsr({call}, **machine)"]
    if recipe.crop is not None:
        width, height = recipe.crop
        lines.append(f"out = out.resize.Spline36({width}, {height})")
    lines += ["out.set_output(0)", "clip.set_output(1)", ""]
    return "\n".join(lines)


def _fields(recipe: Recipe) -> list[str]:
    first = "True" if recipe.order == "tff" else "False"
    progressive = "clip = clip.std.SetFieldBased(0)"
    match recipe.treatment:
        case "none":
            return []
        case "unflag":
            return [f"{progressive}  # flagged as fields, but the frames are whole"]
        case "bwdif":
            field = (0 if recipe.single_rate else 2) + (recipe.order == "tff")
            return [f"clip = clip.bwdif.Bwdif(field={field})", progressive]
        case "ivtc":
            assert recipe.phase is not None
            offsets = film_offsets(recipe.phase)
            return [
                f"fields = clip.std.SeparateFields(tff={first})",
                f"clip = fields.std.DoubleWeave(tff={first}).std.SelectEvery(10, {offsets})  # 3:2 pulldown undone",
                progressive,
            ]
        case "qtgmc":
            every = ["clip = clip[::2]"] if recipe.single_rate else []
            return [
                "from vsdeinterlace import QTempGaussMC",
                f"clip = clip.std.SetFieldBased({2 if recipe.order == 'tff' else 1})",
                "clip = QTempGaussMC().bob(clip)",
                *every,
                progressive,
            ]
