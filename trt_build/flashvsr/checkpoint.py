"""Reads FlashVSR's published checkpoints and their known re-packs: every name and shape checked, tensors on demand.

What can't be checked: v1 and v1.1 have the same file names, keys and shapes, so a v1 file given as v1.1 (or the
reverse) loads without complaint and makes pictures that ghost. The version is what the caller says it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from vsflashsr.errors import FlashsrError
from vsflashsr.models.flashvsr.network.config import FlashVSRConfig, projector_layout, tcdecoder_layout, vae_layout
from vsflashsr.models.wan.network.config import Layout, Shape, dit_layout

from ..weights_file import WeightsFile, check_dtypes, open_weights, some

VERSIONS = ("v1", "v1.1")
VARIANTS = ("tiny", "full")


PartName = Literal["dit", "projector", "tcdecoder", "vae", "prompt"]


class MissingFileError(FlashsrError):
    """A part of the model has no file in the folder."""


@dataclass(frozen=True)
class _Part:
    """How one part of the model is found in a folder."""

    title: str
    names: tuple[str, ...]
    """File names it is published under; the first is the official one."""
    anchor: str
    """A tensor that only this part has: what stands before it in a key is the part's prefix."""
    source: str
    """Where the user gets it."""
    dropped: tuple[str, ...] = ()
    """Beginnings of keys (after the prefix) that belong to halves of the model nobody needs."""


_HF = "the model repository (JunhaoZhuang/FlashVSR or JunhaoZhuang/FlashVSR-v1.1)"
_PARTS: dict[PartName, _Part] = {
    "dit": _Part(
        "DiT",
        (
            "diffusion_pytorch_model_streaming_dmd.safetensors",
            "FlashVSR1_1.safetensors",
            "ckpt_dit_small.safetensors",
        ),
        "patch_embedding.bias",
        _HF,
    ),
    "projector": _Part(
        "LQ projector",
        ("LQ_proj_in.ckpt", "LQ_proj_in.safetensors", "ckpt_lq_proj_in_small.safetensors"),
        "linear_layers.0.bias",
        _HF,
    ),
    "tcdecoder": _Part(
        "TCDecoder",
        ("TCDecoder.ckpt", "TCDecoder.safetensors", "ckpt_tcdecoder_small.safetensors"),
        "decoder.26.bias",
        _HF,
    ),
    "vae": _Part(
        "Wan VAE",
        ("Wan2.1_VAE.pth", "Wan2.1_VAE.safetensors", "ckpt_wan_vae_decoder_small.safetensors"),
        "decoder.head.0.gamma",
        _HF,
        ("encoder.", "conv1."),
    ),
    "prompt": _Part(
        "prompt",
        ("posi_prompt.pth", "Prompt.safetensors", "posi_prompt_small.safetensors"),
        "positive_conditioning",
        "the code repository (examples/WanVSR/prompt_tensor/posi_prompt.pth); it isn't in the model repository",
    ),
}


class Weights(Mapping[str, torch.Tensor]):
    """The tensors of one part under their published names and in their published shapes, read when indexed.

    Each access reads from the file and returns a fresh tensor of the stored dtype: keep it no longer than needed.
    """

    def __init__(self, file: WeightsFile, prefix: str, layout: Layout) -> None:
        self._file, self._prefix, self._layout = file, prefix, layout

    @property
    def path(self) -> Path:
        """The file the tensors come from."""
        return self._file.path

    @property
    def dtypes(self) -> frozenset[str]:
        """Stored dtypes, as a model file may mix them."""
        return frozenset(self._file.dtypes[self._prefix + key] for key in self._layout)

    def shape(self, key: str) -> Shape:
        """Published shape of a tensor, without reading it."""
        return self._layout[key]

    def __getitem__(self, key: str) -> torch.Tensor:
        shape = self._layout[key]
        tensor = self._file.read(self._prefix + key)
        if tuple(tensor.shape) == shape:
            return tensor
        if _is_channels_last(tuple(tensor.shape), shape):
            tensor = tensor.permute(0, len(shape) - 1, *range(1, len(shape) - 1))
        return tensor.reshape(shape).contiguous()

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout)

    def __len__(self) -> int:
        return len(self._layout)


@dataclass(frozen=True)
class Checkpoint:
    """A checked FlashVSR checkpoint; tensors are still on disk."""

    folder: Path
    """Where it was found."""
    version: str
    """"v1" or "v1.1", as claimed by the caller: the files can't tell."""
    variant: str
    """"tiny" (TCDecoder) or "full" (Wan VAE decoder)."""
    config: FlashVSRConfig
    dit: Weights
    projector: Weights
    tcdecoder: Weights | None
    """None in the variant "full"."""
    vae: Weights | None
    """None in the variant "tiny"."""
    prompt: torch.Tensor
    """(1, tokens, channels), float32."""
    files: Mapping[str, Path]
    """The file behind each part, for provenance; several parts may share one."""


