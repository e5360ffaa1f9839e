"""The token pieces for backend "torch": products by torch, everything between them by kernels of ours, in memory of ours.

What a piece of `pieces` does in some sixty passes over its tokens takes twelve here, and what it makes lies where the step wants
it without a copy. q and k come out before their norm: the kernel that turns them does it on the way (`norms`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....errors import FlashsrError
from ....gpu.device import Stream
from ....runtimes.graph import Shape
from ...wan.network.loading import Types
from ...wan.network.pieces import FirstPiece, LastPiece, MiddlePiece
from ..kernels.launches import HeadNorms, rms_scales
from ..kernels.table import HEAD_DIMS, MOST_DIM, NORM_EPS
from ..kernels.token_launches import PROMPT_BLOCK, NormWeights, Prompt, Tokens, cross_attend, embed_norm, residual_norm
from .place import KINDS, WORKSPACE_BYTES, FusedGraph, Place, Run, laid_out

type Piece = FirstPiece | MiddlePiece | LastPiece


def fits(piece: nn.Module) -> bool:
    """Are there kernels for this piece's sizes?"""
    if not isinstance(piece, FirstPiece | MiddlePiece | LastPiece):
        return False
    after = None if isinstance(piece, FirstPiece) else piece.after
    dim = piece.before.norm1.dim if isinstance(piece, FirstPiece) else piece.after.norm3.dim
    eps = {module.eps for module in piece.modules() if hasattr(module, "eps")}
    return dim <= MOST_DIM and dim % 16 == 0 and eps == {NORM_EPS} and (after is None or after.head_dim in HEAD_DIMS)


class FusedPiece(FusedGraph):
    """A ``DeviceGraph``.

    Args:
        piece: with its weights; `fits` says whether it can be one.
        inputs, outputs: (name, dtype) in order.
        place: where it runs.
    """

    def __init__(self, piece: Piece, inputs: Types, outputs: Types, place: Place) -> None:
        super().__init__(piece, inputs, outputs, place)
        self.piece = piece
        if not isinstance(piece, FirstPiece):
            # The module keeps them as the exported graphs read them.
            after = piece.after
            self._prompt_tokens = after.cross_v.shape[1]
            padding = 0, 0, 0, -self._prompt_tokens % PROMPT_BLOCK
            after.cross_k.data = F.pad(after.cross_k.data.mT, padding).contiguous()
            after.cross_v.data = F.pad(after.cross_v.data, padding).contiguous()
            self.weights_bytes = sum(p.nbytes for p in piece.parameters())

    def prompt(self) -> Prompt:
        """What cross-attention reads."""
        assert not isinstance(self.piece, FirstPiece)
        after = self.piece.after
        return Prompt(
            self.place.address(after.cross_norm_q.weight),
            self.place.address(after.cross_k),
            self.place.address(after.cross_v),
            self._prompt_tokens,
            after.cross_v.shape[1],
            after.heads,
        )

    def prepare(self, shapes: Mapping[str, Shape]) -> PreparedFusedPiece:
        """See ``DeviceGraph.prepare``."""
        rows, dim = shapes["lq" if isinstance(self.piece, FirstPiece) else "x"]
        expected = {"lq": (rows, dim), "x": (rows, dim), "attended": (rows, dim)}
        if wrong := [n for n, s in shapes.items() if s != expected.get(n, s)] or rows % 128:
            raise FlashsrError(f"a piece of {dim} values a token takes no {dict(shapes)} ({wrong}); export the bundle again")
        return PreparedFusedPiece(self, rows, dim, dict(shapes))


@dataclass(frozen=True, slots=True)
class _Scratch:
    """Offsets of what a piece keeps between its passes."""

    narrow: int
    """(rows, dim): what a product made."""
    normed: int
    """(rows, dim): what the next one reads."""
    hidden: int
    """(rows, ffn)."""
    scales: int
    """(rows,) float32."""
    own: int
    """What only one kind of piece needs: the last residual, (rows, dim) float32; the first piece's patches in its own type."""
    size_bytes: int


def _scratch(piece: Piece, rows: int, dim: int, item_bytes: int) -> _Scratch:
    ffn = 0 if isinstance(piece, FirstPiece) else piece.after.ffn_in.out_features
    own = 0
    if isinstance(piece, LastPiece):
        own = rows * dim * 4
    elif isinstance(piece, FirstPiece):
        own = rows * piece.patch.in_features * item_bytes
    return _Scratch(*laid_out((rows * dim * item_bytes, rows * dim * item_bytes, rows * ffn * item_bytes, rows * 4, own)))


