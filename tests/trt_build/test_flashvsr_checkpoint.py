"""FlashVSR checkpoints: the published files and their re-packs are read, and everything else is refused by name."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch
from safetensors.torch import load_file, save_file

from trt_build.flashvsr.checkpoint import Checkpoint, MissingFileError, load_checkpoint, load_part
from trt_build.random_checkpoint import random_tensor, write_checkpoint
from vsflashsr.errors import FlashsrError
from vsflashsr.models.flashvsr.network.config import FlashVSRConfig, projector_layout, tcdecoder_layout, vae_layout
from vsflashsr.models.wan.network.config import dit_layout

DIT = "diffusion_pytorch_model_streaming_dmd.safetensors"
CONFIG = FlashVSRConfig(
    dim=24,
    heads=3,
    head_dim=8,
    layers=2,
    ffn=40,
    text_dim=12,
    text_len=5,
    freq_dim=16,
    lq_hidden=(5, 7),
    tc_channels=(6, 5, 4, 2),
    vae_dim=2,
)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as it is downloaded, with both decoders."""
    folder = tmp_path_factory.mktemp("FlashVSR v1.1 ü")
    for variant in ("tiny", "full"):
        write_checkpoint(folder, CONFIG, variant=variant, seed=1)
    return folder


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(published, tmp_path / "checkpoint"))


def load(folder: Path, variant: str = "tiny", version: str = "v1.1", head_dim: int = 8) -> Checkpoint:
    return load_checkpoint(folder, version=version, variant=variant, head_dim=head_dim)


def refused(folder: Path, *words: str, variant: str = "tiny", version: str = "v1.1", head_dim: int = 8) -> None:
    """Loading fails with one sentence that holds all `words`."""
    with pytest.raises(FlashsrError) as caught:
        load(folder, variant, version, head_dim)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert ";" in message  # what is wrong; what to do