def load_checkpoint(folder: Path, *, version: str, variant: str, head_dim: int = 128) -> Checkpoint:
    """Opens a folder (or a single-file re-pack) of FlashVSR weights and checks every name, shape and dtype.

    The official file names, the safetensors re-packs, single-file re-packs (by what they hold), wrapped or prefixed
    state dicts, channels-last convolutions and the reduced golden names are understood. Sizes are read from the shapes;
    `head_dim` isn't in any shape and must be given where it isn't 128. A model of the published width must have
    all 30 blocks; at another width a missing last block looks like a smaller model.

    `version` ("v1" or "v1.1") is believed, not checked: nothing in the files tells the versions apart.

    Raises `FlashsrError` naming the file, what differs, and what to do.
    """
    if version not in VERSIONS:
        raise FlashsrError(
            f"version must be one of {', '.join(VERSIONS)}, got {version!r}; say which release the files are from "
            "(nothing in them tells)"
        )
    if variant not in VARIANTS:
        raise FlashsrError(
            f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}; use tiny unless you need full"
        )
    if not folder.exists():
        raise FlashsrError(f"there is no checkpoint folder {folder}; give the folder that holds the published files")

    decoder: PartName = "tcdecoder" if variant == "tiny" else "vae"
    opened: dict[Path, WeightsFile] = {}
    files = {part: _find(folder, part, opened) for part in ("dit", "projector", decoder, "prompt")}
    prompt = _read_prompt(files["prompt"])
    config = _infer(files, head_dim)
    config = replace(config, text_len=prompt.shape[1])
    weights = {part: _checked(files[part], part, config) for part in ("dit", "projector", decoder)}
    if prompt.shape[2] != config.text_dim:
        raise FlashsrError(
            f"the prompt in {files['prompt'].path.name} has {prompt.shape[2]} channels, expected {config.text_dim}; "
            "use the prompt tensor that belongs to the model"
        )
    return Checkpoint(
        folder,
        version,
        variant,
        config,
        weights["dit"],
        weights["projector"],
        weights.get("tcdecoder"),
        weights.get("vae"),
        prompt,
        {part: file.path for part, file in files.items()},
    )


def load_part(folder: Path, part: PartName) -> tuple[Weights, FlashVSRConfig]:
    """One part alone, with the sizes its own file tells; `MissingFileError` where it isn't there.

    The config's other sizes, and its heads, mean nothing.
    """
    file = _find(folder, part, {})
    config = _infer({part: file}, head_dim=None)
    return _checked(file, part, config), config


def _find(folder: Path, part: PartName, opened: dict[Path, WeightsFile]) -> WeightsFile:
    """The file of a part: by its published names, else the safetensors file that holds its anchor.

    The prompt is a lone tensor whose name says nothing, so it is found by what the file is called, too.
    """
    about = _PARTS[part]

    def open_once(path: Path) -> WeightsFile:
        if path not in opened:
            opened[path] = open_weights(path, lone=_PARTS["prompt"].anchor)
        return opened[path]

    if folder.is_file():
        candidates = [folder]
    else:
        candidates = [folder / name for name in about.names if (folder / name).is_file()]
        if not candidates:
            candidates = [
                path for path in sorted(folder.glob("*.safetensors")) if _holds(open_once(path), about.anchor)
            ]
        if not candidates and part == "prompt":
            candidates = sorted(folder.glob("*prompt*.safetensors"))
    if len(candidates) > 1:
        names = " and ".join(path.name for path in candidates)
        raise FlashsrError(f"{folder} holds more than one file of the {about.title}, {names}; keep the one you mean")
    if not candidates:
        raise MissingFileError(
            f"the {about.title} is missing, no {about.names[0]} in {folder}; download it from {about.source}"
        )
    return open_once(candidates[0])


def _holds(file: WeightsFile, anchor: str) -> bool:
    return any(key == anchor or key.endswith(f".{anchor}") for key in file.shapes)


def _prefix(file: WeightsFile, part: PartName) -> str:
    """What stands before the part's own names in the file's keys; "" where that can't be told."""
    anchor = _PARTS[part].anchor
    found = {key.removesuffix(anchor) for key in file.shapes if key == anchor or key.endswith(f".{anchor}")}
    return found.pop() if len(found) == 1 else ""


def _read_prompt(file: WeightsFile) -> torch.Tensor:
    about = _PARTS["prompt"]
    keys = list(file.shapes)
    if len(keys) > 1:
        keys = [key for key in keys if key == about.anchor or key.endswith(f".{about.anchor}")]
    if len(keys) != 1:
        raise FlashsrError(
            f"{file.path.name} holds {len(file.shapes)} tensors and none is the prompt; use {about.names[0]} from "
            f"{about.source}"
        )
    check_dtypes(file, keys)
    prompt = file.read(keys[0]).float()
    if prompt.ndim == 2:
        prompt = prompt[None]
    if prompt.ndim != 3 or prompt.shape[0] != 1:
        raise FlashsrError(
            f"the prompt in {file.path.name} has shape {tuple(prompt.shape)}, expected (1, tokens, channels); use "
            f"{about.names[0]} from {about.source}"
        )
    return prompt


