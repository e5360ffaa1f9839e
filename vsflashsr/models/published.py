"""Checkpoints that others publish and ``vsflashsr models get`` can fetch: where they lie, and what is needed of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

type Variant = Literal["tiny", "full"]


@dataclass(frozen=True, slots=True)
class Blob:
    """One file outside the model hub, by its address and by what it has to be."""

    name: str
    url: str
    git_sha1: str
    """Git's hash of the file: SHA-1 of ``blob LENGTH``, a zero byte and the content."""


@dataclass(frozen=True, slots=True)
class Published:
    """A release of a model."""

    name: str
    title: str
    """What its authors call it."""
    repository: str
    """On the Hugging Face Hub."""
    licence: str
    """What its authors say; what the hub says of it when it is got comes first."""
    files: tuple[str, ...]
    """Of the repository, that every variant needs; they keep their folders."""
    export: tuple[str, ...]
    """Arguments of ``trt_build export``, beside those of every export."""
    bundle_bytes: float
    """What a bundle in 16 bit takes at most; in fp32 twice as much."""
    variants: Mapping[Variant, str] = field(default_factory=dict)
    """The file that each needs beside those; empty: there are none."""
    prompt: Blob | None = None
    """What the repository lacks."""

    def wanted(self, variant: Variant) -> list[str]:
        """The repository's files that a variant needs."""
        return [*self.files, *([self.variants[variant]] if self.variants else [])]


# Read on 2026-11-24 in the history of FlashVSR's code repository, which is the only place its authors publish the prompt in.
_PROMPT = Blob(
    name="posi_prompt.pth",
    url="https://raw.githubusercontent.com/OpenImagingLab/FlashVSR/ccac0ac457243a47c13997682ebbaf987dabbea7/"
    "examples/WanVSR/prompt_tensor/posi_prompt.pth",
    git_sha1="95c840b20b8d6aa0d16504ee04e49f1c01a7f209",
)



def _flashvsr(name: str, version: str, repository: str) -> Published:
    return Published(
        name,
        title=f"FlashVSR {version}",
        repository=repository,
        licence="apache-2.0",
        files=("diffusion_pytorch_model_streaming_dmd.safetensors", "LQ_proj_in.ckpt"),
        # What the release is called: nothing in the files tells.
        export=("--model", "flashvsr", "--version", version),
        bundle_bytes=3.4e9,
        variants={"tiny": "TCDecoder.ckpt", "full": "Wan2.1_VAE.pth"},
        prompt=_PROMPT,
    )


PUBLISHED = {
    entry.name: entry
    for entry in (
        _flashvsr("flashvsr-v1.1", "v1.1", "JunhaoZhuang/FlashVSR-v1.1"),
        _flashvsr("flashvsr-v1", "v1", "JunhaoZhuang/FlashVSR"),
        Published(
            "swiftvr",
            title="SwiftVR",
            repository="H-oliday/SwiftVR",
            licence="apache-2.0",
            files=(
                "transformer/diffusion_pytorch_model.safetensors",
                "transformer/config.json",
                "reae.safetensors",
                "prompt_embedding.safetensors",
            ),
            export=("--model", "swiftvr"),
            bundle_bytes=9.0e9,
        ),
    )
}
"""By the name under which ``flashsr`` finds the bundle. What bundles take was measured with random weights."""
