"""What frames say of themselves (colours, range, pixel shape, HDR10), and each encoder's words for it. Pure.

Neither y4m nor a raw video stream says any of it, so that the encoder has to be told. The numbers are those of ITU-T H.273.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..colour_names import MATRIX, PRIMARIES, TRANSFER

_FFMPEG_TRANSFER = {**TRANSFER, 4: "gamma22", 5: "gamma28", 9: "log", 10: "log_sqrt"}
_FFMPEG_CHROMA = ("left", "center", "topleft", "top", "bottomleft", "bottom")
_UNSPECIFIED = 2
_PER_FRAME = {"DolbyVisionRPU": "Dolby Vision", "HDR10Plus": "HDR10+"}
"""bestsource's properties of what changes from frame to frame → its name."""


@dataclass(frozen=True, slots=True)
class Mastering:
    """The display a picture was mastered on: SMPTE ST 2086. Chromaticities are (x, y), luminances cd/m²."""

    red: tuple[float, float]
    green: tuple[float, float]
    blue: tuple[float, float]
    white: tuple[float, float]
    least: float
    most: float

    def hevc(self) -> str:
        """As x265 and x264 take it, in units of 0.00002 and 0.0001 cd/m²."""

        def pair(point: tuple[float, float]) -> str:
            return f"({round(point[0] * 50000)},{round(point[1] * 50000)})"

        light = f"({round(self.most * 10000)},{round(self.least * 10000)})"
        return f"G{pair(self.green)}B{pair(self.blue)}R{pair(self.red)}WP{pair(self.white)}L{light}"

    def plain(self) -> str:
        """As SVT-AV1 takes it, in plain numbers."""

        def pair(point: tuple[float, float]) -> str:
            return f"({point[0]:.5f},{point[1]:.5f})"

        light = f"({self.most:.4f},{self.least:.4f})"
        return f"G{pair(self.green)}B{pair(self.blue)}R{pair(self.red)}WP{pair(self.white)}L{light}"


@dataclass(frozen=True, slots=True)
class Signal:
    """What a frame says of itself; None where it says nothing."""

    full_range: bool | None = None
    matrix: int | None = None
    primaries: int | None = None
    transfer: int | None = None
    chroma_location: int | None = None
    sample_aspect: tuple[int, int] | None = None
    mastering: Mastering | None = None
    max_content_light: int | None = None
    """cd/m²; with ``max_average_light``: CTA-861.3's MaxCLL and MaxFALL."""
    max_average_light: int | None = None

    @property
    def hdr10(self) -> bool:
        """Is the transfer PQ (SMPTE ST 2084)?"""
        return self.transfer == 16


def from_props(props: Mapping[str, Any]) -> Signal:
    """What a frame's properties say, in VapourSynth's names and bestsource's."""
    full = _number(props, "_Range")
    if full is None and (legacy := _number(props, "_ColorRange")) is not None:
        full = 1 - legacy  # the older property counts the other way round: 0 is full
    width, height = _number(props, "_SARNum"), _number(props, "_SARDen")
    return Signal(
        full_range=None if full is None else full == 1,
        matrix=_known(props, "_Matrix", MATRIX),
        primaries=_known(props, "_Primaries", PRIMARIES),
        transfer=_known(props, "_Transfer", TRANSFER),
        chroma_location=_number(props, "_ChromaLocation"),
        sample_aspect=(width, height) if width and height else None,
        mastering=_mastering(props),
        max_content_light=_number(props, "ContentLightLevelMax"),
        max_average_light=_number(props, "ContentLightLevelAverage"),
    )


def not_carried(props: Mapping[str, Any]) -> str | None:
    """What of a frame's colours no encoder is told, in words; None: nothing."""
    found = [name for prop, name in _PER_FRAME.items() if prop in props]
    if not found:
        return None
    return (
        f"{' and '.join(found)} metadata, made for the small picture, frame by frame; players show the picture beneath"
    )


def _number(props: Mapping[str, Any], name: str) -> int | None:
    value = props.get(name)
    return int(value) if isinstance(value, int) else None


def _known(props: Mapping[str, Any], name: str, names: Mapping[int, str]) -> int | None:
    value = _number(props, name)
    return value if value in names and value != _UNSPECIFIED else None


def _mastering(props: Mapping[str, Any]) -> Mastering | None:
    try:
        xs = [float(x) for x in props["MasteringDisplayPrimariesX"]]
        ys = [float(y) for y in props["MasteringDisplayPrimariesY"]]
        (red, green, blue) = zip(xs, ys, strict=True)
        white = float(props["MasteringDisplayWhitePointX"]), float(props["MasteringDisplayWhitePointY"])
        least, most = float(props["MasteringDisplayMinLuminance"]), float(props["MasteringDisplayMaxLuminance"])
    except (KeyError, TypeError, ValueError):
        return None
    return Mastering(red, green, blue, white, least, most)


