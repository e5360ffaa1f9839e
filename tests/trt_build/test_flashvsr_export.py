"""Exporting FlashVSR: the published tensors, the same bytes twice, all or nothing, and the command line."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the exporter needs the extra 'export'")

import torch

from trt_build.bundle_folder import silent
from trt_build.cli import main
from trt_build.flashvsr import export as export_module
from trt_build.flashvsr.checkpoint import load_checkpoint
from trt_build.pieces import pieces_of, write_piece
from trt_build.random_checkpoint import REDUCED
from vsflashsr.bundle import load_bundle
from vsflashsr.errors import FlashsrError
from vsflashsr.models.flashvsr.network.config import FlashVSRConfig
from vsflashsr.models.flashvsr.section import files_of, read_section
from vsflashsr.models.wan.network.config import dit_layout
from vsflashsr.models.wan.network.dit import DiT, build_constants
from vsflashsr.models.wan.network.pieces import FirstPiece, LastPiece, MiddlePiece
from vsflashsr.models.wan.network.precision import PRECISIONS

from ..support.flashvsr_small import ROOT, small_bundle, small_folder
from ..support.models import host_flashvsr
from ..support.rtx import TARGETS, compile_onnx
from .test_flashvsr_parts import RandomWeights

GOLDEN = Path(os.environ.get("VSFLASHSR_GOLDEN", ROOT.parent / "shared" / "flashvsr" / "golden"))


def arguments(out: Path, **changes: str) -> list[str]:
    options = {
        "checkpoint": str(small_folder()),
        "version": "v1.1",
        "precision": "fp32",
        "head-dim": str(REDUCED.head_dim),
        "out": str(out),
        **changes,
    }
    return ["export", *(text for name, value in options.items() for text in (f"--{name}", value))]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_dit_has_the_published_tensors() -> None:
    published = FlashVSRConfig()
    with torch.device("meta"):
        state = DiT(published).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == dit_layout(published)
    assert len(state) == 825
    assert sum(tensor.numel() for tensor in state.values()) == 1_418_996_800


def test_a_bundle_is_complete_and_small() -> None:
    folder = small_bundle()
    bundle = load_bundle(folder)
    section = read_section("test", bundle.section)
    assert set(files_of(section)) < set(bundle.files)
    assert (bundle.schedule.first_reads, bundle.schedule.first_emits, bundle.schedule.reads) == (25, 21, 8)
    assert sorted(bundle.scales) == [2, 3, 4]
    assert bundle.provenance["version_claimed"] == section.version == "v1.1"
    assert section.config["dim"] == REDUCED.dim
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2_000_000


def test_the_command_line_writes_the_same_bytes_again_with_progress_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new folder ü" / "bundle"
    given = [*arguments(out), "--name", "small", "--option", "sparse_ratio=1.5", "--option", "color_fix=wavelet"]
    assert main(given) == 0
    printed = capsys.readouterr()
    assert printed.out == "" and "export: 100%" in printed.err
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]
    bundle = load_bundle(out)
    options = read_section("test", bundle.section).options
    assert (options.sparse_ratio, options.color_fix, bundle.color_fix) == (1.5, "wavelet", "wavelet")
    made, before = contents(out), contents(small_bundle())
    data = json.loads(made.pop("bundle.json"))
    data["flashvsr"]["options"] |= {"sparse_ratio": 2.0, "color_fix": "adain"}
    assert made == {name: data_ for name, data_ in before.items() if name != "bundle.json"}
    assert {**data, "color_fix": "adain"} == json.loads(before["bundle.json"])


def run_badly(capsys: pytest.CaptureFixture[str], given: list[str], out: Path) -> str:
    """What an export that fails says, in one line; nothing may be left of it."""
    assert main(given) == 1
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("trt_build:")]
    assert printed.out == "" and len(lines) == 1
    assert not out.exists() and not list(out.parent.glob(".*partial"))
    return lines[0]


def test_bad_input_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    broken = tmp_path / "checkpoint"
    shutil.copytree(small_folder(), broken)
    dit = broken / "diffusion_pytorch_model_streaming_dmd.safetensors"
    dit.write_bytes(dit.read_bytes()[:-1000])
    assert "truncated or damaged" in run_badly(capsys, arguments(out, checkpoint=str(broken)), out)
    shutil.copy(small_folder() / dit.name, dit)
    (broken / "posi_prompt.pth").unlink()
    assert "prompt is missing" in run_badly(capsys, arguments(out, checkpoint=str(broken)), out)
    assert "head_dim" in run_badly(capsys, arguments(out, **{"head-dim": "128"}), out)
    assert "no option 'sparsity'" in run_badly(capsys, [*arguments(out), "--option", "sparsity=1"], out)
    assert "NAME=VALUE" in run_badly(capsys, [*arguments(out), "--option", "seed"], out)
    nowhere = tmp_path / "nowhere"
    assert "no checkpoint folder" in run_badly(capsys, arguments(out, checkpoint=str(nowhere)), out)


def test_an_existing_folder_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "note.txt").write_text("mine", encoding="utf-8")
    assert main(arguments(tmp_path)) == 1
    assert "is there already" in capsys.readouterr().err
    assert contents(tmp_path) == {"note.txt": b"mine"}


def test_too_little_room_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(0, 0, 1000))
    out = tmp_path / "out"
    assert "free; make room" in run_badly(capsys, arguments(out), out)


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_an_export_that_breaks_off_leaves_nothing(
    fault: BaseException, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks_off(_checkpoint: Any, folder: Path, *_: Any) -> None:
        (folder / "first.weights").write_bytes(b"half of it")
        raise fault

    monkeypatch.setattr(export_module, "write_section", breaks_off)
    assert main(arguments(tmp_path / "out")) != 0
    said = capsys.readouterr().err
    assert "is full, nothing was kept" in said or "interrupted, nothing was kept" in said
    assert list(tmp_path.iterdir()) == []


def changed_bundle(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the toy bundle with something else in its manifest."""
    shutil.copytree(small_bundle(), folder)
    manifest = folder / "bundle.json"
    data = json.loads(manifest.read_text(encoding="utf-8"))
    change(data)
    manifest.write_text(json.dumps(data), encoding="utf-8")
    return folder


