"""``vsflashsr pipe``: a y4m stream in, the upscaled y4m stream out."""

from __future__ import annotations

import io
import sys
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..colour_names import matrix_number
from ..errors import FlashsrError
from ..y4m import FRAME, LONGEST_LINE, SUBSAMPLING, Colour, Header, Siting, read_header
from .host import binary_stdout, core_messages
from .options import FilterOptions
from .window import FrameWindow

if TYPE_CHECKING:
    import vapoursynth as vs

ENDLESS = 1 << 30
"""Frames of a clip whose length isn't known: 200 days at 60 a second."""
_LOOK_BACK = 8
"""Frames beyond preroll and steps for which the scene-cut detector and neighbours look back."""
_SITINGS: dict[int, Siting] = {0: "mpeg2", 1: "jpeg", 2: "paldv"}
_NO_OPTIONS = FilterOptions()


def pipe(
    *,
    scale: float = 4,
    matrix: str | None = None,
    range: Literal["limited", "full"] | None = None,
    options: FilterOptions = _NO_OPTIONS,
) -> int:
    """Upscale a y4m stream from stdin to stdout.

    ffmpeg -i in.mkv -f yuv4mpegpipe -strict -1 - | vsflashsr pipe --scale 2 | ffmpeg -f yuv4mpegpipe -i - out.mkv

    The frames are those of flashsr() in a script, byte for byte; the first is out as soon as the model's schedule allows.
    A stream that breaks off in the middle of a frame is upscaled as far as it goes, and ends with status 1.

    Parameters
    ----------
    scale
        Output size over input size, from 1 to 4; 1 for models that restore.
    matrix
        The input's colour matrix, such as bt709 or smpte170m, which y4m can't carry; matters for models that work on RGB.
    range
        The input's range, where the header's XCOLORRANGE is missing or wrong.
    """
    if sys.stdin is not None and sys.stdin.isatty():
        raise FlashsrError("stdin is a terminal; pipe a y4m stream in, e.g. from ffmpeg -f yuv4mpegpipe")
    with io.FileIO(0, "rb", closefd=False) as source, binary_stdout() as sink, core_messages():
        upscale_stream(source, sink, scale, matrix, range, options.keywords())
    return 0


def upscale_stream(
    source: io.FileIO,
    sink: io.FileIO,
    scale: float,
    matrix: str | None,
    range: Literal["limited", "full"] | None,
    keywords: dict[str, Any],
) -> None:
    """All frames of a y4m stream through ``flashsr(clip, scale, **keywords)``.

    Raises:
        FlashsrError: it is no y4m, interlaced, or breaks off (what came before is written), or nobody reads the output.
    """
    stream = Y4mReader(source)
    header = stream.header
    if header.interlacing in ("t", "b", "m"):
        raise FlashsrError(
            f"the stream is interlaced, got I{header.interlacing} in its header; deinterlace it first, e.g. with ffmpeg's "
            "-vf bwdif, or use -vf setfield=prog if the picture is progressive and only flagged otherwise"
        )
    window = FrameWindow(stream.frame, behind=_behind(keywords))
    try:
        _run(_clip(window, header, _properties(header, matrix, range)), window, header, scale, keywords, sink)
    finally:
        window.stop()


class Y4mReader:
    """A y4m stream, frame by frame.

    Raises:
        FlashsrError: it is empty or no y4m.
    """

    def __init__(self, source: io.FileIO) -> None:
        self._source = source
        self._count = 0
        line = self._line(b"")
        if not line:
            raise FlashsrError("stdin is empty; the program before has written no stream (its message is above)")
        self.header = read_header(line)

    def frame(self) -> bytes | bytearray | None:
        """The next frame's samples; None at the end.

        Raises:
            FlashsrError: the stream breaks off, or isn't y4m any more.
        """
        # Not through a buffer: a buffered reader that a thread still waits in can't be closed when the process ends.
        begin = self._exactly(len(FRAME) + 1)
        if not begin:
            return None
        if len(begin) > len(FRAME) and begin[-1:] != b"\n":
            begin = self._line(begin)
        if not begin.endswith(b"\n"):
            raise self._broken()
        if begin.split()[:1] != [FRAME]:
            raise FlashsrError(
                f"frame {self._count} of the stream should begin with FRAME, got {bytes(begin[:16])!r}; write it anew"
            )
        data = self._exactly(self.header.frame_bytes)
        if len(data) < self.header.frame_bytes:
            raise self._broken()
        self._count += 1
        return data

    def _broken(self) -> FlashsrError:
        return FlashsrError(
            f"the stream breaks off in the middle of frame {self._count}; the {self._count} frames before it were upscaled"
        )

    def _line(self, begin: bytes | bytearray) -> bytes:
        line = bytearray(begin)
        while not line.endswith(b"\n") and len(line) < LONGEST_LINE and (byte := self._source.read(1)):
            line += byte
        return bytes(line)

    def _exactly(self, length: int) -> bytes | bytearray:
        """So many bytes, fewer at the end of the stream."""
        data = bytearray(length)
        got = 0
        with memoryview(data) as view:
            while got < length and (more := self._source.readinto(view[got:])):
                got += more
        return data if got == length else bytes(data[:got])


def _behind(keywords: dict[str, Any]) -> int:
    """Frames that may be asked for again: what a run begun at a grid line reads anew."""
    from ..bundle import load_bundle
    from ..models.locate import locate

    path = locate(keywords.get("model"))
    if not path.is_dir():
        return _LOOK_BACK
    bundle = load_bundle(path)
    preroll = keywords.get("preroll", bundle.preroll)
    return int(preroll) + bundle.schedule.first_reads + bundle.schedule.reads + _LOOK_BACK


