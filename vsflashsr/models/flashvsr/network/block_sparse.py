"""cuDNN's block-sparse attention in the place of our kernel `attend`, over the same lists: an optional, warp-specialised form.

nvidia-cudnn-frontend 1.32 has, in Python, forward kernels of 128x128 blocks for compute capabilities 9.x and 12.x, that take the
lists as ours does: `q2k_block_index` (batch, heads, queries, keys) and `q2k_block_nums` (batch, heads, queries), int32; nothing
is read behind a list's count, and a query without keys gives 0 (`cudnn/block_sparse_attention/api.py` and
`csrc/fwd/sm90_blk128/bsa_fwd_sm90.py` of its wheel). It makes its output in memory of torch's, so it is for backend "torch".
Whoever installs the package asks for it; what it computes on the GPU at hand is held against our kernel before it is taken.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ....gpu.device import Device
from ....gpu.kernels.kernel import Launch
from ....gpu.kernels.library import KernelLibrary
from ..kernels import launches
from ..kernels.table import KERNELS
from ..windows import WINDOW_TOKENS, Grid
from .place import CudaPlace, Place, Run

if TYPE_CHECKING:
    from ....gpu.device import Stream

_log = logging.getLogger(__name__)

type Forward = Callable[..., Any]
"""`cudnn.block_sparse_attention.block_sparse_attention_forward`, or what is called alike."""

PACKAGE, MODULE = "nvidia-cudnn-frontend", "cudnn.block_sparse_attention"
FIRST_VERSION = (1, 32)
FAMILIES = (9, 12)
"""Major compute capabilities whose kernels were read: Hopper and GeForce's Blackwell."""
HEAD_DIM = 128
LIMITS = {"fp16": 2e-3, "bf16": 1e-2}
"""Of the error's root mean square over that of our kernel's result: a few times what the types' 11 and 8 bits make."""
_ALIGNMENT_BYTES = 512
_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Taken:
    """What a launch of `attend` reads and writes, as views in the layout that cuDNN calls "bshd"."""

    q: Tensor
    """(1, queries * 128, heads, d)."""
    k: Tensor
    """(1, keys * 128, heads, d)."""
    v: Tensor
    counts: Tensor
    """(1, heads, queries) int32."""
    lists: Tensor
    """(1, heads, queries, keys) int32."""
    out: Tensor
    """Like q."""


def attends(launch: Launch) -> str | None:
    """The type, "fp16" or "bf16", of an attention that can be done so; None: any other launch."""
    function, _, form = launch.kernel.partition(".")
    dtype, _, head_dim = form.partition(".d")
    return dtype if function == "attend" and dtype in _TYPES and head_dim == str(HEAD_DIM) else None


def taken(place: Place, launch: Launch) -> Taken:
    """Nothing is copied: a head is a slice of a token in both."""
    dtype = attends(launch)
    assert dtype is not None
    q, k, v, lists, counts, _, out, heads, queries, keys = (int(value) for _, value in launch.args)

    def tokens(address: int, windows: int) -> Tensor:
        return place.tensor(address, (1, windows * WINDOW_TOKENS, heads, HEAD_DIM), _TYPES[dtype])

    return Taken(
        tokens(q, queries),
        tokens(k, keys),
        tokens(v, keys),
        place.tensor(counts, (1, heads, queries), torch.int32),
        place.tensor(lists, (1, heads, queries, keys), torch.int32),
        tokens(out, queries),
    )


def attend(forward: Forward, place: Place, launch: Launch) -> None:
    """What the launch does, by cuDNN; on torch's stream."""
    given = taken(place, launch)
    made = forward(
        given.q,
        given.k,
        given.v,
        given.lists,
        q2k_block_nums=given.counts,
        sparse_block_size=WINDOW_TOKENS,
        allow_empty_block_nums=True,
        softmax_scale=HEAD_DIM**-0.5,
        layout="bshd",
    )
    given.out.copy_(made["o_tensor"])


class BlockSparseLibrary(KernelLibrary):
    """A ``KernelLibrary`` whose attention is cuDNN's.

    Args:
        device: see there.
        forward: cuDNN's function.
    """

    def __init__(self, device: Device, forward: Forward) -> None:
        super().__init__(device, KERNELS)
        self._forward, self._cuda = forward, CudaPlace(self, f"cuda:{device.ordinal}")

    def made_bytes(self, output_bytes: int) -> int:
        """See there: cuDNN's result lies in memory of torch's before it is copied."""
        return output_bytes

    def run(self, stream: Stream, *launches: Launch) -> None:
        """See ``KernelLibrary.run``."""
        for launch in launches:
            if attends(launch) is None:
                super().run(stream, launch)
            else:
                self._attend(stream, launch)

    def _attend(self, stream: Stream, launch: Launch) -> None:
        self._cuda.queue(stream, lambda _: attend(self._forward, self._cuda, launch))


