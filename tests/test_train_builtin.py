"""Training of the built-in model: it learns, resumes to the same bytes, keeps flat areas flat and exports what it is."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
av = pytest.importorskip("av")
onnxruntime = pytest.importorskip("onnxruntime")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import train_builtin  # noqa: E402

from trt_build.builtin import data, degrade, motion, pages, shapes  # noqa: E402
from trt_build.builtin.export import check_graph, export_graph, load  # noqa: E402
from trt_build.builtin.network import Net, NetConfig  # noqa: E402
from trt_build.builtin.train import TrainConfig, Trainer, run_sequence  # noqa: E402

from .rtx import TARGETS, compile_onnx  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of a texture that moves."""
    folder: Path = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        texture = np.kron(rng.integers(40, 200, (40, 48)), np.ones((4, 4))).astype(np.uint8)
        with av.open(str(folder / f"{name}.mkv"), "w") as container:
            stream = container.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
            for n in range(6):
                yuv = np.full((144, 128), 128, np.uint8)
                yuv[:96] = texture[n : n + 96, 2 * n : 2 * n + 128]
                container.mux(stream.encode(av.VideoFrame.from_ndarray(yuv, format="yuv420p")))
            container.mux(stream.encode(None))
    return folder


def arguments(clips: Path, out: Path, *more: str) -> argparse.Namespace:
    small = "--single 4 --single-batch 3 --single-crop 16 --steps 4 --batch 2 --length 3 --crop 32 --channels 8 --layers 2"
    small += " --validate-every 3 --threads 1 --drawn 0"
    cache = clips / "cache"
    return train_builtin.parse(["--data", str(clips), "--cache", str(cache), "--out", str(out), *small.split(), *more])


