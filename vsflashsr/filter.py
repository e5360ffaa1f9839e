"""``flashsr``: from arguments to a VapourSynth node."""

from __future__ import annotations

import logging
import math
import os
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import vapoursynth as vs

from . import formats
from .bundle import ColorFix, Precision
from .errors import FlashsrError
from .geometry import Array
from .heap import map_large_blocks
from .model import Model
from .models.opening import ModelRequest, OpenedModel, open_model
from .node import Fix, stream_node
from .runtimes.backend import DeviceBackend, open_backend

BACKENDS = ("auto", "onnxruntime", "tensorrt", "tensorrt_rtx", "torch")


def flashsr(
    clip: vs.VideoNode,
    scale: float = 4,
    *,
    model: str | os.PathLike[str] | None = None,
    backend: str = "auto",
    device_id: int = 0,
    precision: str | None = None,
    tile: int | tuple[int, int] | str | None = None,
    overlap: int | None = None,
    color_fix: str | None = None,
    strength: float = 1.0,
    scene_change: bool = True,
    max_segment: int | None = None,
    preroll: int | None = None,
    format: int | vs.VideoFormat | None = None,
    seed: int = 0,
    engine_dir: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    model_options: Mapping[str, Any] | None = None,
) -> vs.VideoNode:
    """Upscale a clip with a streaming, causal super-resolution model.

    Output frame n is input frame n, whatever the order in which frames are asked for; all frame properties stay.

    Args:
        clip: constant format and size; Gray, YUV or RGB, 8-16 bit integer, half or single float; progressive.
        scale: output size over input size, above 1 up to 4. The model's nearest scale is used, then VapourSynth's own
            Spline36. Where the format can't hold the exact size (odd sizes in 4:2:0), the nearest it can.
        model: name of a built-in model ("builtin", "builtin-hq"), a bundle's folder, or an ``.onnx`` single-frame upscaler.
        backend: "onnxruntime" (the CPU), "tensorrt", "tensorrt_rtx", "torch" (FlashVSR only, the reference on a GPU) or "auto":
            TensorRT where it is installed and there is a GPU for it, else ONNX Runtime.
        device_id: which GPU.
        precision: "fp32", "fp16" or "bf16"; None: the bundle's own.
        tile: side, or (width, height), of the tiles to work in, in input pixels; None: the whole frame; "auto": the whole
            frame if it fits into the GPU's memory, else the fewest tiles that do.
        overlap: by how many input pixels tiles overlap; None: 16.
        color_fix: "none", "adain" (each channel's mean and deviation are the input's) or "wavelet" (low frequencies are
            the input's); None: the bundle's own.
        strength: 0 (plain Lanczos) … 1 (the model).
        scene_change: begin afresh at scene cuts: at the clip's own marks (``_SceneChangePrev``, ``_SceneChangeNext``)
            where it has them, else where a built-in detector finds them.
        max_segment: frames between points where state begins anew on a fixed grid: the most that a seek replays, less
            the preroll. None: the bundle's own.
        preroll: frames run and thrown away before such a point, so that no seam shows; None: the bundle's own.
        format: output format; None: the clip's. RGB made from YUV and back take the frame's matrix (BT.709 from RGB).
        seed: for models that draw noise.
        engine_dir: where TensorRT engines are kept; None: the user's cache folder.
        threads: threads for one step on the CPU; None: one for each core.
        model_options: a model's own options, by name.

    Raises:
        vs.Error: ``flashsr: <what is wrong>, got <value>; <what to do>``.
    """
    try:
        return _build(
            clip,
            _number("scale", scale),
            backend=_choice("backend", backend, BACKENDS),
            device_id=_whole("device_id", device_id, 0) or 0,
            engine_dir=None if engine_dir is None else Path(engine_dir).expanduser(),
            strength=_number("strength", strength),
            find_cuts=_flag("scene_change", scene_change),
            max_segment=_whole("max_segment", max_segment, 1),
            preroll=_whole("preroll", preroll, 0),
            output_format=format,
            request={
                "model": None if model is None else (model if isinstance(model, str) else Path(model)),
                "threads": _whole("threads", threads, 1),
                "precision": None
                if precision is None
                else _choice("precision", precision, get_args(Precision.__value__)),
                "tile": _tile(tile),
                "overlap": _whole("overlap", overlap, 0),
                "color_fix": None
                if color_fix is None
                else _choice("color_fix", color_fix, get_args(ColorFix.__value__)),
                "seed": _whole("seed", seed, 0) or 0,
                "options": dict(model_options or {}),
            },
        )
    except FlashsrError as error:
        raise vs.Error(f"flashsr: {error}") from error