def test_a_bf16_bundle_is_refused_on_the_cpu_with_what_to_do(tmp_path: Path) -> None:
    folder = changed_bundle(tmp_path / "bundle", lambda data: data.update(precision="bf16"))
    with pytest.raises(FlashsrError, match="bf16, which ONNX Runtime can't run on the CPU; export it as fp32 or fp16"):
        host_flashvsr(folder, 2)


def test_a_damaged_section_is_refused(tmp_path: Path) -> None:
    folder = changed_bundle(tmp_path / "bundle", lambda data: data["flashvsr"].pop("middle"))
    with pytest.raises(FlashsrError, match="the object 'flashvsr' is incomplete"):
        host_flashvsr(folder, 2)


def test_the_version_may_differ_where_the_weights_do_not() -> None:
    """v1 and v1.1 read the same files; only what was claimed differs, and with it the projector's graph."""
    v1, v11 = (contents(small_bundle("tiny", version)) for version in ("v1", "v1.1"))
    assert {name for name in v1 if v1[name] != v11[name]} == {"bundle.json", "projector.onnx"}


# Reference numbers made here, in the format of the golden set, by torch.


def write_golden(folder: Path) -> None:
    """A golden set of two steps at toy width, with another grid, ratio and cache than the published one."""
    from trt_build.flashvsr.torch_executor import TorchExecutor
    from trt_build.flashvsr.verify_dit import golden_steps

    for path in small_folder().iterdir():
        shutil.copy(path, folder)
    random = np.random.default_rng(6)
    info = {"grid_blocks": [2, 1], "topk_ratio": 1.3, "local_range": 3, "kv_ratio": 2.0, "chunks": 2}
    data: dict[str, Any] = {
        "noise": random.standard_normal((1, 16, 8, 32, 16)).astype(np.float16),
        "lq_tokens": random.standard_normal((1, 8 * 128, REDUCED.dim)).astype(np.float16),
    }
    masks: dict[int, np.ndarray] = {}
    executor = TorchExecutor(
        load_checkpoint(folder, version="v1.1", variant="tiny", head_dim=REDUCED.head_dim),
        observer=lambda layer, taps: masks.__setitem__(layer, taps["mask"].numpy()),
    )
    for step in golden_steps(data, info, executor):
        stacked = np.stack([masks[layer] for layer in sorted(masks)])
        data[f"c{step.index}_pred"] = step.velocity[None]
        data[f"c{step.index}_masks"] = np.packbits(stacked, axis=-1)
        data[f"c{step.index}_masks_shape"] = np.array(stacked.shape)
        data[f"c{step.index}_cache_blocks"] = np.array([2 * len(cache) for cache in step.caches])
    np.savez(folder / "dit_toy.npz", **data)
    (folder / "info_dit.json").write_text(json.dumps({"info": {"dit_toy": info}}), encoding="utf-8")


