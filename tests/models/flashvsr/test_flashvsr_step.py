"""FlashVSR's step at toy width: torch against ONNX Runtime, caches, purity, causality, length."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from functools import cache
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the reference executor and the exporter need the extra 'export'")

from trt_build.flashvsr.torch_executor import TorchExecutor
from trt_build.random_checkpoint import REDUCED
from vsflashsr.bundle import load_bundle
from vsflashsr.models.flashvsr.host.executor import OnnxExecutor
from vsflashsr.models.flashvsr.host.step import (
    Executor,
    StepOptions,
    StepState,
    attention_plan,
    run_dit,
    run_step,
    to_patches,
)
from vsflashsr.models.flashvsr.noise import step_noise
from vsflashsr.models.flashvsr.plan import step_plan
from vsflashsr.models.flashvsr.windows import Grid

from ...support.flashvsr_small import frames, small_bundle, small_checkpoint
from ...support.models import host_executor, host_flashvsr

OPTIONS = StepOptions(ratio=1.5, local_range=3, kv_ratio=3)


def onnx_executor(variant: str = "tiny", version: str = "v1.1", **others: Any) -> OnnxExecutor:
    return host_executor(load_bundle(small_bundle(variant, version)), **others)


@cache
def clip(count: int) -> np.ndarray:
    """(count, 3, 128, 256) in -1..1."""
    return np.stack(frames(count, 128, 256)) * 2 - 1


def run(executor: Executor[Any], steps: int, options: StepOptions = OPTIONS) -> list[np.ndarray]:
    """What each step makes of the clip."""
    out, state = [], None
    for index in range(steps):
        numbers = range(25) if index == 0 else range(8 * index + 17, 8 * index + 25)
        made, state = run_step(executor, clip(41)[numbers], step_noise(0, numbers, 16, 32), state, options)
        out.append(made)
    return out


@pytest.mark.parametrize(
    ("variant", "version", "steps"),
    [("tiny", "v1.1", 3), ("tiny", "v1", 2), pytest.param("full", "v1.1", 2, marks=pytest.mark.long)],
)
def test_torch_and_onnx_runtime_agree(variant: str, version: str, steps: int) -> None:
    masks: dict[str, list[np.ndarray]] = {"torch": [], "onnx": []}
    torch_runs = run(
        TorchExecutor(
            small_checkpoint(variant, version), observer=lambda _, taps: masks["torch"].append(taps["mask"].numpy())
        ),
        steps,
    )
    onnx_runs = run(onnx_executor(variant, version, observer=lambda _, taps: masks["onnx"].append(taps["mask"])), steps)
    for expected, made in zip(torch_runs, onnx_runs, strict=True):
        np.testing.assert_allclose(made, expected, atol=1e-4)
    assert [len(made) for made in onnx_runs] == [21, 8, 8][:steps]
    assert len(masks["onnx"]) == steps * REDUCED.layers
    assert all((a == b).all() for a, b in zip(masks["torch"], masks["onnx"], strict=True))


def test_every_stage_agrees_between_torch_and_onnx_runtime() -> None:
    reference: Any = TorchExecutor(small_checkpoint())
    runtime = onnx_executor()
    random = np.random.default_rng(0)

    def noise(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    def both(stage: str, *inputs: np.ndarray, before: tuple[Any, ...] = ()) -> None:
        made = getattr(runtime, stage)(*before, *inputs)
        expected = getattr(reference, stage)(*before, *map(reference.upload, inputs))
        pairs = zip(made, expected, strict=True) if isinstance(made, tuple) else [(made, expected)]
        for ours, theirs in pairs:
            np.testing.assert_allclose(ours, reference.download(theirs), atol=1e-4, err_msg=stage)

    both("first", noise(256, 64), noise(256, REDUCED.dim))
    both("middle", noise(256, REDUCED.dim), noise(256, REDUCED.dim), before=(1,))
    both("last", noise(256, REDUCED.dim), noise(256, REDUCED.dim), noise(256, 64))
    pixels, context = noise(4, 3, 32, 48), (noise(2, 3, 32, 48), noise(2, REDUCED.lq_hidden[0], 2, 3))
    made, (_, after) = runtime.project(pixels, context)
    expected, (_, after_expected) = reference.project(pixels, tuple(map(reference.upload, context)))
    np.testing.assert_allclose(made, expected, atol=1e-4)
    np.testing.assert_allclose(after, after_expected, atol=1e-4)
    states = runtime.decoder_states(Grid(1, 1))
    frames_made, states_made = runtime.decode(noise(1, 16, 16, 16), clip(41)[:4, :, :, :128], states, first=False)
    random = np.random.default_rng(0)
    assert frames_made.shape == (4, 3, 128, 128) and len(states_made) == 9


def test_half_precision_is_close() -> None:
    half = run(host_executor(load_bundle(small_bundle(precision="fp16"))), 1)[0]
    full = run(onnx_executor(), 1)[0]
    assert 10 * np.log10(np.square(full).mean() / np.square(half - full).mean()) > 40


@pytest.mark.parametrize(
    ("kv_ratio", "slices"),
    [(3, [3, 3, 3, 3]), (2, [2, 2, 2, 2]), (1, [2, 2, 2, 2]), (5, [3, 4, 5, 5]), (2.9, [2, 2, 2, 2])],
)
def test_the_cache_keeps_as_many_slices_as_published(kv_ratio: float, slices: list[int]) -> None:
    executor, grid = onnx_executor(), Grid(1, 1)
    plan = attention_plan(executor, grid, OPTIONS)
    random, caches, kept = np.random.default_rng(0), None, []
    for index in range(4):
        step = step_plan(index, kv_ratio, looks_back=True)
        count = step.slices
        patches = to_patches(random.standard_normal((16, 2 * count, 16, 16)).astype(np.float32), grid)
        tokens = random.standard_normal((count * 128, REDUCED.dim)).astype(np.float32)
        _, caches = run_dit(executor, patches, tokens, caches, plan, step)
        assert len({len(cache) for cache in caches}) == 1
        kept.append(len(caches[0]))
    assert kept == slices


def test_later_frames_change_no_earlier_output() -> None:
    """The causality of the golden set's README: frames ≥ 25 leave outputs 0..20 alone, ≥ 33 leave 0..28."""
    executor = onnx_executor()

    def outputs(changed_from: int) -> np.ndarray:
        video = clip(41).copy()
        video[changed_from:] *= -1
        made, state = [], None
        for index in range(3):
            numbers = range(25) if index == 0 else range(8 * index + 17, 8 * index + 25)
            part, state = run_step(executor, video[numbers], step_noise(0, numbers, 16, 32), state, OPTIONS)
            made.append(part)
        return np.concatenate(made)

    untouched = outputs(41)
    for changed_from, first in ((25, 21), (33, 29), (24, 0)):
        differs = [not np.array_equal(a, b) for a, b in zip(untouched, outputs(changed_from), strict=True)]
        assert differs.index(True) == first


