"""What to launch for each part of a FlashVSR step: kernel, grid, arguments, from device addresses and sizes. Pure arithmetic.

All launches of one function run in their order on one stream. Addresses of the attention, of tokens and of patches are
multiples of 16 bytes (device buffers are of 256); those of frames may be any of a float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ....gpu.kernels.kernel import Launch, launch
from ..windows import SLICE_LATENTS, WINDOW_TOKENS, Grid
from .table import (
    DTYPES,
    GATHER_TOKENS,
    GATHER_WORDS,
    HEAD_DIMS,
    MOMENT_PIXELS,
    NOISE_QUADS,
    ORDER_ROWS,
    PATCH_TOKENS,
    PIXELS,
    RESIZE_COLS,
    RESIZE_ROWS,
    ROW_TOKENS,
    SCORE_KEYS,
    SCORE_QUERIES,
    TALLY_DIGITS,
    TALLY_LEVELS,
    TALLY_VALUES,
    kernels,
)

_ALIGNMENT_BYTES = 512
_WAVELET_LEVELS = 5
ITEM_BYTES: Mapping[str, int] = MappingProxyType({"fp16": 2, "bf16": 2, "fp32": 4})


def launch_of(name: str, grid: tuple[int, int, int], *values: int) -> Launch:
    """A launch of the kernel of that name."""
    return launch(kernels()[name], grid, *values)


def ceil_div(count: int, step: int) -> int:
    """Rounded up."""
    return -(-count // step)


# --- attention ---


@dataclass(frozen=True)
class Attention:
    """One layer's self-attention in one step; the same for all layers."""

    grid: Grid
    heads: int
    head_dim: int
    dtype: str
    """Of q, k, v and what comes out: "fp16", "bf16" or "fp32"."""
    query_slices: int
    """Slices of this step: 3 in a first one, else 1."""
    key_slices: int
    """Slices this step sees, its own among them: slots 0 to key_slices - 1 of the ring, in whatever order they are."""
    local_range: int
    budget: int
    """`windows.pair_budget`."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES or self.head_dim not in HEAD_DIMS:
            raise ValueError(f"no kernels for {self.dtype} and a head dimension of {self.head_dim}")
        if not 1 <= self.query_slices <= self.key_slices:
            raise ValueError(f"{self.query_slices} slices can't be among the {self.key_slices} that are seen")
        if self.grid.blocks * self.keys >= 2**31 or self.keys * WINDOW_TOKENS * self.dim >= 2**40:
            raise ValueError(f"too many windows: {self.grid.blocks} in a slice")

    @property
    def dim(self) -> int:
        return self.heads * self.head_dim

    @property
    def queries(self) -> int:
        """Query windows."""
        return self.query_slices * self.grid.blocks

    @property
    def keys(self) -> int:
        """Key windows."""
        return self.key_slices * self.grid.blocks

    @property
    def rank(self) -> int:
        """Of a head's and query slice's probabilities, what is strictly above the rank-th largest is kept."""
        return min(self.grid.blocks * self.keys - 1, self.budget) + 1

    @property
    def slot_bytes(self) -> int:
        """One slice of keys or values in the ring."""
        return self.grid.slice_tokens * self.dim * ITEM_BYTES[self.dtype]

    @property
    def mean_slot_bytes(self) -> int:
        """One slice of the keys' means, (windows, heads, head_dim) float32."""
        return self.grid.blocks * self.dim * 4


@dataclass(frozen=True)
class AttentionScratch:
    """Where in one buffer the attention keeps what it needs between its launches. All layers of a step can share it."""

    q: int
    q_means: int
    probabilities: int
    tallies: int
    lists: int
    counts: int
    order: int
    scales: int
    size_bytes: int


