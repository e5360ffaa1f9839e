"""The torch executor with the token pieces that backend "torch" runs: our kernels between torch's products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from vsflashsr.models.flashvsr.network import fused_projector
from vsflashsr.models.flashvsr.network.fused_decoder import FusedDecoder
from vsflashsr.models.flashvsr.network.fused_pieces import FusedPiece
from vsflashsr.models.flashvsr.network.fused_projector import FusedProjector
from vsflashsr.models.flashvsr.network.place import Place
from vsflashsr.models.flashvsr.network.projector import Projector
from vsflashsr.models.flashvsr.network.tcdecoder import TCDecoder
from vsflashsr.models.wan.network.pieces import FirstPiece, LastPiece, MiddlePiece

from .checkpoint import Checkpoint
from .torch_executor import Array, Observer, TorchExecutor

type Fused = FusedPiece | FusedDecoder | FusedProjector

_SINGLE = ("patches", "x", "x_out", "latents")


class FusedExecutor(TorchExecutor):
    """See ``TorchExecutor``.

    Args:
        checkpoint: whose head dimension there are kernels for.
        place: where it runs.
        stream: what the place's work is queued on; None where the place does it at once.
        settle: waits for all that was queued on the device.
        dtype: of the products.
        observer: see ``TorchExecutor``.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        place: Place,
        *,
        stream: Any = None,
        settle: Callable[[], object] = lambda: None,
        dtype: torch.dtype = torch.float32,
        observer: Observer | None = None,
    ) -> None:
        super().__init__(checkpoint, device=str(place.device), dtype=dtype, observer=observer)
        self._stream, self._settle = stream, settle
        self._fused_first = self._fused(self._first, place)
        self._fused_middle = [self._fused(piece, place) for piece in self._middle]
        self._fused_last = self._fused(self._last, place)
        config, f32 = checkpoint.config, torch.float32
        self._fused_projector: FusedProjector | None = None
        if isinstance(self._projector, Projector) and fused_projector.fits(self._projector):
            context = [("ctx1", f32), ("ctx2", dtype)] if self.looks_back else []
            made = [("tokens", dtype), *([("next2", dtype)] if self.looks_back else [])]
            self._fused_projector = FusedProjector(self._projector, [("clip", f32), *context], made, place)
        self._fused_decoder: FusedDecoder | None = None
        if checkpoint.tcdecoder is not None:
            decoder = TCDecoder(config)
            decoder.load_state_dict(dict(checkpoint.tcdecoder))
            states = range(len(decoder.channels))
            self._fused_decoder = FusedDecoder(
                decoder.to(dtype),
                [("latent", f32), ("lq", f32), *((f"state{n}", dtype) for n in states)],
                [("frames", f32), *((f"next{n}", dtype) for n in states)],
                place,
            )

    def block_taps(self) -> dict[str, torch.nn.Module]:
        """What lies inside a piece is nowhere to be seen."""
        return {}

    @torch.inference_mode()
    def first(self, patches: Tensor, lq: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self._four(self._fused_first, {"patches": patches, "lq": lq})

    @torch.inference_mode()
    def middle(self, layer: int, x: Tensor, attended: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self._four(self._fused_middle[layer], {"x": x, "attended": attended})

    @torch.inference_mode()
    def last(self, x: Tensor, attended: Tensor, patches: Tensor) -> Tensor:
        return self._run(self._fused_last, {"x": x, "attended": attended, "patches": patches})["latents"]

    # Contexts and memories are channels last in what is passed around; zeros are zeros either way.

    @torch.inference_mode()
    def project(self, frames: Array, context: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        if self._fused_projector is None:
            return super().project(frames, context)
        clip = self.upload(frames)
        given = {"clip": clip, **dict(zip(("ctx1", "ctx2"), context, strict=False))}
        made = self._run(self._fused_projector, given)
        return made["tokens"], (clip[2:].clone(), made["next2"]) if context else ()

    @torch.inference_mode()
    def decode(
        self, latent: Tensor, condition: Array, states: tuple[Tensor, ...], *, first: bool
    ) -> tuple[Array, tuple[Tensor, ...]]:
        if self._fused_decoder is None:
            return super().decode(latent, condition, states, first=first)
        given = {"latent": latent, "lq": self.upload(condition), **{f"state{n}": s for n, s in enumerate(states)}}
        made = self._run(self._fused_decoder, given)
        return self.download(made["frames"]), tuple(made[f"next{n}"] for n in range(len(states)))

    def _fused(self, piece: FirstPiece | MiddlePiece | LastPiece, place: Place) -> FusedPiece:
        inputs, outputs = (
            [(name, torch.float32 if name in _SINGLE else self.dtype) for name in names]
            for names in (piece.inputs, piece.outputs)
        )
        return FusedPiece(piece, inputs, outputs, place)

    def _four(self, graph: FusedPiece, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        made = self._run(graph, inputs)
        assert not isinstance(graph.piece, LastPiece)
        before = graph.piece.before
        x = next(iter(made.values()))
        return x, before.norm_q(made["q"]), before.norm_k(made["k"]), made["v"]

    def _run(self, graph: Fused, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        given = {name: tensor.to(graph.types[name]).contiguous() for name, tensor in inputs.items()}
        prepared = graph.prepare({name: tuple(tensor.shape) for name, tensor in given.items()})
        made = {n: self._aligned(shape, graph.types[n]) for n, shape in prepared.outputs.items()}
        given = {name: self._aligned(tuple(t.shape), t.dtype).copy_(t) for name, t in given.items()}
        scratch = self._aligned((prepared.scratch_bytes,), torch.uint8)
        self._settle()
        prepared.enqueue(self._stream, {n: t.data_ptr() for n, t in (given | made).items()}, scratch.data_ptr())
        self._settle()
        return made

    def _aligned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """At a multiple of 256 bytes, as the step's buffers are: on the CPU torch's own are of 64."""
        size = torch.Size(shape).numel() * dtype.itemsize
        raw = torch.empty(size + 256, dtype=torch.uint8, device=self.device)
        first = -raw.data_ptr() % 256
        return raw[first : first + size].view(dtype).reshape(shape)
