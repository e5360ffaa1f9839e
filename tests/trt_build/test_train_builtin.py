"""Training of the built-in model: it learns, resumes to the same bytes, keeps flat areas flat and exports what it is."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

torch = pytest.importorskip("torch")
av = pytest.importorskip("av")
onnxruntime = pytest.importorskip("onnxruntime")
from trt_build.builtin import command, compact, data, degrade, motion, network, pages, shapes  # noqa: E402
from trt_build.builtin.export import check_graph, export_graph, load  # noqa: E402
from trt_build.builtin.graph import average, unfold, weights_of  # noqa: E402
from trt_build.builtin.network import Net, NetConfig  # noqa: E402
from trt_build.builtin.perceptual import luma_ssimulacra2  # noqa: E402
from trt_build.builtin.train import TrainConfig, run_sequence  # noqa: E402

from ..support.rtx import TARGETS, compile_onnx  # noqa: E402

torch.set_num_threads(1)


def film(path: Path, luma: Any) -> None:
    """A lossless file of these frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = luma.shape[2], luma.shape[1], "yuv444p"
        for frame in luma:
            yuv = np.stack([frame, np.full_like(frame, 128), np.full_like(frame, 128)])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(yuv, format="yuv444p")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of a texture that moves."""
    folder: Path = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        texture = np.kron(rng.integers(40, 200, (40, 48)), np.ones((4, 4))).astype(np.uint8)
        film(folder / f"{name}.mkv", np.stack([texture[n : n + 96, 2 * n : 2 * n + 128] for n in range(6)]))
    return folder


def arguments(clips: Path, out: Path, *more: str) -> argparse.Namespace:
    small = "--single 4 --single-batch 3 --single-crop 16 --steps 4 --batch 2 --length 3 --crop 16 --margin 8"
    small += " --channels 8 --layers 2 --validate-every 3 --threads 1 --drawn 0"
    cache = clips / "cache"
    return command.parse(["--data", str(clips), "--cache", str(cache), "--out", str(out), *small.split(), *more])


@pytest.fixture(scope="module")
def run(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of an uninterrupted run."""
    return command.train(arguments(clips, tmp_path_factory.mktemp("run")))


def weights(checkpoint: Path) -> dict[str, Any]:
    state = torch.load(checkpoint, weights_only=True)
    return {**state["net"], **{f"average.{k}": v for k, v in state["average"].items()}}


@pytest.mark.parametrize("stop", ["2", "6"])
def test_run_resumed_in_either_phase_equals_uninterrupted_one(
    stop: str, clips: Path, run: Path, tmp_path: Path
) -> None:
    command.train(arguments(clips, tmp_path, "--stop", stop))
    resumed = command.train(arguments(clips, tmp_path, "--resume"))
    a, b = weights(run), weights(resumed)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert (tmp_path / "curve.png").stat().st_size > 0


