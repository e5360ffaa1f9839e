"""The attention's kernels on this GPU against torch in float32: largest error, kept pairs identical, milliseconds."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vsflashsr.gpu.device import Device
from vsflashsr.gpu.kernels.library import KernelLibrary
from vsflashsr.models.flashvsr.kernels import launches
from vsflashsr.models.flashvsr.kernels.table import KERNELS
from vsflashsr.models.flashvsr.kernels.tables import rotary_tables
from vsflashsr.models.flashvsr.windows import BLOCK_PX, Grid, local_mask, pair_budget, topk_ratio

from .settings import Settings
from .timing import median_ms

HEADS, HEAD_DIM, LOCAL_RANGE = 12, 128, 11
TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
LIMITS = {"fp16": 2e-3, "bf16": 1e-2}
"""Of the error's root mean square over that of what is right: a few times what the types' 11 and 8 bits make."""


def part(settings: Settings) -> dict[str, Any]:
    """Each type at the first size, in a first step (3 slices see 3) and a steady one (1 sees 4)."""
    device = Device()
    try:
        library = KernelLibrary(device, KERNELS)
        grid = Grid(settings.sizes[0][0] // BLOCK_PX, settings.sizes[0][1] // BLOCK_PX)
        report: dict[str, Any] = {
            f"{dtype}, {queries} of {keys}": _checked(device, library, grid, dtype, queries, keys, settings.repeats)
            for dtype in TYPES
            for queries, keys in ((3, 3), (1, 4))
        }
        report["passed"] = all(is_right(found, LIMITS[name.partition(",")[0]]) for name, found in report.items())
        return report
    finally:
        device.close()


def is_right(found: dict[str, Any], limit: float) -> bool:
    """Is the same kept as the thresholds say, and what comes of it right? A NaN is neither."""
    return bool(found["masks_equal"]) and found["relative_error"] < limit and found["probabilities_error"] < 1e-3


def _checked(
    device: Device, library: KernelLibrary, grid: Grid, dtype: str, queries: int, keys: int, repeats: int
) -> dict[str, Any]:
    device.make_current()
    budget = pair_budget(topk_ratio(2.0, grid), grid)
    shape = launches.Attention(grid, HEADS, HEAD_DIM, dtype, queries, keys, LOCAL_RANGE, budget)
    kind = TYPES[dtype]
    torch.manual_seed(queries)
    tokens, seen = queries * grid.slice_tokens, keys * grid.slice_tokens
    # Neighbouring tokens are alike, as in a picture: the means of windows differ, and so do their scores.
    levels = torch.randn(seen // 128, 1, shape.dim, device="cuda")

    def like(count: int) -> Tensor:
        noise = torch.randn(count // 128, 128, shape.dim, device="cuda")
        return (noise + levels[: count // 128]).reshape(count, shape.dim).to(kind)

    q, k, key_ring, values = like(tokens), like(tokens), like(seen), like(seen)
    ring_windows = key_ring.float().reshape(-1, 128, HEADS, HEAD_DIM)
    means = ring_windows.mean(1).contiguous()
    cosine, sine = (torch.from_numpy(t).cuda() for t in rotary_tables(grid, HEAD_DIM, queries, 2 * (keys - queries)))
    out = torch.full_like(q, torch.nan)
    scratch = launches.attention_scratch(shape)
    memory = torch.full((scratch.size_bytes,), 0xFF, dtype=torch.uint8, device="cuda")
    at = launches.AttentionAddresses(
        *(t.data_ptr() for t in (q, k, key_ring, values, means, cosine, sine, out, memory)),
    )
    slot = keys - queries
    work = launches.attention(shape, at, slot)
    stream = device.stream()
    torch.cuda.synchronize()
    library.run(stream, *work)
    stream.synchronize()

    def scratch_view(offset: int, count: int, type_: torch.dtype) -> Tensor:
        return memory[offset : offset + 4 * count].view(type_)

    rows = HEADS * shape.queries
    probabilities = scratch_view(scratch.probabilities, rows * shape.keys, torch.float32).reshape(HEADS, -1, shape.keys)
    counts = scratch_view(scratch.counts, rows, torch.int32).reshape(HEADS, -1).long()
    lists = scratch_view(scratch.lists, rows * shape.keys, torch.int32).reshape(HEADS, -1, shape.keys).long()
    kept = torch.zeros(HEADS, shape.queries, shape.keys, dtype=torch.bool, device="cuda")
    listed = torch.arange(shape.keys, device="cuda") < counts[..., None]
    kept.scatter_(2, torch.where(listed, lists, 0), listed)
    kept[..., 0] = (listed & (lists == 0)).any(-1)
    turned = _turned(q, cosine, sine, grid, queries)
    wanted_means = turned.reshape(-1, 128, HEADS, HEAD_DIM).mean(1)
    wanted = _probabilities(wanted_means, means, grid, queries, keys)
    chosen = _kept(probabilities, shape)
    reference = _attended(turned.to(kind), key_ring, values, kept)
    error = (out.float() - reference).abs().max().item()
    noise = (out.float() - reference).square().mean().sqrt() / reference.square().mean().sqrt()
    report: dict[str, Any] = {
        "max_error": error,
        "relative_error": noise.item(),
        "probabilities_error": (probabilities - wanted).abs().max().item(),
        "masks_equal": bool((kept == chosen).all()),
        "pairs_that_differ_from_float32": int((kept != _kept(wanted, shape)).sum()),
        "pairs": int(kept.sum()),
        "most_keys_of_a_query": int(counts.max()),
        "empty_rows": int((counts == 0).sum()),
        "ms": {launch.kernel: median_ms(device, stream, partial(library.run, stream, launch), repeats) for launch in work},
    }
    flop = 4 * 128 * 128 * HEAD_DIM * report["pairs"]
    report["attend_tflop_per_s"] = flop / 1e9 / report["ms"][work[-1].kernel]
    report["dense_torch_ms"] = _dense_ms(q, key_ring, values)
    stream.close()
    return report


def _dense_ms(q: Tensor, k: Tensor, v: Tensor) -> float:
    """Torch's attention over all keys, for the ratio; the best of a few calls."""
    query, key, value = (t.reshape(1, -1, HEADS, HEAD_DIM).transpose(1, 2) for t in (q, k, v))
    times: list[float] = []
    for _ in range(4):
        torch.cuda.synchronize()
        start = time.perf_counter()
        F.scaled_dot_product_attention(query, key, value)
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return min(times)