def _build(
    clip: vs.VideoNode,
    scale: float,
    *,
    backend: str,
    device_id: int,
    engine_dir: Path | None,
    strength: float,
    find_cuts: bool,
    max_segment: int | None,
    preroll: int | None,
    output_format: int | vs.VideoFormat | None,
    request: Mapping[str, Any],
) -> vs.VideoNode:
    core = vs.core
    source = formats.check_clip(clip)
    if not 1 < scale <= 4:
        raise FlashsrError(f"scale is above 1 and at most 4, got {scale:g}; for more, call flashsr twice")
    if not 0 <= strength <= 1:
        raise FlashsrError(f"strength is from 0 to 1, got {strength:g}; give 1 for the model, 0 for plain Lanczos")
    target = source if output_format is None else _video_format(output_format)
    width = formats.output_size(clip.width, scale, target.subsampling_w)
    height = formats.output_size(clip.height, scale, target.subsampling_h)
    _look_at_first_frame(clip, source)
    plain = formats.lanczos(clip, width, height, target)
    wanted = ModelRequest(scale=scale, width=clip.width, height=clip.height, **request)
    opened, device = _open(wanted, backend, device_id, engine_dir)
    if strength == 0:
        if device is not None:
            device.close()
        return plain
    made = _stream(clip, opened, device, find_cuts=find_cuts, max_segment=max_segment, preroll=preroll)
    out = formats.from_model(made, clip, opened.model.spec.channels, width, height, target)
    return out if strength == 1 else formats.retag(core.std.Merge(plain, out, strength), clip, target)


def _open(
    request: ModelRequest, backend: str, device_id: int, engine_dir: Path | None
) -> tuple[OpenedModel, DeviceBackend | None]:
    """The model, and the GPU it is on if there is one, which is closed again where the model can't be opened."""
    with _progress():
        device = open_backend(backend, device_id, engine_dir, _log)
        try:
            opened = open_model(request, device)
        except BaseException:
            if device is not None:
                device.close()
            raise
    if device is not None:
        _log(f"{opened.name} on {device.device.name} ({device.name}) takes {opened.memory}")
    return opened, device


def _stream(
    clip: vs.VideoNode,
    opened: OpenedModel,
    device: DeviceBackend | None,
    *,
    find_cuts: bool,
    max_segment: int | None,
    preroll: int | None,
) -> vs.VideoNode:
    """The model's output, in the model's format and scale."""
    model: Model[Any] = opened.model
    spec = model.spec
    map_large_blocks()
    low = formats.to_model(clip, spec.channels)
    # A model whose segments are single frames carries no state: cuts, preroll and segments say nothing to it.
    stateless = spec.max_segment == 1
    longest = spec.max_segment if max_segment is None or stateless else max_segment
    warm_up = spec.preroll if preroll is None or stateless else preroll
    if device is not None:
        # When the last node that uses it goes, or the core is destroyed, whichever comes first.
        close = weakref.finalize(model, device.close)
        close.atexit = False
        vs.register_on_destroy(close)
    return stream_node(
        low,
        model,
        find_cuts=find_cuts and not stateless,
        preroll=warm_up,
        max_segment=longest,
        fix=_color_fix(opened),
    )