@pytest.mark.parametrize("executor", ["torch", "onnxruntime"])
def test_verify_reads_sets_of_other_sizes_and_fails_on_a_wrong_number(
    executor: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_golden(tmp_path)
    assert main(["verify", str(tmp_path), "--executor", executor]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ok    dit_toy") and "masks identical" in line for line in lines)
    assert any(line.startswith("skip  e2e_tiny") for line in lines)
    if executor != "torch":
        return
    with np.load(tmp_path / "dit_toy.npz") as stored:
        data = dict(stored)
    np.savez(tmp_path / "dit_toy.npz", **{**data, "c1_pred": data["c1_pred"] + 2e-3})
    assert main(["verify", str(tmp_path), "--executor", executor]) == 1
    assert "FAIL  dit_toy" in capsys.readouterr().out
    np.savez(tmp_path / "dit_toy.npz", **{**data, "c1_masks": data["c1_masks"] ^ 128})
    assert main(["verify", str(tmp_path), "--executor", executor]) == 1
    assert "masks DIFFER" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs the golden set: set VSFLASHSR_GOLDEN to its folder")
@pytest.mark.parametrize("executor", ["torch", "onnxruntime"])
def test_the_published_golden_set_is_reproduced(executor: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(GOLDEN), "--executor", executor]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not any(line.startswith(("FAIL", "skip")) for line in lines)


def test_verify_of_no_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "nowhere")]) == 1
    assert "there is no folder" in capsys.readouterr().err


# Compiling for GPUs that aren't here.


def compile_pieces(folder: Path, dim: int, targets: tuple[tuple[int, int], ...]) -> list[str]:
    """Both forms of the three pieces; a line each with size and time."""
    from vsflashsr.models.wan.network.pieces import patch_values

    widths = {"patches": patch_values(FlashVSRConfig()), "lq": dim, "x": dim, "attended": dim}
    inputs = {"first": FirstPiece.inputs, "middle": MiddlePiece.inputs, "last": LastPiece.inputs}
    lines = []
    for path in sorted(folder.glob("*.onnx")):
        piece = path.name.split(".")[0]
        if piece not in inputs:
            continue
        profile = {name: tuple([tokens, widths[name]] for tokens in (128, 7680, 61440)) for name in inputs[piece]}
        for target in targets:
            plan, seconds = compile_onnx(path, target, profile)  # type: ignore[arg-type]
            assert len(plan) > 0
            lines.append(f"{path.name} {target}: {len(plan) / 1e6:.1f} MB, {seconds:.1f} s")
    return lines


@pytest.mark.parametrize("precision", ["fp16", pytest.param("bf16", marks=pytest.mark.long)])
def test_tensorrt_rtx_compiles_every_piece(precision: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install tensorrt-rtx")
    # 3 pieces, and constant forms of the first, two middle ones and the last.
    assert len(compile_pieces(small_bundle(precision=precision), REDUCED.dim, TARGETS[:1])) == 7


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_tensorrt_rtx_compiles_every_piece_at_the_real_width(precision: str, tmp_path: Path) -> None:
    """Three layers stand for all thirty, which differ in nothing but numbers."""
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install tensorrt-rtx")
    config = dataclasses.replace(FlashVSRConfig(), layers=3)
    weights = RandomWeights(dit_layout(config))
    prompt = torch.zeros(1, config.text_len, config.text_dim)
    for piece in pieces_of(config, weights, build_constants(config, weights, prompt)):
        write_piece(piece, tmp_path, config, PRECISIONS[precision], silent)
    for line in compile_pieces(tmp_path, config.dim, TARGETS):
        print(f"{precision} {line}")
