"""Writes a checkpoint of random weights: the published files, names, shapes and dtypes, and no trained picture.

For trying the exporter's memory and time at the real size, and for tests. One tensor is in memory at a time; the same
seed and sizes give the same weights. Needs the "export" extra.

    python -m trt_build.random_checkpoint OUT --variant full          # 6.8 GB
    python -m trt_build.random_checkpoint OUT --reduced               # 4 MB
    python -m trt_build.random_checkpoint OUT --model realviformer    # 47 MB
    python -m trt_build.random_checkpoint OUT --model swiftvr         # 20 GB
"""

from __future__ import annotations

import argparse
import json
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from vsflashsr.models.flashvsr.network.config import FlashVSRConfig, projector_layout, tcdecoder_layout, vae_layout
from vsflashsr.models.swiftvr.network.config import SwiftVRConfig, reae_layout
from vsflashsr.models.wan.network.config import DiTConfig, Layout, Shape, dit_layout

from .realviformer import layout as realviformer
from .swiftvr.checkpoint import published_name

PUBLISHED = FlashVSRConfig(vae_dim=96)
REDUCED = FlashVSRConfig(
    dim=64,
    heads=2,
    head_dim=32,
    layers=3,
    ffn=96,
    text_dim=16,
    text_len=5,
    freq_dim=16,
    lq_hidden=(4, 6),
    tc_channels=(8, 6, 4, 4),
    vae_dim=4,
)
"""Small enough to be made and exported within a test; its head dimension, 32, is in no shape and must be said. The kernels
know it."""

REALVIFORMER = realviformer.Sizes()
REALVIFORMER_REDUCED = realviformer.Sizes(features=12, blocks=(1, 1, 2, 1), heads=(1, 3, 2), merge_heads=3, squeeze=(2, 4, 2))
SWIFTVR_REDUCED = SwiftVRConfig(
    DiTConfig(dim=48, heads=2, head_dim=24, layers=3, ffn=64, text_dim=16, text_len=5, freq_dim=16, latent_channels=48),
    encoder=8,
    decoder=(12, 10, 8, 6),
)

Advance = Callable[[int], object]


def write_checkpoint(
    folder: Path, config: FlashVSRConfig, *, variant: str = "tiny", seed: int = 0, advance: Advance = lambda _: None
) -> None:
    """Writes the published files for a config; `advance` is told the values written.

    The DiT is float32 safetensors, the projector a bfloat16 pickle, the decoders float32 pickles, the prompt bfloat16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_safetensors(folder / "diffusion_pytorch_model_streaming_dmd.safetensors", dit_layout(config), seed, advance)
    _write_pickle(folder / "LQ_proj_in.ckpt", projector_layout(config), torch.bfloat16, seed, advance)
    if variant == "tiny":
        _write_pickle(folder / "TCDecoder.ckpt", tcdecoder_layout(config), torch.float32, seed, advance)
    else:
        _write_pickle(folder / "Wan2.1_VAE.pth", vae_layout(config), torch.float32, seed, advance)
    prompt = random_tensor("context", (1, config.text_len, config.text_dim), seed) * 0.5
    torch.save(prompt.bfloat16(), folder / "posi_prompt.pth")


def write_swiftvr(
    folder: Path, config: SwiftVRConfig, *, seed: int = 0, advance: Advance = lambda _: None
) -> None:
    """Writes the three published files and the DiT's config.json."""
    (folder / "transformer").mkdir(parents=True, exist_ok=True)
    dit = config.dit
    said = {"attention_head_dim": dit.head_dim, "num_attention_heads": dit.heads, "eps": dit.eps}
    (folder / "transformer" / "config.json").write_text(json.dumps(said), encoding="utf-8")
    named = {published_name(name): shape for name, shape in dit_layout(dit).items()}
    _write_safetensors(folder / "transformer" / "diffusion_pytorch_model.safetensors", named, seed, advance)
    _write_safetensors(folder / "reae.safetensors", reae_layout(config), seed, advance)
    prompt: Layout = {"prompt_emb": (1, dit.text_len, dit.text_dim)}
    _write_safetensors(folder / "prompt_embedding.safetensors", prompt, seed, advance)


