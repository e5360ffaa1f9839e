"""y4m headers: what FFmpeg and mjpegtools write is read, and what is written is read the same."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsflashsr.errors import FlashsrError
from vsflashsr.y4m import SUBSAMPLING, Colour, Header, read_colour, read_header

COLOURS = st.one_of(
    st.builds(Colour, st.none(), st.sampled_from([8, 9, 10, 12, 14, 16])),
    st.builds(Colour, st.sampled_from(list(SUBSAMPLING.values())), st.sampled_from([8, 9, 10, 12, 14, 16])),
    st.builds(Colour, st.just((1, 1)), st.just(8), st.sampled_from(["", "jpeg", "mpeg2", "paldv"])),
)
RATIOS = st.one_of(st.none(), st.builds(Fraction, st.integers(1, 99999), st.integers(1, 99999)))
HEADERS = st.builds(
    Header,
    width=st.integers(1, 9999),
    height=st.integers(1, 9999),
    colour=COLOURS,
    rate=RATIOS,
    aspect=RATIOS,
    interlacing=st.sampled_from(["p", "t", "b", "m", "?"]),
    full_range=st.sampled_from([None, True, False]),
)


@settings(deadline=None)
@given(HEADERS)
def test_what_is_written_is_read_the_same(header: Header) -> None:
    assert header.line().endswith(b"\n")
    assert read_header(header.line()) == header


def test_ffmpegs_header() -> None:
    line = b"YUV4MPEG2 W54 H46 F30000:1001 It A32:27 C420jpeg XYSCSS=420JPEG XCOLORRANGE=FULL\n"
    assert read_header(line) == Header(
        width=54,
        height=46,
        colour=Colour((1, 1), 8, "jpeg"),
        rate=Fraction(30000, 1001),
        aspect=Fraction(32, 27),
        interlacing="t",
        full_range=True,
    )


def test_vspipes_header() -> None:
    header = read_header(b"YUV4MPEG2 C420p10 W960 H540 F24:1 Ip A0:0 XLENGTH=42\n")
    assert (header.colour, header.aspect, header.full_range) == (Colour((1, 1), 10), None, None)


def test_the_least_header_is_420() -> None:
    assert read_header(b"YUV4MPEG2 W2 H2\n") == Header(width=2, height=2)


@pytest.mark.parametrize(
    ("tag", "odd", "sizes"),
    [
        ("420jpeg", (53, 47), [(47, 53), (24, 27), (24, 27)]),
        ("411", (53, 47), [(47, 53), (47, 14), (47, 14)]),
        ("422p10", (53, 47), [(47, 53), (47, 27), (47, 27)]),
        ("mono16", (53, 47), [(47, 53)]),
        ("444p12", (1, 1), [(1, 1), (1, 1), (1, 1)]),
        ("410", (5, 5), [(5, 5), (2, 2), (2, 2)]),
    ],
)
def test_planes_of_odd_sizes_are_rounded_up(tag: str, odd: tuple[int, int], sizes: list[tuple[int, int]]) -> None:
    header = Header(width=odd[0], height=odd[1], colour=read_colour(tag))
    assert header.planes == sizes
    assert header.frame_bytes == sum(h * w for h, w in sizes) * (1 if header.colour.bits == 8 else 2)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"RIFF....\n",
        b"YUV4MPEG2 W2\n",
        b"YUV4MPEG2 W0 H2\n",
        b"YUV4MPEG2 W-2 H2\n",
        b"YUV4MPEG2 W99999999999 H2\n",
        b"YUV4MPEG2 W2 H2 F25\n",
        b"YUV4MPEG2 W2 H2 C444alpha\n",
        b"YUV4MPEG2 W2 H2 C420p11\n",
        b"YUV4MPEG2 W2 H2 C422jpeg\n",
        b"YUV4MPEG2 W2 H2 Cxyz\n",
        b"YUV4MPEG2 W2 H2 C421\n",
    ],
)
def test_what_is_no_header_is_refused_in_a_sentence(line: bytes) -> None:
    with pytest.raises(FlashsrError, match=r"got .*; "):
        read_header(line)
