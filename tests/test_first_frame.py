"""What the first frame tells is refused when the script runs, and a frame that isn't finite is named as the input's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import vapoursynth as vs

from vsflashsr import flashsr
from vsflashsr.chroma import predictable
from vsflashsr.first_frame import try_conversions
from vsflashsr.formats import check_clip

from .support.tiny import write_tiny_bundle

core = vs.core


def clip(format: int = vs.YUV420P8, **properties: Any) -> vs.VideoNode:
    return core.std.BlankClip(format=format, width=32, height=32, length=9).std.SetFrameProps(**properties)


def refusal(*arguments: Any, **named: Any) -> str:
    with pytest.raises(vs.Error) as caught:
        flashsr(*arguments, **{"scale": 2, "backend": "onnxruntime", **named})
    sentence = str(caught.value)
    assert sentence.startswith("flashsr: ") and "\n" not in sentence and "; " in sentence
    return sentence


@pytest.mark.parametrize(
    ("made", "named", "says"),
    [
        (lambda: clip(vs.RGB24, _Matrix=1), {}, "the clip is RGB24, whose matrix is 0, got _Matrix=1"),
        (lambda: clip(_Matrix=99), {"format": vs.RGB24}, "_Matrix=99"),
        (lambda: clip(_Matrix="x"), {}, "the clip's _Matrix is a number, got 'x'"),
        (lambda: clip(_Matrix=1, _FieldBased="top"), {}, "the clip's _FieldBased is a number, got 'top'"),
        (lambda: clip(_Matrix=1, _FieldBased=1), {}, "field-based, got _FieldBased=1; deinterlace"),
    ],
)  # fmt: skip
def test_properties_that_cannot_be_are_refused_when_the_script_runs(made: Any, named: Any, says: str) -> None:
    assert says in refusal(made(), **named)


def test_subsampling_that_the_resizer_does_not_take_is_refused_when_the_script_runs() -> None:
    coarse = core.query_video_format(vs.YUV, vs.INTEGER, 8, 3, 0).id
    assert "the clip's chroma is subsampled by 4 at most, got" in refusal(clip(coarse))
    assert "format's chroma is subsampled by 4 at most, got" in refusal(clip(_Matrix=1), format=coarse)


@pytest.mark.parametrize("channels", ["luma", "rgb"])
@pytest.mark.parametrize("source", [vs.GRAY8, vs.GRAYS, vs.YUV410P8, vs.YUV444P16, vs.RGB24, vs.RGBH])
@pytest.mark.parametrize("target", [vs.GRAY16, vs.YUV420P10, vs.YUV444PS, vs.RGB48])
def test_what_can_be_converted_is_not_refused(channels: Any, source: vs.PresetVideoFormat, target: vs.PresetVideoFormat) -> None:
    wanted = core.get_video_format(target)
    made = clip(int(source))
    properties = {} if check_clip(made).color_family == vs.RGB else {"_Matrix": 1, "_Range": 0}
    for predicted in {False, channels == "luma" and predictable(made, wanted)}:
        try_conversions(made, properties, channels, wanted, 2.5, predicted=predicted)
        try_conversions(made, {}, channels, wanted, 2, predicted=predicted)


def test_an_input_that_is_not_finite_is_named_with_its_frame(tmp_path: Path) -> None:
    tiny = write_tiny_bundle(tmp_path / "tiny")
    good = clip(vs.GRAYS)
    bad = good.std.Expr("0 0 /")
    out = flashsr(good[:5] + bad[:1] + good[6:], 2, model=str(tiny), backend="onnxruntime")
    out.get_frame(3).close()
    with pytest.raises(vs.Error) as caught:
        out.get_frame(5)
    assert str(caught.value).startswith("flashsr: the input's frame 5 holds a value that is not finite, got NaN or infinity; ")