def attention_scratch(shape: Attention) -> AttentionScratch:
    """Byte offsets. `counts` (heads, queries) int32 and `lists` (heads, queries, keys) int32 tell what was kept."""
    rows = shape.heads * shape.queries
    sizes = (
        shape.queries * WINDOW_TOKENS * shape.dim * ITEM_BYTES[shape.dtype],
        shape.queries * shape.dim * 4,
        rows * shape.keys * 4,
        TALLY_DIGITS * shape.heads * shape.query_slices * TALLY_LEVELS * 4,
        rows * shape.keys * 4,
        rows * 4,
        rows * 4,
        2 * shape.queries * WINDOW_TOKENS * 4,
    )
    offsets = [0]
    for size in sizes:
        offsets.append(offsets[-1] + ceil_div(size, _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES)
    return AttentionScratch(*offsets)


@dataclass(frozen=True)
class HeadNorms:
    """Device addresses of the weights of the RMS norms of q and k, (dim,) float32 each."""

    q: int
    k: int


@dataclass(frozen=True)
class AttentionAddresses:
    """Device addresses of one layer's attention in one step."""

    q: int
    """(queries * 128, dim), not turned; after its RMS norm unless `norms` are given."""
    k: int
    """Likewise: this step's keys."""
    keys: int
    """Slot 0 of the layer's key ring: (slots * slice tokens, dim), turned."""
    values: int
    """Slot 0 of its value ring. This step's values are in place already."""
    key_means: int
    """Slot 0 of the means of its keys: (slots * windows, heads, head_dim) float32."""
    cosine: int
    sine: int
    """`tables.rotary_tables` of this step."""
    out: int
    """(queries * 128, dim)."""
    scratch: int
    """`attention_scratch(shape).size_bytes`."""
    norms: HeadNorms | None = field(default=None, kw_only=True)
    """Where the norms of q and k are still to be done."""


def attention(shape: Attention, at: AttentionAddresses, slot: int) -> tuple[Launch, ...]:
    """Norms q and k where that is left, turns them, writes k and its means into the ring from `slot` on, selects, attends.

    A step's slices lie in neighbouring slots; a first step begins at slot 0.
    """
    if not 0 <= slot <= shape.key_slices - shape.query_slices:
        raise ValueError(f"slot {slot} is not among the {shape.key_slices} that are seen")
    scratch = attention_scratch(shape)
    q, means = at.scratch + scratch.q, at.scratch + scratch.q_means
    return (
        *rotate(shape, at, slot, q, means),
        *select(shape, means, at.key_means, at.scratch),
        attend(shape, q, at, at.scratch),
    )


def rotate(shape: Attention, at: AttentionAddresses, slot: int, q_out: int, q_means: int) -> tuple[Launch, ...]:
    """q and k turned, k into the ring, and their means."""
    values = (
        at.q,
        at.k,
        q_out,
        at.keys + slot * shape.slot_bytes,
        q_means,
        at.key_means + slot * shape.mean_slot_bytes,
        at.cosine,
        at.sine,
        shape.heads,
        shape.query_slices * SLICE_LATENTS,
        shape.grid.rows,
        shape.grid.cols,
    )
    grid, form = (shape.queries, shape.heads, 1), f"{shape.dtype}.d{shape.head_dim}"
    if at.norms is None:
        return (launch_of(f"rotate.{form}", grid, *values),)
    scales = at.scratch + attention_scratch(shape).scales
    return (
        rms_scales(shape.dtype, (at.q, at.k), scales, shape.queries * WINDOW_TOKENS, shape.dim),
        launch_of(f"norm_rotate.{form}", grid, *values, scales, at.norms.q, at.norms.k),
    )


def rms_scales(dtype: str, sources: tuple[int, ...], out: int, rows: int, dim: int) -> Launch:
    """One or two of (rows, dim) → for each, (rows,) float32, what its RMS norm multiplies a row with before its weight."""
    return launch_of(
        f"rms_scales.{dtype}",
        (ceil_div(rows, ROW_TOKENS), len(sources), 1),
        sources[0],
        sources[-1],
        out,
        rows,
        dim,
    )


def select(shape: Attention, q_means: int, key_means: int, scratch: int) -> tuple[Launch, ...]:
    """From means to lists of kept windows: scores, softmax, tallies, lists, order."""
    at = attention_scratch(shape)
    probabilities, tallies = scratch + at.probabilities, scratch + at.tallies
    lists, counts = scratch + at.lists, scratch + at.counts
    size = shape.grid.blocks
    return (
        launch_of(
            f"scores.d{shape.head_dim}",
            (ceil_div(shape.queries, SCORE_QUERIES), ceil_div(shape.keys, SCORE_KEYS), shape.heads),
            q_means,
            key_means,
            probabilities,
            shape.heads,
            shape.queries,
            shape.keys,
            shape.grid.rows,
            shape.grid.cols,
            shape.local_range,
            tallies,
            shape.query_slices,
        ),
        launch_of("softmax", (shape.heads * shape.queries, 1, 1), probabilities, shape.keys),
        *(
            launch_of(
                f"tally.{digit}",
                (ceil_div(size * shape.keys, TALLY_VALUES), shape.heads * shape.query_slices, 1),
                probabilities,
                tallies,
                size * shape.keys,
                shape.rank,
                shape.heads * shape.query_slices,
            )
            for digit in range(TALLY_DIGITS)
        ),
        launch_of(
            "kept_lists",
            (shape.queries, shape.heads, 1),
            probabilities,
            tallies,
            lists,
            counts,
            shape.queries,
            shape.keys,
            size,
            shape.rank,
        ),
        launch_of(
            "longest_first",
            (ceil_div(shape.queries, ORDER_ROWS), shape.heads, 1),
            counts,
            scratch + at.order,
            shape.queries,
        ),
    )


def attend(shape: Attention, q: int, at: AttentionAddresses, scratch: int) -> Launch:
    """Flash attention of the turned `q` over the lists in `scratch`."""
    lists = attention_scratch(shape)
    return launch_of(
        f"attend.{shape.dtype}.d{shape.head_dim}",
        (shape.heads * shape.queries, 1, 1),
        q,
        at.keys,
        at.values,
        scratch + lists.lists,
        scratch + lists.counts,
        scratch + lists.order,
        at.out,
        shape.heads,
        shape.queries,
        shape.keys,
    )


# --- tokens, patches, latents ---


def gather_latent(source: int, out: int, grid: Grid, latent: int, token_bytes: int) -> Launch:
    """The projector's tokens of one latent, (h*w, dim) in row order → their places in a step's tokens in window order.

    `out` is the step's first token, `latent` counts from the step's first.
    """
    if token_bytes % 64:
        raise ValueError(f"tokens must be a multiple of 64 bytes, got {token_bytes}")
    first = latent // SLICE_LATENTS * grid.slice_tokens + latent % SLICE_LATENTS * (WINDOW_TOKENS // SLICE_LATENTS)
    tokens, words = grid.slice_tokens // SLICE_LATENTS, token_bytes // 4
    return launch_of(
        "gather_latent",
        (ceil_div(tokens, GATHER_TOKENS), ceil_div(words, GATHER_WORDS), 1),
        source,
        out + first * token_bytes,
        grid.rows,
        grid.cols,
        words,
    )


def latent_values(grid: Grid) -> int:
    """Values of one channel of one latent: H/8 * W/8."""
    return grid.rows * grid.cols * 256


def noise(keys: int, out: int, grid: Grid, slices: int) -> Launch:
    """A seed and a frame for each latent, int64 → (16, 2 * slices, H/8, W/8) float32, the noise of `noise.latent_noise`."""
    plane, latents = latent_values(grid), slices * SLICE_LATENTS
    return launch_of("noise", (ceil_div(4 * plane, NOISE_QUADS), latents, 1), keys, out, latents, plane)


def to_patches(
    latents: int,
    patches: int,
    grid: Grid,
    slices: int,
    *,
    frame_stride: int | None = None,
    channel_stride: int | None = None,
) -> Launch:
    """Latents float32 → patches (tokens, 64) float32, window order.

    Strides are in values; without them the latents are (16, 2 * slices, H/8, W/8). (2 * slices, 16, H/8, W/8), a latent
    after the other as the decoder takes them, has frame_stride 16 and channel_stride 1 times `latent_values`.
    """
    return _patches("to_patches", latents, patches, grid, slices, frame_stride, channel_stride)


def from_patches(
    patches: int,
    latents: int,
    grid: Grid,
    slices: int,
    *,
    frame_stride: int | None = None,
    channel_stride: int | None = None,
) -> Launch:
    """The inverse of `to_patches`."""
    return _patches("from_patches", patches, latents, grid, slices, frame_stride, channel_stride)


def _patches(
    name: str, source: int, out: int, grid: Grid, slices: int, frame_stride: int | None, channel_stride: int | None
) -> Launch:
    plane = latent_values(grid)
    return launch_of(
        name,
        (slices * grid.slice_tokens // PATCH_TOKENS, 1, 1),
        source,
        out,
        grid.rows,
        grid.cols,
        plane if frame_stride is None else frame_stride,
        plane * SLICE_LATENTS * slices if channel_stride is None else channel_stride,
    )


# --- frames ---


@dataclass(frozen=True)
class Resize:
    """The pre-upscale and the padding of frames."""

    height: int
    width: int
    target_height: int
    target_width: int
    padded_height: int
    padded_width: int
    reflect: bool
    """Pad by mirroring, else by repeating the last row and column."""
    row_taps: int
    col_taps: int
    """Of `tables.resize_table` for each axis."""


@dataclass(frozen=True)
class AxisTables:
    """Device addresses of `tables.resize_table` of one axis."""

    starts: int
    weights: int
    whole_weights: int


def resize_scratch_bytes(shape: Resize, frames: int) -> int:
    """What `resize` keeps between its passes."""
    return frames * 3 * shape.height * shape.target_width * 4


def resize(
    shape: Resize, frames: int, source: int, exact: int, rows: AxisTables, cols: AxisTables, out: int, scratch: int
) -> tuple[Launch, ...]:
    """(frames, 3, height, width) float32 in 0..1 → (frames, 3, padded_height, padded_width) float32 in -1..1.

    `exact` (frames,) int32 on the device: whether a frame is on the 8-bit grid (`resample.resize` says when).
    """
    planes = frames * 3
    return (
        launch_of(
            "resize_columns",
            (ceil_div(shape.target_width, RESIZE_COLS), ceil_div(shape.height, RESIZE_ROWS), planes),
            source,
            exact,
            cols.starts,
            cols.weights,
            cols.whole_weights,
            scratch,
            shape.height,
            shape.width,
            shape.target_width,
            shape.col_taps,
        ),
        launch_of(
            "resize_rows",
            (ceil_div(shape.padded_width, RESIZE_COLS), ceil_div(shape.padded_height, RESIZE_ROWS), planes),
            scratch,
            exact,
            rows.starts,
            rows.weights,
            rows.whole_weights,
            out,
            shape.height,
            shape.target_height,
            shape.target_width,
            shape.padded_height,
            shape.padded_width,
            shape.row_taps,
            int(shape.reflect),
        ),
    )


@dataclass(frozen=True)
class Planes:
    """Planes of padded frames, of which the top left corner counts: three a frame, one after the other."""

    count: int
    height: int
    width: int
    padded_height: int
    padded_width: int
    emitted: str = "fp32"
    """What finished frames are stored in, of `EMITTED`."""

    @property
    def _sizes(self) -> tuple[int, int, int, int]:
        return self.height, self.width, self.padded_height * self.padded_width, self.padded_width

    @property
    def _chunks(self) -> int:
        return ceil_div(self.height * self.width, MOMENT_PIXELS)

    @property
    def _grid(self) -> tuple[int, int, int]:
        return ceil_div(self.height * self.width, PIXELS), self.count, 1

    @property
    def packed_bytes(self) -> int:
        """(count, height, width) float32."""
        return self.count * self.height * self.width * 4


def moments_bytes(planes: Planes) -> int:
    """What `moments` writes: (planes, 2) float32, the mean and the deviation of each."""
    return planes.count * 8


def moments_scratch_bytes(planes: Planes) -> int:
    """What `moments` keeps between its passes."""
    return planes.count * planes._chunks * 8


def moments(planes: Planes, source: int, out: int, scratch: int) -> tuple[Launch, ...]:
    """Mean and sqrt(population variance + 1e-5) of each plane."""
    chunks = planes._chunks
    return (
        launch_of("moments", (chunks, planes.count, 1), source, scratch, *planes._sizes, chunks),
        launch_of("merge_moments", (planes.count, 1, 1), scratch, out, planes.height * planes.width, chunks),
    )


def adain(planes: Planes, made: int, made_moments: int, wanted: int, out: int) -> Launch:
    """Made frames in -1..1 with the moments `wanted` → packed, clamped, 0..1."""
    return launch_of(f"adain.{planes.emitted}", planes._grid, made, made_moments, wanted, out, *planes._sizes)


def finish(planes: Planes, made: int, out: int) -> Launch:
    """Made frames in -1..1 → packed, clamped, 0..1, no colour fix."""
    return launch_of(f"finish.{planes.emitted}", planes._grid, made, out, *planes._sizes)


def wavelet_scratch_bytes(planes: Planes) -> int:
    """What `wavelet` keeps between its passes."""
    return 2 * ceil_div(planes.packed_bytes, _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


def wavelet(planes: Planes, made: int, before: int, out: int, scratch: int) -> tuple[Launch, ...]:
    """Made frames on the coarse colours of the frames before, both in -1..1 and padded alike → packed, clamped, 0..1."""
    here, there = scratch, scratch + wavelet_scratch_bytes(planes) // 2
    launches = [launch_of("wavelet_difference", planes._grid, made, before, here, *planes._sizes)]
    for level in range(_WAVELET_LEVELS):
        launches.append(launch_of("wavelet_blur", planes._grid, here, there, planes.height, planes.width, 1 << level))
        here, there = there, here
    launches.append(launch_of(f"wavelet_finish.{planes.emitted}", planes._grid, made, here, out, *planes._sizes))
    return tuple(launches)
