"""The encoders: a table of command lines. Each reads y4m from stdin and writes its stream to stdout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from . import signal
from .signal import Signal

_NO_CHANGE: tuple[str, ...] = ()
FRAME_THREADS = 3
"""x265 picks this by the number of cores and its bytes depend on it: fixed, every machine makes the same ones."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to encode; None: the encoder's usual value."""

    encoder: str = "x265"
    quality: float | None = None
    preset: str | None = None
    arguments: tuple[str, ...] = ()
    """For the encoder itself, behind all others: the last one counts."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """One encoder."""

    program: str
    what: str
    suffix: str
    """Of a chunk's file."""
    quality: float
    """Usual constant quality, on the encoder's own scale."""
    preset: str
    bits: tuple[int, ...]
    """Bits a sample that it takes, ascending."""
    least_bits: int
    """A source of fewer is encoded with these: fine gradients survive the upscaler's rounding."""
    subsamplings: tuple[tuple[int, int], ...]
    """(horizontal, vertical) as VapourSynth counts, that it takes."""
    joins: bool
    """Chunks that are written one after the other are a stream; else mkvmerge appends them."""
    exact: bool
    """Lossless."""
    command: Callable[[str, Settings, Signal, int], list[str]]
    """Program, settings, what the frames say, frames in the chunk → command line."""


def _x265(program: str, settings: Settings, says: Signal, frames: int) -> list[str]:
    return [
        program, "--y4m", "--input", "-", "--frames", str(frames),
        "--preset", settings.preset or X265.preset, "--crf", f"{_quality(settings, X265):g}",
        *_depth(settings.arguments), "--frame-threads", str(FRAME_THREADS), "--no-progress", "--log-level", "warning",
        *signal.x265_flags(says), *settings.arguments, "--output", "-",
    ]  # fmt: skip


def _x264(program: str, settings: Settings, says: Signal, frames: int) -> list[str]:
    depth = _depth(settings.arguments)
    return [
        program, "--demuxer", "y4m", "--frames", str(frames),
        "--preset", settings.preset or X264.preset, "--crf", f"{_quality(settings, X264):g}",
        *depth, "--no-progress", "--log-level", "warning",
        *signal.x264_flags(says), *settings.arguments, "--muxer", "raw", "--output", "-", "-",
    ]  # fmt: skip


def _depth(arguments: Sequence[str]) -> tuple[str, ...]:
    """x264 and x265 encode 8 bits unless they are told; the pipe's own depth is filled in by ``command_for``."""
    return _NO_CHANGE if "--output-depth" in arguments else ("--output-depth", "{bits}")


def _svt_av1(program: str, settings: Settings, says: Signal, frames: int) -> list[str]:
    return [
        program, "-i", "stdin", "-n", str(frames), "--progress", "0",
        "--preset", settings.preset or SVT_AV1.preset, "--crf", f"{_quality(settings, SVT_AV1):g}",
        *signal.svt_av1_flags(says), *settings.arguments, "-b", "stdout",
    ]  # fmt: skip


def _ffmpeg(program: str, says: Signal) -> list[str]:
    return [
        program, "-hide_banner", "-loglevel", "error", "-nostdin", "-strict", "-1", "-f", "yuv4mpegpipe", "-i", "-",
        *signal.ffmpeg_flags(says), "-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1",
    ]  # fmt: skip


def _nvenc(program: str, settings: Settings, says: Signal, frames: int) -> list[str]:
    return [
        *_ffmpeg(program, says), "-c:v", "hevc_nvenc", "-preset", settings.preset or NVENC.preset, "-tune", "hq",
        "-rc", "vbr", "-cq", f"{_quality(settings, NVENC):g}", "-b:v", "0",
        *settings.arguments, "-f", "hevc", "-",
    ]  # fmt: skip


def _ffv1(program: str, settings: Settings, says: Signal, frames: int) -> list[str]:
    return [
        *_ffmpeg(program, says), "-c:v", "ffv1", "-level", "3", "-g", "1", "-slices", "16", "-slicecrc", "1",
        *settings.arguments, "-f", "matroska", "-",
    ]  # fmt: skip


def _quality(settings: Settings, encoder: Encoder) -> float:
    return encoder.quality if settings.quality is None else settings.quality


_ALL = ((1, 1), (1, 0), (0, 0))
X265 = Encoder("x265", "HEVC by x265", ".hevc", 18, "medium", (8, 10, 12), 10, _ALL, True, False, _x265)
X264 = Encoder("x264", "H.264 by x264", ".264", 17, "medium", (8, 10), 8, _ALL, True, False, _x264)
SVT_AV1 = Encoder("SvtAv1EncApp", "AV1 by SVT-AV1", ".ivf", 26, "6", (8, 10), 10, ((1, 1),), False, False, _svt_av1)
NVENC = Encoder("ffmpeg", "HEVC by NVENC", ".hevc", 19, "p6", (8, 10), 10, ((1, 1), (0, 0)), True, False, _nvenc)
FFV1 = Encoder("ffmpeg", "FFV1, lossless", ".mkv", 0, "", (8, 9, 10, 12, 14, 16), 8, _ALL, False, True, _ffv1)

ENCODERS: Mapping[str, Encoder] = {"x265": X265, "svt-av1": SVT_AV1, "x264": X264, "nvenc": NVENC, "ffv1": FFV1}


def command_for(program: str, settings: Settings, says: Signal, frames: int, bits: int) -> list[str]:
    """The command line that encodes a y4m stream.

    Args:
        program: path or name of the program.
        frames: how many frames the stream has.
        bits: of a sample.
    """
    command = ENCODERS[settings.encoder].command(program, settings, says, frames)
    return [part.replace("{bits}", str(bits)) for part in command]


def sample_bits(encoder: Encoder, source_bits: int, wanted: int | None) -> int:
    """Bits a sample to encode with: the source's, within what the encoder takes."""
    least = encoder.least_bits if wanted is None else wanted
    goal = max(source_bits, least) if wanted is None else wanted
    return next((bits for bits in encoder.bits if bits >= goal), encoder.bits[-1])


def subsampling(encoder: Encoder, horizontal: int, vertical: int) -> tuple[int, int]:
    """Chroma subsampling to encode with: the source's if the encoder takes it, else the next finer, else 4:2:0."""
    finer = [s for s in encoder.subsamplings if s[0] <= horizontal and s[1] <= vertical]
    return max(finer, default=(1, 1))