def _turned(q: Tensor, cosine: Tensor, sine: Tensor, grid: Grid, slices: int) -> Tensor:
    """Queries turned in float32 by the same tables, (tokens, heads, d)."""
    side = HEAD_DIM // 3 // 2
    time_ = HEAD_DIM // 2 - 2 * side
    token = torch.arange(slices * grid.slice_tokens, device="cuda")
    window, inside = token // 128, token % 128
    place = window % grid.blocks
    latent = window // grid.blocks * 2 + inside // 64
    row, col = place // grid.cols * 8 + inside % 64 // 8, place % grid.cols * 8 + inside % 8

    def by_token(table: Tensor) -> Tensor:
        ends = [2 * slices * time_, 2 * slices * time_ + grid.rows * 8 * side]
        parts = torch.tensor_split(table, ends)
        found = [p.reshape(-1, n)[i] for p, n, i in zip(parts, (time_, side, side), (latent, row, col), strict=True)]
        return torch.cat(found, 1)[:, None]

    even, odd = q.float().reshape(-1, HEADS, HEAD_DIM // 2, 2).unbind(-1)
    cos, sin = by_token(cosine), by_token(sine)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(-1, HEADS, HEAD_DIM)


def _probabilities(q: Tensor, k: Tensor, grid: Grid, queries: int, keys: int) -> Tensor:
    scores = torch.einsum("qhd,khd->hqk", q.double(), k.double()) * HEAD_DIM**-0.5
    visible = torch.from_numpy(local_mask(grid, LOCAL_RANGE).copy()).cuda().repeat(queries, keys)
    found: Tensor = scores.masked_fill(~visible, -torch.inf).softmax(-1).float()
    return found


def _kept(probabilities: Tensor, shape: launches.Attention) -> Tensor:
    flat = probabilities.reshape(HEADS, shape.query_slices, -1)
    threshold = flat.sort(dim=-1, descending=True).values[..., shape.rank - 1 : shape.rank]
    kept: Tensor = (flat > threshold).reshape(probabilities.shape)
    return kept


def _attended(q: Tensor, k: Tensor, v: Tensor, kept: Tensor) -> Tensor:
    """Float32, a head and a few query windows at a time."""
    keys, values = (t.float().reshape(-1, HEADS, HEAD_DIM) for t in (k, v))
    queries = q.float().reshape(-1, 128, HEADS, HEAD_DIM)
    out = torch.zeros_like(queries)
    for head in range(HEADS):
        for start in range(0, len(queries), 16):
            block = queries[start : start + 16, :, head]
            mask = kept[head, start : start + 16].repeat_interleave(128, 1)[:, None]
            scores = (block @ keys[:, head].T * HEAD_DIM**-0.5).masked_fill(~mask, -torch.inf)
            weights = scores.softmax(-1).nan_to_num()  # a query that keeps nothing: exactly 0
            out[start : start + 16, :, head] = weights @ values[:, head]
    return out.reshape(-1, HEADS * HEAD_DIM)