def _light(signal: Signal) -> str | None:
    if signal.max_content_light is None:
        return None
    return f"{signal.max_content_light},{signal.max_average_light or 0}"


def x265_flags(signal: Signal) -> list[str]:
    """x265's options."""
    flags = _itu_flags(signal, "full", "limited")
    if signal.mastering is not None:
        flags += ["--master-display", signal.mastering.hevc()]
    if (light := _light(signal)) is not None:
        flags += ["--max-cll", light]
    return [*flags, "--hdr10"] if signal.hdr10 else flags


def x264_flags(signal: Signal) -> list[str]:
    """x264's options."""
    flags = _itu_flags(signal, "pc", "tv")
    if signal.mastering is not None:
        flags += ["--mastering-display", signal.mastering.hevc()]
    if (light := _light(signal)) is not None:
        flags += ["--cll", light]
    return flags


def _itu_flags(signal: Signal, full: str, limited: str) -> list[str]:
    flags: list[str] = []
    if signal.full_range is not None:
        flags += ["--range", full if signal.full_range else limited]
    if signal.matrix is not None:
        name = MATRIX[signal.matrix]
        flags += ["--colormatrix", "YCgCo" if name == "ycgco" and full == "pc" else name]
    if signal.primaries is not None:
        flags += ["--colorprim", PRIMARIES[signal.primaries]]
    if signal.transfer is not None:
        flags += ["--transfer", TRANSFER[signal.transfer]]
    if signal.chroma_location is not None:
        flags += ["--chromaloc", str(signal.chroma_location)]
    if signal.sample_aspect is not None:
        flags += ["--sar", "{}:{}".format(*signal.sample_aspect)]
    return flags


def svt_av1_flags(signal: Signal) -> list[str]:
    """SvtAv1EncApp's options. AV1 has no word for the pixels' shape: that is the container's."""
    flags: list[str] = []
    for option, value in (
        ("--color-range", None if signal.full_range is None else int(signal.full_range)),
        ("--matrix-coefficients", signal.matrix),
        ("--color-primaries", signal.primaries),
        ("--transfer-characteristics", signal.transfer),
    ):
        if value is not None:
            flags += [option, str(value)]
    if signal.mastering is not None:
        flags += ["--mastering-display", signal.mastering.plain()]
    if (light := _light(signal)) is not None:
        flags += ["--content-light", light]
    return flags


def ffmpeg_flags(signal: Signal) -> list[str]:
    """ffmpeg's options for an output: a filter that labels the frames, which every encoder then sees."""
    labels: list[str] = []
    if signal.full_range is not None:
        labels.append(f"range={'pc' if signal.full_range else 'tv'}")
    if signal.matrix is not None:
        labels.append(f"colorspace={MATRIX[signal.matrix]}")
    if signal.primaries is not None:
        labels.append(f"color_primaries={PRIMARIES[signal.primaries]}")
    if signal.transfer is not None:
        labels.append(f"color_trc={_FFMPEG_TRANSFER[signal.transfer]}")
    filters = [f"setparams={':'.join(labels)}"] if labels else []
    if signal.sample_aspect is not None:
        filters.append("setsar={}/{}".format(*signal.sample_aspect))
    flags = ["-vf", ",".join(filters)] if filters else []
    location = signal.chroma_location
    if location is not None and location < len(_FFMPEG_CHROMA):
        flags += ["-chroma_sample_location", _FFMPEG_CHROMA[location]]
    return flags


def mkvmerge_flags(signal: Signal, width: int, height: int) -> list[str]:
    """mkvmerge's options for track 0 of the file that follows: what a player reads without a look into the stream."""
    flags: list[str] = []
    for option, value in (
        ("--color-matrix-coefficients", signal.matrix),
        ("--color-primaries", signal.primaries),
        ("--color-transfer-characteristics", signal.transfer),
        ("--color-range", None if signal.full_range is None else 1 + signal.full_range),
        ("--max-content-light", signal.max_content_light),
        ("--max-frame-light", signal.max_average_light),
    ):
        if value is not None:
            flags += [option, f"0:{value}"]
    if (display := signal.mastering) is not None:
        points = (*display.red, *display.green, *display.blue)
        flags += ["--chromaticity-coordinates", "0:" + ",".join(f"{p:g}" for p in points)]
        flags += ["--white-color-coordinates", "0:{:g},{:g}".format(*display.white)]
        flags += ["--max-luminance", f"0:{display.most:g}", "--min-luminance", f"0:{display.least:g}"]
    if signal.sample_aspect is not None:
        wide, tall = display_size(width, height, signal.sample_aspect)
        flags += ["--display-dimensions", f"0:{wide}x{tall}"]
    return flags


def display_size(width: int, height: int, sample_aspect: tuple[int, int]) -> tuple[int, int]:
    """The size in square pixels that is no smaller than the picture in either direction."""
    across, down = sample_aspect
    if across >= down:
        return round(width * across / down), height
    return width, round(height * down / across)