def _properties(header: Header, matrix: str | None, range: Literal["limited", "full"] | None) -> dict[str, int]:
    """Properties of every frame, as far as header and arguments tell."""
    found = {"_FieldBased": 0}
    full = header.full_range if range is None else range == "full"
    if full is not None:
        found["_Range"] = int(full)
    if matrix is not None:
        found["_Matrix"] = matrix_number(matrix)
    location = next((number for number, name in _SITINGS.items() if name == header.colour.siting), None)
    if location is not None:
        found["_ChromaLocation"] = location
    if header.aspect is not None:
        found |= {"_SARNum": header.aspect.numerator, "_SARDen": header.aspect.denominator}
    if header.rate is not None:
        found |= {"_DurationNum": header.rate.denominator, "_DurationDen": header.rate.numerator}
    return found


def _clip(window: FrameWindow, header: Header, properties: dict[str, int]) -> vs.VideoNode:
    """The stream as a clip without an end; its last frame stands for all later ones.

    Sizes that the format can't hold (odd ones in 4:2:0) are filled up with the last column and row.
    """
    import vapoursynth as vs

    core = vs.core.core
    colour = header.colour
    across, down = colour.subsampling or (0, 0)
    family = vs.GRAY if colour.subsampling is None else vs.YUV
    video_format = core.query_video_format(family, vs.INTEGER, colour.bits, across, down)
    width, height = (-(-side >> shift) << shift for side, shift in ((header.width, across), (header.height, down)))
    rate = header.rate or Fraction(25)
    blank = core.std.BlankClip(
        None, width, height, video_format.id, ENDLESS, rate.numerator, rate.denominator, keep=True
    )
    dtype = np.dtype("u1" if colour.bits == 8 else "<u2")

    def read(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        data, offset = window.frame(n), 0
        frame = core.create_video_frame(video_format, width, height)
        for p, (rows, columns) in enumerate(header.planes):
            samples = np.frombuffer(data, dtype, rows * columns, offset).reshape(rows, columns)
            offset += samples.nbytes
            plane = np.asarray(frame[p])
            plane[:rows, :columns] = samples
            plane[rows:, :columns] = samples[-1:]
            plane[:, columns:] = plane[:, columns - 1 : columns]
        frame.props.update(properties)
        return frame

    return blank.std.ModifyFrame(blank, read)


def _run(
    clip: vs.VideoNode, window: FrameWindow, header: Header, scale: float, keywords: dict[str, Any], sink: io.FileIO
) -> None:
    """Ask for one frame after the other and write each: the next is being made meanwhile, if it can be."""
    from ..filter import flashsr

    if not window.wait(0):
        raise window.failure or FlashsrError("the stream has a header and no frame; the program before has failed")
    out = flashsr(clip, scale, **keywords)
    colour = _colour_of(out)
    due: Future[vs.VideoFrame] | None = None
    made: Header | None = None
    n = 0
    while window.wait(n):
        with (due or out.get_frame_async(n)).result() as frame:
            window.move(n + 1)
            due = out.get_frame_async(n + 1) if window.has(n + 1) else None
            try:
                if made is None:
                    made = _header_of(frame, header, colour, scale)
                    _write(sink, made.line())
                _write(sink, FRAME + b"\n" + _packed(frame, made))
            except OSError as error:
                _abandon(window, due)
                raise FlashsrError(
                    f"the program that reads the output has closed the pipe after {n} frames ({error.strerror})"
                ) from error
        n += 1
    if window.failure is not None:
        raise window.failure


def _abandon(window: FrameWindow, due: Future[Any] | None) -> None:
    """End the frame that is being made: the core must have no work left when the process ends."""
    import vapoursynth as vs

    window.stop()
    if due is not None:
        try:
            due.result().close()
        except (vs.Error, CancelledError):
            return


def _colour_of(out: vs.VideoNode) -> Colour:
    import vapoursynth as vs

    video_format = out.format
    subsampling = (video_format.subsampling_w, video_format.subsampling_h)
    grey = video_format.color_family == vs.GRAY
    known = grey or (video_format.color_family == vs.YUV and subsampling in SUBSAMPLING.values())
    if not known or video_format.sample_type != vs.INTEGER:
        raise FlashsrError(
            f"y4m carries grey or YUV of 8 to 16 bits, got --format {video_format.name}; give e.g. YUV420P10"
        )
    return Colour(None if grey else subsampling, video_format.bits_per_sample)


def _header_of(frame: vs.VideoFrame, header: Header, colour: Colour, scale: float) -> Header:
    """What the output's header says: what its first frame says of itself."""
    from ..formats import output_size

    across, down = colour.subsampling or (0, 0)
    location = frame.props.get("_ChromaLocation")
    siting: Siting = "" if location is None or colour.tag != "420" else _SITINGS.get(int(location), "")
    full = frame.props.get("_Range")
    return replace(
        header,
        width=output_size(header.width, scale, across),
        height=output_size(header.height, scale, down),
        colour=replace(colour, siting=siting),
        interlacing="p",
        full_range=None if full is None else int(full) == 1,
    )


def _packed(frame: vs.VideoFrame, header: Header) -> bytes:
    """A frame's samples without strides, cropped to the header's size."""
    planes = (np.asarray(frame[p])[:rows, :columns] for p, (rows, columns) in enumerate(header.planes))
    return b"".join(plane.astype(plane.dtype.newbyteorder("<"), copy=False).tobytes() for plane in planes)


def _write(sink: io.FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[sink.write(view) :]
