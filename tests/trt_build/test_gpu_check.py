"""`python -m trt_build.gpu_check` without a GPU: its arithmetic, its supervision, and its FlashVSR part on the mock."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import math
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch", reason="the parts need torch")

ROOT = Path(__file__).parents[2]

from trt_build.gpu_check import (  # noqa: E402
    check,
    flashvsr,
    random_flashvsr,
    realviformer,
    restorers,
    swiftvr,
    work,
)
from trt_build.gpu_check.settings import Settings  # noqa: E402
from trt_build.random_checkpoint import REALVIFORMER_REDUCED, REDUCED, SWIFTVR_REDUCED  # noqa: E402
from vsflashsr.bundle import load_bundle  # noqa: E402
from vsflashsr.errors import FlashsrError  # noqa: E402
from vsflashsr.models.flashvsr.network.config import FlashVSRConfig  # noqa: E402
from vsflashsr.models.flashvsr.windows import Grid  # noqa: E402
from vsflashsr.models.swiftvr.network.config import SwiftVRConfig  # noqa: E402
from vsflashsr.models.swiftvr.step import grid_of  # noqa: E402
from vsflashsr.runtimes.backend import Backend  # noqa: E402
from vsflashsr.runtimes.graph import weights_bytes  # noqa: E402

from ..support.flashvsr_small import small_bundle, small_checkpoint  # noqa: E402
from ..support.host_kernels import HostKernels, run_on_host  # noqa: E402
from ..support.mock_cuda import mock_device  # noqa: E402
from ..support.tiny import write_tiny_bundle  # noqa: E402
from ..support.torch_device import OnMock, QueuedModule  # noqa: E402
from ..support.torch_place import HostPlace  # noqa: E402


@pytest.mark.parametrize(
    ("height", "width", "pieces", "attention", "projector", "decoder"),
    [
        (768, 1280, 19.2 + 0.7, 21.7, 5.3, 13.3),
        (768, 1408, 21.1 + 0.8, 23.9, 5.8, 14.7),
        (1152, 2048, 46.1 + 1.7, 52.2, 12.7, 32.0),
        (2048, 3840, 153.7 + 5.8, 173.9, 42.3, 106.7),
    ],
)
def test_work_is_what_the_specification_counts(
    height: int, width: int, pieces: float, attention: float, projector: float, decoder: float
) -> None:
    found = work.step_flop(FlashVSRConfig(), Grid(height // 128, width // 128))
    wanted = {"pieces": pieces, "attention": attention, "projector": projector, "decoder": decoder}
    assert {k: v / 1e12 for k, v in found.items()} == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize(
    ("height", "width", "pieces", "attention", "encoder", "decoder"),
    [
        (768, 1408, 2.29 + 0.05, 0.25, 0.04, 0.36),
        (1088, 1920, 4.43 + 0.10, 0.49, 0.09, 0.69),
        (1440, 2560, 7.81 + 0.17, 0.71, 0.15, 1.21),
    ],
)
def test_swiftvrs_work_is_what_its_specification_counts(
    height: int, width: int, pieces: float, attention: float, encoder: float, decoder: float
) -> None:
    """A frame of it; 11 % of the decoder are saved by growing in time before space."""
    found = work.swiftvr_step_flop(SwiftVRConfig(), grid_of(height, width), 6)
    wanted = {"pieces": pieces, "attention": attention, "encoder": encoder, "decoder": 0.89 * decoder}
    assert {k: v / 1e12 / 24 for k, v in found.items()} == pytest.approx(wanted, rel=0.02, abs=0.006)


def test_backends_that_are_missing_or_late_say_so_and_what_is_wrong_fails(tmp_path: Path) -> None:
    class Opened:
        def close(self) -> None: ...

    def missing() -> Backend:
        raise FlashsrError("tensorrt isn't installed")

    def measured(difference: float, *, finite: bool = True) -> dict[str, Any]:
        def fill(_: Backend, found: dict[str, Any]) -> None:
            found |= {"max_difference": difference, "128x160 fp16": {"frames_per_s": 7.0, "finite": finite}}

        ways: dict[str, Any] = {"torch": Opened, "tensorrt": missing}
        return restorers.report(tmp_path, 60, fill, ways)

    found = measured(1e-4)
    assert found["passed"] and found["tensorrt"] == {"unavailable": "tensorrt isn't installed"}
    assert check.summary({"swiftvr": found}) == ["SwiftVR 128x160 fp16: 7.0 frames/s fetched, torch"]
    assert not measured(0.5)["passed"] and not measured(math.nan)["passed"] and not measured(0, finite=False)["passed"]
    late = restorers.report(tmp_path, -1, lambda backend, found: None, {"torch": missing})
    assert late["torch"] == {"skipped": "-1 s were over"}
    assert restorers.report(tmp_path, 60, lambda backend, found: None, {"torch": missing})["passed"] is False


@pytest.mark.long
def test_swiftvr_is_measured(tmp_path: Path) -> None:
    """On the mock. The middle layers of the large bundle read one file."""
    torch.set_num_threads(1)
    small = swiftvr.random_bundle(tmp_path / "small", SWIFTVR_REDUCED, "fp32", layers=3)
    full = swiftvr.random_bundle(tmp_path / "full", SWIFTVR_REDUCED, "fp32", layers=6)
    section = load_bundle(full).section
    assert section["middle"]["weights"] == ["middle.00.weights", "middle.01.weights"] * 2 + ["middle.00.weights"]
    settings = Settings(((128, 160),), "fp32", steps=1, repeats=1, engines=tmp_path)
    found: dict[str, Any] = {}
    with mock_device(seed=3, total_bytes=1 << 30) as (device, mock):
        swiftvr.measure(OnMock(device, mock), found, small, full, settings)
    json.dumps(found)
    assert found["max_difference"] < 1e-4
    assert found["128x160 fp32"]["frames_per_s"] > 0 and found["128x160 fp32"]["finite"]


@pytest.mark.long
def test_realviformer_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    small = realviformer.random_bundle(tmp_path / "small", REALVIFORMER_REDUCED, "fp32")
    monkeypatch.setattr(realviformer, "LOWS", ((36, 40),))
    monkeypatch.setattr(realviformer, "STEPS", 2)
    found: dict[str, Any] = {}
    with mock_device(seed=4, total_bytes=1 << 30) as (device, mock):
        realviformer.measure(OnMock(device, mock), found, small, small)
    assert found["max_difference"] < 1e-4 and found["36x40 fp16"]["frames_per_s"] > 0


@pytest.mark.long
def test_the_flashvsr_part_measures_every_stage() -> None:
    torch.set_num_threads(1)
    with mock_device(seed=3, total_bytes=1 << 30) as (device, mock):
        graphs = random_flashvsr.random_graphs(REDUCED, "fp32", "cpu", lambda m, i, o: QueuedModule(m, i, o, mock))
        given = flashvsr.Given(device, HostKernels(mock), graphs, REDUCED, "fp32")
        found = flashvsr.measured(given, (96, 240), captured=True, steps=1, repeats=1)
        assert found["finite"]
        assert set(found["frames_per_s"]) == {"fetched", "device", "serial"}
        assert {"projector", "pieces", "attention", "decoder and colours"} <= set(found["stages_ms"])
        assert any(name.startswith("attention: attend") for name in found["stages_ms"])
        # What was stated before is what was taken, but for the rounding of each buffer and the tables of the pre-upscale.
        memory = found["memory"]
        stated = memory["stated_bytes"] - weights_bytes(graphs)
        assert stated <= mock.used_bytes <= stated * 1.02 + (1 << 16)
        json.dumps(found)


@pytest.mark.long
def test_the_profile_is_of_a_steady_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from trt_build.gpu_check import profile
    from trt_build.gpu_check.by_kernel import Ran

    torch.set_num_threads(1)
    settled: list[int] = []
    with mock_device(seed=3, total_bytes=1 << 30) as (device, mock):
        library = HostKernels(mock)
        ran: list[Ran] = []
        run = library.run

        def noting(stream: Any, *launches: Any) -> None:
            ran.extend(Ran(launch.kernel.partition(".")[0], 1, len(ran), len(ran) + 1) for launch in launches)
            run(stream, *launches)

        def recorded(step: Any) -> list[Ran]:
            before = len(ran)
            step()
            return ran[before:]

        monkeypatch.setattr(library, "run", noting)
        monkeypatch.setattr(profile, "recorded", recorded)
        graphs = random_flashvsr.random_graphs(REDUCED, "fp32", "cpu", lambda m, i, o: QueuedModule(m, i, o, mock))
        given = flashvsr.Given(device, library, graphs, REDUCED, "fp32")
        found = profile.profiled(given, (96, 240), settle=lambda: settled.append(1))
    assert len(settled) == 3 and (found["size"], found["dtype"]) == ([96, 240], "fp32")
    attended = [row for row in found["kernels"] if row["kernel"] == "attend"]
    # One step of two; a launch for each layer.
    assert [row["launches"] for row in attended] == [REDUCED.layers]


def test_a_part_that_fails_or_hangs_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    failed = check.supervised("ceilings", ["--steps", "1"], environment, 60)
    assert failed["error"] == "status 1" and failed["stderr"]
    assert check.supervised("ceilings", [], environment, 0.1)["error"].startswith("not done after")


def test_without_a_gpu_one_sentence_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trt_build.gpu_check"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "no NVIDIA GPU was found" in done.stderr


@pytest.mark.parametrize("text", ["768", "768x", "axb", "768x1410", "64x128"])
def test_a_bad_size_is_refused(text: str) -> None:
    with pytest.raises(SystemExit):
        check.parser().parse_args(["--sizes", text])


def test_the_golden_part_runs_our_attention_between_torch_pieces() -> None:
    """Its own masks injected, a model's run in float32 gives what the reference gave: the plumbing of the part is right."""
    from trt_build.flashvsr.torch_executor import TorchExecutor
    from trt_build.flashvsr.verify_dit import golden_steps
    from trt_build.gpu_check import golden
    from vsflashsr.models.flashvsr.windows import topk_ratio

    checkpoint = small_checkpoint()
    random = np.random.default_rng(0)
    grid = Grid(1, 2)
    tokens = 10 * grid.slice_tokens // 2
    data: dict[str, Any] = {
        "noise": random.standard_normal((1, 16, 10, 16, 32)),
        "lq_tokens": random.standard_normal((1, tokens, checkpoint.config.dim)),
    }
    info = {"grid_blocks": [1, 2], "topk_ratio": topk_ratio(0.05, grid), "local_range": 3, "kv_ratio": 3.0, "chunks": 3}
    seen: list[np.ndarray] = []
    reference = TorchExecutor(checkpoint, observer=lambda _, taps: seen.append(taps["mask"].numpy()))
    layers = checkpoint.config.layers
    for step in golden_steps(data, info, reference):
        masks = np.stack(seen[-layers:])
        data[f"c{step.index}_pred"] = step.velocity[None]
        data[f"c{step.index}_masks_shape"] = np.array(masks.shape)
        data[f"c{step.index}_masks"] = np.packbits(masks, axis=-1)

    def view(address: int, count: int, dtype: Any) -> np.ndarray:
        size = count * np.dtype(dtype).itemsize
        return np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype)

    def run(launch: Any) -> None:
        run_on_host(launch, view)

    place = HostPlace(view, run)
    assert golden.signal_to_noise(checkpoint, data, info, place, "fp32", run) > 90
    # The masks matter: one pair more or less is far outside of the limit.
    masks = np.unpackbits(data["c1_masks"], axis=-1)[..., : data["c1_masks_shape"][-1]].astype(bool)
    masks[0, 0, 0, 0] ^= True
    data["c1_masks"] = np.packbits(masks, axis=-1)
    assert golden.signal_to_noise(checkpoint, data, info, place, "fp32", run) < 60


