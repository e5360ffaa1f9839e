"""Reads SwiftVR's published checkpoint and its re-packs: every name and shape checked, tensors on demand."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vsflashsr.errors import FlashsrError
from vsflashsr.models.swiftvr.network.config import PUBLISHED_DIT, SwiftVRConfig, reae_layout
from vsflashsr.models.swiftvr.windows import WINDOW
from vsflashsr.models.wan.network.config import DiTConfig, Layout, dit_layout
from vsflashsr.models.wan.network.dit import TIMESTEP, Constants, build_constants

from ..weights_file import WeightsFile, check_dtypes, compare, open_weights

_SOURCE = "the model repository (H-oliday/SwiftVR)"
_DIT = (
    "transformer/diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "ckpt_transformer_small.safetensors",
)
_REAE = ("reae.safetensors", "ckpt_reae_small.safetensors")
_PROMPT = ("prompt_embedding.safetensors", "ckpt_prompt_embedding_small.safetensors")
_CONFIG = ("transformer/config.json", "config.json")

_RENAMED = (
    ("text_embedding.0.", "condition_embedder.text_embedder.linear_1."),
    ("text_embedding.2.", "condition_embedder.text_embedder.linear_2."),
    ("time_embedding.0.", "condition_embedder.time_embedder.linear_1."),
    ("time_embedding.2.", "condition_embedder.time_embedder.linear_2."),
    ("time_projection.1.", "condition_embedder.time_proj."),
    ("head.modulation", "scale_shift_table"),
    ("head.head.", "proj_out."),
    ("modulation", "scale_shift_table"),
    ("self_attn.", "attn1."),
    ("cross_attn.", "attn2."),
    ("norm3.", "norm2."),
    ("ffn.0.", "ffn.net.0.proj."),
    ("ffn.2.", "ffn.net.2."),
    *((f"{name}.", f"to_{name}.") for name in "qkv"),
    ("o.", "to_out.0."),
)
"""Beginnings of Wan's own names, and what the published file calls them; of a block's, after its number, level by level."""


@dataclass(frozen=True)
class Checkpoint:
    """A checked checkpoint; tensors are still on disk."""

    config: SwiftVRConfig
    dit: Mapping[str, Tensor]
    """By Wan's own names, which all exporters here go by."""
    reae: Mapping[str, Tensor]
    prompt: Tensor
    """(tokens, channels), float32."""
    files: Mapping[str, Path]
    """The file behind each part, for provenance."""


def constants(checkpoint: Checkpoint) -> Constants:
    """What prompt and timestep come to."""
    dit = checkpoint.config.dit
    return build_constants(dit, checkpoint.dit, checkpoint.prompt, sinusoid(dit.freq_dim))


def sinusoid(freq_dim: int) -> Tensor:
    """(1, freq_dim): cosines, then sines of the constant timestep, in float32 throughout as published. In float64 they differ by
    up to 2e-5, and what the DiT makes by as much."""
    half = freq_dim // 2
    angles = TIMESTEP * torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    return torch.cat([angles.cos(), angles.sin()])[None]


