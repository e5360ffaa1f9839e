"""``vsflashsr upscale``, from a file to a file, as a user runs it."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vsflashsr.commands import app
from vsflashsr.encode.encoders import ENCODERS

from ..support.pipe import environment, y4m
from .files import (
    Case,
    as_dolby_vision,
    ffmpeg,
    frame_hashes,
    hdr10_plus,
    make,
    needs_programs,
    packet_places,
    probe,
    stream_hash,
    times,
    upscale,
    upscale_apart,
    video,
)

pytestmark = needs_programs
FFV1 = ("--encoder", "ffv1")


@pytest.fixture(scope="module")
def whole(awkward: dict[str, Case], tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> tuple[Path, Path]:
    """A clip with two languages, subtitles, chapters, an attachment and tags, and what became of it."""
    folder = tmp_path_factory.mktemp("ganz neu")
    source, result = awkward["all.mkv"].make(folder / "mit ü.mkv"), folder / "mit ü groß.mkv"
    done = upscale_apart(source, result, "--model", tiny, "--preset", "ultrafast", "--scale", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return source, result


def test_the_picture(whole: tuple[Path, Path]) -> None:
    source, result = whole
    stream = video(result)
    assert (stream["codec_name"], stream["width"], stream["height"]) == ("hevc", 256, 192)
    assert stream["pix_fmt"] == "yuv420p10le"
    assert stream["nb_read_packets"] == "30"
    assert stream["tags"]["title"] == "Bild"
    assert times(result) == pytest.approx(times(source), abs=0.001)
    # 96 lines name no matrix: BT.601 was assumed, and written.
    assert (stream["color_space"], stream["color_primaries"], stream["color_transfer"]) == ("smpte170m",) * 3


def test_what_belongs_to_it(whole: tuple[Path, Path]) -> None:
    source, result = whole
    before, after = probe(source), probe(result)
    kinds = [[s["codec_type"] for s in found["streams"]] for found in (before, after)]
    assert sorted(kinds[0]) == sorted(kinds[1]) == ["attachment", "audio", "audio", "subtitle", "video"]
    for stream in ("a:0", "a:1", "s:0"):
        assert stream_hash(result, stream) == stream_hash(source, stream)
        assert times(result, stream) == times(source, stream)
    languages = [s["tags"]["language"] for s in after["streams"] if s["codec_type"] == "audio"]
    assert languages == ["ger", "eng"]
    assert [chapter["tags"]["title"] for chapter in after["chapters"]] == ["eins", "zwei"]
    assert [c["start_time"] for c in after["chapters"]] == [c["start_time"] for c in before["chapters"]]
    assert after["format"]["tags"]["title"] == "Ein Film"


def test_nothing_else_is_left(whole: tuple[Path, Path]) -> None:
    assert sorted(path.name for path in whole[1].parent.iterdir()) == ["mit ü groß.mkv", "mit ü.mkv"]


def test_never_overwrites(whole: tuple[Path, Path]) -> None:
    before = whole[1].read_bytes()
    done = upscale(*whole)
    assert done.returncode == 1
    assert "already there" in done.stderr and "--force" in done.stderr
    assert done.stderr.count("\n") == 1
    assert whole[1].read_bytes() == before


@pytest.mark.long
def test_the_dry_run_prints_what_is_done(whole: tuple[Path, Path], tiny: Path, tmp_path: Path) -> None:
    source, _ = whole
    done = upscale(source, tmp_path / "out.mkv", "--model", tiny, *FFV1, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    script = tmp_path / "out.vpy"
    script.write_text(done.stdout, "utf-8")
    assert "# vspipe -c y4m out.vpy - | ffmpeg " in done.stdout
    taken_over = y4m(script)
    done = upscale(source, tmp_path / "out.mkv", "--model", tiny, *FFV1)
    assert done.returncode == 0, done.stderr
    ffmpeg("-i", tmp_path / "out.mkv", "-map", "0:v", "-f", "rawvideo", tmp_path / "out.yuv")
    assert (tmp_path / "out.yuv").read_bytes() == b"".join(f.removeprefix(b"FRAME\n") for f in taken_over.frames)


def test_variable_rate_and_an_offset_stay(awkward: dict[str, Case], tiny: Path, tmp_path: Path) -> None:
    awkward["late vfr.mp4"].make(tmp_path / "in.mp4")
    done = upscale(tmp_path / "in.mp4", tmp_path / "out.mkv", "--model", tiny, *FFV1)
    assert done.returncode == 0, done.stderr
    assert "variable rate" in done.stderr
    before, after = (times(tmp_path / name) for name in ("in.mp4", "out.mkv"))
    sound = times(tmp_path / "out.mkv", "a:0")[0] - times(tmp_path / "in.mp4", "a:0")[0]
    assert after == pytest.approx([t + sound for t in before], abs=0.0015)
    assert stream_hash(tmp_path / "out.mkv", "a:0") == stream_hash(tmp_path / "in.mp4", "a:0")


def test_preview(whole: tuple[Path, Path], tiny: Path, tmp_path: Path) -> None:
    source, _ = whole
    outputs = [tmp_path / "all.mkv", tmp_path / "part.mkv"]
    assert upscale(source, outputs[0], "--model", tiny, *FFV1).returncode == 0
    done = upscale(source, outputs[1], "--model", tiny, *FFV1, "--preview", "0.4s", "--preview-at", "0.4")
    assert done.returncode == 0, done.stderr
    assert frame_hashes(outputs[1]) == frame_hashes(outputs[0])[10:20]
    assert times(outputs[1], "a:0")[-1] < 0.5


type Refused = Callable[..., str]


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Refused:
    """Runs the command, which has to fail, and returns its last words."""

    def run(*arguments: str | Path) -> str:
        capfd.readouterr()
        assert app.main(["upscale", *map(str, arguments)]) == 1
        out, err = capfd.readouterr()
        assert out == ""
        assert "Traceback" not in err
        return err.strip().splitlines()[-1]

    return run


@pytest.mark.parametrize("encoder", ["x265", "ffv1", "svt-av1", "x264"])
def test_one_frame_and_every_encoder(encoder: str, tiny: Path, tmp_path: Path) -> None:
    source = make(tmp_path / "in.mkv", frames=1, picture="testsrc2=size=128x96:rate=25")
    program = ENCODERS[encoder].program
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}; scripts/test.sh installs it")
    done = upscale(source, tmp_path / "out.mkv", "--model", tiny, "--encoder", encoder)
    assert done.returncode == 0, done.stderr
    assert len(frame_hashes(tmp_path / "out.mkv")) == 1
    stream = video(tmp_path / "out.mkv")
    assert (stream["width"], stream["height"], stream["color_space"]) == (256, 192, "smpte170m")


@pytest.mark.parametrize("rate", ["1/2", pytest.param("1000", marks=pytest.mark.long)])
def test_rates_that_x265_doesnt_know(rate: str, tiny: Path, tmp_path: Path) -> None:
    source = make(tmp_path / "in.mkv", frames=3, picture=f"testsrc2=size=64x48:rate={rate}")
    done = upscale(source, tmp_path / "out.mkv", "--model", tiny, "--preset", "ultrafast")
    assert done.returncode == 0, done.stderr
    assert times(tmp_path / "out.mkv") == pytest.approx(times(source), abs=0.001)


def test_mp4(whole: tuple[Path, Path], tiny: Path, tmp_path: Path) -> None:
    done = upscale(whole[0], tmp_path / "out.mp4", "--model", tiny, "--preset", "ultrafast")
    assert done.returncode == 0, done.stderr
    assert "left out: attachment" in done.stderr
    stream = video(tmp_path / "out.mp4")
    assert (stream["codec_tag_string"], stream["nb_read_packets"]) == ("hvc1", "30")
    assert stream_hash(tmp_path / "out.mp4", "a:0") == stream_hash(whole[0], "a:0")
    assert times(tmp_path / "out.mp4") == pytest.approx(times(whole[0]), abs=0.001)


def test_nvenc_without_a_gpu_says_so(tmp_path: Path, tiny: Path, refused: Refused) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("there may be one")
    said = refused(make(tmp_path / "in.mkv", frames=2), tmp_path / "out.mkv", "--model", tiny, "--encoder", "nvenc")
    assert "the encoder nvenc failed" in said


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "frames", "rate", "said"),
    [
        ("interlaced.mpg", 50, "50/1", "interlaced: deinterlaced by bwdif"),
        ("wrongly flagged.mpg", 25, "25/1", "progressive: not deinterlaced"),
        ("telecine.mpg", 72, "24000/1001", "telecine: film frames put together again"),
    ],
)
def test_fields_by_evidence(
    name: str, frames: int, rate: str, said: str, awkward: dict[str, Case], tiny: Path, tmp_path: Path
) -> None:
    source = awkward[name].make(tmp_path / name)
    done = upscale(source, tmp_path / "out.mkv", "--model", tiny, "--preset", "ultrafast")
    assert done.returncode == 0, done.stderr
    assert said in done.stderr
    stream = video(tmp_path / "out.mkv")
    assert abs(int(stream["nb_read_packets"]) - frames) <= 1
    assert stream["r_frame_rate"] == rate


@pytest.mark.parametrize("single_rate", [False, pytest.param(True, marks=pytest.mark.long)])
def test_qtgmc(single_rate: bool, awkward: dict[str, Case], tiny: Path, tmp_path: Path) -> None:
    """It's called as it wants to be: what comes out are the moments that were woven into fields."""
    pytest.importorskip("vsdeinterlace", reason='QTGMC isn\'t installed: pip install "vsflashsr[qtgmc]"')
    source = awkward["interlaced.mpg"].make(tmp_path / "in.mpg")
    options = ["--model", str(tiny), "--strength", "0", "--deinterlace", "qtgmc"]
    options += ["--single-rate"] if single_rate else []
    done = upscale(source, tmp_path / "out.mkv", *options, *FFV1)
    assert done.returncode == 0, done.stderr
    assert "deinterlaced by QTGMC" in done.stderr
    assert video(tmp_path / "out.mkv")["r_frame_rate"] == ("25/1" if single_rate else "50/1")
    motion = awkward["interlaced.mpg"].arguments[3].removesuffix(",tinterlace=interleave_top")
    keep = ",select='not(mod(n,2))'" if single_rate else ""
    ffmpeg(
        *("-f", "lavfi", "-i", f"{motion}{keep},scale=256:192:flags=lanczos", "-frames:v", "20"),
        *("-vsync", "passthrough", "-pix_fmt", "gray", "-f", "rawvideo", tmp_path / "true.raw"),
    )
    ffmpeg("-i", tmp_path / "out.mkv", "-frames:v", "20", "-pix_fmt", "gray", "-f", "rawvideo", tmp_path / "out.raw")
    true, made = (np.fromfile(tmp_path / name, np.uint8).reshape(20, 192, 256) for name in ("true.raw", "out.raw"))
    middle = np.s_[4:16, 16:-16, 16:-16]
    error = float(np.abs(true[middle].astype(int) - made[middle]).mean())
    late = float(np.abs(true[middle].astype(int) - np.roll(made, 1, 0)[middle]).mean())
    assert error < 2 and late > 20


