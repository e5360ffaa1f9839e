"""Launches between the matrix products of a token piece. Tokens are (rows, dim), rows a multiple of 128; see `launches`."""

from __future__ import annotations

from dataclasses import dataclass

from ....gpu.kernels.kernel import Launch
from ..windows import WINDOW_TOKENS
from .launches import ceil_div, launch_of
from .table import ROW_TOKENS

PROMPT_BLOCK = 128
"""A prompt's keys and values are padded to a multiple of this."""


@dataclass(frozen=True)
class Tokens:
    """Tokens between two products."""

    rows: int
    dim: int
    dtype: str
    """Of what products read and write: "fp16", "bf16" or "fp32"."""


@dataclass(frozen=True)
class NormWeights:
    """Addresses of a LayerNorm's weight and bias, (dim,) float32."""

    weight: int
    bias: int


def residual_norm(
    tokens: Tokens, x: int, y: int, x_out: int, out: int, norm: NormWeights, gate: int | None = None
) -> Launch:
    """x_out = x + gate * y, out = norm(x_out): x and x_out float32 and possibly the same, y and out of the tokens' type.

    `gate`: address of (dim,) float32; None: 1.
    """
    form, last = ("added", ()) if gate is None else ("gated", (gate,))
    return _residual_norm(form, tokens, x, y, x_out, out, norm, *last)


def embed_norm(tokens: Tokens, x: int, y: int, x_out: int, out: int, norm: NormWeights) -> Launch:
    """As `residual_norm`, of an x in the tokens' type."""
    return _residual_norm("embedded", tokens, x, y, x_out, out, norm)


def _residual_norm(
    form: str, tokens: Tokens, x: int, y: int, x_out: int, out: int, norm: NormWeights, *last: int
) -> Launch:
    return launch_of(
        f"residual_norm.{tokens.dtype}.{form}",
        (ceil_div(tokens.rows, ROW_TOKENS), 1, 1),
        x,
        y,
        norm.weight,
        norm.bias,
        x_out,
        out,
        tokens.rows,
        tokens.dim,
        *last,
    )


@dataclass(frozen=True)
class Prompt:
    """Addresses of what cross-attention reads beside its queries."""

    q_norm: int
    """Weight of the RMS norm of q, (dim,) float32."""
    keys: int
    """(heads, padded, head_dim) in the tokens' type; finite beyond `length`, and so are the values."""
    values: int
    length: int
    padded: int
    """A multiple of `PROMPT_BLOCK`."""
    heads: int


def cross_attend(tokens: Tokens, prompt: Prompt, q: int, scales: int, out: int) -> Launch:
    """q before its norm, (rows,) of `launches.rms_scales` → (rows, dim)."""
    if prompt.padded % PROMPT_BLOCK or not 1 <= prompt.length <= prompt.padded:
        raise ValueError(f"a prompt of {prompt.length} tokens isn't padded to {prompt.padded}")
    return launch_of(
        f"cross_attend.{tokens.dtype}.d{tokens.dim // prompt.heads}",
        (tokens.rows // WINDOW_TOKENS, prompt.heads, 1),
        q,
        scales,
        prompt.q_norm,
        prompt.keys,
        prompt.values,
        out,
        prompt.heads,
        prompt.length,
        prompt.padded,
    )
