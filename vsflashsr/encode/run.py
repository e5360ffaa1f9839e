"""A file upscaled into a file: what is asked for becomes a plan, the plan chunks, the chunks a file."""

from __future__ import annotations

import gc
import hashlib
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..errors import FlashsrError
from ..version import __version__
from . import encoders, mux, programs, recipe, tracks
from .bar import Bar, clock, readable
from .chunks import chunk_length
from .cluster import Cluster, encode_on_ray
from .container import Container, last_time, probe
from .encoders import ENCODERS, Settings
from .local import encode_locally
from .plan import Plan, request_hash
from .recipe import Recipe, Wish
from .render import open_script
from .signal import Signal, from_props
from .source import Source, examine
from .timing import Timing
from .work import Record, WorkFolder, write_durably

_OWN_COLOURS = 5
"""The Dolby Vision profile whose picture without its metadata is green and purple: IPT instead of YCbCr."""
INCOMPLETE = 3
"""Exit status: the file is there, but something of the source is missing in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for."""

    input: Path
    output: Path
    scale: float | None = None
    width: int | None = None
    height: int | None = None
    settings: Settings = field(default_factory=Settings)
    bits: int | None = None
    deinterlace: Wish = "auto"
    single_rate: bool = False
    preview_s: float | None = None
    preview_at_s: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)
    """``flashsr``'s arguments; ``format`` as a name."""
    chunk_frames: int | None = None
    workers: int = 1
    devices: tuple[int, ...] = ()
    cluster: Cluster | None = None
    """Work there, not here."""
    work: Path | None = None
    force: bool = False


def say(line: str) -> None:
    """A line for whoever watches."""
    sys.stderr.write(f"{line}\n")


def upscale(request: Request) -> int:
    """Do it, or go on with it; returns the exit status.

    Raises:
        FlashsrError: it can't be done. What is finished stays in the work folder.
    """
    _check_output(request)
    encoder = ENCODERS[request.settings.encoder]
    programs.find(encoder.program, encoder.what)
    programs.find("mkvmerge", "writing the file")
    container = probe(request.input)
    folder = WorkFolder(request.work or request.output.with_name(f"{request.output.name}.work"))
    fresh = not folder.path.exists()
    finished = False
    try:
        with folder.locked():
            folder.sweep()
            plan = _planned(request, container, folder)
            for line in plan.remarks:
                say(line)
            others = _others(request, container, folder, plan)
            for line in others.remarks:
                say(line)
            records = _encode(request, folder, plan)
            status = _finish(request, folder, plan, records, container, others)
            finished = True
    except BaseException:
        if fresh and not list(folder.path.glob("plan.json")):
            folder.remove()
        raise
    if finished:
        folder.remove()
    return status


def dry_run(request: Request) -> str:
    """The script, and the encoder's and mkvmerge's commands, as text for a shell."""
    import shlex
    import tempfile

    container = probe(request.input)
    with tempfile.TemporaryDirectory() as temporary:
        plan = _make_plan(request, container, WorkFolder(Path(temporary)))
    name = f"{request.output.stem}.vpy"
    encoder = ENCODERS[request.settings.encoder]
    says = plan.says
    command = shlex.join(encoders.command_for(encoder.program, request.settings, says, plan.frames, plan.bits))
    part = f" -s {plan.first} -e {plan.stop - 1}" if (plan.first, plan.stop) != (0, _total(plan)) else ""
    stream = f"{request.output.stem}{encoder.suffix}"
    lines = [
        plan.script,
        *(f"# {line}" for line in plan.remarks),
        f"# vspipe -c y4m{part} {shlex.quote(name)} - | {command} > {shlex.quote(stream)}",
        f"# mkvmerge -o {shlex.quote(request.output.name)} {_stream_options(plan)} {shlex.quote(stream)}"
        f" --no-video {shlex.quote(str(request.input))}",
        "",
    ]
    return "\n".join(lines)


def _total(plan: Plan) -> int:
    return plan.stop if plan.first == 0 else -1


def _stream_options(plan: Plan) -> str:
    from .signal import mkvmerge_flags

    rate = "0:{}/{}p".format(*plan.rate)
    return " ".join([*mkvmerge_flags(plan.says, plan.width, plan.height), "--default-duration", rate])