def why_not(version: str, capability: tuple[int, int], head_dim: int, dtype: str) -> str | None:
    """What speaks against cuDNN's kernels; None: nothing. `version`: of the package."""
    numbers = tuple(int(part) if part.isdigit() else 0 for part in version.split(".")[:2])
    if numbers < FIRST_VERSION:
        return f"{PACKAGE} {'.'.join(map(str, FIRST_VERSION))} or newer is needed, got {version}"
    if capability[0] not in FAMILIES:
        return f"{PACKAGE} {version} is for compute capabilities 9.x and 12.x, got {capability[0]}.{capability[1]}"
    if head_dim != HEAD_DIM or dtype not in _TYPES:
        return f"cuDNN's kernels are for 16 bit and a head dimension of {HEAD_DIM}, got {dtype} and {head_dim}"
    return None


def installed() -> str | None:
    """The package's version; None: it isn't."""
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return None


def forward_of_cudnn() -> Forward:
    """Imports it; seconds, since it brings a compiler along."""
    found: Forward = importlib.import_module(MODULE).block_sparse_attention_forward
    return found


def library_of(ours: KernelLibrary, device: Device, heads: int, head_dim: int, dtype: str) -> KernelLibrary:
    """FlashVSR's kernels with cuDNN's attention, where it is installed, fits and is right here; else `ours`.

    One line of the log says which it is, unless the package isn't there.
    """
    version = installed()
    if version is None:
        return ours
    why = why_not(version, device.capability, head_dim, dtype)
    if why is None:
        try:
            theirs = BlockSparseLibrary(device, forward_of_cudnn())
            error = disagreement(device, ours, theirs, heads, dtype)
        except Exception as failure:  # noqa: BLE001 (whatever a compiler of others' says)
            why = f"{PACKAGE} {version} doesn't work here, {type(failure).__name__}: {failure}".splitlines()[0][:300]
        else:
            if error < LIMITS[dtype]:
                _log.info("attention by the block-sparse kernels of %s %s", PACKAGE, version)
                return theirs
            why = f"{PACKAGE} {version} gives other numbers than our kernel here, off by {error:.2g}"
    _log.info("attention by our own kernel: %s", why)
    return ours


def disagreement(device: Device, ours: KernelLibrary, theirs: KernelLibrary, heads: int, dtype: str) -> float:
    """Relative error of `theirs` against `ours` on a small attention."""
    stream = device.stream()

    def waited(library: KernelLibrary) -> Run:
        def run(launch: Launch) -> None:
            torch.cuda.synchronize(device.ordinal)
            library.run(stream, launch)
            stream.synchronize()

        return run

    try:
        return error_between(waited(ours), waited(theirs), torch.device("cuda", device.ordinal), heads, dtype)
    finally:
        stream.close()


def error_between(ours: Run, theirs: Run, where: torch.device, heads: int, dtype: str) -> float:
    """Root mean square of the difference over that of what `ours` makes, a NaN where one makes it.

    Lists are full, ragged and empty, and behind them lies junk. Either returns when the launch is done.
    """
    shape = launches.Attention(Grid(1, 2), heads, HEAD_DIM, dtype, 1, 2, 1, 1)
    generator = torch.Generator().manual_seed(0)

    def drawn(windows: int) -> Tensor:
        return torch.randn(windows * WINDOW_TOKENS, shape.dim, generator=generator).to(where, _TYPES[dtype])

    q, k, v = drawn(shape.queries), drawn(shape.keys), drawn(shape.keys)
    at = launches.attention_scratch(shape)
    # Torch's memory begins anywhere on a CPU.
    memory = torch.zeros(at.size_bytes + _ALIGNMENT_BYTES, dtype=torch.uint8, device=where)
    scratch = memory[-memory.data_ptr() % _ALIGNMENT_BYTES :]

    def put(offset: int, numbers: Tensor) -> None:
        flat = numbers.to(torch.int32).contiguous().flatten().view(torch.uint8)
        scratch[offset : offset + len(flat)] = flat.to(where)

    counts = (torch.arange(heads * shape.queries) * 3 + shape.keys) % (shape.keys + 1)
    places = torch.arange(shape.keys)
    # Each list ascends, as those of `kept_lists` do.
    lists = torch.where(places < counts[:, None], places + (shape.keys - counts)[:, None], 1 << 20)
    put(at.counts, counts)
    put(at.lists, lists)
    put(at.order, torch.arange(shape.queries).repeat(heads))
    found: list[Tensor] = []
    for run in (ours, theirs):
        out = torch.full_like(q, torch.nan)
        unread = scratch.data_ptr()
        addresses = launches.AttentionAddresses(
            q.data_ptr(), unread, k.data_ptr(), v.data_ptr(), unread, unread, unread, out.data_ptr(), unread
        )
        run(launches.attend(shape, q.data_ptr(), addresses, scratch.data_ptr()))
        found.append(out.float())
    made, other = found
    return float((other - made).square().mean().sqrt() / made.square().mean().sqrt())
