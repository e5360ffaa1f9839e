"""`vsflashsr pipe`: the filter's own frames, byte for byte, in constant memory, whatever happens at either end."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vapoursynth as vs

from vsflashsr import flashsr
from vsflashsr.commands.pipe import _behind, upscale_stream
from vsflashsr.commands.window import FrameWindow
from vsflashsr.errors import FlashsrError
from vsflashsr.models.locate import builtin_names
from vsflashsr.y4m import FRAME, Header, read_colour, read_header

from ..support.clips import noise
from ..support.pipe import environment


def pack(frame: vs.VideoFrame, width: int | None = None, height: int | None = None) -> bytes:
    """The samples of a frame's planes, or of its top left part."""
    parts = []
    for p in range(frame.format.num_planes):
        across, down = (frame.format.subsampling_w, frame.format.subsampling_h) if p else (0, 0)
        columns, rows = (
            ((width or frame.width) + (1 << across) - 1) >> across,
            ((height or frame.height) + (1 << down) - 1) >> down,
        )
        parts.append(np.asarray(frame[p])[:rows, :columns].tobytes())
    return b"".join(parts)


def stream(clip: vs.VideoNode, tag: str, width: int | None = None, height: int | None = None) -> bytes:
    """A clip, or the top left part of its frames, as y4m."""
    header = Header(width=width or clip.width, height=height or clip.height, colour=read_colour(tag), interlacing="p")
    return header.line() + b"".join(FRAME + b"\n" + pack(f, width, height) for f in clip.frames(close=True))


def piped(data: bytes, folder: Path, scale: float = 2, **keywords: Any) -> tuple[Header, list[bytes]]:
    """What comes out, taken apart; what is raised is the caller's."""
    source, sink = folder / "in.y4m", folder / "out.y4m"
    source.write_bytes(data)
    matrix, full = keywords.pop("matrix", None), keywords.pop("range", None)
    try:
        with io.FileIO(source, "rb") as reads, io.FileIO(sink, "wb") as writes:
            upscale_stream(reads, writes, scale, matrix, full, keywords)
    finally:
        result = taken_apart(sink.read_bytes())
    return result


def taken_apart(data: bytes) -> tuple[Header, list[bytes]]:
    line, newline, rest = data.partition(b"\n")
    if not newline:
        return Header(width=1, height=1), []
    header = read_header(line)
    size = len(FRAME) + 1 + header.frame_bytes
    assert len(rest) % size == 0
    frames = [rest[i : i + size] for i in range(0, len(rest), size)]
    assert all(frame.startswith(FRAME + b"\n") for frame in frames)
    return header, [frame[len(FRAME) + 1 :] for frame in frames]


def frames_of(out: vs.VideoNode) -> list[bytes]:
    return [pack(frame) for frame in out.frames(close=True)]


TAGS = [
    ("420jpeg", vs.YUV420P8, {"_ChromaLocation": 1}),
    ("420mpeg2", vs.YUV420P8, {"_ChromaLocation": 0}),
    ("420paldv", vs.YUV420P8, {"_ChromaLocation": 2}),
    ("420", vs.YUV420P8, {}),
    ("411", vs.YUV411P8, {}),
    ("422", vs.YUV422P8, {}),
    ("444", vs.YUV444P8, {}),
    ("mono", vs.GRAY8, {}),
    ("mono10", vs.GRAY10, {}),
    ("mono16", vs.GRAY16, {}),
    ("420p9", vs.YUV420P9, {}),
    ("420p10", vs.YUV420P10, {}),
    ("422p12", vs.YUV422P12, {}),
    ("420p14", vs.YUV420P14, {}),
    ("444p16", vs.YUV444P16, {}),
]


@pytest.mark.parametrize(("tag", "video_format", "props"), TAGS, ids=[tag for tag, _, _ in TAGS])
def test_every_colourspace_gives_the_filters_frames(
    tag: str, video_format: int, props: dict[str, int], tiny: Path, tmp_path: Path
) -> None:
    clip = noise(4, 64, 48, video_format).std.SetFrameProps(Tagged=1, **props)
    header, frames = piped(stream(clip, tag), tmp_path, model=str(tiny))
    assert (header.width, header.height, header.colour.tag) == (128, 96, tag)
    assert frames == frames_of(flashsr(clip, 2, model=tiny))


@pytest.mark.parametrize("length", [1, 4, 21, 26, 33])
def test_every_end_is_the_filters(length: int, tiny_25_21: Path, tmp_path: Path) -> None:
    """Here the last frames are padded: 25 → 21, then 8 → 8."""
    clip = noise(length, 16, 16)
    _, frames = piped(stream(clip, "420"), tmp_path, model=str(tiny_25_21))
    assert frames == frames_of(flashsr(clip, 2, model=tiny_25_21))