def _check_output(request: Request) -> None:
    output = request.output
    if output.suffix.lower() not in mux.SUFFIXES:
        raise FlashsrError(
            f"the output is one of {', '.join(mux.SUFFIXES)}, got {output.name!r}; name it so, e.g. {output.stem}.mkv"
        )
    if ENCODERS[request.settings.encoder].exact and output.suffix.lower() != ".mkv":
        raise FlashsrError(f"{request.settings.encoder} goes into .mkv, got {output.name!r}; name it {output.stem}.mkv")
    if output.exists() and not request.force:
        raise FlashsrError(f"the output is already there, got {output}; give another name, or --force to replace it")
    if output.exists() and request.input.exists() and output.samefile(request.input):
        raise FlashsrError(f"the output is another file than the input, got {output} for both; give another name")
    if not output.parent.is_dir():
        raise FlashsrError(f"the output's folder is there, got {output.parent}; make it first")
    if not os.access(output.parent, os.W_OK):
        raise FlashsrError(
            f"the output's folder can be written, got {output.parent}; give another, or change its permissions"
        )


def _planned(request: Request, container: Container, folder: WorkFolder) -> Plan:
    """The plan that lies in the folder, if it is of the same request; else a new one."""
    wanted = _request_hash(request)
    old = folder.plan()
    if old is not None and old.request == wanted:
        say(f"going on in {folder.path}")
        return old
    if old is not None and not request.force:
        raise FlashsrError(
            f"the work folder holds a job of another input or other options, got {folder.path}; "
            "give the same ones to go on, --force to begin anew, or another folder with --work"
        )
    plan = replace(_make_plan(request, container, folder), request=wanted)
    folder.begin(plan)
    return plan


def _request_hash(request: Request) -> str:
    """Names all that the frames and their bytes depend on: not how many work on it, or where."""
    stat = request.input.stat()
    ours = ("output", "workers", "devices", "cluster", "work", "force")
    facts = {name: value for name, value in asdict(request).items() if name not in ours}
    facts["input"] = str(request.input.resolve())
    facts |= {
        "size": stat.st_size,
        "mtime": stat.st_mtime_ns,
        "version": __version__,
        "model_hash": _model_hash(request),
    }
    return request_hash(facts)


def _model_hash(request: Request) -> str:
    """Of a bundle its manifest, which holds the hashes of its graphs."""
    from ..models.locate import locate

    path = locate(request.options.get("model"))
    file = path / "bundle.json" if path.is_dir() else path
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise FlashsrError(f"the model can be read, got {file} ({error.strerror}); give another") from error


def _make_plan(request: Request, container: Container, folder: WorkFolder) -> Plan:
    """Look at the source, decide everything, and try the script."""
    if container.dolby_vision == _OWN_COLOURS:
        raise FlashsrError(
            "the video's colours are such as every player knows, got Dolby Vision profile 5, which only its own decoders "
            "turn into a picture; convert it first, e.g. with ffmpeg's filter libplacebo"
        )
    source = examine(request.input, container.video.index, container.rates, folder.index)
    encoder = ENCODERS[request.settings.encoder]
    treatment, order = recipe.treat(
        source.finding, source.flag, request.deinterlace, constant=source.timing.rate is not None
    )
    colours = recipe.assumed_colours(source)
    options = dict(request.options)
    options.setdefault("format", _format(source, encoder, request.bits))
    made = Recipe(
        input=str(request.input.resolve()),
        track=container.video.index,
        frames=source.frames,
        treatment=treatment,
        order=order,
        single_rate=request.single_rate,
        phase=source.finding.phase,
        colours=colours,
        scale=_scale(request, source),
        options=options,
    )
    script = recipe.script(made)
    path = folder.path / "script.vpy"
    folder.path.mkdir(parents=True, exist_ok=True)
    write_durably(path, script.encode())
    says, width, height, bits, frames, rate = _try(path, folder, source)
    timing = recipe.out_timing(source, made)
    if len(timing.starts) != frames:
        raise FlashsrError(
            f"the script has as many frames as were planned, got {frames} for {len(timing.starts)}; report this"
        )
    first, stop = _part(timing, request)
    timing = timing.part(first, stop)
    nominal = timing.rate or rate  # of a variable rate, what bestsource takes for it
    return Plan(
        request="",
        script=script,
        first=first,
        stop=stop,
        chunk_frames=chunk_length(_max_segment(request), request.chunk_frames or chunk_length(1)),
        settings=request.settings,
        says=says,
        width=width,
        height=height,
        bits=bits,
        rate=(nominal.numerator, nominal.denominator),
        constant=timing.rate is not None,
        starts_s=timing.starts,
        remarks=tuple(_remarks(request, source, made, (width, height), stop - first, nominal, timing)),
        shortcoming=_shortcoming(request.input, source, container),
    )


