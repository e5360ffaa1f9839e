"""Training of what predicts chroma: it learns, resumes to the same bytes, invents no colour and exports what it is."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vapoursynth as vs

import vsflashsr
from vsflashsr import flashsr

from ..support.clips import planes
from ..support.rtx import TARGETS, compile_onnx

torch = pytest.importorskip("torch")
av = pytest.importorskip("av")
from trt_build.builtin import data as luma_data  # noqa: E402
from trt_build.builtin import degrade  # noqa: E402
from trt_build.builtin.chroma import command, data, train  # noqa: E402
from trt_build.builtin.chroma.export import add_to_bundle, check_graph, export_graph, load  # noqa: E402
from trt_build.builtin.chroma.network import MARGIN, ChromaConfig, ChromaNet  # noqa: E402
from trt_build.builtin.export import write_bundle  # noqa: E402
from trt_build.builtin.perceptual import ssimulacra2  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of coloured patches that move; colour and brightness change at the same places."""
    folder: Path = tmp_path_factory.mktemp("clips ü")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        sheet = np.kron(rng.integers(40, 200, (3, 20, 24)), np.ones((1, 12, 12))).astype(np.uint8)
        with av.open(str(folder / f"{name}.mkv"), "w") as container:
            stream = container.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
            for n in range(6):
                y, u, v = sheet[:, n : n + 96, 2 * n : 2 * n + 128]
                packed = np.concatenate([y.ravel(), u[::2, ::2].ravel(), v[::2, ::2].ravel()]).reshape(-1, 128)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(packed, format="yuv420p")))
            container.mux(stream.encode(None))
    return folder


def arguments(clips: Path, out: Path, *more: str) -> argparse.Namespace:
    small = "--scale 2 --steps 6 --batch 2 --crop 32 --channels 8 --validate-every 3 --threads 1 --models builtin"
    return command.parse(
        ["--data", str(clips), "--cache", str(clips / "cache"), "--out", str(out), *small.split(), *more]
    )


