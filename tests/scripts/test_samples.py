"""Every script in samples/ runs through the real vspipe and gives the frames its comments promise."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import vapoursynth as vs

from ..support.pipe import vspipe

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
CLIPS = SAMPLES / "clips"
NTSC = Fraction(30000, 1001)


@dataclass(frozen=True)
class Sample:
    """What a script is expected to give for the clip it opens by default."""

    name: str
    plugins: tuple[str, ...]
    """Namespaces the script needs; without them it is skipped."""
    size: tuple[int, int]
    bits: int
    rate: Fraction
    frames: int

    @property
    def script(self) -> Path:
        return SAMPLES / f"{self.name}.vpy"


EXPECTED = [
    Sample("basic", ("bs",), (960, 540), 8, NTSC, 42),
    Sample("deinterlace_dvd", ("bs", "bwdif"), (1440, 960), 10, 2 * NTSC, 122),
    Sample("anime", ("bs", "bwdif", "zsmooth", "vszip"), (1440, 960), 10, 2 * NTSC, 122),
    Sample("film_restoration", ("bs", "mv", "descratch"), (960, 540), 8, 2 * NTSC, 84),
    Sample("old_stays_old", ("bs", "mv", "descratch"), (960, 540), 10, 2 * NTSC, 84),
]


def need(sample: Sample) -> None:
    missing = [name for name in sample.plugins if not hasattr(vs.core, name)]
    if missing:
        pytest.skip(f"VapourSynth has no plugin {', '.join(missing)}: install the extra samples")


@pytest.fixture(autouse=True)
def own_index_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """A run of vspipe; its failure is the test's."""
    done = vspipe(script, "-", *arguments, timeout_s=240)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done


@dataclass(frozen=True)
class Y4m:
    """A y4m stream of 4:2:0 frames."""

    size: tuple[int, int]
    rate: Fraction
    bits: int
    luma: np.ndarray
    """(frames, height, width), in the stream's own levels."""


def read_y4m(stream: bytes) -> Y4m:
    header, _, rest = stream.partition(b"\n")
    magic, *tags = header.decode("ascii").split(" ")
    assert magic == "YUV4MPEG2", header
    tag = {item[0]: item[1:] for item in reversed(tags)}  # the first wins: XLENGTH is another X
    assert tag["I"] == "p"
    bits = {"420": 8, "420p10": 10}[tag["C"]]
    width, height = int(tag["W"]), int(tag["H"])
    kind = np.dtype("u1") if bits == 8 else np.dtype("<u2")
    frame_bytes = width * height * 3 // 2 * kind.itemsize
    marker = b"FRAME\n"
    assert len(rest) % (len(marker) + frame_bytes) == 0, "the stream ends in the middle of a frame"
    planes = []
    for start in range(0, len(rest), len(marker) + frame_bytes):
        assert rest[start : start + len(marker)] == marker
        planes.append(np.frombuffer(rest, kind, width * height, start + len(marker)).reshape(height, width))
    return Y4m((width, height), Fraction(tag["F"].replace(":", "/")), bits, np.stack(planes))


def told(messages: bytes) -> dict[str, str]:
    """The lines ``NAME: VALUE`` that `telling` or ``vspipe --info`` wrote."""
    return dict(line.split(": ", 1) for line in messages.decode(errors="replace").splitlines() if ": " in line)


def telling(sample: Sample, folder: Path) -> Path:
    """A script that is ``sample``'s and says on stderr what else is to be known: a start of vspipe takes a second or two."""
    path = folder / "telling.vpy"
    path.write_text(
        f"import runpy, sys\nimport vapoursynth as vs\nrunpy.run_path({str(sample.script)!r})\n"
        "clip = vs.get_output(0).clip\nprops = clip.get_frame(0).props\n"
        "names = ('_FieldBased', '_Matrix', '_Primaries', '_Transfer', '_Range', '_SARNum', '_SARDen')\n"
        "sys.stderr.write(f'Frames: {clip.num_frames}\\nProps: ' + ' '.join(str(props.get(name)) for name in names) + '\\n')\n",
        encoding="utf-8",
    )
    return path


SLOW = ("anime", "deinterlace_dvd", "old_stays_old")
"""Nine seconds each; the others run the same checks."""
DVD = ("anime", "deinterlace_dvd")


def test_every_script_is_tested() -> None:
    assert {path.stem for path in SAMPLES.glob("*.vpy")} == {sample.name for sample in EXPECTED}


@pytest.mark.parametrize(
    "sample",
    [
        pytest.param(sample, id=sample.name, marks=[pytest.mark.long] if sample.name in SLOW else [])
        for sample in EXPECTED
    ],
)
def test_script_gives_the_promised_frames(sample: Sample, tmp_path: Path) -> None:
    need(sample)
    # A range that begins neither at 0 nor at the end of a step: the script must work behind `vspipe -s`.
    done = run(telling(sample, tmp_path), "-s", "3", "-e", "7", "-c", "y4m")
    stream = read_y4m(done.stdout)
    assert int(told(done.stderr)["Frames"]) == sample.frames
    assert (stream.size, stream.bits, stream.rate) == (sample.size, sample.bits, sample.rate)
    assert len(stream.luma) == 5
    unit = 1 << (stream.bits - 8)
    assert stream.luma.std() > 15 * unit, "the picture is flat"
    assert 40 * unit < stream.luma.mean() < 200 * unit
    moved = np.abs(np.diff(stream.luma.astype(np.int32), axis=0)).mean(axis=(1, 2))
    assert (moved > 0).all(), "a frame is the same as the one before"


@pytest.mark.parametrize("sample", [s for s in EXPECTED if s.name in SLOW], ids=lambda sample: sample.name)
def test_frame_count_and_colours(sample: Sample, tmp_path: Path) -> None:
    """Of the scripts whose frames are made under ``--long`` only; DVD's output is progressive and keeps its colours."""
    need(sample)
    found = told(run(telling(sample, tmp_path), "--info").stderr)
    assert int(found["Frames"]) == sample.frames
    if sample.name in DVD:
        assert found["Props"] == "0 6 6 6 0 32 27"


def test_a_relative_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """vspipe goes into the script's folder before it evaluates it: the clips are found nevertheless."""
    need(EXPECTED[0])
    monkeypatch.chdir(SAMPLES.parent)
    assert told(run(Path("samples", "basic.vpy"), "--info").stdout)["Frames"] == "42"


def test_input_and_scale_come_from_the_command_line(tmp_path: Path) -> None:
    """A progressive clip through the deinterlacing script keeps its frames; scale is any number."""
    sample = EXPECTED[1]
    need(sample)
    clip = tmp_path / "über alles.mp4"
    clip.write_bytes((CLIPS / "butterfly_270p.mp4").read_bytes())
    stream = read_y4m(run(sample.script, "-e", "1", "-a", f"input={clip}", "-a", "scale=1.5", "-c", "y4m").stdout)
    assert stream.size == (720, 406)  # 4:2:0 can't be 405 high
    assert stream.rate == NTSC
    assert {path.name for path in tmp_path.iterdir()} <= {clip.name, "cache"}, "the index lies beside the clip"
