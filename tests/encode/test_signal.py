"""What frames say of themselves reaches each encoder in its own words."""

from __future__ import annotations

from vsflashsr.encode import signal
from vsflashsr.encode.signal import Mastering, Signal

HDR10 = {
    "_Range": 0,
    "_Matrix": 9,
    "_Primaries": 9,
    "_Transfer": 16,
    "_ChromaLocation": 2,
    "_SARNum": 64,
    "_SARDen": 45,
    "MasteringDisplayPrimariesX": [0.708, 0.17, 0.131],
    "MasteringDisplayPrimariesY": [0.292, 0.797, 0.046],
    "MasteringDisplayWhitePointX": 0.3127,
    "MasteringDisplayWhitePointY": 0.329,
    "MasteringDisplayMinLuminance": 0.0001,
    "MasteringDisplayMaxLuminance": 1000.0,
    "ContentLightLevelMax": 1000,
    "ContentLightLevelAverage": 400,
}
DISPLAY = "G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)L(10000000,1)"


def test_x265() -> None:
    assert signal.x265_flags(signal.from_props(HDR10)) == [
        "--range", "limited", "--colormatrix", "bt2020nc", "--colorprim", "bt2020", "--transfer", "smpte2084",
        "--chromaloc", "2", "--sar", "64:45", "--master-display", DISPLAY, "--max-cll", "1000,400", "--hdr10",
    ]  # fmt: skip


def test_x264() -> None:
    flags = signal.x264_flags(signal.from_props(HDR10))
    assert flags[:2] == ["--range", "tv"]
    assert flags[-4:] == ["--mastering-display", DISPLAY, "--cll", "1000,400"]
    assert signal.x264_flags(Signal(matrix=8)) == ["--colormatrix", "YCgCo"]
    assert signal.x265_flags(Signal(matrix=8)) == ["--colormatrix", "ycgco"]


def test_svt_av1() -> None:
    assert signal.svt_av1_flags(signal.from_props(HDR10)) == [
        "--color-range", "0", "--matrix-coefficients", "9", "--color-primaries", "9", "--transfer-characteristics", "16",
        "--mastering-display",
        "G(0.17000,0.79700)B(0.13100,0.04600)R(0.70800,0.29200)WP(0.31270,0.32900)L(1000.0000,0.0001)",
        "--content-light", "1000,400",
    ]  # fmt: skip


def test_ffmpeg() -> None:
    assert signal.ffmpeg_flags(Signal(full_range=True, matrix=5, transfer=4, chroma_location=0, sample_aspect=(16, 15))) == [
        "-vf", "setparams=range=pc:colorspace=bt470bg:color_trc=gamma22,setsar=16/15", "-chroma_sample_location", "left",
    ]  # fmt: skip


def test_mkvmerge() -> None:
    flags = signal.mkvmerge_flags(signal.from_props(HDR10), 1440, 1152)
    named = dict(zip(flags[::2], flags[1::2], strict=True))
    assert named["--color-range"] == "0:1"
    assert named["--max-content-light"] == "0:1000"
    assert named["--chromaticity-coordinates"] == "0:0.708,0.292,0.17,0.797,0.131,0.046"
    assert named["--display-dimensions"] == "0:2048x1152"


def test_what_isnt_said_is_left_out() -> None:
    silent = signal.from_props({"_Matrix": 2, "_Primaries": 2, "_Transfer": 2, "_SARNum": 0, "_SARDen": 1})
    assert silent == Signal()
    for flags in (signal.x265_flags, signal.x264_flags, signal.svt_av1_flags, signal.ffmpeg_flags):
        assert flags(silent) == []


def test_the_older_range_property_counts_the_other_way_round() -> None:
    assert signal.from_props({"_ColorRange": 0}).full_range is True
    assert signal.from_props({"_ColorRange": 0, "_Range": 0}).full_range is False


def test_display_size_never_shrinks_a_side() -> None:
    assert signal.display_size(1440, 960, (32, 27)) == (1707, 960)
    assert signal.display_size(1440, 960, (8, 9)) == (1440, 1080)


def test_broken_mastering_data_is_none() -> None:
    assert signal.from_props({**HDR10, "MasteringDisplayPrimariesX": [0.7]}).mastering is None
    assert isinstance(signal.from_props(HDR10).mastering, Mastering)


def test_what_changes_from_frame_to_frame_is_named() -> None:
    assert signal.not_carried(HDR10) is None
    both = signal.not_carried({**HDR10, "HDR10Plus": b"", "DolbyVisionRPU": b""})
    assert both is not None and both.startswith("Dolby Vision and HDR10+ metadata")