def test_a_host_without_vapoursynth_can_be_checked() -> None:
    parts = [part for part in check.PARTS if part not in ("filter_run", *check.ASKED_FOR)]
    code = "import sys, importlib; sys.modules['vapoursynth'] = None; " + (
        f"[importlib.import_module('trt_build.gpu_check.' + part) for part in {parts!r}]"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_the_filter_is_run_in_this_process_in_any_order(tmp_path: Path) -> None:
    from trt_build.gpu_check.filter_frames import Request, render

    model = str(write_tiny_bundle(tmp_path / "tiny", schedule=(25, 21, 8, 8)))
    request = Request(model, 32, 24, 60, backend="onnxruntime", scale=2)
    linear = render(request)
    assert list(linear.digests) == list(range(60)) and len(set(linear.digests.values())) > 50
    assert linear.frames_per_s > 0
    shuffled = render(dataclasses.replace(request, shuffled=True))
    assert list(shuffled.digests) != list(linear.digests) and shuffled.digests == linear.digests
    part = render(dataclasses.replace(request, first=50, last=55))
    assert part.digests == {n: linear.digests[n] for n in range(50, 56)}


@pytest.mark.long
def test_every_way_has_a_process_of_its_own_and_gives_the_same_frames(tmp_path: Path) -> None:
    from trt_build.gpu_check.filter_frames import Request, rendered
    from trt_build.gpu_check.filter_run import purity

    model = str(write_tiny_bundle(tmp_path / "tiny", schedule=(25, 21, 8, 8)))
    request = Request(model, 32, 24, 60, backend="onnxruntime", scale=2)
    found = purity(request)
    assert found.pop("linear_frames_per_s") > 0 and found and all(found.values())
    with pytest.raises(RuntimeError, match=r"failed with status 1: .*no model"):
        rendered(dataclasses.replace(request, model=str(tmp_path / "nothing")))


def test_the_published_size_takes_the_bundles_place() -> None:
    from trt_build.gpu_check.random_kind import random_kind
    from vsflashsr.arguments import Arguments

    kind = random_kind(Arguments(model=small_bundle(), scale=4, seed=3), "bf16")
    assert (kind.section.layers, kind.section.heads, kind.section.head_dim, kind.dtype) == (30, 12, 128, "bf16")
    assert kind.options.seed == 3 and kind.bundle.spec(4).schedule.reads == 8


@pytest.mark.parametrize(
    ("change", "right"),
    [
        ({}, True),
        ({"masks_equal": False}, False),
        ({"relative_error": 3e-3}, False),
        ({"relative_error": math.nan}, False),
        ({"probabilities_error": math.nan}, False),
    ],
)
def test_kernels_that_are_wrong_fail_the_check(change: dict[str, Any], right: bool) -> None:
    from trt_build.gpu_check.kernels import LIMITS, is_right

    found = {"masks_equal": True, "relative_error": 5e-4, "probabilities_error": 1e-6} | change
    assert is_right(found, LIMITS["fp16"]) is right


def test_an_archive_has_all_that_a_bare_host_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trt_build.gpu_check import pack

    golden, wheels, archive = tmp_path / "golden", tmp_path / "wheels ü", tmp_path / "check.tar"
    for folder, name in ((golden, "dit.npz"), (wheels, "some-1.whl")):
        folder.mkdir()
        (folder / name).write_bytes(b"0123456789")
    assert pack.packed(archive, golden, wheels) == archive.stat().st_size
    with tarfile.open(archive) as file:
        assert sorted(file.getnames()) == [
            "gpu-check/COMMIT",
            "gpu-check/golden/dit.npz",
            "gpu-check/run.sh",
            "gpu-check/wheels/some-1.whl",
        ]
    monkeypatch.setattr(pack, "LIMIT_BYTES", 1000)
    with pytest.raises(FlashsrError, match=r"may have 0 MiB, got 0\.0; leave wheels out"):
        pack.packed(archive, golden, wheels)
    assert not archive.exists()
    with pytest.raises(FlashsrError, match="nothing to pack in the folder"):
        pack.packed(archive, tmp_path, wheels)


def test_flex_attention_is_given_our_lists() -> None:
    """As whole blocks, whatever lies behind the kept ones. Uncompiled it ignores blocks: only the mask is seen."""
    from trt_build.gpu_check import levers

    heads, dim, queries, keys = 2, 16, 2, 3
    q, k, v = (torch.randn(128 * n, heads * dim) for n in (queries, keys, keys))
    counts = torch.tensor([[2, 0], [1, 3]], dtype=torch.int32)
    lists = torch.full((heads, queries, keys), 99, dtype=torch.int32)
    wanted = torch.zeros(1, heads, queries, keys, dtype=torch.int32)
    for head, query, kept in ((0, 0, [0, 2]), (1, 0, [1]), (1, 1, [0, 1, 2])):
        lists[head, query, : len(kept)] = torch.tensor(kept, dtype=torch.int32)
        wanted[0, head, query, kept] = 1
    query_, key, value, mask = levers.flex_attention_of(q, k, v, counts, lists)
    assert torch.equal(mask.to_dense().to(torch.int32), wanted)
    assert query_.shape == (1, heads, 256, dim) and key.shape == value.shape == (1, heads, 384, dim)
    assert torch.equal(query_[0, 1, 5], q[5, dim:])


def test_a_lever_that_is_wrong_fails_and_one_that_cannot_run_does_not() -> None:
    from trt_build.gpu_check import levers

    good, bad = {"error": 1e-4, "limit": 1e-2, "ms": 1.0}, {"error": 0.5, "limit": 1e-2}

    def broken() -> dict[str, Any]:
        raise RuntimeError("no such thing\nhere")

    left_out = levers.attempt(broken)
    assert left_out == {"left_out": "RuntimeError: no such thing"}
    assert levers.wrong({"today": {"ms": 1.0}, "good": good, "left out": left_out}) == []
    assert levers.wrong({"bad": bad, "nan": {"error": math.nan, "limit": 1.0}, "good": good}) == ["bad", "nan"]


def test_another_attention_is_timed_only_if_its_numbers_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    from trt_build.gpu_check import levers

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    case: Any = levers._Case.__new__(levers._Case)
    case.dtype, case.attend, case.wanted = "bf16", None, torch.randn(4, 8)
    case.out = case.wanted.clone()

    class Stream:
        def synchronize(self) -> None: ...

    case.stream = Stream()
    monkeypatch.setattr(case, "ms", lambda run, repeats: 1.25)
    # What isn't written stays a NaN.
    nothing = levers.held_against(case, lambda stream, launch: None, 3)
    assert levers.wrong({"theirs": nothing}) == ["theirs"] and "ms" not in nothing
    off = levers.held_against(case, lambda stream, launch: case.out.copy_(1.02 * case.wanted), 3)
    assert off["error"] == pytest.approx(0.02, rel=1e-3) and "ms" not in off
    right = levers.held_against(case, lambda stream, launch: case.out.copy_(case.wanted), 3)
    assert right == {"error": 0.0, "limit": 1e-2, "ms": 1.25}


def test_without_cudnns_package_its_attention_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from trt_build.gpu_check import levers
    from vsflashsr.models.flashvsr.network import block_sparse

    monkeypatch.setattr(block_sparse, "installed", lambda: None)
    case: Any = None
    found = levers.attempt(lambda: levers._block_sparse(case, 1))
    assert found == {"left_out": "FlashsrError: nvidia-cudnn-frontend isn't installed"}


def test_eight_bits_keep_the_largest_number_of_a_row() -> None:
    from trt_build.gpu_check import levers

    torch.manual_seed(0)
    x = torch.randn(5, 64) * torch.tensor([1e-6, 1, 1e4, 0, 3])[:, None]
    made, scale = levers.in_eight_bits(x)
    back = made.float() * scale
    assert ((back - x).abs().amax(1) <= x.abs().amax(1) * 2.0**-4 + 1e-20).all()
    torch.testing.assert_close(back.abs().amax(1), x.abs().amax(1), rtol=1e-6, atol=0)
