"""What other forms of a step's parts would bring on this GPU: attention's tunings, torch's flex_attention, cuDNN's block-sparse
kernels where they are installed, 8-bit products.

Each is held against what runs today, on the same numbers; a form that is wrong says so and is given no time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vsflashsr.errors import FlashsrError
from vsflashsr.gpu.device import Device, Stream
from vsflashsr.gpu.kernels.compile import compiled
from vsflashsr.gpu.kernels.kernel import Tuning
from vsflashsr.gpu.kernels.library import KernelLibrary
from vsflashsr.models.flashvsr.kernels import launches
from vsflashsr.models.flashvsr.kernels.table import KERNELS, kernels
from vsflashsr.models.flashvsr.network import block_sparse
from vsflashsr.models.flashvsr.network.config import FlashVSRConfig
from vsflashsr.models.flashvsr.windows import BLOCK_PX, Grid, pair_budget, topk_ratio

from .kernels import HEAD_DIM, HEADS, LIMITS, LOCAL_RANGE, TYPES
from .settings import Settings
from .timing import median_ms

TUNINGS = tuple(
    Tuning(warps, stages, {"BLOCK_N": block}) for block in (64, 128) for warps in (4, 8) for stages in (2, 3, 4)
)
"""Of `attend`; those that don't fit a GPU's shared memory are left out there, which `compiled` says."""


def products(config: FlashVSRConfig) -> Mapping[str, tuple[int, int]]:
    """(inputs, outputs) of the five linear layers that a step spends its time on."""
    dim, ffn = config.dim, config.ffn
    return {
        "one of q, k, v, o": (dim, dim),
        "q, k and v": (dim, 3 * dim),
        "into the feed-forward": (dim, ffn),
        "out of it": (ffn, dim),
        "projector": (config.lq_hidden[1], dim),
    }


def part(settings: Settings) -> dict[str, Any]:
    """Milliseconds and errors at the first size, steady step (one slice sees four), in the type that was asked for."""
    device = Device()
    try:
        report: dict[str, Any] = {}
        grid = Grid(settings.sizes[0][0] // BLOCK_PX, settings.sizes[0][1] // BLOCK_PX)
        case = _Case(device, grid, settings.dtype)
        report["attend today"] = {"ms": case.ms(case.library.run, settings.repeats)}
        for choice in TUNINGS:
            report[_named(choice)] = attempt(partial(_tuned, case, choice, settings.repeats))
        report["flex_attention"] = attempt(partial(_flex, case, settings.repeats))
        report["cuDNN's block-sparse attention"] = attempt(partial(_block_sparse, case, settings.repeats))
        for name, (inputs, outputs) in products(FlashVSRConfig()).items():
            report[f"8 bit: {name}"] = attempt(partial(_scaled, grid.slice_tokens, inputs, outputs, settings.repeats))
        report["passed"] = not wrong(report)
        return report
    finally:
        device.close()


def wrong(report: Mapping[str, Any]) -> list[str]:
    """Forms that ran and gave other numbers. One that can't run here is no fault."""
    return [name for name, found in report.items() if isinstance(found, dict) and "error" in found and not is_right(found)]


def is_right(found: Mapping[str, Any]) -> bool:
    """A NaN isn't."""
    return bool(found["error"] < found["limit"])


