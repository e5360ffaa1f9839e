"""``vsflashsr upscale``: a file in, the upscaled file out, with everything that belongs to it."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ..encode.cluster import Cluster
from ..encode.encoders import Settings
from ..encode.run import Request, dry_run
from ..encode.run import upscale as run
from ..encode.timing import parse_duration
from ..errors import FlashsrError
from .options import FilterOptions

_NO_OPTIONS = FilterOptions()


def upscale(
    input: Path,
    output: Path,
    /,
    *,
    scale: float | None = None,
    height: int | None = None,
    width: int | None = None,
    encoder: Literal["x265", "svt-av1", "x264", "nvenc", "ffv1"] = "x265",
    crf: float | None = None,
    preset: str | None = None,
    encoder_args: Annotated[str, Parameter(allow_leading_hyphen=True)] = "",
    depth: int | None = None,
    deinterlace: Literal["auto", "none", "bwdif", "qtgmc", "ivtc"] = "auto",
    single_rate: bool = False,
    preview: str | None = None,
    preview_at: str = "0",
    dry_run: bool = False,
    force: bool = False,
    work: Path | None = None,
    chunk_frames: int | None = None,
    workers: int = 1,
    devices: str = "",
    ray: str | None = None,
    ray_cpus: float = 1,
    ray_gpus: float = 0,
    ray_stream: bool = False,
    options: FilterOptions = _NO_OPTIONS,
) -> int:
    """Upscale a video file: pictures through flashsr, everything else copied.

    vsflashsr upscale old.mkv new.mkv --scale 2

    Audio, subtitles, chapters, attachments and tags are copied, timestamps, pixel shape, colours and HDR10 kept; interlaced
    video is deinterlaced if its frames are interlaced, whatever they are flagged as. A run that was interrupted goes on where
    it ended when the same command is given again. Status 0: done. 1: failed, what is finished is kept. 2: called wrongly.
    3: the file is written, but the source was incomplete. 130: interrupted.

    Parameters
    ----------
    input
        Any video file that bestsource reads.
    output
        The file to write: .mkv, .mp4 or .mov.
    scale
        Output size over input size, from 1 to 4; 1 for models that restore. 2 if no size is given either.
    height
        Lines of the result; with --width the size it fits into.
    width
        Columns of the result.
    encoder
        What encodes the pictures.
    crf
        Constant quality on the encoder's own scale; less is better and larger.
    preset
        The encoder's preset.
    encoder_args
        More arguments for the encoder, as one text; they override all others.
    depth
        Bits a sample; not given: the source's, and 10 at least where the encoder takes them.
    deinterlace
        auto looks at flags and frames; none, bwdif, qtgmc or ivtc (film out of 3:2 pulldown) decide it.
    single_rate
        A deinterlacer makes one frame of two fields instead of two.
    preview
        Upscale a part of this length only, such as 10s.
    preview_at
        Where the part begins.
    dry_run
        Print the script and the commands, and do nothing.
    force
        Replace the output, and what a work folder holds of another job.
    work
        Folder for what is under way; not given: beside the output.
    chunk_frames
        Least frames of a piece that is encoded apart and kept.
    workers
        Processes that work on pieces at the same time.
    devices
        GPUs for the workers to take turns at, such as 0,1.
    ray
        Address of a Ray cluster to work on: auto, host:port, or local for one of this machine alone with --workers CPUs.
    ray_cpus
        CPUs that a piece takes on the cluster.
    ray_gpus
        GPUs that a piece takes on the cluster.
    ray_stream
        Send the input to the nodes and the pieces back; else all of them see the same folders.
    """
    request = Request(
        input=input.expanduser(),
        output=output.expanduser().absolute(),
        scale=scale,
        width=_positive("--width", width),
        height=_positive("--height", height),
        settings=Settings(encoder, crf, preset, tuple(shlex.split(encoder_args))),
        bits=_positive("--depth", depth),
        deinterlace=deinterlace,
        single_rate=single_rate,
        preview_s=None if preview is None else _duration("--preview", preview),
        preview_at_s=_duration("--preview-at", preview_at),
        options=_filter_options(options),
        chunk_frames=_positive("--chunk-frames", chunk_frames),
        workers=_positive("--workers", workers) or 1,
        devices=_devices(devices),
        cluster=None if ray is None else Cluster(ray, workers, ray_cpus, ray_gpus, ray_stream),
        work=None if work is None else work.expanduser().absolute(),
        force=force,
    )
    if dry_run:
        sys.stdout.write(_dry_run(request))
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return run(request)


_dry_run = dry_run


def _filter_options(options: FilterOptions) -> dict[str, Any]:
    """Of ``flashsr``'s arguments those that were given, as a script writes them."""
    found = options.keywords()
    if options.format is not None:
        found["format"] = options.format.upper()
    if options.model is not None and Path(options.model).expanduser().exists():
        found["model"] = str(Path(options.model).expanduser().resolve())
    if options.engine_dir is not None:
        found["engine_dir"] = str(options.engine_dir.expanduser().resolve())
    return found


def _positive(name: str, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise FlashsrError(f"{name} is a whole number from 1 on, got {value}; give one, or leave it out")
    return value


def _duration(name: str, text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError:
        raise FlashsrError(f"{name} is a time, got {text!r}; write it like 10s, 1.5m or 1:30") from None


def _devices(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise FlashsrError(f"--devices is a list of GPUs, got {text!r}; write it like 0,1") from None