@pytest.fixture
def long_clip(tmp_path: Path) -> Path:
    return make(tmp_path / "in.mkv", frames=120)


def test_killed_and_resumed_is_the_same_file(long_clip: Path, tiny: Path, tmp_path: Path) -> None:
    def arguments(name: str) -> list[str]:
        return [
            str(long_clip), str(tmp_path / name), "--model", str(tiny), "--max-segment", "20", "--chunk-frames", "20",
            "--preset", "ultrafast", "--encoder-args", "--pools 1",
        ]  # fmt: skip

    assert upscale(*arguments("once.mkv")).returncode == 0
    command = [sys.executable, "-m", "vsflashsr", "upscale", *arguments("again.mkv")]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
    work = tmp_path / "again.mkv.work"
    while process.poll() is None and len(list(work.glob("chunk-*.json"))) < 3:
        time.sleep(0.01)
    process.kill()
    assert process.wait() != 0
    kept = {path: path.stat().st_mtime_ns for path in work.glob("chunk-*.hevc")}
    assert len(kept) >= 3
    assert not (tmp_path / "again.mkv").exists()
    (work / "chunk-00001.hevc").write_bytes(b"torn")  # what a disk may do to data that was never flushed

    other = upscale(*arguments("again.mkv"), "--crf", "30")
    assert other.returncode == 1 and "other options" in other.stderr
    done = upscale(*arguments("again.mkv"), "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "frames are there already" in done.stderr
    assert stream_hash(tmp_path / "again.mkv", "v:0") == stream_hash(tmp_path / "once.mkv", "v:0")
    assert not work.exists()


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("encoder", ["ffv1", "x265"])
def test_killed_at_ten_moments_it_is_still_the_same_file(
    encoder: str, long_clip: Path, tiny: Path, tmp_path: Path
) -> None:
    """A run is killed wherever it happens to be, and gone on with; ten times in all, begun anew when it got through."""
    options = ["--model", str(tiny), "--max-segment", "10", "--chunk-frames", "10", "--encoder", encoder]
    options += ["--encoder-args", "--pools 1"] if encoder == "x265" else []
    once, again = tmp_path / "once.mkv", tmp_path / "again.mkv"
    started = time.monotonic()
    assert upscale(long_clip, once, *options).returncode == 0
    whole_s = time.monotonic() - started
    command = [sys.executable, "-m", "vsflashsr", "upscale", str(long_clip), str(again), *options]
    moments = random.Random(15)
    kills = ends = 0
    while kills < 10 or not ends:
        process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
        try:
            assert process.wait(None if kills == 10 else moments.uniform(0.1, 0.8) * whole_s) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            # Killed between the file's renaming and the process's end it has its name, and is whole.
            if not again.exists():
                continue
        ends += 1
        assert stream_hash(again, "v:0") == stream_hash(once, "v:0")
        assert frame_hashes(again) == frame_hashes(once)
        if kills < 10:
            again.unlink()
            ends = 0


@pytest.mark.long
@pytest.mark.skipif(not Path("/dev/shm").is_dir() or os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk_gets_a_sentence_and_costs_nothing(long_clip: Path, tiny: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], check=False)
    if mount.returncode:
        pytest.skip("may not mount")
    options = ["--model", str(tiny), "--max-segment", "20", "--chunk-frames", "20", "--encoder", "ffv1"]
    try:
        done = upscale(long_clip, small / "out.mkv", *options)
        assert done.returncode == 1
        assert "No space left" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
        assert not (small / "out.mkv").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        done = upscale(long_clip, small / "out.mkv", *options)
        assert done.returncode == 0, done.stderr
        assert int(video(small / "out.mkv")["nb_read_packets"]) == 120
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_ends_it_and_keeps_what_is_finished(long_clip: Path, tiny: Path, tmp_path: Path) -> None:
    options = ["--model", str(tiny), "--max-segment", "20", "--chunk-frames", "20", *FFV1]
    # A shell lets what it starts in the background ignore the signal.
    listen = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{listen}; from vsflashsr.commands.app import main; sys.exit(main())", "upscale"]
    process = subprocess.Popen(
        [*command, str(long_clip), str(tmp_path / "out.mkv"), *options],
        env=environment(),
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    work = tmp_path / "out.mkv.work"
    while process.poll() is None and not list(work.glob("chunk-*.json")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert list(work.glob("chunk-*.mkv"))
    assert not list(work.glob("*.part"))


def test_bad_input_gets_a_sentence(tmp_path: Path, refused: Refused) -> None:
    good = make(tmp_path / "good.mkv", frames=3)
    (tmp_path / "empty.mkv").touch()
    (tmp_path / "text.mkv").write_text("no video at all" * 100, "utf-8")
    ffmpeg("-f", "lavfi", "-i", "sine", "-t", "0.2", tmp_path / "sound.mka")
    out = tmp_path / "out.mkv"
    assert "isn't a file" in refused(tmp_path / "none.mkv", out)
    assert "zero bytes" in refused(tmp_path / "empty.mkv", out)
    assert "can't be read as a video" in refused(tmp_path / "text.mkv", out)
    assert "holds a video stream, got" in refused(tmp_path / "sound.mka", out)
    assert ".mkv, .mp4" in refused(good, tmp_path / "out.avi")
    assert "make it first" in refused(good, tmp_path / "none" / "out.mkv")
    assert "another file" in refused(good, good, "--force")
    assert "up to four times" in refused(good, out, "--height", "480")
    assert "there is no model" in refused(good, out, "--model", "none")
    assert "--preview is a time" in refused(good, out, "--preview", "soon")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.mkv", "good.mkv", "sound.mka", "text.mkv"]


def damaged(path: Path, first: int, packets: int = 1) -> Path:
    """A lossless clip whose frames from ``first`` on no decoder takes; each packet is a frame of its own."""
    make(path, frames=60, extra=("-c:v", "ffv1", "-g", "1", "-level", "3", "-slicecrc", "1"))
    places = packet_places(path)
    data = bytearray(path.read_bytes())
    for start, size in places[first : first + packets]:
        data[start + 10 : start + size - 5] = b"\xff" * (size - 15)
    path.write_bytes(data)
    return path


def test_a_frame_that_cant_be_decoded_ends_it_and_what_came_before_is_delivered(tiny: Path, tmp_path: Path) -> None:
    source = damaged(tmp_path / "in.mkv", 30)
    options = ["--model", str(tiny), "--max-segment", "20", "--chunk-frames", "20", *FFV1]
    done = upscale(source, tmp_path / "out.mkv", *options)
    assert done.returncode == 3, done.stderr
    assert "frame 30 of the source can't be decoded" in done.stderr.splitlines()[-1]
    assert "30 of 60 frames are missing" in done.stderr.splitlines()[-1]
    assert len(frame_hashes(tmp_path / "out.mkv")) == 30
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mkv", "out.mkv"]


@pytest.mark.long
def test_dolby_vision_and_hdr10_plus_are_named(tiny: Path, tmp_path: Path, refused: Refused) -> None:
    hdr = "aud=1:repeat-headers=1:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:keyint=1:log-level=error"
    extra = ("-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-x265-params", hdr)
    stream = make(tmp_path / "plain.hevc", frames=2, extra=extra)
    delimiter = re.compile(rb"\x00\x00\x00\x01\x46\x01.", re.DOTALL)
    with_plus, units = delimiter.subn(lambda found: found[0] + hdr10_plus(), stream.read_bytes())
    assert units == 2
    (tmp_path / "plus.hevc").write_bytes(with_plus)
    for name in ("plain", "plus"):
        ffmpeg("-i", tmp_path / f"{name}.hevc", "-c", "copy", "-bsf:v", "setts=ts=N*40", tmp_path / f"{name}.mkv")
        done = upscale(tmp_path / f"{name}.mkv", tmp_path / f"{name} out.mkv", "--model", tiny, "--preset", "ultrafast")
        assert done.returncode == 0, done.stderr
        assert ("left out: HDR10+ metadata" in done.stderr) == (name == "plus")
    ffmpeg("-i", tmp_path / "plain.mkv", "-c", "copy", "-tag:v", "hvc1", tmp_path / "plain.mp4")
    (tmp_path / "five.mp4").write_bytes(as_dolby_vision((tmp_path / "plain.mp4").read_bytes(), 5))
    assert "got Dolby Vision profile 5" in refused(tmp_path / "five.mp4", tmp_path / "out.mkv")


def test_a_missing_encoder_says_how_to_get_it(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = make(tmp_path / "good.mkv", frames=3)
    bare = tmp_path / "bin"
    bare.mkdir()
    for program in ("ffprobe", "mkvmerge"):
        (bare / program).symlink_to(str(shutil.which(program)))
    monkeypatch.setenv("PATH", str(bare))
    said = refused(good, tmp_path / "out.mkv")
    assert "x265" in said and "apt install x265" in said


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_that_cant_be_written(tmp_path: Path, refused: Refused) -> None:
    good = make(tmp_path / "good.mkv", frames=3)
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert "can be written" in refused(good, locked / "out.mkv")


def test_a_cut_off_file_is_delivered_as_far_as_it_goes(awkward: dict[str, Case], tiny: Path, tmp_path: Path) -> None:
    source = awkward["broken tail.mkv"].make(tmp_path / "cut.mkv")
    done = upscale(source, tmp_path / "out.mkv", "--model", tiny, *FFV1)
    assert done.returncode == 3, done.stderr
    assert "the source is incomplete" in done.stderr.splitlines()[-1]
    assert 10 < int(video(tmp_path / "out.mkv")["nb_read_packets"]) < 45
