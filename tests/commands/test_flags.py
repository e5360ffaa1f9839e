"""`vsflashsr flags`: each encoder's words for what a script's frames say, and what they don't."""

from __future__ import annotations

from pathlib import Path

import pytest
import vapoursynth as vs

from vsflashsr.commands import app

SCRIPT = """
import vapoursynth as vs
print("a script may print")
clip = vs.core.std.BlankClip(None, 64, 48, vs.{format}, 1)
clip.std.SetFrameProps(**{props}).set_output()
clip.std.SetFrameProps(_Range=int(globals().get("full", "0"))).set_output(1)
"""
FULL = {"_Range": 0, "_Matrix": 6, "_Primaries": 6, "_Transfer": 6, "_ChromaLocation": 0, "_SARNum": 32, "_SARDen": 27}


def script(folder: Path, props: dict[str, int], video_format: str = "YUV420P8") -> str:
    path = folder / "ein Skript ü.vpy"
    path.write_text(SCRIPT.format(props=props, format=video_format), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        (
            "x265",
            "--range limited --colormatrix smpte170m --colorprim smpte170m --transfer smpte170m --chromaloc 0 --sar 32:27",
        ),
        (
            "x264",
            "--range tv --colormatrix smpte170m --colorprim smpte170m --transfer smpte170m --chromaloc 0 --sar 32:27",
        ),
    ],
)
def test_what_the_frames_say_in_the_encoders_words(
    encoder: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["flags", script(tmp_path, FULL), "--encoder", encoder]) == 0
    out, err = capsys.readouterr()
    assert out == f"{expected}\n"
    assert "vsflashsr:" not in err


@pytest.mark.parametrize("encoder", ["svt-av1", "ffmpeg"])
def test_every_encoder_is_told_range_and_matrix(
    encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = script(tmp_path, FULL)
    assert app.main(["flags", path, "--encoder", encoder]) == 0
    limited = capsys.readouterr().out
    assert app.main(["flags", script(tmp_path, FULL | {"_Range": 1, "_Matrix": 1}), "--encoder", encoder]) == 0
    full = capsys.readouterr().out
    assert limited != full
    assert {"svt-av1": "--matrix-coefficients 6", "ffmpeg": "colorspace=smpte170m"}[encoder] in limited
    assert {"svt-av1": "--color-range 1", "ffmpeg": "range=pc"}[encoder] in full


def test_what_isnt_said_is_named_and_no_empty_line_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # BlankClip tags its frames; 2 is "unspecified".
    path = script(tmp_path, {"_Range": 0, "_Matrix": 2, "_Primaries": 2, "_Transfer": 2})
    assert app.main(["flags", path, "--encoder", "svt-av1"]) == 0
    out, err = capsys.readouterr()
    assert out == "--color-range 0\n"
    assert "name no matrix" in err
    assert app.main(["flags", script(tmp_path, {"_Matrix": 2}, "GRAY8")]) == 0
    assert "name no matrix" not in capsys.readouterr().err


def test_arguments_and_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = script(tmp_path, FULL)
    assert app.main(["flags", path, "--output", "1", "-a", "full=1"]) == 0
    assert "--range full" in capsys.readouterr().out
    assert app.main(["flags", path, "--output", "7"]) == 1
    assert "has the outputs [0, 1], got 7" in capsys.readouterr().err
    assert app.main(["flags", path, "-a", "full"]) == 1
    assert "--arg takes KEY=VALUE" in capsys.readouterr().err
    assert app.main(["flags", "nothing.vpy"]) == 1
    assert "there is no script 'nothing.vpy'" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(vs.core, "bs"), reason="VapourSynth has no plugin bs: install the extra samples")
def test_a_sample(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["flags", str(Path(__file__).parents[2] / "samples" / "basic.vpy")]) == 0
    assert capsys.readouterr().out == (
        "--range limited --colormatrix bt709 --colorprim bt709 --transfer bt709 --chromaloc 0 --sar 1:1\n"
    )


def test_a_script_is_evaluated_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As vspipe does, so that paths in it mean the same."""
    (tmp_path / "scripts").mkdir()
    path = script(tmp_path / "scripts", FULL)
    Path(path).write_text("open('beside.txt').close()\n" + Path(path).read_text("utf-8"), encoding="utf-8")
    (tmp_path / "scripts" / "beside.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert app.main(["flags", "scripts/ein Skript ü.vpy"]) == 0
    assert "--range limited" in capsys.readouterr().out
    assert Path.cwd() == tmp_path