class PreparedFusedPiece:
    """See ``PreparedGraph``; what is captured once may be replayed, since nothing is allocated between its inputs and outputs."""

    held_bytes = WORKSPACE_BYTES

    def __init__(self, graph: FusedPiece, rows: int, dim: int, shapes: dict[str, Shape]) -> None:
        self._graph, self._piece, self._place = graph, graph.piece, graph.place
        first = isinstance(self._piece, FirstPiece)
        self._dtype = self._piece.patch.weight.dtype if isinstance(self._piece, FirstPiece) else self._piece.after.o.weight.dtype
        self._shapes = shapes
        self.outputs: dict[str, Shape] = dict.fromkeys(graph.outputs, (rows, dim))
        if not first and isinstance(self._piece, LastPiece):
            self.outputs = {"latents": shapes["patches"]}
        self._rows, self._dim = rows, dim
        self._tokens = Tokens(rows, dim, KINDS[self._dtype])
        self._offsets = _scratch(self._piece, rows, dim, self._dtype.itemsize)
        self.scratch_bytes = self._offsets.size_bytes
        self._prompt = None if first else graph.prompt()

    @property
    def norms(self) -> HeadNorms | None:
        """The norms of q and k that are left to whoever turns them; None: it makes none."""
        if isinstance(self._piece, LastPiece):
            return None
        before = self._piece.before
        return HeadNorms(self._place.address(before.norm_q.weight), self._place.address(before.norm_k.weight))

    def enqueue(self, stream: Stream, addresses: Mapping[str, int], scratch: int) -> None:
        """See ``PreparedGraph.enqueue``."""
        match self._piece:
            case FirstPiece():
                work = self._first
            case MiddlePiece():
                work = self._middle
            case _:
                work = self._last
        self._place.queue(stream, lambda run: work(run, dict(addresses), scratch))

    def _first(self, run: Run, at: dict[str, int], scratch: int) -> None:
        piece, offsets = self._piece, self._offsets
        assert isinstance(piece, FirstPiece)
        patches = self._place.tensor(at["patches"], self._shapes["patches"], torch.float32)
        rounded = self._place.tensor(scratch + offsets.own, self._shapes["patches"], self._dtype)
        narrow, normed = scratch + offsets.narrow, scratch + offsets.normed
        _product(piece.patch, rounded.copy_(patches), self._wide(narrow))
        run(embed_norm(self._tokens, narrow, at["lq"], at["x"], normed, self._norm(piece.before.norm1)))
        self._heads(at, normed)

    def _middle(self, run: Run, at: dict[str, int], scratch: int) -> None:
        assert isinstance(self._piece, MiddlePiece)
        normed = self._after(run, at, scratch, at["x_out"], self._piece.before.norm1)
        self._heads(at, normed)

    def _last(self, run: Run, at: dict[str, int], scratch: int) -> None:
        piece = self._piece
        assert isinstance(piece, LastPiece)
        normed = self._after(run, at, scratch, scratch + self._offsets.own, piece.norm)
        velocity = self._place.tensor(scratch + self._offsets.narrow, self._shapes["patches"], self._dtype)
        _product(piece.head, self._wide(normed), velocity)
        patches = self._place.tensor(at["patches"], self._shapes["patches"], torch.float32)
        latents = self._place.tensor(at["latents"], self._shapes["patches"], torch.float32)
        torch.sub(patches, velocity, out=latents)

    def _heads(self, at: dict[str, int], normed: int) -> None:
        """q, k and v, each straight to its place."""
        piece = self._piece
        assert not isinstance(piece, LastPiece)
        qkv, dim = piece.before.qkv, self._dim
        for n, name in enumerate("qkv"):
            part = slice(n * dim, (n + 1) * dim)
            torch.addmm(qkv.bias[part], self._wide(normed), qkv.weight[part].t(), out=self._wide(at[name]))

    def _after(self, run: Run, at: dict[str, int], scratch: int, x_out: int, norm: nn.Module) -> int:
        """From an attention to the norm before the next product: the address of what that norm makes."""
        piece, offsets, tokens = self._piece, self._offsets, self._tokens
        assert not isinstance(piece, FirstPiece) and self._prompt is not None
        after = piece.after
        narrow, normed, scales = scratch + offsets.narrow, scratch + offsets.normed, scratch + offsets.scales
        made, read = self._wide(narrow), self._wide(normed)
        _product(after.o, self._wide(at["attended"]), made)
        run(residual_norm(tokens, at["x"], narrow, x_out, normed, self._norm(after.norm3), self._place.address(after.gate1)))
        _product(after.cross_q, read, made)
        run(rms_scales(tokens.dtype, (narrow,), scales, self._rows, self._dim))
        run(cross_attend(tokens, self._prompt, narrow, scales, normed))
        _product(after.cross_o, read, made)
        run(residual_norm(tokens, x_out, narrow, x_out, normed, self._norm(after.norm2)))
        hidden = self._place.tensor(scratch + offsets.hidden, (self._rows, after.ffn_in.out_features), self._dtype)
        self._place.product_gelu(after.ffn_in, read, hidden)
        _product(after.ffn_out, hidden, made)
        run(residual_norm(tokens, x_out, narrow, x_out, normed, self._norm(norm), self._place.address(after.gate2)))
        return normed

    def _norm(self, norm: nn.Module) -> NormWeights:
        weight, bias = norm.weight, norm.bias
        assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
        return NormWeights(self._place.address(weight), self._place.address(bias))

    def _wide(self, address: int) -> Tensor:
        return self._place.tensor(address, (self._rows, self._dim), self._dtype)


def _product(linear: nn.Linear, x: Tensor, out: Tensor) -> None:
    torch.addmm(linear.bias, x, linear.weight.t(), out=out)