@pytest.fixture(scope="module")
def run(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of an uninterrupted run."""
    return command.train(arguments(clips, tmp_path_factory.mktemp("run")))


def moving(net: ChromaNet, gain: float = 3.0) -> ChromaNet:
    """The network with weights that change much."""
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(gain)
    return net


def test_a_resumed_run_equals_an_uninterrupted_one(clips: Path, run: Path, tmp_path: Path) -> None:
    command.train(arguments(clips, tmp_path, "--stop", "4"))
    resumed = command.train(arguments(clips, tmp_path, "--resume"))
    a, b = (torch.load(path, weights_only=True) for path in (run, resumed))
    assert all(torch.equal(a[side][k], b[side][k]) for side in ("net", "average") for k in a[side])
    assert a["log"] == b["log"] and [row["step"] for row in a["log"]] == [3, 6]


def test_it_learns_where_luma_says_how_colours_change(clips: Path) -> None:
    pairs = data.prepare(clips, clips / "cache", 2, ["builtin"], 1, 1)
    torch.manual_seed(0)
    net, sampler = ChromaNet(ChromaConfig(2, channels=16)), data.Sampler(pairs, 4, 32, 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    for step in range(60):
        reads, truth = sampler(step)
        loss = (net(reads)[:, 1:] - truth).square().mean() / (reads[:, 1:] - truth).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert np.mean(losses[-10:]) < 0.9 and abs(losses[0] - 1) < 0.3


def test_checkpoint_of_another_shape_is_refused(clips: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is of another network"):
        command.train(arguments(clips, tmp_path, "--start-from", str(run), "--channels", "12"))


@pytest.mark.parametrize("scale", [2, 4])
def test_flat_and_grey_stay_and_no_colour_is_invented(scale: int) -> None:
    torch.manual_seed(1)
    net = moving(ChromaNet(ChromaConfig(scale, channels=8))).fold()
    rng = np.random.default_rng(2)
    x = torch.from_numpy(rng.random((1, 3, 48, 64), dtype=np.float32))
    x[:, 1:] -= 0.5
    flat = torch.tensor([0.8, -0.3, 0.2])[None, :, None, None].expand(1, 3, 48, 64)
    with torch.no_grad():
        assert torch.equal(net(flat), flat)
        grey = torch.cat([x[:, :1], torch.zeros(1, 2, 48, 64)], 1)
        assert torch.equal(net(grey), grey)
        made = net(x)
    assert torch.equal(made[:, :1], x[:, :1])
    base, out = x[0, 1:].numpy(), made[0, 1:].numpy()
    assert np.abs(out - base).max() > 0.2
    for top in range(0, 48, scale):
        for left in range(0, 64, scale):
            around = base[:, max(0, top - scale) : top + 2 * scale, max(0, left - scale) : left + 2 * scale]
            low, high = around.min((1, 2)), around.max((1, 2))
            block = out[:, top : top + scale, left : left + scale]
            assert (block.max((1, 2)) <= high + MARGIN * (high - low) + 1e-6).all()
            assert (block.min((1, 2)) >= low - MARGIN * (high - low) - 1e-6).all()


def test_half_the_contrast_gives_half_the_detail() -> None:
    torch.manual_seed(1)
    net = ChromaNet(ChromaConfig(2, channels=8))
    x = torch.rand(1, 3, 32, 32) - 0.5
    with torch.no_grad():
        assert torch.allclose(0.5 * net(x), net(0.5 * x), atol=1e-6)


@pytest.mark.parametrize("scale", [2, 4])
def test_onnx_equals_torch(scale: int, tmp_path: Path) -> None:
    net = moving(ChromaNet(ChromaConfig(scale, channels=8)))
    folded = net.fold()
    x = torch.rand(1, 3, 32, 32) - 0.5
    with torch.no_grad():
        assert torch.allclose(net(x), folded(x), atol=1e-5)
    export_graph(folded, tmp_path / "c.onnx")
    assert check_graph(folded, tmp_path / "c.onnx") < 1e-5


def test_export_adds_the_graph_to_a_bundle_and_the_filter_uses_it(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "b ü"
    shutil.copytree(Path(vsflashsr.__file__).parent / "bundles" / "builtin", folder)
    net, _ = load(run)
    add_to_bundle(moving(net), folder, {"steps": 6})
    manifest = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    assert manifest["scales"]["2"]["chroma"] == "x2-chroma.onnx" and manifest["provenance"]["x2 chroma"] == {"steps": 6}
    write_bundle(folder, "builtin", {"x2": {}})  # luma is exported anew
    again = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    assert again["scales"] == manifest["scales"] and again["provenance"]["x2 chroma"] == {"steps": 6}
    clip = degrade.node_of(tuple(np.random.default_rng(0).integers(60, 200, (2, s, s), np.uint8) for s in (32, 16, 16)))
    made = planes(flashsr(clip, 2, model=folder).get_frame(1))
    plain = planes(flashsr(clip, 2, model=folder, model_options={"chroma": False}).get_frame(1))
    assert np.array_equal(made[0], plain[0])
    assert all(np.abs(made[p].astype(int) - plain[p]).max() > 4 for p in (1, 2))


def test_bundle_without_that_scale_is_left_alone(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "x4 alone"
    shutil.copytree(Path(vsflashsr.__file__).parent / "bundles" / "builtin", folder)
    manifest = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    del manifest["scales"]["2"]
    (folder / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
    before = (folder / "bundle.json").read_bytes(), sorted(path.name for path in folder.iterdir())
    with pytest.raises(ValueError, match="got chroma for 2; export its luma first"):
        add_to_bundle(load(run)[0], folder, {})
    assert before == ((folder / "bundle.json").read_bytes(), sorted(path.name for path in folder.iterdir()))


def test_sampler_depends_on_the_step_alone(clips: Path) -> None:
    pairs = data.prepare(clips, clips / "cache", 2, ["builtin"], 1, 1)
    one, two = (data.Sampler(pairs, 2, 32, 1) for _ in range(2))
    one(0)
    for a, b in zip(one(5), two(5), strict=True):
        assert torch.equal(a, b)
    # A crop larger than the clip's chroma repeats its edges.
    assert data.Sampler(pairs, 1, 80, 1)(0)[0].shape == (1, 3, 80, 80)


def test_what_the_network_reads_lies_on_what_it_is_to_make(clips: Path) -> None:
    """Resized chroma of a clean clip is nearly the truth; shifted by a pixel either way it is further from it."""
    clean = next(p for p in data.prepare(clips, clips / "cache", 2, ["builtin"], 1, 1) if p.variant == 0)
    reads, truth = clean.reads[-1, 1:].astype(np.float32), data.to_unit(clean.truth[-1]).numpy()
    inner = np.s_[:, 4:-4, 4:-4]
    errors = {
        (dy, dx): np.abs(np.roll(reads, (dy, dx), (1, 2)) - truth)[inner].mean()
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    }
    assert min(errors, key=lambda shift: errors[shift]) == (0, 0)


def test_degraded_planes_keep_luma_as_it_is_alone() -> None:
    rng = np.random.default_rng(0)
    whole = tuple(rng.integers(40, 200, (3, s, 2 * s), np.uint8) for s in (48, 24, 24))
    how = degrade.Degradation("mitchell", blur=0.6, noise=2.0, interlaced=True)
    alone = degrade.degrade(whole[:1], 2, how, np.random.default_rng(5))
    coloured = degrade.degrade(whole, 2, how, np.random.default_rng(5))
    assert [plane.shape for plane in coloured] == [(3, 24, 48), (3, 12, 24), (3, 12, 24)]
    assert np.array_equal(alone[0], coloured[0])
    coded = degrade.code(coloured, "h264", 20, "veryfast")
    assert all(0 < np.abs(a.astype(int) - b).mean() < 12 for a, b in zip(coded, coloured, strict=True))


def test_planes_are_decoded_as_they_were_written(clips: Path) -> None:
    y, u, v = luma_data.decode_planes(clips / "a.mkv", 3, 16)
    assert (y.shape, u.shape, v.shape) == ((3, 96, 128), (3, 48, 64), (3, 48, 64))
    rng = np.random.default_rng(0)
    sheet = np.kron(rng.integers(40, 200, (3, 20, 24)), np.ones((1, 12, 12))).astype(np.uint8)
    wanted = sheet[:, 2:98, 4:132]
    assert np.array_equal(y[2], wanted[0])
    assert np.array_equal(u[2], wanted[1, ::2, ::2]) and np.array_equal(v[2], wanted[2, ::2, ::2])


def test_ssimulacra2_is_the_metric_of_a_coloured_picture() -> None:
    """Against vszip's, which reads black beyond the edges where this one mirrors; the scores differ by colour alone."""
    if not hasattr(vs.core, "vszip"):
        pytest.skip("needs vapoursynth-vszip")
    rng = np.random.default_rng(3)
    noise = torch.from_numpy(rng.random((1, 3, 60, 60), dtype=np.float32))
    truth = torch.nn.functional.interpolate(noise, scale_factor=8.0, mode="bicubic")[..., :384, :384].clamp(0.1, 0.9)
    luma, chroma = truth[:, :1], truth[:, 1:] - 0.5
    blurred = torch.nn.functional.avg_pool2d(chroma, 9, 1, 4, count_include_pad=False)
    made, wanted = (train.to_rgb(luma, c).clamp(0, 1) for c in (blurred, chroma))

    def node(picture: Any) -> vs.VideoNode:
        blank = vs.core.std.BlankClip(width=384, height=384, format=vs.RGBS, length=1, keep=True)

        def put(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
            out = f.copy()
            for p in range(3):
                np.copyto(np.asarray(out[p]), picture[0, p].numpy())
            return out

        return blank.std.ModifyFrame(blank, put).std.SetFrameProps(_Transfer=13, _Primaries=1)

    with vs.core.vszip.SSIMULACRA2(node(wanted), node(made)).get_frame(0) as f:
        score = f.props["SSIMULACRA2"]
    assert float(ssimulacra2(made, wanted)) == pytest.approx(score, abs=1.5) and score < 90
    assert float(ssimulacra2(wanted, wanted)) > 95


@pytest.mark.long
@pytest.mark.parametrize("scale", [2, 4])
def test_tensorrt_rtx_compiles_the_graph(scale: int, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install tensorrt-rtx")
    export_graph(ChromaNet(command.SHAPES[scale]).fold(), tmp_path / "c.onnx")
    profile = {"frames": ((1, 3, 16, 16), (1, 3, 272, 480), (1, 3, 544, 960))}
    for target in TARGETS:
        plan, _ = compile_onnx(tmp_path / "c.onnx", target, profile)
        assert len(plan) > 0