def _format(source: Source, encoder: encoders.Encoder, bits: int | None) -> str:
    across, down = encoders.subsampling(encoder, *source.subsampling) if source.family == "YUV" else (1, 1)
    if source.family == "RGB":
        across, down = encoders.subsampling(encoder, 0, 0)
    name = {(1, 1): "420", (1, 0): "422", (0, 0): "444"}[across, down]
    return f"YUV{name}P{encoders.sample_bits(encoder, source.bits, bits)}"


def _scale(request: Request, source: Source) -> float:
    wanted = [
        size / own for size, own in ((request.width, source.width), (request.height, source.height)) if size is not None
    ]
    if not wanted:
        return request.scale or 2.0
    scale = min(wanted)
    if not 1 < scale <= 4:
        raise FlashsrError(
            f"--width and --height ask for more than the source's size and up to four times it, got x{scale:.3g} of "
            f"{source.width}x{source.height}; ask for another size"
        )
    return scale


def _try(path: Path, folder: WorkFolder, source: Source) -> tuple[Signal, int, int, int, int, Fraction]:
    """Evaluate the script once: what the result will look like. Engines for a GPU are built here."""
    import vapoursynth as vs

    from ..commands.host import core_messages

    with core_messages():
        clips = open_script(path, {"index": str(folder.index)})
    out, before = clips.out, clips.source
    shape = out.format
    assert shape is not None and before.format is not None
    # A frame of the result is only made where the source's own tells nothing of it.
    telling = before if shape.color_family == before.format.color_family else out
    with telling.get_frame(0) as frame:
        says = from_props(frame.props)
    if shape.color_family != vs.YUV or shape.sample_type != vs.INTEGER:
        raise FlashsrError(f"encoders take YUV of whole numbers, got --format {shape.name}; give e.g. YUV420P10")
    found = (says, out.width, out.height, shape.bits_per_sample, out.num_frames, out.fps or Fraction(25))
    del clips, out, before, telling
    vs.clear_outputs()
    gc.collect()
    return found


def _part(timing: Timing, request: Request) -> tuple[int, int]:
    """Which frames are wanted."""
    if request.preview_s is None:
        return 0, len(timing.starts)
    begin = timing.starts[0] + request.preview_at_s
    chosen = [i for i, start in enumerate(timing.starts) if begin - 1e-6 <= start < begin + request.preview_s - 1e-6]
    if not chosen:
        length = timing.end - timing.starts[0]
        raise FlashsrError(
            f"the preview lies within the video, got {request.preview_at_s:g} s of {length:.1f} s; begin earlier"
        )
    return chosen[0], chosen[-1] + 1


def _max_segment(request: Request) -> int:
    """Frames between the points where the filter's state begins anew."""
    from ..bundle import load_bundle
    from ..models.locate import locate

    path = locate(request.options.get("model"))
    if not path.is_dir():
        return 1
    own = load_bundle(path).max_segment
    return own if own == 1 else int(request.options.get("max_segment", own))


def _remarks(
    request: Request, source: Source, made: Recipe, size: tuple[int, int], frames: int, rate: Fraction, timing: Timing
) -> list[str]:
    speed = f"{float(rate):.6g} a second" if timing.rate is not None else "variable rate"
    return [
        *([] if source.not_carried is None else [f"left out: {source.not_carried}"]),
        f"source: {source.frames} frames {source.width}x{source.height} {source.format}",
        f"fields: {recipe.say_treatment(source.finding, made.treatment, request.deinterlace, single_rate=made.single_rate)}",
        recipe.say_colours(source, made.colours),
        f"result: {frames} frames {size[0]}x{size[1]} {made.options['format']}, {speed}, {request.settings.encoder}",
    ]