def state_digest(state: StepState[Any]) -> str:
    digest = hashlib.sha256()
    for cache_ in state.caches:
        for part in cache_:
            digest.update(part.keys.tobytes() + part.values.tobytes())
    for tensor in (*state.context, *state.states, state.frames):
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()


def test_a_state_that_was_handed_out_never_changes() -> None:
    model = host_flashvsr(small_bundle(), 2)
    video = frames(49, 40, 40)
    _, old = model.step(video[:25], range(25), None)
    before = state_digest(old)
    first, newer = model.step(video[25:33], range(25, 33), old)
    model.step(video[33:41], range(33, 41), newer)
    again, _ = model.step(video[25:33], range(25, 33), old)
    assert state_digest(old) == before
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_neighbouring_states_share_all_but_one_slice() -> None:
    model = host_flashvsr(small_bundle(), 2)
    video = frames(33, 40, 40)
    _, old = model.step(video[:25], range(25), None)
    _, new = model.step(video[25:], range(25, 33), old)
    for before, after in zip(old.caches, new.caches, strict=True):
        assert after[:2] == before[1:]
    assert model.state_bytes(new) == model.state_bytes(old) > 0


def test_steps_run_past_the_published_limit_and_the_last_is_like_the_first() -> None:
    """The published code stops at step 510, where its table of positions ends; here nothing counts steps."""
    executor, grid = onnx_executor(), Grid(1, 1)
    plan = attention_plan(executor, grid, OPTIONS)
    noise = np.random.default_rng(0).standard_normal((16, 6, 16, 16)).astype(np.float32)
    patches = to_patches(noise, grid)
    tokens = np.random.default_rng(1).standard_normal((384, REDUCED.dim)).astype(np.float32)
    latents, caches = run_dit(executor, patches, tokens, None, plan, step_plan(0, 3, looks_back=True))
    steady = []
    for index in range(1, 521):
        step = step_plan(index, 3, looks_back=True)
        latents, caches = run_dit(executor, patches[:128], tokens[:128], caches, plan, step)
        steady.append(latents)
    assert all(len(cache_) == 3 for cache_ in caches)
    # With the same input the cache is full of it after three steps, whatever the step's number.
    assert np.array_equal(steady[10], steady[-1])


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_1200_whole_steps_from_frames_to_frames() -> None:
    """Projector, DiT and decoder: 9,613 frames, of which the published code makes 4,093."""
    model = host_flashvsr(small_bundle(), 2)
    video = frames(25, 64, 64)
    emitted, state = model.step(video, range(25), None)
    count, held = len(emitted), model.state_bytes(state)
    for index in range(1, 1200):
        numbers = range(8 * index + 17, 8 * index + 25)
        emitted, state = model.step([video[n % 25] for n in numbers], numbers, state)
        count += len(emitted)
    assert count == 21 + 8 * 1199
    assert model.state_bytes(state) == held
    assert all(np.isfinite(frame).all() and frame.std() > 0.01 for frame in emitted)


def test_states_can_be_replaced_and_copied() -> None:
    """A state is plain data: a stream may keep copies and compare them."""
    _, state = run_step(onnx_executor(), clip(41)[:25], step_noise(0, range(25), 16, 32), None, OPTIONS)
    assert state_digest(copy.deepcopy(state)) == state_digest(dataclasses.replace(state))
