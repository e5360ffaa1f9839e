"""demo.sh makes a file that plays, with every frame and the right colours, and fails loudly when a stage fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
FRAMES = 6


def run_demo(out: Path, *arguments: str, frames: int = FRAMES, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"DEMO_OUT": str(out), "DEMO_FRAMES": str(frames)} | changes
    command = [str(ROOT / "scripts" / "demo.sh"), *arguments]
    return subprocess.run(
        command, check=False, capture_output=True, encoding="utf-8", env=environment, cwd=out, timeout=900
    )


def probe(path: Path) -> dict[str, Any]:
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-show_frames", "-of", "json", str(path)]
    result = subprocess.run(command, check=True, capture_output=True, encoding="utf-8")
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def read_png(path: Path) -> np.ndarray:
    size = probe(path)["streams"][0]
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(size["height"], size["width"], 3)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform == "win32" or shutil.which("bash") is None, reason="demo.sh needs bash")
class TestDemo:
    def test_makes_a_file_that_plays(self, tmp_path: Path) -> None:
        out = tmp_path / "mit Leerzeichen ü"
        out.mkdir()
        result = run_demo(out)
        assert result.returncode == 0, result.stderr
        assert sorted(path.name for path in out.iterdir()) == ["bbb_480i_x2.mkv", "bbb_480i_x2_before_after.png"]
        assert "fps" in result.stdout
        assert str(out / "bbb_480i_x2.mkv") in result.stdout

        answer = probe(out / "bbb_480i_x2.mkv")
        stream = answer["streams"][0]
        assert stream["codec_name"] == "hevc"
        assert stream["nb_read_frames"] == str(FRAMES)
        assert (stream["width"], stream["height"], stream["pix_fmt"]) == (1440, 960, "yuv420p10le")
        assert stream["color_range"] == "tv"
        assert [stream[key] for key in ("color_space", "color_primaries", "color_transfer")] == ["smpte170m"] * 3
        shape = [float(part) for part in stream["display_aspect_ratio"].split(":")]
        assert shape[0] / shape[1] == pytest.approx(16 / 9, abs=0.002)
        times = [float(frame["pts_time"]) for frame in answer["frames"]]
        assert times == pytest.approx([n * 1001 / 60000 for n in range(FRAMES)], abs=0.001)

    def test_picture_has_the_same_colours_on_both_sides(self, tmp_path: Path) -> None:
        """A wrong matrix or range anywhere between source and player would shift one side's mean."""
        result = run_demo(tmp_path)
        assert result.returncode == 0, result.stderr
        picture = read_png(tmp_path / "bbb_480i_x2_before_after.png").astype(np.float64)
        before, after = np.split(picture, 2, axis=1)
        assert np.abs(before.mean(axis=(0, 1)) - after.mean(axis=(0, 1))).max() < 2.5
        assert before.std() > 20
        assert np.abs(before - after).max() > 8, "both sides are the same picture"

    def test_own_input_and_scale(self, tmp_path: Path) -> None:
        clip = tmp_path / "eigener Clip é.mp4"
        shutil.copy(ROOT / "samples" / "clips" / "butterfly_270p.mp4", clip)
        result = run_demo(tmp_path, clip.name, "1.5", frames=3)  # a path relative to where it is called
        assert result.returncode == 0, result.stderr
        stream = probe(tmp_path / "eigener Clip é_x1.5.mkv")["streams"][0]
        assert (stream["width"], stream["height"], stream["nb_read_frames"]) == (720, 406, "3")
        assert stream["color_space"] == "bt709"

    def test_failing_encoder_is_named(self, tmp_path: Path) -> None:
        fake = tmp_path / "bin"
        fake.mkdir()
        (fake / "x265").write_text("#!/bin/sh\nexit 3\n", encoding="utf-8")
        (fake / "x265").chmod(0o755)
        # The environment's own bin comes first on PATH, but it has no x265.
        result = run_demo(tmp_path, PATH=f"{fake}:{os.environ['PATH']}")
        assert result.returncode != 0
        assert "x265 failed with exit code 3" in result.stderr

    def test_unreadable_input_is_named(self, tmp_path: Path) -> None:
        result = run_demo(tmp_path, "nothing there.mkv")
        assert result.returncode != 0
        assert "nothing there.mkv" in result.stderr.splitlines()[-1]

    def test_input_that_is_no_video_fails(self, tmp_path: Path) -> None:
        (tmp_path / "text.mkv").write_text("no video\n", encoding="utf-8")
        result = run_demo(tmp_path, "text.mkv")
        assert result.returncode != 0
        assert list(tmp_path.glob("*x2*")) == []

    @pytest.mark.parametrize("scale", ["9", "0.5", "x"])
    def test_bad_scale_fails(self, tmp_path: Path, scale: str) -> None:
        result = run_demo(tmp_path, str(ROOT / "samples" / "clips" / "butterfly_270p.mp4"), scale)
        assert result.returncode != 0
        assert "scale" in result.stderr
