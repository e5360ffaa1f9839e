"""What ffprobe says of a file is read as it is meant."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from vsflashsr.encode.container import parse
from vsflashsr.encode.encoders import FFV1, NVENC, SVT_AV1, X264, X265, sample_bits, subsampling
from vsflashsr.errors import FlashsrError

VIDEO = {"index": 1, "codec_type": "video", "codec_name": "hevc", "r_frame_rate": "25/1", "avg_frame_rate": "0/0"}
COVER = {"index": 0, "codec_type": "video", "codec_name": "png", "disposition": {"attached_pic": 1}}


def said(**video: Any) -> dict[str, Any]:
    return {
        "streams": [{**VIDEO, **video}, COVER],
        "format": {"format_name": "matroska,webm", "start_time": "1.5", "duration": "8"},
    }


def test_cover_art_is_not_the_video() -> None:
    found = parse(said(nb_frames="200"), Path("x"))
    assert (found.video.index, [s.index for s in found.others]) == (1, [0])
    assert (found.matroska, found.video_frames, found.rates) == (True, 200, (Fraction(25),))
    assert found.end_s == 9.5


def test_when_the_video_ends() -> None:
    assert parse(said(duration="7.5", start_time="1.75"), Path("x")).video_end_s == 9.25
    assert parse(said(tags={"DURATION-eng": "00:01:07.5"}), Path("x")).video_end_s == 67.5
    assert parse(said(), Path("x")).video_end_s is None


def test_dolby_vision_is_told_by_its_profile() -> None:
    record = {"side_data_type": "DOVI configuration record", "dv_profile": 8}
    assert parse(said(side_data_list=[{"side_data_type": "Display Matrix"}, record]), Path("x")).dolby_vision == 8
    assert parse(said(), Path("x")).dolby_vision is None


def test_no_video_names_what_there_is() -> None:
    with pytest.raises(FlashsrError, match="with video 0 png"):
        parse({"streams": [COVER]}, Path("x"))


def test_depth_and_subsampling_are_the_sources_within_what_the_encoder_takes() -> None:
    assert [sample_bits(e, 8, None) for e in (X265, X264, SVT_AV1, NVENC, FFV1)] == [10, 8, 10, 10, 8]
    assert [sample_bits(e, 12, None) for e in (X265, X264, SVT_AV1, FFV1)] == [12, 10, 10, 12]
    assert [sample_bits(X265, 16, wanted) for wanted in (8, 9, 10)] == [8, 10, 10]
    assert [subsampling(X265, *s) for s in ((1, 1), (1, 0), (0, 0), (2, 0))] == [(1, 1), (1, 0), (0, 0), (1, 0)]
    assert [subsampling(SVT_AV1, *s) for s in ((0, 0), (1, 0))] == [(1, 1), (1, 1)]
    assert subsampling(NVENC, 1, 0) == (0, 0)
