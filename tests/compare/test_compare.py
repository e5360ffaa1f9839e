"""`vsflashsr compare`: every method's own frames, true scores, and a page that works alone."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vapoursynth as vs
from PIL import Image

from vsflashsr import flashsr
from vsflashsr.commands import app
from vsflashsr.compare.methods import method
from vsflashsr.compare.pictures import busiest, picture, sheet, to_rgb
from vsflashsr.compare.scores import psnr, scores, ssim
from vsflashsr.errors import FlashsrError

from ..support.clips import noise
from ..support.tiny import write_frame_graph

core = vs.core
SCRIPT = """
import vapoursynth as vs
from tests.support.clips import noise
print("a script may print")
noise(6, 64, 48, vs.YUV420P8).std.BoxBlur(hradius=3, vradius=3).std.SetFrameProps(_Matrix=6, _SARNum=32, _SARDen=27).set_output()
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "kleiner Clip <ü>.vpy"
    path.write_text(SCRIPT, encoding="utf-8")
    return path


def shown(page: Path) -> Any:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"https?://|//\w+\.\w+/", text), "the page names a place in the network"
    return json.loads(text.split('type="application/json">', 1)[1].split("</script>", 1)[0])


def decoded(uri: str) -> np.ndarray:
    kind, _, packed = uri.partition(",")
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(packed))).convert("RGB"))


def clip_of_the_script() -> vs.VideoNode:
    return noise(6, 64, 48).std.BoxBlur(hradius=3, vradius=3).std.SetFrameProps(_Matrix=6)


