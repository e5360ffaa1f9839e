"""Checkpoints that others publish and ``vsflashsr models get`` can fetch: where they lie, and what is needed of them."""

from __future__ import annotations

from dataclasses import dataclass
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
    """A release of FlashVSR."""

    name: str
    repository: str
    """On the Hugging Face Hub."""
    version: str
    """What the release is called; nothing in the files tells."""
    licence: str
    """What its authors say; what the hub says of it when it is got comes first."""
    prompt: Blob
    head_dim: int = 128

    def files(self, variant: Variant) -> list[str]:
        """The repository's files that a variant needs."""
        decoder = "TCDecoder.ckpt" if variant == "tiny" else "Wan2.1_VAE.pth"
        return ["diffusion_pytorch_model_streaming_dmd.safetensors", "LQ_proj_in.ckpt", decoder]


# Read on 2026-11-24 in the history of FlashVSR's code repository, which is the only place its authors publish the prompt in.
_PROMPT = Blob(
    name="posi_prompt.pth",
    url="https://raw.githubusercontent.com/OpenImagingLab/FlashVSR/ccac0ac457243a47c13997682ebbaf987dabbea7/"
    "examples/WanVSR/prompt_tensor/posi_prompt.pth",
    git_sha1="95c840b20b8d6aa0d16504ee04e49f1c01a7f209",
)

PUBLISHED = {
    entry.name: entry
    for entry in (
        Published("flashvsr-v1.1", "JunhaoZhuang/FlashVSR-v1.1", "v1.1", "apache-2.0", _PROMPT),
        Published("flashvsr-v1", "JunhaoZhuang/FlashVSR", "v1", "apache-2.0", _PROMPT),
    )
}
"""By the name under which ``flashsr`` finds the bundle."""
