"""SwiftVR: its tensors, its checkpoint, and graphs against torch modules."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="needs the extra 'export'")

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from trt_build import bundle_folder
from trt_build.cli import main
from trt_build.pieces import pieces_of
from trt_build.random_checkpoint import SWIFTVR_REDUCED
from trt_build.swiftvr.checkpoint import constants, fingerprint, load_checkpoint, published_name
from trt_build.swiftvr.export import attention_graph, export_bundle, write_autoencoder
from trt_build.swiftvr.torch_executor import TorchExecutor
from vsflashsr.arguments import Arguments
from vsflashsr.bundle import load_bundle
from vsflashsr.errors import FlashsrError
from vsflashsr.models.opening import graphs_ahead, read_kind
from vsflashsr.models.swiftvr.host import SwiftVRModel
from vsflashsr.models.swiftvr.network.config import PUBLISHED_DIT, SwiftVRConfig, reae_layout
from vsflashsr.models.swiftvr.network.reae import Decoder, Encoder, decoder_weights, from_patches, to_patches
from vsflashsr.models.swiftvr.step import grid_of, run_step
from vsflashsr.models.swiftvr.upscale import upscale_tables
from vsflashsr.models.wan.network.config import dit_layout
from vsflashsr.models.wan.network.pieces import MiddlePiece, PatchPiece
from vsflashsr.runtimes.onnxruntime import CpuBackend

from ..support.flashvsr_small import frames
from ..support.rtx import TARGETS, compile_onnx
from ..support.swiftvr_small import WINDOW, small_bundle, small_checkpoint, small_folder

ROOT = Path(__file__).parents[2]
GOLDEN = Path(os.environ.get("VSFLASHSR_GOLDEN_SWIFTVR", ROOT.parent / "shared" / "models" / "swiftvr" / "golden"))
DIT = Path("transformer", "diffusion_pytorch_model.safetensors")


def test_the_published_model_has_the_published_tensors() -> None:
    """The md5 of sorted `name:shape` lines, and the counts, as taken from the official code."""
    config = SwiftVRConfig()
    dit = {published_name(name): shape for name, shape in dit_layout(PUBLISHED_DIT).items()}
    for layout, md5 in (
        (dit, "13717df30759beed1a51af54ea685ca2"),
        (reae_layout(config), "de5e48ba3677d64050a8b68aedbc2ea2"),
    ):
        assert hashlib.md5(fingerprint(layout).encode()).hexdigest() == md5
    assert sum(int(np.prod(shape)) for shape in dit.values()) == 4_999_787_712
    with torch.device("meta"):
        encoder, decoder = Encoder(config), Decoder(config)
    assert sum(p.numel() for p in encoder.parameters()) == 1_494_576
    # Of three taps in time two are left.
    assert sum(p.numel() for p in decoder.parameters()) == 39_451_788 - 256**2 - 128**2


def test_a_latent_grows_into_two_frames_as_published() -> None:
    """Repeated and convolved in time with zeros around the pair."""
    weight = torch.randn(3, 3, 3, 1, 1)
    x = torch.randn(1, 3, 4, 5)
    published = F.conv3d(x.repeat(2, 1, 1, 1).transpose(0, 1)[None], weight, padding=(1, 0, 0))[0].transpose(0, 1)
    folded = decoder_weights({"decoder.13.conv3d.weight": weight})["layers.13.conv.weight"]
    made = F.conv2d(x, folded).reshape(2, 3, 4, 5)
    torch.testing.assert_close(made, published)


def test_a_model_of_the_published_width_has_all_layers_unless_it_is_said(tmp_path: Path) -> None:
    """Where the last is missing altogether nothing else would tell. Fewer are for measuring."""
    header = {
        published_name(name): {"dtype": "F32", "shape": [3072], "data_offsets": [12288 * at, 12288 * at + 12288]}
        for at, name in enumerate(["patch_embedding.bias", "blocks.1.norm3.bias"])
    }
    (tmp_path / "transformer").mkdir()
    text = json.dumps(header).encode()
    (tmp_path / DIT).write_bytes(struct.pack("<Q", len(text)) + text + bytes(2 * 12288))
    for other in ("reae.safetensors", "prompt_embedding.safetensors"):
        (tmp_path / other).write_bytes((small_folder() / other).read_bytes())
    (tmp_path / "prompt_embedding.safetensors").unlink()
    save_file({"prompt_emb": torch.zeros(1, 2, 4096)}, tmp_path / "prompt_embedding.safetensors")
    for layers, count in ((None, 825), (2, 15 + 2 * 27)):
        with pytest.raises(FlashsrError, match=f"of {count} tensors"):
            load_checkpoint(tmp_path, layers=layers)


def test_patches_and_back() -> None:
    latents = torch.rand(2, 3, 4, 6)
    patches = to_patches(latents)
    assert patches.shape == (2 * 2 * 3, 12)
    # Row and column of the patch, then channel: token 0's second value is channel 1 at the corner.
    assert patches[0, 1] == latents[0, 1, 0, 0] and patches[0, 3] == latents[0, 0, 0, 1]
    assert torch.equal(from_patches(patches, 4, 6), latents)


def test_sizes_are_read_off_the_tensors_and_the_config() -> None:
    config = small_checkpoint().config
    assert (config.dit, config.encoder, config.decoder) == (
        SWIFTVR_REDUCED.dit,
        SWIFTVR_REDUCED.encoder,
        SWIFTVR_REDUCED.decoder,
    )
    assert load_checkpoint(small_folder()).config.window == (16, 16)


def test_wans_own_names_are_the_same_model(tmp_path: Path) -> None:
    """As one published integration converts them."""
    stored = load_file(small_folder() / DIT)
    renamed = {name: stored[published_name(name)] for name in dit_layout(SWIFTVR_REDUCED.dit)}
    (tmp_path / "transformer").mkdir()
    save_file(renamed, tmp_path / DIT)
    for name in ("reae.safetensors", "prompt_embedding.safetensors", "transformer/config.json"):
        (tmp_path / name).write_bytes((small_folder() / name).read_bytes())
    again = load_checkpoint(tmp_path)
    assert all(torch.equal(again.dit[name], tensor) for name, tensor in small_checkpoint().dit.items())


@pytest.mark.parametrize(
    ("name", "tensor", "says"),
    [
        ("blocks.1.attn2.to_k.bias", None, r"1 missing \(blocks.1.attn2.to_k.bias \(48,\)\)"),
        ("extra", torch.zeros(2), r"1 unexpected \(extra"),
        ("proj_out.bias", torch.zeros(3), r"proj_out.bias \(3,\) instead of \(192,\)"),
        ("proj_out.bias", torch.zeros(192, dtype=torch.int8), "can't be converted"),
    ],
)
def test_what_isnt_a_whole_model_is_refused(tmp_path: Path, name: str, tensor: Tensor | None, says: str) -> None:
    stored = load_file(small_folder() / DIT)
    if tensor is None:
        del stored[name]
    else:
        stored[name] = tensor
    (tmp_path / "transformer").mkdir()
    save_file(stored, tmp_path / DIT)
    for other in ("reae.safetensors", "prompt_embedding.safetensors", "transformer/config.json"):
        (tmp_path / other).write_bytes((small_folder() / other).read_bytes())
    with pytest.raises(FlashsrError, match=says):
        load_checkpoint(tmp_path)
    with pytest.raises(FlashsrError, match=r"no reae.safetensors"):
        load_checkpoint(tmp_path / "transformer")


def test_graphs_are_the_modules() -> None:
    """Two steps, each from the state its own side left."""
    wanted = Arguments(model=small_bundle(), scale=2, model_options={"clip_len": 8})
    model = read_kind(wanted).load(CpuBackend(1), (48, 80), tiles=None).model
    assert isinstance(model, SwiftVRModel)
    modules = TorchExecutor(small_checkpoint())
    assert modules.window == WINDOW
    video = np.stack(frames(20, 48, 80))
    grid = grid_of(96, 160)
    tables = upscale_tables((48, 80), 2, (96, 160))
    own, other = None, None
    for part in (video[:12], video[12:]):
        made, own = run_step(model._executor, part, tables, grid, own)
        expected, other = run_step(modules, part, tables, grid, other)
        np.testing.assert_allclose(made, expected, atol=5e-5)
    assert own is not None and other is not None
    for a, b in zip((*own.encoder, *own.decoder), (*other.encoder, *other.decoder), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_attention_is_one_node_in_half_precision_only() -> None:
    """TensorRT has a kernel for it in half, and none in float32."""
    half, single = (attention_graph(2, 48, dtype) for dtype in (torch.float16, torch.float32))
    assert [node.op_type for node in half.graph.node].count("Attention") == 1 and half.opset_import[0].version == 23
    assert not any(node.op_type == "Attention" for node in single.graph.node)
    for model in (half, single):
        onnx.checker.check_model(model, full_check=True)


def test_every_graph_is_called_with_shapes_it_has() -> None:
    calls = graphs_ahead(Arguments(model=small_bundle(), scale=2), [(40, 50)])
    assert len(calls) == 8
    for call in calls:
        named = {value.name: value for value in onnx.load(call.path, load_external_data=False).graph.input}
        weights = {entry.name for entry in call.weights.tensors} if call.weights else set()
        for shapes in call.shapes:
            assert set(shapes.inputs) == set(named) - weights, call.path
            for name, shape in shapes.inputs.items():
                declared = [d.dim_value for d in named[name].type.tensor_type.shape.dim]
                assert all(d in (0, s) for d, s in zip(declared, shape, strict=True)), (call.path, name)


@pytest.mark.long
def test_the_same_checkpoint_gives_the_same_bytes(tmp_path: Path) -> None:
    export_bundle(small_checkpoint(), tmp_path / "again", precision="fp32", name="small")
    names = {path.name for path in small_bundle().iterdir()}
    assert {path.name for path in (tmp_path / "again").iterdir()} == names
    assert all((tmp_path / "again" / name).read_bytes() == (small_bundle() / name).read_bytes() for name in names)


def test_a_published_file_may_be_as_large_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 GB, more than a file of a bundle may have; what is too large is told before anything is written."""
    assert bundle_folder.LARGEST_CHECKPOINT_BYTES > 19_999_235_584
    monkeypatch.setattr(bundle_folder, "LARGEST_CHECKPOINT_BYTES", 100)
    with pytest.raises(FlashsrError, match="more than the 100 there may be"):
        export_bundle(small_checkpoint(), tmp_path / "b", precision="fp32")
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["export", "--model", "swiftvr", "--checkpoint", str(small_folder()), "--out", str(tmp_path / "b ü")]
    for more, says in ((["--version", "v1"], "--version says nothing"), (["--option", "clip_len=5"], "clip_len is one of")):
        assert main([*given, *more]) == 1
        assert says in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []
    assert main([*given, "--precision", "fp16", "--option", "clip_len=8"]) == 0
    bundle = load_bundle(tmp_path / "b ü")
    assert (bundle.kind, bundle.precision, bundle.preroll, bundle.max_segment) == ("swiftvr", "fp16", 64, 240)
    assert bundle.schedule.first_reads == 12
    assert main(["build", str(bundle.folder), "--size", "32x32", "--cc", "8.9", "--option", "clip_len=5"]) == 1
    assert "clip_len is one of" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("executor", ["torch", "onnxruntime"])
@pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs the golden set: set VSFLASHSR_GOLDEN_SWIFTVR to its folder")
def test_the_golden_set(executor: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(GOLDEN), "--executor", executor]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 133 and all(line.startswith("ok") for line in lines)


@pytest.mark.long
@pytest.mark.parametrize("capability", TARGETS)
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_tensorrt_rtx_compiles_every_graph_of_the_published_width(
    tmp_path: Path, precision: str, capability: tuple[int, int]
) -> None:
    """Pieces without a weight: their graphs are the same for every layer."""
    pytest.importorskip("tensorrt_rtx")
    from trt_build.graphs import write_graph
    from trt_build.pieces import piece_graph
    from vsflashsr.models.wan.network.pieces import LastPiece
    from vsflashsr.models.wan.network.precision import PRECISIONS

    dtype, dit = PRECISIONS[precision], PUBLISHED_DIT
    with torch.device("meta"):
        modules: dict[str, PatchPiece | MiddlePiece | LastPiece] = {
            "first": PatchPiece(dit),
            "middle": MiddlePiece(dit),
            "last": LastPiece(dit),
        }
    counts = (6 * 24 * 44, 6 * 24 * 44, 7 * 24 * 44)
    widths = {"x": dit.dim, "attended": dit.dim, "patches": 192}
    for name, module in modules.items():
        path = tmp_path / f"{name}.onnx"
        write_graph(piece_graph(module, dit, dtype), path)
        profile = {own: tuple((count, widths[own]) for count in counts) for own in module.inputs}
        _report(path, precision, capability, profile)
    path = tmp_path / "attention.onnx"
    write_graph(attention_graph(dit.heads, dit.dim, dtype), path)
    lows, usual, high = counts
    profile = dict.fromkeys("qkv", ((lows, dit.dim), (usual, dit.dim), (high, dit.dim)))
    profile |= dict.fromkeys(("cos", "sin"), ((lows, 64), (usual, 64), (high, 64)))
    profile |= {"gather": ((6, 1536), (8, 1536), (8, 1792)), "owner": ((lows,), (usual,), (high,))}  # type: ignore[dict-item]
    _report(path, precision, capability, profile)


