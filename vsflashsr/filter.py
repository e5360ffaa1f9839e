"""``flashsr``: from arguments to a VapourSynth node."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import vapoursynth as vs

from . import chroma, formats, residency
from .arguments import Arguments, OptionValue, read_arguments
from .errors import FlashsrError
from .first_frame import properties_of_first_frame, try_conversions
from .geometry import Array
from .heap import map_large_blocks
from .host_log import say, to_host_log
from .model import Model
from .models.fitting import OpenedModel
from .models.opening import open_chroma, open_model, read_kind
from .node import Fix, stream_node
from .runtimes.backend import Backend, open_backend


def flashsr(
    clip: vs.VideoNode,
    scale: float = 4,
    *,
    model: str | os.PathLike[str] | None = None,
    backend: str = "auto",
    device_id: int | str = 0,
    precision: str | None = None,
    tile: int | tuple[int, int] | str | None = None,
    overlap: int | None = None,
    color_fix: str | None = None,
    matrix: int | str | None = None,
    strength: float = 1.0,
    scene_change: bool = True,
    max_segment: int | None = None,
    preroll: int | None = None,
    format: int | vs.VideoFormat | None = None,
    seed: int | None = None,
    engine_dir: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    resident: bool | None = None,
    model_options: Mapping[str, OptionValue] | None = None,
) -> vs.VideoNode:
    """Upscale a clip with a streaming, causal super-resolution model.

    Output frame n is input frame n, whatever the order in which frames are asked for; all frame properties stay. While the
    script is evaluated, the input's frame 0 is looked at, once, for its properties; no other frame is asked for.

    Example::

        clip = core.bs.VideoSource("in.mkv")
        clip = flashsr(clip, scale=2, format=vs.YUV420P10)
        clip.set_output()

    In a shell, ``vsflashsr flags script.vpy`` prints what the encoder has to be told, ``vsflashsr compare`` shows what
    a model does to a clip, and ``vsflashsr models`` which models there are.

    Args:
        clip: constant format and size; Gray, YUV or RGB, 8-16 bit integer, half or single float; progressive.
        scale: output size over input size, from 1 to 4; 1 for models that restore at the size they are given. The model's nearest
            scale is used, then VapourSynth's own Spline36. Where the format can't hold the exact size (odd sizes in 4:2:0), the
            nearest it can.
        model: name of a built-in model ("builtin", "builtin-hq") or of one that ``vsflashsr models get`` got, a bundle's folder,
            or an ``.onnx`` single-frame upscaler.
        backend: "onnxruntime" (the CPU), "tensorrt", "tensorrt_rtx", "torch" (any CUDA GPU),
            "webgpu" (any GPU), "openvino", "coreml", or "auto": TensorRT where it is installed and there is a GPU for it, else
            "webgpu" likewise, else ONNX Runtime on the CPU.
        device_id: which device: its number, or (for "webgpu" and "openvino") part of its name; ``vsflashsr doctor`` lists them.
        precision: "fp32", "fp16" or "bf16"; None: the bundle's own.
        tile: side, or (width, height), of the tiles to work in, in input pixels; None: the whole frame; "auto": the whole
            frame if it fits into the GPU's memory, else the fewest tiles that do.
        overlap: by how many input pixels tiles overlap; None: 16.
        color_fix: "none", "adain" (each channel's mean and deviation are the input's) or "wavelet" (low frequencies are
            the input's); None: the bundle's own.
        matrix: what a YUV clip is: "bt709", "smpte170m", … or a number, as ``_Matrix``; it is written into the frames. None: what
            the frames say; those that say nothing are taken for BT.601 up to 576 lines, else for BT.709, which the log says
            and the frames then say, too.
        strength: 0 (plain Lanczos) … 1 (the model).
        scene_change: begin afresh at scene cuts: at the clip's own marks (``_SceneChangePrev``, ``_SceneChangeNext``)
            where it has them, else where a built-in detector finds them.
        max_segment: frames between points where state begins anew on a fixed grid: the most that a seek replays, less
            the preroll. None: the bundle's own.
        preroll: frames run and thrown away before such a point, so that no seam shows; None: the bundle's own.
        format: output format; None: the clip's. RGB made from YUV and back take the frame's matrix (BT.709 from RGB).
        seed: for models that draw noise; None: the bundle's own, 0.
        engine_dir: where TensorRT engines are kept; None: the user's cache folder.
        threads: threads for one step on the CPU; None: one for each core.
        resident: whether what comes out is resident on the GPU (needs Vulkan 1.4); None: as the clip is. Where clip and result
            differ, the one that is smaller crosses the bus: the clip before all else, or the finished frames.
        model_options: a model's own options, by name. What is said by an argument, too, must be the same there.

    Raises:
        vs.Error: ``flashsr: <what is wrong>, got <value>; <what to do>``.
    """
    given = {name: value for name, value in locals().items() if name != "clip"}
    try:
        return _build(clip, read_arguments(given))
    except FlashsrError as error:
        raise vs.Error(f"flashsr: {error}") from error


def _build(clip: vs.VideoNode, arguments: Arguments) -> vs.VideoNode:
    source = formats.check_clip(clip)
    target = formats.wanted_format(arguments.format, source)
    width = formats.output_size(clip.width, arguments.scale, target.subsampling_w)
    height = formats.output_size(clip.height, arguments.scale, target.subsampling_h)
    properties = properties_of_first_frame(clip, arguments.matrix)
    if source.color_family == vs.YUV:
        clip = formats.with_matrix(clip, arguments.matrix)
    resident = bool(clip.gpu_resident) if arguments.resident is None else arguments.resident
    if resident:
        clip = residency.uploaded(clip)
    plain = formats.lanczos(clip, width, height, target)
    opened, predictor, backend = _open(clip, target, arguments)
    if properties is not None:
        try:
            channels = opened.model.spec.channels
            try_conversions(clip, properties, channels, target, arguments.scale, predicted=predictor is not None)
        except FlashsrError:
            backend.close()
            raise
    if arguments.strength == 0:
        backend.close()
        return plain if resident else residency.downloaded(plain)
    made = _stream(
        clip,
        opened,
        backend,
        find_cuts=arguments.scene_change,
        max_segment=arguments.max_segment,
        preroll=arguments.preroll,
    )
    coloured = None
    if predictor is not None:
        reads = chroma.to_network(made, clip)
        predicted = stream_node(reads, predictor.model, find_cuts=False, preroll=0, max_segment=1)
        coloured = chroma.coloured(predicted, made, clip)
    out = formats.from_model(made, clip, opened.model.spec.channels, width, height, target, coloured)
    if arguments.strength != 1:
        out = formats.retag(vs.core.std.Merge(plain, out, arguments.strength), clip, target)
    return out if resident else residency.downloaded(out)


def _open(
    clip: vs.VideoNode, target: vs.VideoFormat, arguments: Arguments
) -> tuple[OpenedModel, OpenedModel | None, Backend]:
    """The model, what predicts the chroma of its pictures (if anything does), and the backend they are on, which is closed again
    where one can't be opened."""
    predictor = None
    with to_host_log():
        kind = read_kind(arguments)
        backend = open_backend(arguments, say, plain=kind.plain)
        try:
            if chroma.predictable(clip, target):
                predictor = open_chroma(kind, arguments, chroma.size_of(clip, kind.scale), backend)
            opened = open_model(kind, arguments, (clip.height, clip.width), backend)
        except BaseException:
            backend.close()
            raise
    for model, what in ((predictor, f"{opened.name}'s chroma"), (opened, opened.name)):
        if model is not None and model.memory:
            say(f"{what} on {backend.where} ({backend.name}) takes {model.memory}")
    return opened, predictor, backend


def _stream(
    clip: vs.VideoNode,
    opened: OpenedModel,
    backend: Backend,
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
    # When the last node that uses it goes, or the core is destroyed, whichever comes first.
    close = weakref.finalize(model, backend.close)
    close.atexit = False
    vs.register_on_destroy(close)
    return stream_node(
        low,
        model,
        find_cuts=find_cuts and not stateless,
        preroll=warm_up,
        max_segment=longest,
        fix=_color_fix(opened),
        check_finite=formats.check_clip(clip).sample_type == vs.FLOAT,
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