def attempt(form: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a form does, or why it doesn't run here."""
    try:
        return form()
    except Exception as error:  # noqa: BLE001 (whatever a compiler or a library of others' says)
        return {"left_out": f"{type(error).__name__}: {error}".splitlines()[0][:300]}


class _Case:
    """One layer's attention, selected and ready to attend."""

    def __init__(self, device: Device, grid: Grid, dtype: str) -> None:
        device.make_current()
        self.device, self.dtype, self.kind = device, dtype, TYPES[dtype]
        budget = pair_budget(topk_ratio(2.0, grid), grid)
        self.shape = launches.Attention(grid, HEADS, HEAD_DIM, dtype, 1, 4, LOCAL_RANGE, budget)
        torch.manual_seed(0)
        tokens, seen = grid.slice_tokens, 4 * grid.slice_tokens

        def drawn(*size: int) -> Tensor:
            return torch.randn(*size, device="cuda")

        self.q, self.k, self.v = (drawn(n, self.shape.dim).to(self.kind) for n in (tokens, seen, seen))
        means = drawn(self.shape.queries, HEADS, HEAD_DIM), drawn(self.shape.keys, HEADS, HEAD_DIM)
        self.places = launches.attention_scratch(self.shape)
        self.scratch = torch.zeros(self.places.size_bytes, dtype=torch.uint8, device="cuda")
        self.out = torch.empty_like(self.q)
        addresses = (t.data_ptr() for t in (self.q, self.q, self.k, self.v, means[1], means[0], means[0], self.out, self.scratch))
        self.attend = launches.attend(
            self.shape, self.q.data_ptr(), launches.AttentionAddresses(*addresses), self.scratch.data_ptr()
        )
        self.library, self.stream = KernelLibrary(device, KERNELS), device.stream()
        selecting = means[0].data_ptr(), means[1].data_ptr(), self.scratch.data_ptr()
        torch.cuda.synchronize()
        self.library.run(self.stream, *launches.select(self.shape, *selecting))
        self.library.run(self.stream, self.attend)
        self.stream.synchronize()
        self.wanted = self.out.float()

    def ms(self, run: Callable[[Stream, Any], object], repeats: int) -> float:
        """Of `attend` by `run`."""
        return median_ms(self.device, self.stream, partial(run, self.stream, self.attend), repeats)

    def lists(self) -> tuple[Tensor, Tensor]:
        """(heads, queries) and (heads, queries, keys): how many are kept, and which."""
        rows = HEADS * self.shape.queries

        def view(offset: int, count: int) -> Tensor:
            return self.scratch[offset : offset + 4 * count].view(torch.int32)

        counts = view(self.places.counts, rows).reshape(HEADS, -1)
        return counts, view(self.places.lists, rows * self.shape.keys).reshape(HEADS, -1, self.shape.keys)

    def compared(self, made: Tensor) -> dict[str, Any]:
        """Its error against today's kernel."""
        error = (made.float() - self.wanted).square().mean().sqrt() / self.wanted.square().mean().sqrt()
        return {"error": error.item(), "limit": LIMITS[self.dtype]}


def _named(choice: Tuning) -> str:
    return f"attend, {choice.warps} warps, {choice.stages} stages, keys by {choice.constants['BLOCK_N']}"


def _tuned(case: _Case, choice: Tuning, repeats: int) -> dict[str, Any]:
    capability = case.device.capability[0] * 10 + case.device.capability[1]
    chosen = dataclasses.replace(KERNELS, tuning=lambda kernel, _: choice)
    made = compiled(chosen, kernels()[case.attend.kernel], capability)
    kernel = case.device.load(made.cubin).kernel(made.entry)

    def run(stream: Stream, launch: Any) -> None:
        extra = (("p", 0),) * made.extra_pointers
        stream.launch(kernel, launch.grid, made.threads, made.shared_bytes, (*launch.args, *extra))

    return held_against(case, run, repeats)


def flex_attention_of(q: Tensor, k: Tensor, v: Tensor, counts: Tensor, lists: Tensor) -> tuple[Tensor, Tensor, Tensor, Any]:
    """Arguments of torch's flex_attention for our lists: q, k, v (1, heads, tokens, d) and its mask of whole blocks."""
    from torch.nn.attention.flex_attention import BlockMask

    heads = counts.shape[0]
    listed = torch.arange(lists.shape[-1], device=lists.device) < counts[..., None]
    # Behind the kept ones our lists hold anything.
    kept = torch.where(listed, lists, 0)
    none = torch.zeros_like(counts)
    mask = BlockMask.from_kv_blocks(
        none[None],
        torch.zeros_like(kept)[None],
        counts[None].contiguous(),
        kept[None].contiguous(),
        BLOCK_SIZE=128,
        seq_lengths=(q.shape[0], k.shape[0]),
        compute_q_blocks=False,
    )
    q, k, v = (t.reshape(1, len(t), heads, -1).transpose(1, 2) for t in (q, k, v))
    return q, k, v, mask


def _flex(case: _Case, repeats: int) -> dict[str, Any]:
    from torch.nn.attention.flex_attention import flex_attention

    counts, lists = case.lists()
    q, k, v, mask = flex_attention_of(case.q, case.k, case.v, counts, lists)
    run: Any = torch.compile(flex_attention)
    made = run(q, k, v, block_mask=mask)
    found = case.compared(made.transpose(1, 2).reshape(case.wanted.shape))
    return found | ({"ms": _torch_ms(lambda: run(q, k, v, block_mask=mask), repeats)} if is_right(found) else {})


def _block_sparse(case: _Case, repeats: int) -> dict[str, Any]:
    """As backend "torch" takes it, its result copied to where ours goes."""
    version = block_sparse.installed()
    if version is None:
        raise FlashsrError(f"{block_sparse.PACKAGE} isn't installed")
    why = block_sparse.why_not(version, case.device.capability, HEAD_DIM, case.dtype)
    if why is not None:
        raise FlashsrError(why)
    return held_against(case, block_sparse.BlockSparseLibrary(case.device, block_sparse.forward_of_cudnn()).run, repeats)


def held_against(case: _Case, run: Callable[[Stream, Any], object], repeats: int) -> dict[str, Any]:
    """Another form of `attend` on the same launch; milliseconds only if its numbers are right."""
    case.out.fill_(torch.nan)
    torch.cuda.synchronize()
    run(case.stream, case.attend)
    case.stream.synchronize()
    found = case.compared(case.out)
    return found | ({"ms": case.ms(run, repeats)} if is_right(found) else {})


def _scaled(rows: int, inputs: int, outputs: int, repeats: int) -> dict[str, Any]:
    """E4M3 with a scale for each row of either side, and the same product in bfloat16."""
    torch.manual_seed(1)
    x, weight = (torch.randn(n, inputs, device="cuda", dtype=torch.bfloat16) for n in (rows, outputs))
    (x8, x_scale), (weight8, weight_scale) = (in_eight_bits(t) for t in (x, weight))

    def product() -> Tensor:
        made: Tensor = torch._scaled_mm(
            x8, weight8.t(), scale_a=x_scale, scale_b=weight_scale.t(), out_dtype=torch.bfloat16, use_fast_accum=True
        )
        return made

    wanted = (x8.float() * x_scale) @ (weight8.float() * weight_scale).t()
    error = (product().float() - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()
    found = {"error": error.item(), "limit": LIMITS["bf16"]}
    if not is_right(found):
        return found
    return found | {"ms": _torch_ms(product, repeats), "bf16_ms": _torch_ms(lambda: x @ weight.t(), repeats)}


def in_eight_bits(x: Tensor) -> tuple[Tensor, Tensor]:
    """E4M3, and the scale of each row, (rows, 1) float32."""
    scale = x.float().abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / torch.finfo(torch.float8_e4m3fn).max
    return (x.float() / scale).to(torch.float8_e4m3fn), scale


def _torch_ms(work: Callable[[], object], repeats: int) -> float:
    """On torch's own stream; the median, after two to warm up."""
    new_event: Any = torch.cuda.Event
    times: list[float] = []
    for _ in range(repeats + 2):
        begin, end = (new_event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times[2:])[repeats // 2]