@pytest.mark.parametrize("cut", [20, 29])
def test_cuts_before_the_end_are_the_filters(cut: int, tiny_25_21: Path, tmp_path: Path) -> None:
    clip = noise(30, 32, 32, cuts=(5, cut))
    _, frames = piped(stream(clip, "420"), tmp_path, model=str(tiny_25_21))
    assert frames == frames_of(flashsr(clip, 2, model=tiny_25_21))


@pytest.mark.parametrize("bundle", ["tiny", "tiny_25_21"])
def test_across_grid_lines(bundle: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A run that begins at a grid line reads its preroll again, which a pipe can't."""
    model = request.getfixturevalue(bundle)
    clip = noise(130, 16, 16, cuts=(61,))
    _, frames = piped(stream(clip, "420"), tmp_path, model=str(model), max_segment=40, preroll=12)
    assert frames == frames_of(flashsr(clip, 2, model=model, max_segment=40, preroll=12))


def test_sizes_that_the_format_cant_hold(tiny: Path, tmp_path: Path) -> None:
    """853 x 480 and the like: filled up, and cropped again."""
    whole = noise(3, 54, 48)
    # What the pipe makes of 53 x 47: the last column and row of every plane once more, where there is none.
    _, frames = piped(stream(whole, "420", 53, 47), tmp_path, model=str(tiny))
    assert len(frames) == 3

    def filled(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        out = f.copy()
        plane = np.asarray(out[0])
        plane[:, 53] = plane[:, 52]
        plane[47:] = plane[46:47]
        return out

    reference = flashsr(whole.std.ModifyFrame(whole, filled), 2, model=tiny)
    assert frames == [pack(frame, 106, 94) for frame in reference.frames(close=True)]


def test_range_and_matrix_are_arguments(tmp_path: Path, tiny_rgb: Path) -> None:
    clip = noise(3, 32, 32)
    header, frames = piped(stream(clip, "420"), tmp_path, model=str(tiny_rgb), matrix="bt709", range="full")
    assert header.full_range is True
    tagged = clip.std.SetFrameProps(_Matrix=1, _Range=1)
    assert frames == frames_of(flashsr(tagged, 2, model=tiny_rgb))
    assert frames != frames_of(flashsr(clip, 2, model=tiny_rgb))
    with pytest.raises(FlashsrError, match="a matrix is one of"):
        piped(stream(clip, "420"), tmp_path, matrix="bt7009")


@pytest.fixture(scope="session")
def tiny_rgb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ..support.tiny import write_tiny_bundle

    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny rgb", channels="rgb")


def test_the_output_format_is_an_argument(tiny: Path, tmp_path: Path) -> None:
    clip = noise(3, 32, 32)
    header, frames = piped(stream(clip, "420"), tmp_path, model=str(tiny), format=vs.YUV444P10)
    assert header.colour.tag == "444p10"
    assert frames == frames_of(flashsr(clip, 2, model=tiny, format=vs.YUV444P10))
    with pytest.raises(FlashsrError, match="y4m carries"):
        piped(stream(clip, "420"), tmp_path, model=str(tiny), format=vs.RGB24)


def test_rate_and_pixel_shape_stay(tiny: Path, tmp_path: Path) -> None:
    data = stream(noise(1, 32, 32), "420").replace(b"F0:0", b"F30000:1001").replace(b"A0:0", b"A32:27")
    header, _ = piped(data, tmp_path, model=str(tiny))
    assert str(header.rate) == "30000/1001"
    assert str(header.aspect) == "32/27"
    assert header.interlacing == "p"


@pytest.mark.parametrize("missing", [1, 1540])
def test_a_broken_tail_delivers_the_good_frames_and_says_so(missing: int, tiny: Path, tmp_path: Path) -> None:
    clip = noise(5, 32, 32)
    data = stream(clip, "420")[:-missing]
    with pytest.raises(FlashsrError, match="breaks off in the middle of frame 4; the 4 frames before"):
        piped(data, tmp_path, model=str(tiny))
    _, frames = taken_apart((tmp_path / "out.y4m").read_bytes())
    # What is delivered is what a clip of the good frames gives.
    assert frames == frames_of(flashsr(clip[:4], 2, model=tiny))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "stdin is empty"),
        (lambda data: b"not y4m\n", "begins with YUV4MPEG2"),
        (lambda data: b"x" * 100_000, "begins with YUV4MPEG2"),
        (lambda data: data[: data.index(b"\n") + 1], "a header and no frame"),
        (lambda data: data.replace(b"Ip", b"It"), "interlaced"),
        (lambda data: data.replace(b"FRAME", b"FRAMF"), "begin with FRAME"),
    ],
)
def test_bad_streams_are_a_sentence(change: Callable[[bytes], bytes], message: str, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(FlashsrError, match=message):
        piped(change(stream(noise(2, 32, 32), "420")), tmp_path, model=str(tiny))


def test_frame_lines_with_parameters(tiny: Path, tmp_path: Path) -> None:
    clip = noise(2, 32, 32)
    data = stream(clip, "420").replace(FRAME + b"\n", FRAME + b" Ip X1\n")
    assert piped(data, tmp_path, model=str(tiny))[1] == frames_of(flashsr(clip, 2, model=tiny))


def start(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vsflashsr", "pipe", *arguments]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )


def test_frames_come_as_soon_as_the_schedule_allows(tiny_25_21: Path) -> None:
    """A writer that waits for the first frame before it writes on gets it: after 25 frames, and the next step after 8."""
    clip = noise(40, 16, 16)
    line, _, rest = stream(clip, "420").partition(b"\n")
    size = len(rest) // 40
    out_size = len(FRAME) + 1 + 32 * 32 * 3 // 2
    with start("--scale", "2", "--model", str(tiny_25_21), "--no-scene-change") as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(line + b"\n" + rest[: 25 * size])
        process.stdin.flush()
        header = process.stdout.readline()
        first = [process.stdout.read(out_size) for _ in range(21)]
        process.stdin.write(rest[25 * size : 33 * size])
        process.stdin.flush()
        first += [process.stdout.read(out_size) for _ in range(8)]
        process.stdin.write(rest[33 * size :])
        process.stdin.close()
        last = process.stdout.read()
        assert process.wait(60) == 0
    frames = taken_apart(header + b"".join(first) + last)[1]
    assert frames == frames_of(flashsr(clip, 2, model=tiny_25_21, scene_change=False))


def test_a_dead_reader_ends_it(tiny: Path) -> None:
    """Its writer, which would go on for ever, gets a broken pipe, too."""
    line, _, rest = stream(noise(20, 64, 64), "420").partition(b"\n")
    with start("--scale", "2", "--model", str(tiny)) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        broken = threading.Event()
        stdin = process.stdin

        def feed() -> None:
            try:
                stdin.write(line + b"\n")
                while True:
                    stdin.write(rest)
            except OSError:
                broken.set()

        feeder = threading.Thread(target=feed)
        feeder.start()
        process.stdout.read(20_000)
        process.stdout.close()
        assert process.wait(120) == 1
        feeder.join(60)
        assert broken.is_set()
        assert "has closed the pipe" in process.stderr.read().decode()


def test_a_dead_writer_ends_it(tiny: Path) -> None:
    data = stream(noise(6, 64, 64), "420")
    with start("--scale", "2", "--model", str(tiny)) as process:
        out, err = process.communicate(data[:-100], timeout=120)
    assert process.returncode == 1
    assert len(taken_apart(out)[1]) == 5
    assert err.decode().splitlines()[-1].startswith("vsflashsr: the stream breaks off in the middle of frame 5")


def test_memory_is_bounded_by_the_window() -> None:
    made: list[int] = []

    def read() -> bytes | None:
        made.append(0)
        return None if len(made) > 500 else b"x"

    window = FrameWindow(read, behind=10)
    most = 0
    for n in range(500):
        assert window.wait(n)
        assert window.frame(n + 3) == b"x"
        window.move(n + 1)
        most = max(most, len(window._frames))
    assert not window.wait(500)
    assert most <= 10 + 3 + 4 + 2
    assert window.frame(10**6) == b"x"


def ffmpeg(*arguments: str, data: bytes = b"") -> bytes:
    done = subprocess.run(
        ["ffmpeg", "-v", "error", *arguments], input=data, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="there is no ffmpeg")
@pytest.mark.parametrize(
    "pixels",
    ["yuv420p", "yuv411p", "gray16le", "yuv422p10le"],
)
def test_ffmpeg_writes_what_is_read_and_reads_what_is_written(pixels: str, tiny: Path, tmp_path: Path) -> None:
    made = ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=s=64x48:r=30000/1001", "-frames:v", "3", "-pix_fmt", pixels),
        *("-strict", "-1", "-f", "yuv4mpegpipe", "-"),
    )
    header, frames = piped(made, tmp_path, model=str(tiny))
    raw = ffmpeg("-f", "yuv4mpegpipe", "-i", str(tmp_path / "out.y4m"), "-f", "rawvideo", "-pix_fmt", pixels, "-")
    assert raw == b"".join(frames)
    assert len(frames) == 3
    assert (header.width, header.height) == (128, 96)


def test_docs_give_mpv_enough_frames_to_go_back() -> None:
    """mpv fails where a script asks for a frame older than its buffer: at grid lines, where a preroll is read again."""
    page = (Path(__file__).parents[2] / "docs" / "ffmpeg.md").read_text("utf-8")
    said = re.search(r"buffered-frames=(\d+)", page)
    assert said and "up to 22." in page
    assert max(_behind({"model": name}) for name in builtin_names()) == 22 < int(said[1])