def _color_fix(opened: OpenedModel) -> Fix | None:
    """What brings a finished frame's colours back to those of its input frame."""
    if opened.color_fix == "none":
        return None
    from .colour_fix import adain, wavelet
    from .resample import resize

    correct = {"adain": adain, "wavelet": wavelet}[opened.color_fix]

    def fix(finished: Array, low: Array) -> Array:
        reference = resize(low, finished.shape[1], finished.shape[2])
        two, one = np.float32(2), np.float32(1)
        return (correct(finished * two - one, reference * two - one) + one) / two

    return fix


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise FlashsrError(f"{name} is a number, got {value!r}; give one like 2 or 1.5")
    return float(value)


def _whole(name: str, value: object, least: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise FlashsrError(f"{name} is a whole number from {least} on, got {value!r}; give one, or leave it out")
    return value


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool | int) or value not in (0, 1):
        raise FlashsrError(f"{name} is True or False, got {value!r}; give one of them")
    return bool(value)


def _choice(name: str, value: object, choices: tuple[str, ...]) -> Any:
    if value not in choices:
        raise FlashsrError(f"{name} is one of {', '.join(map(repr, choices))}, got {value!r}; choose one of them")
    return value


def _tile(value: object) -> int | tuple[int, int] | Literal["auto"] | None:
    match value:
        case None:
            return None
        case "auto":
            return "auto"
        case int() if not isinstance(value, bool) and value >= 8:
            return value
        case (int() as width, int() as height) if min(width, height) >= 8:
            return width, height
    raise FlashsrError(
        f"tile is a side or (width, height) in input pixels, each 8 or more, or 'auto', got {value!r}; give e.g. 256"
    )


def _video_format(value: object) -> vs.VideoFormat:
    refusal = FlashsrError(f"format is a video format such as vs.YUV420P10, got {value!r}; give one, or leave it out")
    try:
        found = vs.core.get_video_format(value)
    except (vs.Error, TypeError, ValueError) as error:
        raise refusal from error
    if found is None or found.color_family == vs.UNDEFINED:
        raise refusal
    if found.sample_type == vs.INTEGER and found.bits_per_sample > 16:
        raise FlashsrError(f"format has 8-16 bit integer or float samples, got {found.name}; give e.g. vs.YUV420P10")
    return found


def _log(message: str) -> None:
    """One line in the host's log (``vspipe``: stderr)."""
    vs.core.log_message(vs.MESSAGE_TYPE_INFORMATION, f"flashsr: {message}")


def _look_at_first_frame(clip: vs.VideoNode, source: vs.VideoFormat) -> None:
    """Refuse field-based input now, and say which matrix is assumed, as far as the input's first frame tells.

    Later frames are checked when they are rendered, and so is the first if the source can't deliver it yet.
    """
    try:
        with clip.get_frame(0) as f:
            fields, tagged = int(f.props.get("_FieldBased", 0)), formats.has_matrix(f.props)
    except vs.Error as error:
        _log(f"the input's first frame can't be looked at yet ({error})")
        return
    if fields != 0:
        raise FlashsrError(f"the clip is field-based, got _FieldBased={fields}; deinterlace first, e.g. bwdif")
    if source.color_family == vs.YUV and not tagged:
        name = "BT.709" if formats.guess_matrix(clip.height) == 1 else "BT.601"
        _log(f"the clip names no matrix (_Matrix); {name} is assumed from its {clip.height} lines")


class _ToHost(logging.Handler):
    """Hands log records to the host's log; from any thread."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._core = vs.core.core

    def emit(self, record: logging.LogRecord) -> None:
        kind = vs.MESSAGE_TYPE_WARNING if record.levelno >= logging.WARNING else vs.MESSAGE_TYPE_INFORMATION
        self._core.log_message(kind, f"flashsr: {record.getMessage()}")


@contextmanager
def _progress() -> Iterator[None]:
    """What the package logs while a model is opened goes to the host's log: building engines takes minutes."""
    handler = _ToHost()
    loggers = [logging.getLogger(name) for name in ("vsflashsr", "trt_build")]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(min(logger.level or logging.INFO, logging.INFO))
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