@pytest.fixture(scope="module")
def run(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of an uninterrupted run."""
    return train_builtin.train(arguments(clips, tmp_path_factory.mktemp("run")))


def weights(checkpoint: Path) -> dict[str, Any]:
    state = torch.load(checkpoint, weights_only=True)
    return {**state["net"], **{f"average.{k}": v for k, v in state["average"].items()}}


@pytest.mark.parametrize("stop", ["2", "6"])
def test_run_resumed_in_either_phase_equals_uninterrupted_one(
    stop: str, clips: Path, run: Path, tmp_path: Path
) -> None:
    train_builtin.train(arguments(clips, tmp_path, "--stop", stop))
    resumed = train_builtin.train(arguments(clips, tmp_path, "--resume"))
    a, b = weights(run), weights(resumed)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert (tmp_path / "curve.png").stat().st_size > 0


@pytest.mark.parametrize("scale", [2, 4])
def test_onnx_equals_torch_and_has_the_contract_s_names(scale: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net(NetConfig(scale, channels=8, layers=2, state=4)).fold()
    export_graph(net, tmp_path / "x.onnx")
    assert check_graph(net, tmp_path / "x.onnx") < 1e-5
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["frames", "state.luma", "state.hidden"]
    assert [o.name for o in session.get_outputs()] == ["out", "next.luma", "next.hidden"]


def test_folded_network_is_the_trained_one(run: Path) -> None:
    folded, state = load(run)
    net = Net(NetConfig(**state["config"]["net"]))
    net.load_state_dict(state["average"])
    frames = torch.rand(1, 3, 1, 32, 40)
    with torch.no_grad():
        assert torch.allclose(run_sequence(net, frames), run_sequence(folded, frames), atol=1e-5)


def test_x4_starts_from_x2_s_first_phase(clips: Path, run: Path, tmp_path: Path) -> None:
    """The trunk and the stem are taken over, the head is its own; nothing of the memory is known yet."""
    start = run.parent / "single.pt"
    more = ["--start-from", str(start), "--rate", "0"]
    a = arguments(clips, tmp_path, *more, "--scale", "4", "--crop", "16", "--single", "0", "--steps", "1")
    theirs, mine = weights(start), weights(train_builtin.train(a))
    assert torch.equal(mine["trunk.1.direct"], theirs["average.trunk.1.direct"])
    assert torch.equal(mine["stem.luma"], theirs["average.stem.luma"])
    assert not theirs["average.stem.hidden"].any()
    assert mine["head.weight"].shape[0] == 16 + 4


def test_command_exports_a_bundle(clips: Path, run: Path, tmp_path: Path) -> None:
    train_builtin.export(run, tmp_path, "tiny")
    assert {p.name for p in tmp_path.iterdir()} == {"x2.onnx", "bundle.json"}


def test_memory_starts_as_nothing_and_is_learned_in_the_second_phase(clips: Path, run: Path, tmp_path: Path) -> None:
    frames = torch.rand(1, 3, 1, 32, 32)
    first, second = (
        Net(NetConfig(**torch.load(path, weights_only=True)["config"]["net"])).eval()
        for path in (train_builtin.train(arguments(clips, tmp_path, "--stop", "4")), run)
    )
    for net, path in ((first, tmp_path / "last.pt"), (second, run)):
        net.load_state_dict(torch.load(path, weights_only=True)["net"])
    with torch.no_grad():
        assert torch.allclose(run_sequence(first, frames), run_sequence(first, frames, forget=True), atol=1e-6)
        carried = run_sequence(second, frames)[:, 1]
        cold = run_sequence(second, frames[:, 1:])[:, 0]
    assert not torch.allclose(carried, cold)


def test_flat_area_gives_the_same_at_every_level_and_up_to_the_border(run: Path) -> None:
    """Whatever the weights, the residual of a flat frame is one constant pattern that doesn't know its level."""
    net, _ = load(run)
    with torch.no_grad():
        dark, light = (run_sequence(net, torch.full((1, 3, 1, 24, 32), v)) - v for v in (0.1, 0.9))
    assert torch.allclose(dark, light, atol=1e-5)


def test_flat_areas_are_trained_to_stay_flat(tmp_path: Path) -> None:
    """Where the pictures would have everything lighter, the penalty keeps a flat area as it is."""

    def tint(flat: float) -> float:
        torch.manual_seed(0)
        config = TrainConfig(single=60, steps=0, single_rate=1e-2, flat=flat)
        trainer = Trainer(NetConfig(2, channels=8, layers=1), config, tmp_path, "cpu")
        low = torch.randint(16, 200, (2, 1, 1, 16, 16), dtype=torch.uint8)
        high = low.repeat_interleave(2, 3).repeat_interleave(2, 4) + 30
        for _ in range(60):
            trainer._train_step(low, high, True)
            trainer.step += 1
        with torch.no_grad():
            return float(trainer.net.single(torch.zeros(1, 1, 16, 16)).abs().mean())

    assert tint(1.0) < 0.3 * tint(0.0)


def test_drawn_clips_are_pictures_in_range() -> None:
    for draw in (pages.page, shapes.shapes):
        clip = draw(np.random.default_rng(3))
        assert clip.shape == (pages.FRAMES, pages.HEIGHT, pages.WIDTH)
        assert clip.dtype == np.uint8
        assert clip.max() <= 235
        assert clip.std() > 20


@pytest.mark.long
def test_tensorrt_rtx_compiles_the_graph(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install tensorrt-rtx")
    torch.manual_seed(0)
    export_graph(Net(NetConfig(4, channels=8, layers=2)).fold(), tmp_path / "x.onnx")
    profile = {
        name: ((1, c, 16, 16), (1, c, 272, 480), (1, c, 544, 960))
        for name, c in (("frames", 1), ("state.luma", 1), ("state.hidden", 4))
    }
    for target in TARGETS:
        plan, _ = compile_onnx(tmp_path / "x.onnx", target, profile)
        assert len(plan) > 0


def test_motion_finds_a_shift() -> None:
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.random((1, 1, 24, 24), dtype=np.float32))
    picture = torch.nn.functional.interpolate(noise, scale_factor=4.0, mode="bicubic")
    now, before = picture[:, :, 8:72, 8:72], picture[:, :, 11:75, 6:70]
    inner = motion.motion(now, before)[0, :, 12:-12, 12:-12]
    assert inner[0].median().item() == pytest.approx(2, abs=0.1)
    assert inner[1].median().item() == pytest.approx(-3, abs=0.1)


def test_lanczos_base_keeps_flat_areas_flat() -> None:
    net = Net(NetConfig(4, channels=8, layers=1, state=4)).eval()
    torch.nn.init.zeros_(net.head.weight)
    frames = torch.full((1, 2, 1, 24, 32), 0.37)
    with torch.no_grad():
        assert (run_sequence(net, frames) - 0.37).abs().max().item() < 1e-5


@pytest.mark.parametrize("codec", ["h264", "mpeg2"])
def test_codec_pass_changes_a_clip_a_little(codec: str) -> None:
    luma = np.random.default_rng(0).integers(60, 120, (5, 48, 64), np.uint8)
    out = degrade.code(luma, codec, 5, "veryfast")  # type: ignore[arg-type]
    assert out.shape == luma.shape
    assert 0 < np.abs(out.astype(int) - luma).mean() < 12


def test_sampler_depends_on_the_step_alone(clips: Path) -> None:
    prepared = data.prepare(clips, clips / "cache", 2, 64, 1, 1, drawn=0)
    a, b = (data.Sampler(prepared, 2, 2, 3, 32, 1) for _ in range(2))
    a(0)
    assert all(torch.equal(x, y) for x, y in zip(a(5), b(5), strict=True))