class _Tensors(Mapping[str, Tensor]):
    """Tensors of a file under other names, read when indexed: keep one no longer than needed."""

    def __init__(self, file: WeightsFile, names: Mapping[str, str]) -> None:
        self._file, self._names = file, names

    def __getitem__(self, name: str) -> Tensor:
        return self._file.read(self._names[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def published_name(name: str) -> str:
    """What diffusers calls a tensor of Wan's."""
    if name.startswith("blocks."):
        _, number, rest = name.split(".", 2)
        return f"blocks.{number}.{_renamed_inside(rest)}"
    return _renamed(name)


def _renamed_inside(rest: str) -> str:
    rest = _renamed(rest)
    layer, dot, inside = rest.partition(".")
    return f"{layer}{dot}{_renamed(inside)}" if layer in ("attn1", "attn2") else rest


def _renamed(name: str) -> str:
    for own, published in _RENAMED:
        if name.startswith(own):
            return published + name.removeprefix(own)
    return name


def load_checkpoint(
    folder: Path,
    *,
    head_dim: int | None = None,
    window: tuple[int, int] = (WINDOW, WINDOW),
    layers: int | None = None,
) -> Checkpoint:
    """Opens a folder with the published files, or LightX2V's with Wan's names, and checks every name, shape and dtype.

    Sizes are read off the shapes, but for those that are in none: ``head_dim`` (None: what config.json says, else 128), the
    ``window``, and the epsilon of the norms (config.json). A DiT of the published width has all the published layers, or else it
    isn't whole; ``layers`` says how many it has where it was made with fewer on purpose.

    Raises:
        FlashsrError: naming the file, what differs, and what to do.
    """
    if not folder.is_dir():
        raise FlashsrError(f"there is no checkpoint folder {str(folder)!r}; give the folder that holds the published files")
    files = {part: _find(folder, names) for part, names in (("dit", _DIT), ("reae", _REAE), ("prompt", _PROMPT))}
    dit, reae, prompt_file = (open_weights(path) for path in files.values())
    prompt = _prompt(prompt_file)
    config = _sizes(folder, dit, reae, head_dim, layers)
    config = replace(config, dit=replace(config.dit, text_len=prompt.shape[0]), window=window)
    if prompt.shape[1] != config.dit.text_dim:
        raise FlashsrError(
            f"the prompt in {files['prompt'].name} has {prompt.shape[1]} channels, expected {config.dit.text_dim}; use the one "
            f"from {_SOURCE}"
        )
    own_names = "blocks.0.self_attn.q.weight" in dit.shapes
    names = {name: name if own_names else published_name(name) for name in dit_layout(config.dit)}
    table = {names[name]: shape for name, shape in dit_layout(config.dit).items()}
    for file, title, expected in ((dit, "DiT of SwiftVR", table), (reae, "autoencoder of SwiftVR", reae_layout(config))):
        compare(file.path, title, file.shapes, expected, f"use {file.path.name} from {_SOURCE}")
        check_dtypes(file, expected)
    return Checkpoint(
        config, _Tensors(dit, names), _Tensors(reae, {name: name for name in reae_layout(config)}), prompt, files
    )


def _find(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FlashsrError(f"there is no {names[0]} in {str(folder)!r}; download it from {_SOURCE}")


def _prompt(file: WeightsFile) -> Tensor:
    if set(file.shapes) != {"prompt_emb"} or len(file.shapes["prompt_emb"]) not in (2, 3):
        raise FlashsrError(
            f"{file.path.name} should hold one tensor prompt_emb of (1, tokens, channels), got {file.shapes}; use the one from "
            f"{_SOURCE}"
        )
    check_dtypes(file, file.shapes)
    prompt = file.read("prompt_emb").float()
    return prompt[0] if prompt.ndim == 3 else prompt


def _sizes(
    folder: Path, dit: WeightsFile, reae: WeightsFile, head_dim: int | None, layers: int | None
) -> SwiftVRConfig:
    """Where a tensor is missing the published size stands, and the comparison names the tensor."""
    said = _said(folder)

    def size(file: WeightsFile, name: str, axis: int, default: int) -> int:
        shape = file.shapes.get(name, file.shapes.get(published_name(name), ()))
        return shape[axis] if len(shape) > axis else default

    published = SwiftVRConfig()
    dim = size(dit, "patch_embedding.bias", 0, PUBLISHED_DIT.dim)
    own: int = head_dim or said.get("attention_head_dim") or PUBLISHED_DIT.head_dim
    if own < 2 or own % 2 or dim % own:
        raise FlashsrError(
            f"head_dim must be even and divide the model's width {dim}, got {own}; the published model has 128, the reduced "
            "golden set 32"
        )
    numbers = {name.split(".")[1] for name in dit.shapes if name.startswith("blocks.")}
    found = max((int(number) for number in numbers if number.isdecimal()), default=PUBLISHED_DIT.layers - 1) + 1
    config = DiTConfig(
        dim=dim,
        heads=dim // own,
        head_dim=own,
        layers=layers or (max(found, PUBLISHED_DIT.layers) if dim == PUBLISHED_DIT.dim else found),
        ffn=size(dit, "blocks.0.ffn.0.bias", 0, PUBLISHED_DIT.ffn),
        text_dim=size(dit, "text_embedding.0.weight", 1, PUBLISHED_DIT.text_dim),
        freq_dim=size(dit, "time_embedding.0.weight", 1, PUBLISHED_DIT.freq_dim),
        latent_channels=size(dit, "patch_embedding.weight", 1, PUBLISHED_DIT.latent_channels),
        eps=float(said.get("eps") or PUBLISHED_DIT.eps),
    )
    a, b, c, d = published.decoder
    return SwiftVRConfig(
        config,
        size(reae, "encoder.0.bias", 0, published.encoder),
        (
            size(reae, "decoder.1.bias", 0, a),
            size(reae, "decoder.8.weight", 0, b),
            size(reae, "decoder.14.weight", 0, c),
            size(reae, "decoder.20.weight", 0, d),
        ),
    )


def _said(folder: Path) -> Mapping[str, Any]:
    """The model's own config.json; its numbers, and nothing else."""
    for name in _CONFIG:
        path = folder / name
        if path.is_file():
            try:
                data = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise FlashsrError(f"can't read {str(path)!r} ({error}); download it from {_SOURCE}") from error
            if not isinstance(data, dict):
                raise FlashsrError(f"{str(path)!r} should hold an object, got {type(data).__name__}; download it again")
            return {key: value for key, value in data.items() if isinstance(value, int | float)}
    return {}


def fingerprint(layout: Layout) -> str:
    """The lines that the specification's md5 is of: sorted ``name:shape``."""
    return "\n".join(sorted(f"{name}:{shape}" for name, shape in layout.items()))