def _infer(files: Mapping[PartName, WeightsFile], head_dim: int | None) -> FlashVSRConfig:
    """Sizes from shapes; where a tensor is missing the published size stands, and the comparison names the tensor."""
    published = FlashVSRConfig()
    prefixes = {part: _prefix(file, part) for part, file in files.items()}

    def size(part: PartName, key: str, axis: int, default: int) -> int:
        shape = files[part].shapes.get(prefixes[part] + key, ()) if part in files else ()
        return shape[axis] if len(shape) > axis else default

    dim = size("dit", "patch_embedding.bias", 0, size("projector", "linear_layers.0.bias", 0, published.dim))
    if head_dim is not None and (head_dim < 2 or head_dim % 2 or dim % head_dim):
        raise FlashsrError(
            f"head_dim must be even and divide the model's width {dim}, got {head_dim}; the published models have 128, "
            "the reduced golden set 32"
        )
    layers = published.layers
    if "dit" in files:
        blocks = prefixes["dit"] + "blocks."
        numbers = {key[len(blocks) :].split(".")[0] for key in files["dit"].shapes if key.startswith(blocks)}
        found = max((int(number) for number in numbers if number.isdecimal()), default=layers - 1) + 1
        layers = max(found, layers) if dim == published.dim else found
    pixels = math.prod(published.patch)
    tc = (512, 256, 128, 128)
    return FlashVSRConfig(
        dim=dim,
        heads=dim // (head_dim or published.head_dim),
        head_dim=head_dim or published.head_dim,
        layers=layers,
        ffn=size("dit", "blocks.0.ffn.0.bias", 0, published.ffn),
        text_dim=size("dit", "text_embedding.0.weight", 1, published.text_dim),
        freq_dim=size("dit", "time_embedding.0.weight", 1, published.freq_dim),
        latent_channels=size("dit", "head.head.bias", 0, pixels * published.latent_channels) // pixels,
        lq_hidden=(
            size("projector", "conv1.bias", 0, published.lq_hidden[0]),
            size("projector", "conv2.bias", 0, published.lq_hidden[1]),
        ),
        tc_channels=(
            size("tcdecoder", "decoder.1.bias", 0, tc[0]),
            size("tcdecoder", "decoder.11.conv.0.bias", 0, tc[1]),
            size("tcdecoder", "decoder.17.conv.0.bias", 0, tc[2]),
            size("tcdecoder", "decoder.22.weight", 0, tc[3]),
        )
        if "tcdecoder" in files
        else None,
        vae_dim=size("vae", "decoder.upsamples.11.resample.1.bias", 0, 96) if "vae" in files else None,
    )


_LAYOUTS: dict[PartName, Callable[[FlashVSRConfig], Layout]] = {
    "dit": dit_layout,
    "projector": projector_layout,
    "tcdecoder": tcdecoder_layout,
    "vae": vae_layout,
}


def _is_channels_last(found: Shape, wanted: Shape) -> bool:
    """A convolution stored (out, kernel..., in). Where both orders would fit, the published one is meant."""
    return len(wanted) >= 4 and found != wanted and found == (wanted[0], *wanted[2:], wanted[1])


def _fits(found: Shape, wanted: Shape) -> bool:
    if found == wanted or _is_channels_last(found, wanted):
        return True
    # A vector with its length-1 axes elsewhere, as norms have in channels-last files.
    long = [size for size in wanted if size > 1]
    return len(wanted) > 1 and len(long) == 1 and [size for size in found if size > 1] == long


def _checked(file: WeightsFile, part: PartName, config: FlashVSRConfig) -> Weights:
    about, prefix, layout = _PARTS[part], _prefix(file, part), _LAYOUTS[part](config)
    strangers = tuple(
        found
        for other in _PARTS
        if other != part and (found := _prefix(file, other)).startswith(prefix) and found != prefix
    )
    ignored = (*(prefix + start for start in about.dropped), *strangers, prefix + _PARTS["prompt"].anchor)
    present = {
        key.removeprefix(prefix): shape
        for key, shape in file.shapes.items()
        if key.startswith(prefix) and not key.startswith(ignored)
    }
    missing = [f"{key} {shape}" for key, shape in layout.items() if key not in present]
    differing = [
        f"{key} {present[key]} instead of {shape}"
        for key, shape in layout.items()
        if key in present and not _fits(present[key], shape)
    ]
    unexpected = [f"{key} {shape}" for key, shape in present.items() if key not in layout]
    faults = [
        f"{len(names)} {what} ({some(names)})"
        for what, names in (("missing", missing), ("of another shape", differing), ("unexpected", unexpected))
        if names
    ]
    if faults:
        other = next(
            (_PARTS[name].title for name in _PARTS if name != part and _holds(file, _PARTS[name].anchor)), None
        )
        hint = f", and it looks like the {other}" if other and not _holds(file, about.anchor) else ""
        raise FlashsrError(
            f"{file.path.name} isn't a complete {about.title}: of {len(layout)} tensors {', '.join(faults)}{hint}; "
            f"use {about.names[0]} from {about.source}"
        )
    check_dtypes(file, [prefix + key for key in layout])
    return Weights(file, prefix, layout)
