"""A step's kernels by stage, from made-up events with names as CUPTI gives them; and a machine where it gives none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trt_build.gpu_check import check
from trt_build.gpu_check.by_kernel import OURS, STAGES, Ran, staged, table, tabulated
from vsflashsr.models.flashvsr.kernels.table import kernels

NVJET = "nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_TNT"
AMPERE = "ampere_bf16_s16816gemm_bf16_128x256_ldg8_f2f_stages_64x3_tn"
SPLIT = "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16, float, __nv_bfloat16, true>(...)"
CONV = (
    "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64_warpgroupsize1x1x1_"
    "g1_execute_segment_k_off_kernel__5x_cudnn"
)
TRANSPOSED = "void cutlass__5x_cudnn::Kernel<cutlass_tensorop_bf16_s16816dgrad_optimized_bf16_128x128_32x5_nhwc>(...)"
RELU = "void at::native::vectorized_elementwise_kernel<4, at::native::(anonymous namespace)::launch_clamp_scalar(...)>"
COPY = "void at::native::elementwise_kernel<128, 4, at::native::gpu_kernel_impl_nocast<at::native::direct_copy_kernel_cuda>>"
THEIRS = (
    "kernel_cutlass_kernel_cudnnblock_sparse_attentioncsrcfwdsm90_blk128bsa_fwd_sm90BlockSparseAttnForwardSm90Blk128"
)
DIT, DECODE, COPIES = 7, 13, 20

EVENTS = [
    (COPIES, "Memcpy HtoD (Pinned -> Device)", "copies"),
    *((DIT, name, "other") for name in ("resize_columns", "resize_rows")),
    (DIT, "pack_clip", "projector"),
    (DIT, CONV, "projector"),
    (DIT, "norm_silu", "projector"),
    (DIT, AMPERE, "projector"),
    (DIT, SPLIT, "projector"),
    (DIT, "gather_latent", "projector"),
    (DIT, "Memcpy DtoD (Device -> Device)", "copies"),
    *((DIT, name, "other") for name in ("noise", "to_patches")),
    (DIT, NVJET, "linear"),
    (DIT, COPY, "elementwise"),
    *((DIT, name, "elementwise") for name in ("residual_norm", "rms_scales", "rotate")),
    *((DIT, name, "selection") for name in ("scores", "softmax", "tally", "kept_lists", "longest_first")),
    (DIT, "attend", "attention"),
    (DIT, THEIRS, "attention"),
    (DIT, AMPERE, "linear"),
    (DIT, SPLIT, "linear"),
    (DIT, "cross_attend", "attention"),
    (DIT, "from_patches", "other"),
    (DECODE, "Memset (Device)", "copies"),
    (DECODE, "resize_rows", "other"),
    (DECODE, "pack_condition", "decoder"),
    (DECODE, CONV, "decoder"),
    (DECODE, TRANSPOSED, "decoder"),
    (DECODE, RELU, "decoder"),
    (DECODE, "unpack_frame", "decoder"),
    *((DECODE, name, "other") for name in ("moments", "merge_moments", "adain")),
    (COPIES, "Memcpy DtoH (Device -> Pinned)", "copies"),
]


def ran(events: list[tuple[int, str, str]] = EVENTS) -> list[Ran]:
    """Each takes half a millisecond, one after the other."""
    return [Ran(name, stream, 1000.0 * n, 1000.0 * n + 500) for n, (stream, name, _) in enumerate(events)]


def test_libraries_kernels_belong_to_the_part_that_ours_opened() -> None:
    found = staged(reversed(ran()))
    assert [(one.stream, one.name, stage) for stage, one in found] == EVENTS


def test_our_kernels_are_called_as_their_functions() -> None:
    assert set(OURS) <= {kernel.function for kernel in kernels().values()}


def test_without_kernels_of_ours_around_it_a_stream_tells_decoder_and_projector_apart() -> None:
    """As where a size has no fused form: plain convolutions behind the pre-upscale."""
    events = [
        (DIT, "resize_rows", "other"),
        (DIT, RELU, "projector"),
        (DIT, "gather_latent", "projector"),
        (DIT, CONV, "decoder"),
        (DIT, "attend", "attention"),
        (DECODE, "resize_rows", "other"),
        (DECODE, NVJET, "decoder"),
    ]
    assert [stage for stage, _ in staged(ran(events))] == [stage for _, _, stage in events]


def test_the_table_has_every_launch_once() -> None:
    found = tabulated(ran())
    assert sum(row["launches"] for row in found["stages"].values()) == len(EVENTS)
    assert sum(row["share"] for row in found["stages"].values()) == pytest.approx(1)
    assert found["sum_ms"] == pytest.approx(0.5 * len(EVENTS)) == sum(row["ms"] for row in found["stages"].values())
    assert found["span_ms"] == pytest.approx(len(EVENTS) - 0.5)
    assert list(found["stages"]) == list(STAGES)
    assert found["stages"]["linear"] == pytest.approx({"ms": 1.5, "launches": 3, "share": 3 / len(EVENTS)})
    assert json.loads(json.dumps(found)) == found
    # A kernel that serves two stages is named in both.
    assert {row["stage"]: row["launches"] for row in found["kernels"] if row["kernel"] == SPLIT[:160]} == {
        "projector": 1,
        "linear": 1,
    }
    lines = check.summary({"profile": found})
    assert lines[0] == f"one step by kernel: {0.5 * len(EVENTS):.2f} ms in {len(EVENTS) - 0.5:.2f} ms"
    assert any(line.split() == ["linear", "1.500", "3", f"{3 / len(EVENTS):.1%}"] for line in lines)
    assert sum(line.startswith("  ") for line in lines) == len(found["kernels"])
    assert tabulated([])["stages"] == {}


def test_where_nothing_can_be_recorded_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    torch: Any = pytest.importorskip("torch", reason="it is torch's profiler")
    from trt_build.gpu_check import profile

    if torch.cuda.is_available():
        pytest.skip("CUPTI may well be there")
    asked: list[int] = []
    why = profile.recorded(lambda: asked.append(1))
    assert isinstance(why, str) and "CUPTI is missing" in why and not asked
    # A torch with CUPTI where there is nothing to see.
    monkeypatch.setattr(torch.profiler, "supported_activities", lambda: {torch.profiler.ProfilerActivity.CUDA})
    why = profile.recorded(lambda: asked.append(1))
    assert isinstance(why, str) and why.startswith("torch's profiler can't record here") and "\n" not in why
    assert table({"left_out": why}) == [f"profile: {why}"] == check.summary({"profile": {"left_out": why}})

    class Blind:
        """Records, and is told of nothing."""

        def __init__(self, **_: Any) -> None: ...
        def start(self) -> None: ...
        def stop(self) -> None: ...
        def events(self) -> None: ...

    monkeypatch.setattr(torch.profiler, "profile", Blind)
    why = profile.recorded(lambda: asked.append(1))
    assert asked == [1] and isinstance(why, str) and "saw nothing" in why

    # What goes wrong in the step itself isn't the profiler's.
    def broken() -> None:
        raise RuntimeError("an illegal address")

    with pytest.raises(RuntimeError, match="illegal address"):
        profile.recorded(broken)
