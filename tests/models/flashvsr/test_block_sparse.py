"""cuDNN's attention in the place of ours: what it is given, when it is chosen, and what is said where it isn't. No GPU.

A function in NumPy stands in for cuDNN's; it asks for what `cudnn/block_sparse_attention/api.py` of version 1.32 asks for.
"""

from __future__ import annotations

import ctypes
import inspect
import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch", reason="it runs on torch's memory")

from vsflashsr.gpu.kernels.kernel import Launch  # noqa: E402
from vsflashsr.gpu.kernels.library import KernelLibrary  # noqa: E402
from vsflashsr.models.flashvsr.kernels import launches  # noqa: E402
from vsflashsr.models.flashvsr.network import block_sparse  # noqa: E402
from vsflashsr.models.flashvsr.windows import Grid  # noqa: E402

from ...support.host_kernels import run_on_host  # noqa: E402
from ...support.mock_cuda import mock_device  # noqa: E402
from ...support.torch_place import HostPlace  # noqa: E402

HEADS = 3


def view(address: int, count: int, dtype: Any) -> np.ndarray:
    size = count * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype)


def ours(launch: Launch) -> None:
    run_on_host(launch, view)


PLACE = HostPlace(view, ours)


def forward(q: Any, k: Any, v: Any, lists: Any, **given: Any) -> dict[str, Any]:
    """Dense, head by head, over the blocks of each list; batch, tokens, heads, channels."""
    counts = given["q2k_block_nums"]
    assert (given["layout"], given["sparse_block_size"], given["allow_empty_block_nums"]) == ("bshd", 128, True)
    batch, tokens, heads, dim = q.shape
    assert k.shape == v.shape == (batch, k.shape[1], heads, dim) and q.dtype == k.dtype == v.dtype
    assert all(t.stride(-1) == 1 and t.data_ptr() % 16 == 0 for t in (q, k, v))
    assert lists.dtype == counts.dtype == torch.int32
    assert lists.shape[:3] == counts.shape == (batch, heads, tokens // 128) and lists.is_contiguous()
    out = torch.zeros_like(q)
    for head in range(heads):
        for query in range(tokens // 128):
            kept = lists[0, head, query, : counts[0, head, query]].tolist()
            if not kept:
                continue
            rows = slice(128 * query, 128 * query + 128)
            key, value = (torch.cat([t[0, 128 * n : 128 * n + 128, head] for n in kept]).float() for t in (k, v))
            scores = q[0, rows, head].float() @ key.T * given["softmax_scale"]
            out[0, rows, head] = (scores.softmax(-1) @ value).to(q.dtype)
    return {"o_tensor": out}


def by(function: Callable[..., Any]) -> Callable[[Launch], None]:
    return lambda launch: block_sparse.attend(function, PLACE, launch)


def error(theirs: Callable[[Launch], None]) -> float:
    return block_sparse.error_between(ours, theirs, torch.device("cpu"), HEADS, "fp16")


def test_it_is_given_what_our_kernel_reads_without_a_copy() -> None:
    shape = launches.Attention(Grid(1, 2), HEADS, 128, "fp16", 1, 2, 1, 1)
    random = np.random.default_rng(0)
    q, k, v = (random.standard_normal((n * 128, HEADS * 128)).astype(np.float16) for n in (2, 4, 4))
    out = np.empty_like(q)
    at = launches.attention_scratch(shape)
    scratch = np.zeros(at.size_bytes + 512, np.uint8)
    scratch = scratch[-scratch.ctypes.data % 512 :]
    counts = scratch[at.counts :].view(np.int32)[: HEADS * 2]
    lists = scratch[at.lists :].view(np.int32)[: HEADS * 2 * 4]
    counts[:], lists[:] = np.arange(6), np.arange(24)
    q_at, k_at, v_at, out_at, scratch_at = (array.ctypes.data for array in (q, k, v, out, scratch))
    where = launches.AttentionAddresses(q_at, q_at, k_at, v_at, q_at, q_at, q_at, out_at, scratch_at)
    found = block_sparse.taken(PLACE, launches.attend(shape, q_at, where, scratch_at))
    for name, array in (("q", q), ("k", k), ("v", v)):
        tensor = getattr(found, name)
        assert (
            np.array_equal(tensor.numpy(), array.reshape(1, -1, HEADS, 128)) and tensor.data_ptr() == array.ctypes.data
        )
    assert np.array_equal(found.counts.numpy(), counts.reshape(1, HEADS, 2))
    assert np.array_equal(found.lists.numpy(), lists.reshape(1, HEADS, 2, 4))
    found.out[0, 129, 2, 5] = 7
    assert out[129, 2 * 128 + 5] == 7


def test_what_it_makes_is_what_our_kernel_makes() -> None:
    """Lists full, ragged and empty, with junk behind them."""
    assert error(by(forward)) < block_sparse.LIMITS["fp16"] / 2


def test_the_package_itself_takes_these_arguments() -> None:
    pytest.importorskip("cudnn", reason="nvidia-cudnn-frontend isn't installed")
    signature = inspect.signature(block_sparse.forward_of_cudnn())

    def bound(*given: Any, **named: Any) -> dict[str, Any]:
        signature.bind(*given, **named)
        return forward(*given, **named)

    assert error(by(bound)) < block_sparse.LIMITS["fp16"]


@pytest.mark.parametrize("wrong", ["scale", "empty rows", "counts", "heads", "nan"])
def test_other_numbers_are_found_out(wrong: str) -> None:
    def changed(q: Any, k: Any, v: Any, lists: Any, **given: Any) -> dict[str, Any]:
        counts = given["q2k_block_nums"]
        match wrong:
            case "scale":
                given["softmax_scale"] *= math.log2(math.e)
            case "counts":
                given["q2k_block_nums"] = (counts - 1).clamp_min(0)
            case "heads":
                q = q.flip(2)
        made = forward(q, k, v, lists, **given)["o_tensor"]
        if wrong == "empty rows":
            made[made == 0] = 1
        if wrong == "nan":
            made[0, 0, 0, 0] = torch.nan
        return {"o_tensor": made}

    found = error(by(changed))
    assert not found < block_sparse.LIMITS["bf16"]


def test_only_the_attention_of_16_bit_and_128_channels_is_taken() -> None:
    names = {"attend.bf16.d128": "bf16", "attend.fp16.d128": "fp16"}
    for name in (*names, "attend.fp32.d128", "attend.bf16.d32", "cross_attend.bf16.d128", "scores.d128", "softmax"):
        assert block_sparse.attends(Launch(name, (1, 1, 1), ())) == names.get(name)


@pytest.mark.parametrize(
    ("version", "capability", "head_dim", "dtype", "why"),
    [
        ("1.32.0", (9, 0), 128, "bf16", None),
        ("2.0", (12, 1), 128, "fp16", None),
        ("1.9.1", (9, 0), 128, "bf16", "1.32 or newer is needed, got 1.9.1"),
        ("1.32.0", (8, 9), 128, "bf16", "for compute capabilities 9.x and 12.x, got 8.9"),
        ("1.32.0", (10, 0), 128, "bf16", "got 10.0"),
        ("1.32.0", (9, 0), 128, "fp32", "got fp32 and 128"),
        ("1.32.0", (9, 0), 32, "bf16", "got bf16 and 32"),
    ],
)
def test_the_gpu_and_the_version_decide(
    version: str, capability: tuple[int, int], head_dim: int, dtype: str, why: str | None
) -> None:
    found = block_sparse.why_not(version, capability, head_dim, dtype)
    assert found is None if why is None else found is not None and why in found


class Device:
    """As far as the choice looks at it."""

    ordinal, capability = 0, (9, 0)


@pytest.mark.parametrize(
    ("version", "function", "off", "line"),
    [
        (None, forward, 0.0, None),
        (
            "1.31.0",
            forward,
            0.0,
            "attention by our own kernel: nvidia-cudnn-frontend 1.32 or newer is needed, got 1.31.0",
        ),
        ("1.32.0", forward, 1e-4, "attention by the block-sparse kernels of nvidia-cudnn-frontend 1.32.0"),
        ("1.32.0", forward, 0.02, "attention by our own kernel: nvidia-cudnn-frontend 1.32.0 gives other numbers"),
        ("1.32.0", forward, math.nan, "attention by our own kernel: nvidia-cudnn-frontend 1.32.0 gives other numbers"),
        ("1.32.0", None, 0.0, "doesn't work here, ModuleNotFoundError: No module named 'cudnn"),
    ],
)
def test_one_line_says_which_attention_it_is(
    version: str | None,
    function: Any,
    off: float,
    line: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Theirs:
        def __init__(self, device: Any, forward: Any) -> None: ...

    monkeypatch.setattr(block_sparse, "installed", lambda: version)
    monkeypatch.setattr(block_sparse, "MODULE", "cudnn_that_is_not_there")
    if function is not None:
        monkeypatch.setattr(block_sparse, "forward_of_cudnn", lambda: function)
    monkeypatch.setattr(block_sparse, "BlockSparseLibrary", Theirs)
    monkeypatch.setattr(block_sparse, "disagreement", lambda *_: off)
    before: Any = object()
    device: Any = Device()
    with caplog.at_level(logging.INFO, block_sparse.__name__):
        found = block_sparse.library_of(before, device, HEADS, 128, "bf16")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (0 if line is None else 1) and all(line is not None and line in text for text in said)
    taken = line is not None and "by the block-sparse" in line
    assert isinstance(found, Theirs) if taken else found is before


def test_all_other_kernels_stay_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="kernels are compiled by it where a checkout has none")
    ran: list[str] = []
    monkeypatch.setattr(KernelLibrary, "run", lambda self, stream, *launches: ran.extend(n.kernel for n in launches))
    monkeypatch.setattr(
        block_sparse.BlockSparseLibrary, "_attend", lambda self, stream, launch: ran.append(f"cuDNN: {launch.kernel}")
    )
    with mock_device(total_bytes=1 << 20) as (device, _):
        library = block_sparse.BlockSparseLibrary(device, forward)
        names = ("scores.d128", "attend.bf16.d128", "attend.fp32.d128")
        stream: Any = None
        library.run(stream, *(Launch(name, (1, 1, 1), ()) for name in names))
    assert ran == ["scores.d128", "cuDNN: attend.bf16.d128", "attend.fp32.d128"]