def test_the_page_shows_every_methods_own_frames(
    script: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx = write_frame_graph(tmp_path / "models" / "frame.onnx", 2)
    page = tmp_path / "page.html"
    names = ["lanczos", str(tiny), str(onnx)]
    arguments = ["compare", str(script), "-o", str(page), *(word for name in names for word in ("-m", name))]
    assert app.main([*arguments, "--pictures", "2"]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    data = shown(page)
    assert [m["name"] for m in data["methods"]] == ["Lanczos", "tiny", "frame.onnx"]
    assert (data["width"], data["height"], data["frames"]) == (128, 96, [1, 4])
    assert data["aspect"] == pytest.approx(32 / 27)
    assert "<" in data["title"] and "Clip <" not in page.read_text(encoding="utf-8")
    clip = clip_of_the_script()
    for made, out in zip(data["methods"], [clip.resize.Lanczos(128, 96), flashsr(clip, 2, model=tiny)], strict=False):
        for uri, n in zip(made["pictures"], [1, 4], strict=True):
            with to_rgb(out, vs.RGB24).get_frame(n) as frame:
                assert np.array_equal(decoded(uri), picture(frame)), made["name"]
        loop = decoded(made["loop"])
        assert loop.shape[1] == data["loop_columns"] * data["loop_width"]
        assert made["scores"] is None
        assert made["seconds_per_frame"] > 0


def test_scores_against_the_clip_itself(script: Path, tiny: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert app.main(["compare", str(script), "-o", str(page), "-m", "lanczos", "-m", str(tiny), "--shrink"]) == 0
    data = shown(page)
    assert [m["name"] for m in data["methods"]] == ["Lanczos", "tiny", "reference"]
    assert (data["width"], data["height"]) == (64, 48)
    clip = clip_of_the_script()
    small = clip.resize.Bicubic(32, 24, filter_param_a=0, filter_param_b=0.5)
    expected = scores(clip, small.resize.Lanczos(64, 48), range(6))
    assert data["methods"][0]["scores"]["psnr"] == pytest.approx(expected.psnr)
    assert data["methods"][0]["scores"]["ssim"] == pytest.approx(expected.ssim)
    # tiny adds a memory to the picture: it is worse, and the page says so.
    assert data["methods"][1]["scores"]["psnr"] < data["methods"][0]["scores"]["psnr"]
    assert data["methods"][2]["scores"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "0"], "--count and --pictures"),
        (["--start", "6"], "--start is a frame"),
        (["--scale", "5", "-m", "builtin"], "scale is at least 1"),
        (["-m", "no such model"], "there is no model"),
        (["--shrink", "--scale", "4"], "16 pixels a side"),
        (["--reference", "nothing.mkv"], "there is no file"),
        (["--shrink", "--reference", "nothing.mkv"], "give one of them"),
    ],
)
def test_what_cant_be_compared_is_a_sentence(
    arguments: list[str], message: str, script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert app.main(["compare", str(script), "-o", str(page), *arguments]) == 1
    said = capsys.readouterr()
    assert message in said.err.splitlines()[-1]
    assert not page.exists()


def test_a_script_that_fails_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "fails.vpy"
    path.write_text("import vapoursynth as vs\nclip = vs.core.std.BlankClip()\nclip.nothing.Like()\n", encoding="utf-8")
    assert app.main(["compare", str(path), "-o", str(tmp_path / "x.html")]) == 1
    assert "fails in line 3: AttributeError" in capsys.readouterr().err
    path.write_text("import vapoursynth as vs\n", encoding="utf-8")
    assert app.main(["compare", str(path), "-o", str(tmp_path / "x.html")]) == 1
    assert "call set_output(0) on a clip" in capsys.readouterr().err


def test_a_page_is_never_replaced_unasked(script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine", encoding="utf-8")
    assert app.main(["compare", str(script), "-o", str(page), "-m", "lanczos"]) == 1
    assert "--force" in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == "mine"
    assert app.main(["compare", str(script), "-o", str(page), "-m", "lanczos", "--force"]) == 0
    assert len(shown(page)["methods"]) == 1


@pytest.mark.skipif(not hasattr(core, "znedi3"), reason="there is no plugin znedi3: install the extra compare")
@pytest.mark.parametrize("scale", [1.5, 2, 4])
@pytest.mark.parametrize("video_format", [vs.GRAY8, vs.YUV420P10, vs.RGB24, vs.YUV444PS])
def test_nnedi3_doesnt_move_the_picture(scale: float, video_format: int) -> None:
    """A picture and its mirror image come out as mirror images, whose place is that of Lanczos."""
    smooth = noise(1, 64, 48, vs.GRAYS).std.Convolution([1] * 9).std.Convolution([1] * 9)
    clip = core.std.ShufflePlanes([smooth] * 3, [0] * 3, vs.RGB)
    clip = clip.resize.Bicubic(format=video_format, **({} if video_format == vs.RGB24 else {"matrix": 1}))
    mine, theirs = method("nnedi3", {}, {}).upscale(clip, scale), method("lanczos", {}, {}).upscale(clip, scale)
    assert (mine.width, mine.height, mine.format.id) == (theirs.width, theirs.height, clip.format.id)
    near = _luma(mine)
    far = {shift: float(np.abs(np.roll(near, shift, (0, 1)) - _luma(theirs))[8:-8, 8:-8].mean()) for shift in SHIFTS}
    assert min(far, key=lambda shift: far[shift]) == (0, 0)


SHIFTS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]


def _luma(clip: vs.VideoNode) -> np.ndarray:
    if clip.format.color_family == vs.RGB:
        clip = clip.resize.Point(format=vs.YUV444PS, matrix=1)
    with core.std.ShufflePlanes(clip, 0, vs.GRAY).resize.Point(format=vs.GRAYS).get_frame(0) as frame:
        return np.array(frame[0])


def test_psnr_and_ssim_are_their_formulas() -> None:
    random = np.random.default_rng(1)
    a = random.random((24, 31), np.float32)
    assert psnr(a, a) == 100
    assert psnr(a, a + np.float32(0.1)) == pytest.approx(20, abs=1e-3)
    assert ssim(a, a) == pytest.approx(1)
    b = np.clip(a + random.normal(0, 0.2, a.shape).astype(np.float32), 0, 1)
    window = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    weights = np.outer(window, window) / np.outer(window, window).sum()
    values = []
    for y in range(14):
        for x in range(21):
            p, q = (np.asarray(v[y : y + 11, x : x + 11], np.float64) for v in (a, b))
            mp, mq = (weights * p).sum(), (weights * q).sum()
            vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
            cov = (weights * (p - mp) * (q - mq)).sum()
            values.append((2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    assert ssim(a, b) == pytest.approx(np.mean(values))


@pytest.mark.skipif(not hasattr(core, "vszip"), reason="there is no plugin vszip: install the extra samples")
def test_better_pictures_score_better() -> None:
    clip = clip_of_the_script()
    worse = clip.std.BoxBlur(hradius=2, vradius=2)
    near, far = scores(clip, clip.std.BoxBlur(hradius=1), [2]), scores(clip, worse, [2])
    assert near.ssimulacra2 is not None and far.ssimulacra2 is not None
    assert (near.psnr > far.psnr, near.ssim > far.ssim, near.ssimulacra2 > far.ssimulacra2) == (True, True, True)


def test_the_busiest_part_has_the_detail() -> None:
    luma = np.zeros((200, 300), np.float32)
    luma[96:128, 208:272] = np.random.default_rng(0).random((32, 64))
    part = busiest(luma, 80, 60)
    assert part.left <= 208 and part.left + part.width >= 272
    assert part.top <= 96 and part.top + part.height >= 128
    whole = busiest(luma, 1000, 1000)
    assert (whole.left, whole.top, whole.width, whole.height) == (0, 0, 300, 200)


def test_a_sheet_has_its_pictures_in_rows() -> None:
    pictures = [np.full((3, 2000, 3), i, np.uint8) for i in range(5)]
    whole, columns = sheet(pictures)
    assert (columns, whole.shape) == (2, (9, 4000, 3))
    assert [whole[i // 2 * 3, i % 2 * 2000, 0] for i in range(5)] == [0, 1, 2, 3, 4]


def test_a_page_needs_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from vsflashsr.compare.pictures import data_uri

    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(FlashsrError, match=r"pip install 'vsflashsr\[compare\]'"):
        data_uri(np.zeros((4, 4, 3), np.uint8))


ACTIONS = """
<script>
function press(key, code, shiftKey) { dispatchEvent0(new KeyboardEvent("keydown", {key, code, shiftKey, bubbles: true})); }
function dispatchEvent0(event) { document.body.dispatchEvent(event); }
function pixel(x, y) { return [...still.canvas.getContext("2d").getImageData(x, y, 1, 1).data].slice(0, 3); }
setTimeout(() => {
  const seen = {};
  press("2", "Digit2", true);
  seen.right = [pixel(120, 50), methods[state.right].name];
  seen.left = [pixel(8, 50), methods[state.left].name];
  press(" ", "Space", false);
  seen.swapped = [pixel(120, 50), methods[state.right].name];
  press(".", "Period", false);
  seen.frame = $("place").textContent;
  seen.loupes = loupes.map(c => [...c.getContext("2d").getImageData(5, 5, 1, 1).data].slice(0, 3));
  state.split = 0; redraw();
  seen.unsplit = pixel(8, 50);
  const moved = state.at; $("step").click();
  seen.stepped = state.at !== moved;
  seen.table = $("scores").textContent;
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = JSON.stringify(seen);
  document.body.append(result);
}, 1500);
</script>
"""


@pytest.mark.long
@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium")
def test_the_page_in_a_browser(script: Path, tiny: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert app.main(["compare", str(script), "-o", str(page), "-m", "lanczos", "-m", str(tiny), "--pictures", "2"]) == 0
    data = shown(page)
    acted = tmp_path / "acted.html"
    acted.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{ACTIONS}</body>"), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=6000", "--dump-dom", acted.as_uri()]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=True)
    found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr
    seen = json.loads(found[1].replace("&lt;", "<").replace("&amp;", "&"))
    first, last = ([decoded(uri) for uri in m["pictures"]] for m in data["methods"])
    assert seen["right"] == [last[1][50, 120].tolist(), "tiny"]
    assert seen["left"] == [first[1][50, 8].tolist(), "Lanczos"]
    assert seen["swapped"] == [first[1][50, 120].tolist(), "Lanczos"]
    assert "of frame 4" in seen["frame"]
    assert seen["loupes"] == [m[1][5, 5].tolist() for m in (first, last)]
    assert seen["unsplit"] == first[1][50, 8].tolist()
    assert seen["stepped"] is True
    assert "seconds a frame" in seen["table"]
