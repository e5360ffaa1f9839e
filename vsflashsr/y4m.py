"""YUV4MPEG2 (y4m): a stream's header, and where the planes of a frame lie. Pure.

The form is that of mjpegtools' yuv4mpeg(5), with what FFmpeg added: more than 8 bits (``C420p10``, ``Cmono12``) and
``XCOLORRANGE``. Samples of more than 8 bits are 16-bit little-endian.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from .errors import FlashsrError

MAGIC = "YUV4MPEG2"
FRAME = b"FRAME"
LONGEST_LINE = 4096
"""Bytes after which a line without an end is no y4m."""

type Interlacing = Literal["p", "t", "b", "m", "?"]
"""Progressive, top field first, bottom field first, mixed, unknown."""
type Siting = Literal["", "jpeg", "mpeg2", "paldv"]
"""Where 4:2:0's chroma lies: not said, centre, left, top left."""

SUBSAMPLING = {"410": (2, 2), "411": (2, 0), "420": (1, 1), "422": (1, 0), "440": (0, 1), "444": (0, 0)}
"""Name → by how many powers of two chroma is narrower and lower."""
_COLOUR = re.compile(r"(mono|4[124][0124])(jpeg|mpeg2|paldv)?(?:p?(9|10|12|14|16))?")


@dataclass(frozen=True, slots=True)
class Colour:
    """A colourspace tag: planes, bits and chroma siting."""

    subsampling: tuple[int, int] | None
    """Powers of two, horizontally and vertically; None: there is no chroma."""
    bits: int = 8
    siting: Siting = ""

    @property
    def tag(self) -> str:
        """As in the header, without its ``C``."""
        if self.subsampling is None:
            return "mono" if self.bits == 8 else f"mono{self.bits}"
        name = next(name for name, value in SUBSAMPLING.items() if value == self.subsampling)
        return f"{name}{self.siting}" if self.bits == 8 else f"{name}p{self.bits}"

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample."""
        return 1 if self.bits == 8 else 2


def read_colour(tag: str) -> Colour:
    """The colourspace that a tag names.

    Raises:
        FlashsrError: there is none of that name, or it has an alpha plane.
    """
    match = _COLOUR.fullmatch(tag)
    name = match[1] if match else ""
    if match is None or (name != "mono" and name not in SUBSAMPLING) or (match[2] and name != "420"):
        raise FlashsrError(
            f"y4m can be mono, 410, 411, 420, 422, 440 or 444 of 8 to 16 bits, got the colourspace {tag!r}; "
            "convert it first, e.g. with ffmpeg's -pix_fmt yuv420p"
        )
    siting: Siting = match[2] or ""  # type: ignore[assignment]  # the expression names the same three
    return Colour(None if name == "mono" else SUBSAMPLING[name], int(match[3] or 8), siting)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The first line of a stream."""

    width: int
    height: int
    colour: Colour = Colour((1, 1))
    rate: Fraction | None = None
    """Frames per second; None: not said."""
    aspect: Fraction | None = None
    """A pixel's width over its height; None: not said."""
    interlacing: Interlacing = "?"
    full_range: bool | None = None
    """None: not said."""

    @property
    def planes(self) -> list[tuple[int, int]]:
        """(height, width) of each plane in samples: chroma of odd sizes is rounded up."""
        size = (self.height, self.width)
        if self.colour.subsampling is None:
            return [size]
        across, down = self.colour.subsampling
        chroma = (-(-self.height >> down), -(-self.width >> across))
        return [size, chroma, chroma]

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame's samples."""
        return sum(height * width for height, width in self.planes) * self.colour.sample_bytes

    def line(self) -> bytes:
        """The header as it is written, with its newline."""
        words = [MAGIC, f"W{self.width}", f"H{self.height}", f"C{self.colour.tag}"]
        rate, aspect = self.rate or Fraction(0), self.aspect or Fraction(0)
        words.append(f"F{rate.numerator}:{rate.denominator}" if rate else "F0:0")
        words.append(f"I{self.interlacing}")
        words.append(f"A{aspect.numerator}:{aspect.denominator}" if aspect else "A0:0")
        if self.full_range is not None:
            words.append(f"XCOLORRANGE={'FULL' if self.full_range else 'LIMITED'}")
        return (" ".join(words) + "\n").encode("ascii")


def read_header(line: bytes) -> Header:
    """What a stream's first line says; the first of tags that are given twice counts.

    Raises:
        FlashsrError: it is no y4m, or names no size.
    """
    magic, *tags = line.decode("ascii", "replace").rstrip("\n").split(" ")
    if magic != MAGIC:
        raise FlashsrError(f"a y4m stream begins with {MAGIC}, got {line[:16]!r}; write it with ffmpeg -f yuv4mpegpipe")
    words: dict[str, str] = {}
    for tag in filter(None, tags):
        key = tag.partition("=")[0] if tag[0] == "X" else tag[0]
        words.setdefault(key, tag[len(key) :].removeprefix("="))
    interlacing = words.get("I", "?")
    ranges = {"FULL": True, "LIMITED": False}
    return Header(
        width=_side("W", words),
        height=_side("H", words),
        colour=read_colour(words.get("C", "420")),
        rate=_ratio("F", words),
        aspect=_ratio("A", words),
        interlacing=interlacing if interlacing in ("p", "t", "b", "m") else "?",  # type: ignore[arg-type]  # narrowed
        full_range=ranges.get(words.get("XCOLORRANGE", "").upper()),
    )


def _side(key: str, words: dict[str, str]) -> int:
    text = words.get(key, "")
    if not (text.isdecimal() and 0 < len(text) < 7 and int(text) > 0):
        raise FlashsrError(f"a y4m header names width and height (W, H) in pixels, got {key}{text!r}; write it anew")
    return int(text)


def _ratio(key: str, words: dict[str, str]) -> Fraction | None:
    """A ratio above nothing; None where the stream says none (0:0)."""
    match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", words.get(key, "0:0"))
    if match is None:
        raise FlashsrError(f"a y4m header's {key} is a ratio like 24:1, got {words[key]!r}; write it anew")
    numerator, denominator = int(match[1]), int(match[2])
    return Fraction(numerator, denominator) if numerator and denominator else None