@pytest.mark.parametrize("scale", [2, 4])
def test_onnx_equals_torch_and_has_the_contract_s_names(scale: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net(NetConfig(scale, channels=8, layers=2)).fold()
    export_graph(net, tmp_path / "x.onnx")
    assert check_graph(net, tmp_path / "x.onnx") < 1e-5
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["frames", "state.luma", "state.picture"]
    assert [o.name for o in session.get_outputs()] == ["out", "next.luma", "next.picture"]


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
    a = arguments(clips, tmp_path, *more, "--scale", "4", "--crop", "8", "--single", "0", "--steps", "1")
    theirs, mine = weights(start), weights(command.train(a))
    assert torch.equal(mine["trunk.1.direct"], theirs["average.trunk.1.direct"])
    assert torch.equal(mine["stem.luma"], theirs["average.stem.luma"])
    assert torch.equal(mine["gate.weight"], theirs["average.gate.weight"])
    assert not theirs["average.stem.past"].any()
    assert mine["head.weight"].shape[0] == 16


def test_command_exports_a_bundle(clips: Path, run: Path, tmp_path: Path) -> None:
    command.export(run, tmp_path, "tiny")
    assert {p.name for p in tmp_path.iterdir()} == {"x2.onnx", "bundle.json"}


def test_what_reads_the_memory_is_learned_in_the_second_phase(clips: Path, run: Path, tmp_path: Path) -> None:
    first = weights(command.train(arguments(clips, tmp_path, "--stop", "4")))
    assert not first["stem.past"].any()
    second = weights(run)
    assert second["stem.past"].any()
    assert not torch.equal(first["gate.weight"], second["gate.weight"])


@pytest.mark.parametrize("scale", [2, 4])
def test_memory_takes_part_where_the_picture_stays_and_none_where_it_changes(scale: int) -> None:
    torch.manual_seed(0)
    net = Net(NetConfig(scale, channels=8, layers=2)).eval()
    texture = torch.nn.functional.interpolate(torch.rand(1, 1, 8, 12), scale_factor=4.0, mode="bicubic") * 0.3 + 0.35
    with torch.no_grad():
        cold, luma, picture = net(texture, *net.first_state(texture))
        # What is remembered is brighter by 0.004 than what the frame gives: the result lies between the two.
        here = torch.zeros(1, 2, 32, 48)
        kept, _, following = net(texture, luma + 0.01, picture + 0.004, here)
        changed, *_ = net(texture, luma + 0.01, picture + 0.5, here)
    share = ((kept - cold) / 0.004)[..., 8:-8, 8:-8]
    # Not everywhere: what would leave the range of the frame's neighbours is cut off.
    assert share.mean() > 0.05
    assert share.max() < network.KEEP
    assert torch.allclose(changed, cold, atol=1e-6)
    half = torch.nn.functional.avg_pool2d(kept, scale // 2) if scale > 2 else kept
    assert torch.allclose(following, half, atol=1e-6), "what is remembered is the result at twice the frame's size"


def test_memory_of_a_wrong_picture_fades() -> None:
    """Whatever the gate says, moved by half a pixel again and again: nothing grows."""
    torch.manual_seed(0)
    net = Net(NetConfig(2, channels=8, layers=2)).eval()
    torch.nn.init.constant_(net.gate.bias, 20)
    frame = torch.full((1, 1, 32, 32), 0.5)
    flow = torch.full((1, 2, 32, 32), 0.25)
    with torch.no_grad():
        clean, *_ = net(frame, *net.first_state(frame), flow)
        noise = 0.02 * torch.randn(1, 1, 64, 64)
        picture = clean + noise
        for _ in range(30):
            out, _, picture = net(frame, frame + 0.01, picture, flow)
    assert (out - clean).abs().max() < 0.1 * noise.abs().max()


@pytest.mark.parametrize("scale", [2, 4])
def test_what_stands_still_stays_and_what_moves_does_not(scale: int) -> None:
    torch.manual_seed(0)
    net = Net(NetConfig(scale, channels=8, layers=2)).eval()
    torch.nn.init.normal_(cast("Any", net.stem).past, std=0.1)
    page = torch.rand(1, 1, 48, 64)
    changed = page.clone()
    changed[..., 32:] = torch.rand(1, 1, 48, 32)
    with torch.no_grad():
        state: Any = net.first_state(page)
        results = []
        for frame in (page, page, page, *[changed] * 9):
            out, *state = net(frame, *state)
            results.append(out)
        alone, *_ = net(changed, *net.first_state(changed))
    _, second, third, after, *_, last = results
    assert torch.allclose(second, third, atol=1e-4)
    # Where it changed, and soon everywhere, it is what it would be if nothing had been before.
    assert (last - alone).abs().max() * 219 < 1
    if scale == 2:
        # As far as nothing that changed is seen.
        assert torch.allclose(third[..., : 2 * 24], after[..., : 2 * 24], atol=1e-4)
    assert (third - after)[..., scale * 36 :].abs().max() > 0.1


@pytest.mark.parametrize("shift", [(0.0, 0.0), (1.0, -2.0), (0.25, -0.3)])
def test_recalled_picture_is_moved_without_a_blur(shift: tuple[float, float]) -> None:
    """A wave of 6 pixels of the large picture, moved by `shift` pixels of the small one: bilinearly it would lose a seventh."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(80.0), indexing="ij")

    def wave(dx: float, dy: float) -> Any:
        return (torch.sin((x + 2 * dx) * torch.pi / 3) + torch.cos((y + 2 * dy) * torch.pi / 4))[None, None]

    flow = torch.tensor(shift).view(1, 2, 1, 1).expand(1, 2, 32, 40)
    got = torch.nn.functional.pixel_shuffle(motion.recall(wave(0, 0), flow, motion.difference_kernel()), 2)
    error = (got - wave(*shift))[..., 8:-8, 8:-8].abs().max()
    blurred = (motion.warp(wave(0, 0), 2 * flow.repeat_interleave(2, 2).repeat_interleave(2, 3)) - wave(*shift))[
        ..., 8:-8, 8:-8
    ]
    assert error < 1e-5 if all(v == int(v) for v in shift) else error < 0.7 * blurred.abs().max()


def test_phases_of_twice_and_four_times_the_size_are_those_of_the_pictures() -> None:
    small, large = torch.rand(1, 4, 6, 7), torch.rand(1, 16, 6, 7)
    shuffle = torch.nn.functional.pixel_shuffle
    doubled = shuffle(torch.nn.functional.conv2d(small, network.doubling_kernel(), padding=1), 4)
    expected = torch.nn.functional.interpolate(shuffle(small, 2), scale_factor=2.0, mode="bilinear")
    assert torch.allclose(doubled[..., 4:-4, 4:-4], expected[..., 4:-4, 4:-4], atol=1e-6)
    halved = shuffle(torch.nn.functional.conv2d(large, network.halving_kernel(4)), 2)
    assert torch.allclose(halved, torch.nn.functional.avg_pool2d(shuffle(large, 4), 2), atol=1e-6)


def test_flat_area_gives_the_same_at_every_level_and_up_to_the_border(run: Path) -> None:
    """Whatever the weights, the residual of a flat frame is one constant pattern that doesn't know its level."""
    net, _ = load(run)
    with torch.no_grad():
        dark, light = (run_sequence(net, torch.full((1, 3, 1, 24, 32), v)) - v for v in (0.1, 0.9))
    assert torch.allclose(dark, light, atol=1e-5)


def test_picture_stays_within_its_neighbours_range() -> None:
    """Whatever the head says: no more than MARGIN of the range of 3x3 pixels beyond it; so flat is flat."""
    net = Net(NetConfig(2, channels=8, layers=1))
    torch.nn.init.normal_(cast("Any", net.head).bias, std=100)
    frame = torch.full((1, 1, 16, 24), 0.3)
    frame[..., 12:] = 0.9
    with torch.no_grad():
        out = net.single(frame)
    assert torch.equal(out[..., :20], torch.full((1, 1, 32, 20), 0.3))
    assert out.max() <= 0.9 + network.MARGIN * 0.6 + 1e-6
    assert out.min() >= 0.3 - network.MARGIN * 0.6 - 1e-6


@pytest.mark.parametrize("shape", ["dot", "line", "step", "corner", "stripes", "board"])
def test_only_texture_widens_the_range(shape: str) -> None:
    """By half of what its thinnest structures have; a dot, a line or an edge alone keeps a fifth of the range."""
    frame = torch.full((1, 1, 24, 32), 0.3)
    lone = {"dot": np.s_[..., 12, 16], "line": np.s_[..., 16], "step": np.s_[..., 16:], "corner": np.s_[..., 12:, 16:]}
    if shape in lone:
        frame[lone[shape]] = 0.9
    else:
        frame[..., 8:24:2] = 0.9
        if shape == "board":
            frame[..., 1::2, :] = 1.2 - frame[..., 1::2, :]
    low, high = network.bounds(frame)
    least, most = -torch.nn.functional.max_pool2d(-frame, 3, 1, 1), torch.nn.functional.max_pool2d(frame, 3, 1, 1)
    room = network.MARGIN * (most - least)
    beyond = high - most - room
    assert torch.allclose(beyond, least - room - low, atol=1e-6)
    if shape in lone:
        assert beyond.abs().max() < 1e-6
    else:
        assert beyond[..., 10:22].min() == pytest.approx(network.TEXTURE * 0.6, abs=1e-6)
        assert shape == "board" or beyond[..., :4].max() < 1e-6


def test_network_adds_no_light() -> None:
    """Whatever the head says, as far as the range lets it: here by half of a step where it would be 20."""
    torch.manual_seed(0)
    net = Net(NetConfig(2, channels=8, layers=1))
    torch.nn.init.constant_(cast("Any", net.head).bias, 0.8)
    frame = 0.5 + 0.2 * torch.randn(1, 1, 48, 64).clamp(-2, 2)
    lanczos = torch.nn.functional.conv2d(torch.nn.functional.pad(frame, (3,) * 4, mode="replicate"), net.base)
    with torch.no_grad():
        out = net.single(frame)
    assert (out.mean() - lanczos.mean()).abs() * 219 < 0.5


def test_graph_becomes_the_network_again(run: Path, tmp_path: Path) -> None:
    net, _ = load(run)
    export_graph(net, tmp_path / "x.onnx")
    assert check_graph(unfold(tmp_path / "x.onnx").fold(), tmp_path / "x.onnx") < 1e-5


def test_average_of_graphs_is_the_network_of_their_mean_weights(run: Path, tmp_path: Path) -> None:
    """And a run that is kept beside it goes on from there."""
    torch.manual_seed(1)
    export_graph(load(run)[0], tmp_path / "a.onnx")
    other = Net(NetConfig(2, channels=8, layers=2)).fold()
    for parameter in other.parameters():
        if parameter.ndim == 1:
            # Biases that are alike (all zero) would be one tensor of the graph.
            torch.nn.init.normal_(parameter, std=0.1)
    export_graph(other, tmp_path / "b.onnx")
    a, b = weights_of(tmp_path / "a.onnx"), weights_of(tmp_path / "b.onnx")
    net = average([a, b], [1, 3])
    export_graph(net, tmp_path / "c.onnx")
    for name, weight in weights_of(tmp_path / "c.onnx").items():
        assert torch.allclose(weight, 0.25 * a[name] + 0.75 * b[name], atol=1e-6)
    compact.save(run, tmp_path / "c.pt", tmp_path / "c.onnx")
    kept, again = compact.load(tmp_path / "c.pt"), Net(NetConfig(2, channels=8, layers=2))
    assert kept is not None
    again.load_state_dict(kept["weights"])
    assert check_graph(again.fold(), tmp_path / "c.onnx") < 1e-5


def test_compact_checkpoint_goes_on_where_the_run_was(clips: Path, run: Path, tmp_path: Path) -> None:
    """The same weights, and paces that let the next step be nearly the one that the run would have made."""
    compact.save(run, tmp_path / "small.pt")
    assert (tmp_path / "small.pt").stat().st_size < 0.6 * run.stat().st_size
    kept, whole = compact.load(tmp_path / "small.pt"), torch.load(run, weights_only=True)
    assert kept is not None
    moments = [v["exp_avg_sq"] for v in whole["optimizer"]["state"].values()]
    for codes, moment in zip(kept["moments"].values(), moments, strict=True):
        large = moment > 2.0**compact.LEAST
        assert torch.allclose(compact.decode(codes)[large], moment[large], rtol=0.1)
    net = Net(NetConfig(**kept["net"]))
    optimizer = torch.optim.Adam(net.parameters())
    compact.restore(optimizer, net, kept)
    for name, parameter in net.named_parameters():
        if name in kept["moments"]:
            assert torch.equal(optimizer.state[parameter]["exp_avg_sq"], compact.decode(kept["moments"][name]))
    steps = ("--single", "0", "--steps", "1", "--stop")
    start = ["--start-from", str(tmp_path / "small.pt")]
    before = weights(command.train(arguments(clips, tmp_path / "none", *start, "--rate", "0", *steps, "1")))
    assert all(torch.equal(before[f"average.{k}"], v) for k, v in whole["average"].items())
    after = weights(command.train(arguments(clips, tmp_path / "one", *start, *steps, "1")))
    moved = max((after[k] - before[k]).abs().max().item() for k in whole["net"])
    fresh = weights(command.train(arguments(clips, tmp_path / "graph", "--start-from", str(run), *steps, "1")))
    assert 0 < moved < max((fresh[k] - before[k]).abs().max().item() for k in whole["net"])


def test_luma_ssimulacra2_is_the_metric_of_a_grey_picture() -> None:
    """Against vszip's, which reads black beyond the edges where this one mirrors."""
    vs = pytest.importorskip("vapoursynth")
    if not hasattr(vs.core, "vszip"):
        pytest.skip("needs vapoursynth-vszip")
    rng = np.random.default_rng(0)
    sheet = np.kron(rng.integers(40, 200, (18, 24)), np.ones((8, 8)))
    truth = torch.from_numpy(sheet.astype(np.float32) / 255)[None, None]
    blurred = torch.nn.functional.avg_pool2d(truth, 5, 1, 2, count_include_pad=False)

    def grey(x: Any) -> Any:
        blank = vs.core.std.BlankClip(width=192, height=144, format=vs.GRAYS, length=1)

        def put(n: int, f: Any) -> Any:
            out = f.copy()
            np.copyto(np.asarray(out[0]), x[0, 0].numpy())
            return out

        plane = blank.std.ModifyFrame(blank, put)
        return vs.core.std.ShufflePlanes([plane] * 3, [0, 0, 0], vs.RGB)

    with vs.core.vszip.SSIMULACRA2(grey(truth), grey(blurred)).get_frame(0) as f:
        assert float(luma_ssimulacra2(blurred, truth)) == pytest.approx(f.props["SSIMULACRA2"], abs=1.5)
    assert float(luma_ssimulacra2(truth, truth)) > 95


def test_no_source_is_both_trained_on_and_validated_by() -> None:
    clips = [data.Clip(f"{source}_{n}", Path(), (), False) for source in "abcdefghij" for n in range(3)]
    training, held = data.split(clips)
    assert {data.source_of(c.name) for c in held} == {"e"}
    assert not {data.source_of(c.name) for c in training} & {"e"}


def test_what_a_deinterlacer_leaves_is_the_picture_where_nothing_moves() -> None:
    rng = np.random.default_rng(0)
    still = np.repeat(rng.integers(16, 235, (1, 24, 32)).astype(np.uint8), 3, 0)
    smooth = np.repeat(np.arange(24, dtype=np.uint8)[None, :, None] * 4 + 40, 32, 2)
    assert np.array_equal(degrade.deinterlaced(np.repeat(smooth, 3, 0))[:, :-1], np.repeat(smooth, 3, 0)[:, :-1])
    assert np.array_equal(degrade.deinterlaced(still)[:, ::2], still[:, ::2])


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
        name: ((1, 1, k * 16, k * 16), (1, 1, k * 272, k * 480), (1, 1, k * 544, k * 960))
        for name, k in (("frames", 1), ("state.luma", 1), ("state.picture", 2))
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
    net = Net(NetConfig(4, channels=8, layers=1)).eval()
    torch.nn.init.zeros_(net.head.weight)
    frames = torch.full((1, 2, 1, 24, 32), 0.37)
    with torch.no_grad():
        assert (run_sequence(net, frames) - 0.37).abs().max().item() < 1e-5


@pytest.mark.parametrize("codec", ["h264", "mpeg2"])
def test_codec_pass_changes_a_clip_a_little(codec: str) -> None:
    luma = np.random.default_rng(0).integers(60, 120, (5, 48, 64), np.uint8)
    (out,) = degrade.code((luma,), codec, 5, "veryfast")  # type: ignore[arg-type]
    assert out.shape == luma.shape
    assert 0 < np.abs(out.astype(int) - luma).mean() < 12


def test_sampler_depends_on_the_step_alone(clips: Path) -> None:
    prepared = data.prepare(clips, clips / "cache", 2, 64, 1, 1, drawn=0)
    a, b = (data.Sampler(prepared, 2, 2, 3, 32, 1) for _ in range(2))
    a(0)
    assert all(torch.equal(x, y) for x, y in zip(a(5), b(5), strict=True))


def test_own_pairs_are_trained_on_as_they_are(clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not degraded a second time; alone, and beside clips."""
    rng = np.random.default_rng(3)
    low = rng.integers(30, 200, (4, 42, 50)).astype(np.uint8)
    high = np.kron(low, np.ones((1, 2, 2), np.uint8))
    film(tmp_path / "pairs é" / "low" / "one.mkv", low)
    film(tmp_path / "pairs é" / "high" / "one.mkv", high)
    found = data.prepare_pairs(tmp_path / "pairs é", tmp_path / "cache", 2, 64)
    for variant in range(degrade.VARIANTS):
        large, small = found[0].load(variant)
        assert small.shape == (4, 40, 48)
        assert np.array_equal(large, np.kron(small, np.ones((1, 2, 2), np.uint8)))
        assert np.array_equal(small, low[:, :40, :48])
    given = arguments(clips, tmp_path / "run", "--pairs", str(tmp_path / "pairs é"))
    caplog.set_level(logging.INFO, "train_builtin")
    assert command.train(given).exists()
    assert "2 clips to train on, held out: one" in caplog.text
    given.data, given.out = None, tmp_path / "alone"
    assert command.train(given).exists()
    assert "1 clips to train on, held out: one" in caplog.text


def test_pairs_that_are_none_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    luma = np.full((3, 32, 32), 90, np.uint8)
    film(tmp_path / "low" / "one.mkv", luma)
    (tmp_path / "high").mkdir()
    with pytest.raises(ValueError, match="got one; add"):
        data.prepare_pairs(tmp_path, tmp_path / "cache", 2, 64)
    film(tmp_path / "high" / "one.mkv", np.full((2, 64, 64), 90, np.uint8))
    with pytest.raises(ValueError, match="got 3 of 32x32 and 2 of 64x64; cut"):
        data.prepare_pairs(tmp_path, tmp_path / "cache", 2, 64)
    assert not list((tmp_path / "cache").iterdir())
    film(tmp_path / "low" / "two.mkv", luma)
    with pytest.raises(ValueError, match="got two; add"):
        data.prepare_pairs(tmp_path, tmp_path / "cache", 2, 64)
    with pytest.raises(SystemExit):
        command.parse(["--out", "x"])
    assert "--pairs or both" in capsys.readouterr().err


def test_margin_shows_more_around_the_same_crop(clips: Path) -> None:
    prepared = data.prepare(clips, clips / "cache", 2, 64, 1, 1, drawn=0)
    low, high = data.Sampler(prepared, 2, 6, 3, 24, 1)(3)
    wide, same = data.Sampler(prepared, 2, 6, 3, 24, 1, margin=8)(3)
    assert wide.shape == (6, 3, 1, 40, 40)
    assert torch.equal(wide[..., 8:-8, 8:-8], low)
    assert torch.equal(same, high)


def test_motion_of_a_crop_is_found_by_its_surroundings() -> None:
    torch.manual_seed(0)
    net = Net(NetConfig(2, channels=8, layers=2)).eval()
    texture = torch.nn.functional.interpolate(torch.rand(1, 1, 16, 16), scale_factor=4.0, mode="bicubic")
    low = torch.stack([texture[..., :56, :56], texture[..., 2:58, 3:59]], 1)
    with torch.no_grad():
        flow = motion.motion(low[:, 1], low[:, 0])[..., 16:-16, 16:-16]
        inner = low[..., 16:-16, 16:-16]
        _, *state = net(inner[:, 0], *net.first_state(inner[:, 0]), torch.zeros_like(flow))
        second, *_ = net(inner[:, 1], *state, flow)
        out = run_sequence(net, low, margin=16)
    assert out.shape == (1, 2, 1, 48, 48)
    assert torch.allclose(out[:, 1], second, atol=1e-6)


def test_crop_that_motion_has_no_pyramid_for_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 8 pixels, got 42 and twice 16; change --crop or --margin"):
        TrainConfig(single=0, steps=1, crop=42)