def write_realviformer(
    folder: Path, sizes: realviformer.Sizes, *, seed: int = 0, advance: Advance = lambda _: None
) -> None:
    """Writes ``weights.pth``: two state dicts, as published, of which the one called "params" is the model."""
    folder.mkdir(parents=True, exist_ok=True)
    table = realviformer.layout(sizes)
    params = {name: _realviformer_tensor(name, shape, seed) for name, shape in table.items()}
    advance(sum(map(math.prod, table.values())))
    leftover = {realviformer.MASK: torch.ones(1)}
    averaged = {name: random_tensor(name, shape, seed + 1) for name, shape in table.items()}
    torch.save({"params": params | leftover, "params_ema": averaged | leftover}, folder / "weights.pth")


def _realviformer_tensor(name: str, shape: Shape, seed: int) -> torch.Tensor:
    """As `random_tensor`, but flows are a few pixels, and what is added to the plain upscale is about 0.05."""
    if name.startswith("spynet.") and len(shape) == 4 and shape[0] == 1:
        values = (0.485, 0.456, 0.406) if name.endswith("mean") else (0.229, 0.224, 0.225)
        return torch.tensor(values).reshape(shape)
    tensor = random_tensor(name, shape, seed)
    if name.endswith("temperature"):
        return 3 + 10 * tensor
    return tensor * (0.1 if name.endswith(".basic_module.8.weight") or name == "conv_last.weight" else 1)


def random_tensor(name: str, shape: Shape, seed: int) -> torch.Tensor:
    """Values of a size that keeps activations near 1, a function of seed and name alone."""
    generator = torch.Generator().manual_seed((zlib.crc32(name.encode()) << 16) ^ seed)
    values = torch.randn(shape, generator=generator)
    if name.endswith((".modulation", "scale_shift_table")):
        return values * 0.35
    if len(shape) == 1 or math.prod(shape) == max(shape):
        is_norm = name.endswith("gamma") or (".norm" in name and name.endswith("weight"))
        return 1 + 0.1 * values if is_norm else 0.1 * values
    if name in ("context", "prompt_emb"):
        return values
    return values / math.sqrt(math.prod(shape[1:]))


def count_values(config: FlashVSRConfig, variant: str) -> int:
    """Values that `write_checkpoint` reports to `advance`."""
    decoder = tcdecoder_layout if variant == "tiny" else vae_layout
    return sum(
        math.prod(shape) for table in (dit_layout, projector_layout, decoder) for shape in table(config).values()
    )


def _write_safetensors(path: Path, layout: Layout, seed: int, advance: Advance) -> None:
    """The format is a length, a JSON table and the raw tensors, so it can be streamed; the library wants all at once."""
    table: dict[str, object] = {}
    offset = 0
    for name, shape in layout.items():
        end = offset + 4 * math.prod(shape)
        table[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for name, tensor in _tensors(layout, seed, advance):
            del name
            file.write(tensor.numpy().tobytes())


def _write_pickle(path: Path, layout: Layout, dtype: torch.dtype, seed: int, advance: Advance) -> None:
    """Held in memory as a whole: the largest, the projector, has 0.58 GB."""
    torch.save({name: tensor.to(dtype) for name, tensor in _tensors(layout, seed, advance)}, path)


def _tensors(layout: Layout, seed: int, advance: Advance) -> Iterator[tuple[str, torch.Tensor]]:
    for name, shape in layout.items():
        yield name, random_tensor(name, shape, seed)
        advance(math.prod(shape))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a checkpoint of random weights.")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--model", choices=("flashvsr", "realviformer", "swiftvr"), default="flashvsr")
    parser.add_argument("--variant", choices=("tiny", "full"), default="tiny", help="FlashVSR's decoder (default: tiny)")
    parser.add_argument("--reduced", action="store_true", help="a small model; FlashVSR's has head dimension 32")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tqdm(unit="value", unit_scale=True, desc="random weights") as bar:
        if arguments.model == "realviformer":
            sizes = REALVIFORMER_REDUCED if arguments.reduced else REALVIFORMER
            write_realviformer(arguments.out, sizes, seed=arguments.seed, advance=bar.update)
            return
        if arguments.model == "swiftvr":
            write_swiftvr(
                arguments.out,
                SWIFTVR_REDUCED if arguments.reduced else SwiftVRConfig(),
                seed=arguments.seed,
                advance=bar.update,
            )
            return
        config = REDUCED if arguments.reduced else PUBLISHED
        bar.total = count_values(config, arguments.variant)
        write_checkpoint(arguments.out, config, variant=arguments.variant, seed=arguments.seed, advance=bar.update)


if __name__ == "__main__":
    main()