@pytest.mark.long
@pytest.mark.parametrize("capability", TARGETS)
@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_tensorrt_rtx_compiles_the_published_autoencoder(
    tmp_path: Path, name: str, capability: tuple[int, int]
) -> None:
    pytest.importorskip("tensorrt_rtx")
    from vsflashsr.models.swiftvr.network.reae import memory_sizes
    from vsflashsr.models.swiftvr.section import Memory

    config = SwiftVRConfig()
    with torch.device("meta"):
        module = Encoder(config) if name == "encoder" else Decoder(config)
    weights = {key: torch.randn(p.shape) / max(1, p[0].numel()) ** 0.5 for key, p in module.named_parameters()}
    memories = tuple(Memory(*sizes) for sizes in memory_sizes(config)[name == "decoder"])
    write_autoencoder(name, module, weights, memories, config, tmp_path, torch.float16)
    height, width = 768, 1408
    shapes: dict[str, tuple[int, ...]] = {
        f"state{n}": (1, memory.channels, height // memory.pixels, width // memory.pixels)
        for n, memory in enumerate(memories)
    }
    own = {"frames": (4, 3, height, width)} if name == "encoder" else {"patches": (height * width // 1024, 192)}
    _report(tmp_path / f"{name}.onnx", "fp16", capability, {key: (shape,) * 3 for key, shape in {**own, **shapes}.items()})


def _report(path: Path, precision: str, capability: tuple[int, int], profile: object) -> None:
    plan, seconds = compile_onnx(path, capability, profile)  # type: ignore[arg-type]
    print(f"{path.stem} {precision} {capability}: {len(plan) / 1e6:.2f} MB in {seconds:.1f} s")
    assert len(plan) > 1000


def test_pieces_are_flashvsrs_but_for_the_first() -> None:
    config = small_checkpoint().config.dit
    first, middle, last = pieces_of(config, small_checkpoint().dit, constants(small_checkpoint()), PatchPiece)
    assert first.module.inputs == ("patches",)
    assert [len(piece.layers) for piece in (first, middle, last)] == [1, config.layers - 1, 1]