def _shortcoming(input: Path, source: Source, container: Container) -> str | None:
    """What the file promises and bestsource can't deliver."""
    if source.lost:
        return f"the last {source.lost} of {source.frames + source.lost} frames of the source can't be decoded"
    if container.video_frames is not None and container.video_frames - source.frames > 1:
        return f"the source says that it has {container.video_frames} frames, but only {source.frames} can be decoded"
    missing = max(filter(None, (container.video_end_s, container.end_s)), default=0.0) - source.timing.end
    if missing > 0.25 and container.others:
        # The sound may just be longer than the pictures.
        missing = min(missing, (container.end_s or 0.0) - last_time(input))
    if missing > 0.25:
        return f"the source ends {missing:.1f} s earlier than it says: it seems to be cut off"
    return None


def _others(request: Request, container: Container, folder: WorkFolder, plan: Plan) -> tracks.Others:
    part = request.preview_s is not None
    return tracks.copy(
        request.input,
        container,
        folder.others,
        video_start_s=plan.starts_s[0],
        first_s=plan.starts_s[0] if part else None,
        length_s=request.preview_s if part else None,
    )


def _encode(request: Request, folder: WorkFolder, plan: Plan) -> list[Record]:
    """Encode what isn't there yet; the records of all chunks in order, up to the first that the source cut short."""
    suffix = ENCODERS[plan.settings.encoder].suffix
    finished = folder.finished(plan, suffix)
    waiting = [chunk.index for chunk in plan.chunks if chunk.index not in finished]
    done = sum(record.shown for record in finished.values())
    if finished:
        say(f"{done} of {plan.frames} frames are there already")
    size = sum(record.bytes for record in finished.values())
    if waiting:
        with Bar(plan.frames, done, size) as bar:
            try:
                if request.cluster is not None:
                    encode_on_ray(folder, plan, waiting, bar.at, cluster=request.cluster, input=request.input.resolve())
                else:
                    encode_locally(
                        folder, waiting, bar.at, workers=request.workers, devices=request.devices,
                        threads=_threads(request),
                    )  # fmt: skip
            except KeyboardInterrupt:
                kept = sum(record.shown for record in folder.finished(plan, suffix).values())
                with suppress(OSError):
                    say(
                        f"interrupted; {kept} of {plan.frames} frames are kept in {folder.path}, the same command goes on"
                    )
                raise
    finished = folder.finished(plan, suffix)
    records: list[Record] = []
    for chunk in plan.chunks:
        if chunk.index not in finished:
            raise FlashsrError(f"chunk {chunk.index} is missing, got none in {folder.path}; run the same command again")
        records.append(finished[chunk.index])
        if finished[chunk.index].failure is not None:
            break
    return records


def _threads(request: Request) -> int | None:
    """Several workers share the cores; the frames don't depend on how many threads make one."""
    if request.workers == 1 or "threads" in request.options:
        return None
    return max(1, (os.cpu_count() or 1) // request.workers)


def _finish(
    request: Request, folder: WorkFolder, plan: Plan, records: list[Record], container: Container, others: tracks.Others
) -> int:
    shown = sum(record.shown for record in records)
    failure = records[-1].failure
    if not shown:
        raise FlashsrError(f"the source has frames that can be decoded, got none: {failure}; repair it first")
    for line in mux.finish(plan, folder, records, container, others, request.output, force=request.force):
        say(line)
    size = request.output.stat().st_size
    length = plan.starts_s[shown - 1] - plan.starts_s[0] + float(1 / Fraction(*plan.rate))
    say(f"written: {request.output}, {shown} frames, {clock(length)}, {readable(size)}")
    missing = (
        plan.shortcoming if failure is None else f"{failure}; {plan.frames - shown} of {plan.frames} frames are missing"
    )
    if missing is None:
        return 0
    say(f"vsflashsr: the source is incomplete: {missing}; what could be decoded is in {request.output}")
    return INCOMPLETE
