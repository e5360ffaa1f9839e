"""SwiftVR's step by the torch modules themselves: what graphs are held against."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vsflashsr.models.swiftvr.network.attention import WindowedAttention
from vsflashsr.models.swiftvr.network.config import SwiftVRConfig
from vsflashsr.models.swiftvr.network.reae import Decoder, Encoder, decoder_weights, encoder_weights, memory_sizes
from vsflashsr.models.swiftvr.network.upscale import Upscale
from vsflashsr.models.swiftvr.step import Array, Memories
from vsflashsr.models.swiftvr.windows import Windows
from vsflashsr.models.wan.network.pieces import LastPiece, MiddlePiece, PatchPiece

from ..pieces import pieces_of
from .checkpoint import Checkpoint, constants


class TorchExecutor:
    """See ``Executor``; float32, all weights in memory."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.config = config = checkpoint.config
        self.layers, self.head_dim, self.window = config.dit.layers, config.dit.head_dim, config.window
        self.constants = constants(checkpoint)
        loaded = [
            [_loaded(copy.deepcopy(piece.module), weights()) for weights in piece.layers]
            for piece in pieces_of(config.dit, checkpoint.dit, self.constants, PatchPiece)
        ]
        self.first_piece: PatchPiece = loaded[0][0]
        self.middle_pieces: list[MiddlePiece] = loaded[1]
        self.last_piece: LastPiece = loaded[2][0]
        self.attention = WindowedAttention(config.dit.heads)
        self.upscaler = Upscale()
        self.encoder = _loaded(Encoder(config), encoder_weights(checkpoint.reae))
        self.decoder = _loaded(Decoder(config), decoder_weights(checkpoint.reae))

    def memories(self, height: int, width: int) -> tuple[Memories, Memories]:
        encoder, decoder = zero_memories(self.config, height, width)
        return encoder, decoder

    def upscale(self, frames: Array, tables: Mapping[str, Array]) -> Array:
        return _run(self.upscaler, [frames, *(tables[name] for name in Upscale.inputs[1:])])[0]

    def encode(self, frames: Array, memories: Memories) -> tuple[Array, Memories]:
        patches, *after = _run(self.encoder, [frames, *memories])
        return patches, tuple(after)

    def first(self, patches: Array) -> tuple[Array, Array, Array, Array]:
        x, q, k, v = _run(self.first_piece, [patches])
        return x, q, k, v

    def attend(self, q: Array, k: Array, v: Array, cos: Array, sin: Array, over: Windows) -> Array:
        return _run(self.attention, [q, k, v, cos, sin, over.gather, over.owner])[0]

    def middle(self, layer: int, x: Array, attended: Array) -> tuple[Array, Array, Array, Array]:
        x, q, k, v = _run(self.middle_pieces[layer], [x, attended])
        return x, q, k, v

    def last(self, x: Array, attended: Array, patches: Array) -> Array:
        return _run(self.last_piece, [x, attended, patches])[0]

    def decode(self, patches: Array, memories: Memories) -> tuple[Array, Memories]:
        frames, *after = _run(self.decoder, [patches, *memories])
        return frames, tuple(after)


def zero_memories(config: SwiftVRConfig, height: int, width: int) -> tuple[Memories, Memories]:
    """What encoder and decoder remember at the beginning of a run."""
    encoder, decoder = (
        tuple(np.zeros((1, channels, height // pixels, width // pixels), np.float32) for channels, pixels in sizes)
        for sizes in memory_sizes(config)
    )
    return encoder, decoder


def _loaded(module: Any, weights: Mapping[str, Tensor]) -> Any:
    module = module.to_empty(device="cpu") if any(p.is_meta for p in module.parameters()) else module
    module.load_state_dict(dict(weights))
    return module.eval().requires_grad_(False)


@torch.inference_mode()
def _run(module: nn.Module, inputs: Sequence[Array]) -> list[Array]:
    made = module(*(torch.from_numpy(np.array(array)) for array in inputs))
    return [tensor.numpy() for tensor in (made if isinstance(made, tuple) else (made,))]