def edited(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Rewrites a state dict."""
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
    else:
        tensors = torch.load(path, weights_only=True)
        change(tensors)
        torch.save(tensors, path)


def test_the_published_tables_have_the_published_counts() -> None:
    config = FlashVSRConfig(vae_dim=96)
    tables = [table(config) for table in (dit_layout, projector_layout, tcdecoder_layout, vae_layout)]
    assert [len(table) for table in tables] == [825, 8, 66, 108]
    values = [sum(math.prod(shape) for shape in table.values()) for table in tables]
    assert values == [1_418_996_800, 287_845_888, 45_338_371, 73_295_603]


def test_the_dit_table_has_the_hash_the_official_loader_knows_it_by() -> None:
    table = dit_layout(FlashVSRConfig())
    keys = sorted([*table, *(f"{key}:{'_'.join(map(str, shape))}" for key, shape in table.items())])
    assert hashlib.md5(",".join(keys).encode()).hexdigest() == "9269f8db9040a9d860eaca435be61814"


@pytest.mark.parametrize("variant", ["tiny", "full"])
def test_sizes_are_read_from_the_shapes(published: Path, variant: str) -> None:
    loaded = load(published, variant)
    sizes = {name: getattr(loaded.config, name) for name in CONFIG.__dataclass_fields__}
    wanted = {name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__}
    wanted["vae_dim" if variant == "tiny" else "tc_channels"] = None
    assert sizes == wanted
    assert (loaded.tcdecoder is None, loaded.vae is None) == (variant == "full", variant == "tiny")
    assert loaded.files["dit"].name == DIT


def test_tensors_are_those_of_the_files_in_their_dtype(published: Path) -> None:
    loaded = load(published)
    assert loaded.tcdecoder is not None
    for weights, layout, dtype in (
        (loaded.dit, dit_layout(CONFIG), torch.float32),
        (loaded.projector, projector_layout(CONFIG), torch.bfloat16),
        (loaded.tcdecoder, tcdecoder_layout(CONFIG), torch.float32),
    ):
        assert list(weights) == list(layout)
        for name, shape in layout.items():
            assert torch.equal(weights[name], random_tensor(name, shape, 1).to(dtype)), name
    assert loaded.prompt.dtype == torch.float32
    assert loaded.prompt.shape == (1, 5, 12)


@pytest.mark.parametrize("version", ["v1", "v1.1"])
def test_the_version_is_what_was_claimed(published: Path, version: str) -> None:
    assert load(published, version=version).version == version


def test_one_part_loads_without_the_others(folder: Path) -> None:
    (folder / DIT).unlink()
    weights, config = load_part(folder, "projector")
    assert config.lq_hidden == CONFIG.lq_hidden
    assert len(weights) == 8
    with pytest.raises(MissingFileError):
        load_part(folder, "dit")


# Re-packs


def same(folder: Path, published: Path, variant: str = "tiny", dtype: torch.dtype | None = None) -> None:
    """A re-pack gives the tensors of the published files, but for the dtype."""
    for part in ("dit", "projector", "tcdecoder" if variant == "tiny" else "vae"):
        made, wanted = getattr(load(folder, variant), part), getattr(load(published, variant), part)
        assert list(made) == list(wanted)
        for name in wanted:
            expected = wanted[name] if dtype is None else wanted[name].to(dtype)
            assert torch.equal(made[name].float(), expected.float()), name


def test_safetensors_repack(folder: Path, published: Path) -> None:
    (folder / DIT).rename(folder / "FlashVSR1_1.safetensors")
    for old, new in (("LQ_proj_in.ckpt", "LQ_proj_in"), ("TCDecoder.ckpt", "TCDecoder")):
        save_file(torch.load(folder / old, weights_only=True), folder / f"{new}.safetensors")
        (folder / old).unlink()
    save_file({"prompt_emb": torch.load(folder / "posi_prompt.pth", weights_only=True)}, folder / "Prompt.safetensors")
    (folder / "posi_prompt.pth").unlink()
    same(folder, published)
    assert torch.equal(load(folder).prompt, load(published).prompt)


def test_other_file_names_are_found_by_what_they_hold(folder: Path, published: Path) -> None:
    (folder / DIT).rename(folder / "ckpt_dit_medium.safetensors")
    for old in ("LQ_proj_in.ckpt", "TCDecoder.ckpt"):
        save_file(torch.load(folder / old, weights_only=True), folder / f"ckpt_{old}_medium.safetensors")
        (folder / old).unlink()
    save_file({"context": torch.load(folder / "posi_prompt.pth", weights_only=True)}, folder / "a_prompt.safetensors")
    (folder / "posi_prompt.pth").unlink()
    same(folder, published)
    assert torch.equal(load(folder).prompt, load(published).prompt)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_single_file_repack_with_prefixes(published: Path, tmp_path: Path, prefix: str) -> None:
    loaded = load(published)
    assert loaded.tcdecoder is not None
    tensors = {prefix + name: loaded.dit[name].half() for name in loaded.dit}
    tensors |= {f"{prefix}lq_proj_in.{name}": loaded.projector[name].half() for name in loaded.projector}
    tensors |= {f"{prefix}tc_decoder.{name}": loaded.tcdecoder[name].half() for name in loaded.tcdecoder}
    tensors[f"{prefix}positive_conditioning"] = loaded.prompt[0].half()
    path = tmp_path / "flashvsr_fp16.safetensors"
    save_file(tensors, path)
    same(tmp_path, published, dtype=torch.float16)
    same(path, published, dtype=torch.float16)
    assert load(tmp_path).prompt.shape == (1, 5, 12)


def test_the_whole_wan_vae_is_read_wrapped_and_prefixed(folder: Path, published: Path) -> None:
    path = folder / "Wan2.1_VAE.pth"
    tensors = torch.load(path, weights_only=True)
    tensors |= {"encoder.conv1.weight": torch.zeros(2, 3, 3, 3, 3), "conv1.weight": torch.zeros(32, 32, 1, 1, 1)}
    torch.save(tensors, path)
    same(folder, published, "full")
    torch.save({"model_state": {f"model.{name}": tensor for name, tensor in tensors.items()}}, path)
    same(folder, published, "full")


def test_channels_last_convolutions_are_turned_back(folder: Path, published: Path) -> None:
    def turned(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if tensor.ndim >= 4 and name.endswith("weight"):
                tensors[name] = tensor.permute(0, *range(2, tensor.ndim), 1).contiguous()
            elif name.endswith("gamma"):
                tensors[name] = tensor.flatten()

    for name in (DIT, "LQ_proj_in.ckpt", "TCDecoder.ckpt", "Wan2.1_VAE.pth"):
        edited(folder / name, turned)
    same(folder, published, "tiny")
    same(folder, published, "full")


# Refusals


def test_unknown_version_variant_and_head_dim(published: Path) -> None:
    refused(published, "version", "'v2'", "v1.1", version="v2")
    refused(published, "variant", "'tiny-long'", variant="tiny-long")
    for head_dim in (0, 7, 128):
        refused(published, "head_dim", str(head_dim), "24", head_dim=head_dim)
    refused(published / "nowhere", "nowhere")


@pytest.mark.parametrize(
    ("name", "variant"),
    [(DIT, "tiny"), ("LQ_proj_in.ckpt", "tiny"), ("TCDecoder.ckpt", "tiny"), ("Wan2.1_VAE.pth", "full")],
)
def test_a_missing_file_is_named(folder: Path, name: str, variant: str) -> None:
    (folder / name).unlink()
    refused(folder, name, "missing", "download", variant=variant)


def test_a_missing_prompt_says_where_it_is_found(folder: Path) -> None:
    (folder / "posi_prompt.pth").unlink()
    refused(folder, "posi_prompt.pth", "examples/WanVSR/prompt_tensor", "isn't in the model repository")


def test_two_files_of_one_part_are_not_guessed_between(folder: Path) -> None:
    shutil.copy(folder / DIT, folder / "FlashVSR1_1.safetensors")
    refused(folder, DIT, "FlashVSR1_1.safetensors", "keep the one you mean")


@pytest.mark.parametrize("name", [DIT, "LQ_proj_in.ckpt", "TCDecoder.ckpt", "posi_prompt.pth"])
@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.99])
def test_truncated_files_are_refused(folder: Path, name: str, part: float) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(len(data) * part)])
    refused(folder, name, "download it again")


def test_a_pickle_that_would_run_code_is_refused(folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return Path.touch, (tmp_path / "exploded",)

    torch.save({"conv1.weight": Bomb()}, folder / "LQ_proj_in.ckpt")
    refused(folder, "LQ_proj_in.ckpt", "could run code")
    (folder / "LQ_proj_in.ckpt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    refused(folder, "LQ_proj_in.ckpt")
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_without_tensors_is_refused(folder: Path) -> None:
    torch.save({"epoch": 3}, folder / "TCDecoder.ckpt")
    refused(folder, "TCDecoder.ckpt", "no tensors")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.float64])
def test_quantised_files_are_refused(folder: Path, dtype: torch.dtype) -> None:
    edited(folder / DIT, lambda tensors: tensors.update({"blocks.1.ffn.0.weight": torch.zeros(40, 24).to(dtype)}))
    refused(folder, DIT, "blocks.1.ffn.0.weight", "bfloat16")


def test_a_quantised_prompt_is_refused(folder: Path) -> None:
    torch.save(torch.zeros(1, 5, 12, dtype=torch.int8), folder / "posi_prompt.pth")
    refused(folder, "posi_prompt.pth", "int8")


@pytest.mark.parametrize("shape", [(5,), (2, 5, 12), (1, 5, 13)])
def test_another_prompt_is_refused(folder: Path, shape: tuple[int, ...]) -> None:
    torch.save(torch.zeros(shape), folder / "posi_prompt.pth")
    refused(folder, "posi_prompt.pth", "prompt")


def test_missing_and_differing_and_unexpected_tensors_are_listed(folder: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["blocks.0.norm3.bias"]
        tensors["blocks.1.self_attn.q.weight"] = torch.zeros(24, 25)
        tensors["blocks.1.img_attn.k"] = torch.zeros(3)

    edited(folder / DIT, spoil)
    refused(
        folder,
        f"{DIT} isn't a complete DiT",
        "of 69 tensors",
        "1 missing (blocks.0.norm3.bias (24,))",
        "1 of another shape (blocks.1.self_attn.q.weight (24, 25) instead of (24, 24))",
        "1 unexpected (blocks.1.img_attn.k (3,))",
    )


def test_a_long_list_is_cut_and_counted(folder: Path) -> None:
    edited(folder / DIT, lambda tensors: [tensors.pop(name) for name in list(tensors) if "cross_attn" in name])
    refused(folder, "20 missing", "… 16 more")


def test_a_swapped_file_is_recognised(folder: Path) -> None:
    shutil.copy(folder / "TCDecoder.ckpt", folder / "LQ_proj_in.ckpt")
    refused(folder, "LQ_proj_in.ckpt", "looks like the TCDecoder")


def test_a_projector_of_another_model_is_refused(folder: Path) -> None:
    edited(folder / "LQ_proj_in.ckpt", lambda tensors: tensors.update({"linear_layers.0.weight": torch.zeros(32, 7)}))
    refused(folder, "linear_layers.0.weight (32, 7) instead of (24, 7)")


def test_a_model_of_the_published_width_needs_all_its_blocks(folder: Path) -> None:
    """Where the last block is missing altogether nothing else would tell."""
    table = {
        name: {"dtype": "F32", "shape": [1536], "data_offsets": [6144 * at, 6144 * at + 6144]}
        for at, name in enumerate(["patch_embedding.bias", "blocks.0.norm3.bias", "blocks.28.norm3.bias"])
    }
    header = json.dumps(table).encode()
    (folder / DIT).write_bytes(struct.pack("<Q", len(header)) + header + bytes(3 * 6144))
    refused(folder, "of 825 tensors 822 missing", head_dim=128)
