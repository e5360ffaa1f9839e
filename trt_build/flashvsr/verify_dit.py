"""Holds the DiT, its tables and the whole tiny pipeline against fixtures in the format of the golden set."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vsflashsr import colour_fix
from vsflashsr.models.flashvsr.calls import step_calls
from vsflashsr.models.flashvsr.host.attention import rotated
from vsflashsr.models.flashvsr.host.executor import OnnxExecutor, load_executor
from vsflashsr.models.flashvsr.host.step import (
    Executor,
    Slice,
    StepOptions,
    StepState,
    attention_plan,
    from_patches,
    run_dit,
    run_step,
    to_patches,
)
from vsflashsr.models.flashvsr.options import Options
from vsflashsr.models.flashvsr.plan import step_plan
from vsflashsr.models.flashvsr.rope import angles, rope_split, slice_positions
from vsflashsr.models.flashvsr.windows import Grid, local_mask, token_order, topk_ratio, window_order
from vsflashsr.models.wan.network.dit import build_constants, cross_keys_values, timestep_embedding
from vsflashsr.resample import resize_u8
from vsflashsr.runtimes.onnxruntime import CpuBackend

from ..stages import StageResult
from .checkpoint import Checkpoint, MissingFileError, load_checkpoint
from .export import write_section
from .export_parts import write_projector
from .torch_executor import TorchExecutor

type Array = npt.NDArray[Any]
type Taps = dict[str, Array]
type Fixture = Mapping[str, Array]

TOLERANCE = 1e-3
"""On float32 values of about 1; errors of a correct port are a hundred times smaller."""
TABLE_TOLERANCE = 1e-5
_INFO_DIT, _INFO_REST = "info_dit.json", "info_rest.json"
_E2E_DEFAULTS: Mapping[str, Any] = {"kv_ratio": 3.0, "local_range": 11}
_E2E_SPARSE = 1.5
"""What the golden set's README says of its end-to-end runs, where the info doesn't."""


def stages(golden: Path, executor: str, head_dim: int | None = None) -> Iterator[StageResult]:
    """All stages whose fixtures are there. `executor` is "torch" or "onnxruntime"."""
    yield from _table_stages(golden)
    fixtures = dit_fixtures(golden)
    e2e = golden / "e2e_tiny.npz"
    if not (fixtures or e2e.is_file() or (golden / "constants.npz").is_file()):
        return
    try:
        checkpoint = open_golden(golden, head_dim)
    except MissingFileError:
        return
    if (golden / "constants.npz").is_file():
        yield _constants(np.load(golden / "constants.npz"), checkpoint)
    with _executors(checkpoint, executor) as build:
        runner = build("v1.1")
        for name, info in fixtures.items():
            yield _dit(name, np.load(golden / f"{name}.npz"), info, runner)
            taps = golden / f"{name}_taps.npz"
            if taps.is_file():
                yield _taps(taps.stem, np.load(golden / f"{name}.npz"), np.load(taps), info, runner)
        if e2e.is_file() and checkpoint.tcdecoder is not None:
            yield from _e2e(np.load(e2e), _json(golden / _INFO_REST).get("report", {}), build)


def open_golden(golden: Path, head_dim: int | None = None, version: str = "v1.1") -> Checkpoint:
    """The folder's checkpoint, with the variant whose decoder is there.

    Raises:
        MissingFileError: a file it needs is not in the folder.
    """
    size = head_dim or head_dim_of(golden)
    try:
        return load_checkpoint(golden, version=version, variant="tiny", head_dim=size)
    except MissingFileError as error:
        try:
            return load_checkpoint(golden, version=version, variant="full", head_dim=size)
        except MissingFileError:
            raise error from None


def head_dim_of(golden: Path) -> int:
    """The head dimension of a golden set: what its info says, else what its masks and tables show, else 128."""
    for name in (_INFO_DIT, _INFO_REST):
        if found := _find(_json(golden / name), "head_dim"):
            return found
    tables = golden / "constants.npz"
    if tables.is_file():
        with np.load(tables) as data:
            if "rope_f" in data.files:
                return 2 * sum(int(data[f"rope_{axis}"].shape[1]) for axis in "fhw")
    for path in sorted(golden.glob("dit_*.npz")):
        with np.load(path) as data:
            if "c0_masks_shape" in data.files and "lq_tokens" in data.files:
                return int(data["lq_tokens"].shape[-1]) // int(data["c0_masks_shape"][1])
    return 128


def _find(data: Any, key: str) -> int | None:
    if isinstance(data, dict):
        if isinstance(data.get(key), int):
            return int(data[key])
        return next((found for value in data.values() if (found := _find(value, key))), None)
    return None


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    data = json.loads(path.read_text(encoding="utf-8"))
    return data if isinstance(data, dict) else {}


def dit_fixtures(golden: Path) -> dict[str, dict[str, Any]]:
    """What the info says of each DiT run whose fixture is there."""
    info: dict[str, dict[str, Any]] = _json(golden / _INFO_DIT).get("info", {})
    return {name: value for name, value in info.items() if (golden / f"{name}.npz").is_file()}


class _Runner:
    """An executor and what it last showed of each layer's attention."""

    def __init__(self, build: Callable[[Callable[[int, Mapping[str, Any]], None]], Executor[Any]]) -> None:
        self.seen: dict[int, dict[str, Array]] = {}
        self.executor = build(self._observe)

    def _observe(self, layer: int, taps: Mapping[str, Any]) -> None:
        self.seen[layer] = {name: np.asarray(value) for name, value in taps.items()}

    @property
    def masks(self) -> list[Array]:
        return [self.seen[layer]["mask"] for layer in sorted(self.seen)]


@contextmanager
def _executors(checkpoint: Checkpoint, kind: str) -> Iterator[Callable[[str], _Runner]]:
    """Builds runners for a version of the projector; an ONNX Runtime one from an export that is thrown away."""
    built: dict[str, _Runner] = {}
    with tempfile.TemporaryDirectory(prefix="vsflashsr-verify-") as folder:

        def build(version: str) -> _Runner:
            if version not in built:
                claimed = dataclasses.replace(checkpoint, version=version)
                if kind == "torch":
                    built[version] = _Runner(lambda observer: TorchExecutor(claimed, observer=observer))
                else:
                    built[version] = _Runner(lambda observer: _exported(claimed, Path(folder), observer))
            return built[version]

        yield build
        built.clear()


def _exported(checkpoint: Checkpoint, folder: Path, observer: Any) -> OnnxExecutor:
    """ONNX Runtime on an export; only the projector differs between versions."""
    own = folder / checkpoint.version
    others = [path for path in folder.iterdir() if path != own]
    if others:
        shutil.copytree(others[0], own)
        write_projector(checkpoint.config, checkpoint.projector, checkpoint.version, own, torch.float32)
        section = dataclasses.replace(_sections[others[0]], version=checkpoint.version)
    else:
        own.mkdir()
        section = write_section(checkpoint, own, torch.float32, Options())
    _sections[own] = section
    # The CPU takes any size: that of the shapes doesn't matter.
    calls = step_calls(own, section, section.options, Grid(1, 1), lambda path: path.stem)
    return load_executor(CpuBackend(), own, section, calls, observer)


_sections: dict[Path, Any] = {}


def _table_stages(golden: Path) -> Iterator[StageResult]:
    path = golden / "local_masks.npz"
    if path.is_file():
        with np.load(path) as data:
            wrong = 0
            for key in data.files:
                rows, cols, reach = (int(number) for number in re.findall(r"\d+", key))
                wrong += int((local_mask(Grid(rows, cols), reach) != data[key]).sum())
        yield StageResult("local_masks", float(wrong), 0.0, wrong == 0, f"{len(data.files)} masks")
    path = golden / "rope_full_128.npz"
    if path.is_file():
        with np.load(path) as data:
            yield StageResult("rope_full_128", _rope_error(data, "", 128), TABLE_TOLERANCE, None)


def _rope_error(data: Fixture, prefix: str, head_dim: int) -> float:
    worst = 0.0
    for axis, part in zip("fhw", rope_split(head_dim), strict=True):
        table = data[f"{prefix}{axis}"]
        at = angles(np.arange(len(table)), part)
        worst = max(worst, _error(np.stack([np.cos(at), np.sin(at)], axis=-1), table))
    return worst


def _constants(data: Fixture, checkpoint: Checkpoint) -> StageResult:
    config = checkpoint.config
    constants = build_constants(config, checkpoint.dit, checkpoint.prompt)
    keys, values = cross_keys_values(config, checkpoint.dit, 0, constants)
    made = {
        "timestep_embedding": timestep_embedding(config.freq_dim),
        "t": constants.t,
        "t_mod": constants.t_mod[None],
        "context_embedded": constants.context[None],
        "cross_k0": keys[None],
        "cross_v0": values[None],
    }
    errors = [_error(tensor.numpy(), data[name]) for name, tensor in made.items()]
    return StageResult("constants", max(*errors, _rope_error(data, "rope_", config.head_dim)), TABLE_TOLERANCE, None)


def _error(made: Array, wanted: Array) -> float:
    if made.shape != wanted.shape:
        return float("inf")
    return float(np.abs(made.astype(np.float64) - wanted.astype(np.float64)).max(initial=0.0))


@dataclasses.dataclass(frozen=True)
class GoldenStep:
    """One step of a DiT fixture."""

    index: int
    noise: Array
    velocity: Array
    caches: tuple[tuple[Slice[Any], ...], ...]


def golden_steps(data: Fixture, info: Mapping[str, Any], executor: Executor[Any]) -> Iterator[GoldenStep]:
    """The steps of a fixture, run by an executor."""
    grid = Grid(*info["grid_blocks"])
    options = StepOptions(info["topk_ratio"], info["local_range"], info["kv_ratio"])
    plan = attention_plan(executor, grid, options)
    frame_tokens = grid.slice_tokens // 2
    caches = None
    for index in range(info["chunks"]):
        start, stop = (0, 6) if index == 0 else (4 + 2 * index, 6 + 2 * index)
        noise = data["noise"][0, :, start:stop].astype(np.float32)
        tokens = data["lq_tokens"][0, start * frame_tokens : stop * frame_tokens].astype(np.float32)
        step = step_plan(index, options.kv_ratio, looks_back=True)
        latents, caches = run_dit(
            executor,
            executor.upload(to_patches(noise, grid)),
            executor.gather([executor.upload(tokens)], window_order(grid, step.slices)),
            caches,
            plan,
            step,
        )
        yield GoldenStep(index, noise, noise - from_patches(executor.download(latents), grid), caches)


def golden_masks(data: Fixture, step: int) -> npt.NDArray[np.bool_]:
    """(layers, heads, query windows, key windows): which pairs the reference kept."""
    shape = tuple(int(size) for size in data[f"c{step}_masks_shape"])
    masks: npt.NDArray[np.bool_] = np.unpackbits(data[f"c{step}_masks"], axis=-1)[..., : shape[-1]].astype(bool)
    return masks


def _dit(name: str, data: Fixture, info: Mapping[str, Any], runner: _Runner) -> StageResult:
    worst, identical, kept = 0.0, True, 0
    grid = Grid(*info["grid_blocks"])
    executor = runner.executor
    step: GoldenStep | None = None
    for step in golden_steps(data, info, executor):
        worst = max(worst, _error(step.velocity, data[f"c{step.index}_pred"][0]))
        wanted = golden_masks(data, step.index)
        masks = np.stack(runner.masks)
        identical &= masks.shape == wanted.shape and bool((masks == wanted).all())
        kept += int(masks.sum())
        cached = [len(cache) * grid.blocks for cache in step.caches]
        identical &= cached == [int(count) for count in data[f"c{step.index}_cache_blocks"]]
    assert step is not None
    if "last_cache_k0" in data:
        worst = max(worst, _cache_error(data, info, executor, step))
    rows, cols = info["grid_blocks"]
    note = f"{rows}x{cols} windows, {info['chunks']} steps, {kept} pairs kept"
    return StageResult(name, worst, TOLERANCE, identical, note)


def _cache_error(data: Fixture, info: Mapping[str, Any], executor: Executor[Any], last: GoldenStep) -> float:
    """The fixture's cache holds keys turned by their place in the clip; ours are turned when they are used."""
    grid = Grid(*info["grid_blocks"])
    plan = attention_plan(executor, grid, StepOptions(info["topk_ratio"], info["local_range"], info["kv_ratio"]))
    cache = last.caches[0]
    newest = 2 * (3 + last.index)
    keys = np.concatenate([executor.download(part.keys) for part in cache])
    values = np.concatenate([executor.download(part.values) for part in cache])
    turned = rotated(keys, plan, [newest - 2 * len(cache) + at for at in slice_positions(len(cache))])
    wanted = data["last_cache_k0"]
    return max(
        _error(turned.reshape(wanted.shape), wanted), _error(values.reshape(wanted.shape), data["last_cache_v0"])
    )


def _taps(name: str, data: Fixture, taps: Fixture, info: Mapping[str, Any], runner: _Runner) -> StageResult:
    """What block 0 does inside; in a piece only the torch modules show what lies between its ends."""
    watched = _Watched(runner.executor)
    grid = Grid(*info["grid_blocks"])
    worst, compared = 0.0, 0
    with watched.hooks():
        for step in golden_steps(data, info, watched.executor):
            made = _block_taps(watched.taps, runner.seen[0], grid, watched.executor)
            for key, wanted in ((key, taps[key]) for key in taps if key.startswith(f"c{step.index}_b0_")):
                tap = key.removeprefix(f"c{step.index}_b0_")
                if tap in made:
                    worst, compared = max(worst, _error(made[tap].reshape(wanted.shape), wanted)), compared + 1
    return StageResult(name, worst, TOLERANCE, None, f"{compared} of {len(list(taps))} tensors")


def _block_taps(taps: Taps, attention: Taps, grid: Grid, executor: Executor[Any]) -> Taps:
    """By the fixture's names: what is per token in token order, what attention sees in window order."""
    out = {f"attn_{name}": attention[name] for name in ("q", "k", "v", "out") if name in attention}
    for name, value in taps.items():
        out[name] = value[token_order(grid, len(value) // grid.slice_tokens)]
    return out


class _Watched:
    """An executor whose first layer can be looked into."""

    def __init__(self, executor: Executor[Any]) -> None:
        self.taps: Taps = {}
        self.executor = executor

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Notes x before and after block 0 and, of torch modules, what lies between."""
        executor: Any = self.executor
        first, middle, last = executor.first, executor.middle, executor.last

        def watched_first(*inputs: Any) -> Any:
            outputs = first(*inputs)
            self.taps["in"] = executor.download(outputs[0])
            return outputs

        def watched_middle(layer: int, *inputs: Any) -> Any:
            outputs = middle(layer, *inputs)
            if layer == 0:
                self.taps["out"] = executor.download(outputs[0])
            return outputs

        handles = [
            module.register_forward_hook(self._hook(name, executor)) for name, module in self._inside(executor).items()
        ]
        executor.first, executor.middle = watched_first, watched_middle
        try:
            yield
        finally:
            executor.first, executor.middle, executor.last = first, middle, last
            for handle in handles:
                handle.remove()

    def _hook(self, name: str, executor: Any) -> Callable[[nn.Module, Any, Any], None]:
        def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self.taps[name] = executor.download(output)

        return note

    def _inside(self, executor: Executor[Any]) -> dict[str, nn.Module]:
        return executor.block_taps() if isinstance(executor, TorchExecutor) else {}


def _e2e(data: Fixture, report: Mapping[str, Any], build: Callable[[str], _Runner]) -> Iterator[StageResult]:
    """The published pipeline on 8-bit frames: centre crop, repeated last frames, given noise, AdaIN, truncation."""
    latents = data["noise"].shape[2]
    frames_u8 = _prepared(data["lr_u8"], data["noise"].shape[-2] * 8, data["noise"].shape[-1] * 8, 4 * latents + 1)
    if "lq_up_sha256" in data:
        same = hashlib.sha256(frames_u8.tobytes()).hexdigest() == str(data["lq_up_sha256"][0])
        worst = max(
            [
                _error(frames_u8[int(key.rpartition("_f")[2])], data[key])
                for key in data
                if key.startswith("lq_up_u8_f")
            ],
            default=0.0,
        )
        yield StageResult("e2e_tiny pre-upscale", worst, 1.0, None, "identical bytes" if same else "bytes differ")
    lq = frames_u8.astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255) * np.float32(2) - np.float32(1)
    runs: dict[str, list[str]] = {}
    for key in data:
        if match := re.fullmatch(r"(v11?_.+?)_(u8|f32|nofix_f32_frame\d+)", key):
            runs.setdefault(match[1], []).append(key)
    for run, keys in runs.items():
        info = {**_E2E_DEFAULTS, **report.get(f"e2e_{run}", {})}
        if "topk_ratio" not in info:
            published = topk_ratio(2.0, Grid(lq.shape[-2] // 128, lq.shape[-1] // 128))
            info["topk_ratio"] = published if run.endswith("official_ratio") else _E2E_SPARSE
        options = StepOptions(info["topk_ratio"], info["local_range"], info["kv_ratio"])
        version = "v1" if run.startswith("v1_") else "v1.1"
        made = _run_clip(build(version).executor, lq, data["noise"][0].astype(np.float32), options)
        fixed = colour_fix.adain(made, lq[: len(made)])
        for key in keys:
            yield _compare(key, data, made if "_nofix_" in key else fixed)


def _prepared(lr: Array, height: int, width: int, frames: int) -> npt.NDArray[np.uint8]:
    """(n, h, w, 3) → (frames, height, width, 3): Pillow's bicubic x4, centre crop, last frame repeated."""
    _, h, w, _ = lr.shape
    large = resize_u8(lr.transpose(0, 3, 1, 2), 4 * h, 4 * w).transpose(0, 2, 3, 1)
    top, left = (4 * h - height) // 2, (4 * w - width) // 2
    cropped = large[:, top : top + height, left : left + width]
    index = np.minimum(np.arange(frames), len(lr) - 1)
    return np.ascontiguousarray(cropped[index])


def _run_clip(executor: Executor[Any], lq: Array, noise: Array, options: StepOptions) -> npt.NDArray[np.float32]:
    state: StepState[Any] | None = None
    out: list[npt.NDArray[np.float32]] = []
    steps = (len(lq) - 1) // 8 - 2
    for index in range(steps):
        frames = lq[:25] if index == 0 else lq[8 * index + 17 : 8 * index + 25]
        latents = noise[:, :6] if index == 0 else noise[:, 4 + 2 * index : 6 + 2 * index]
        made, state = run_step(executor, frames, latents, state, options)
        out.append(made)
    return np.concatenate(out)


def _compare(key: str, data: Fixture, made: npt.NDArray[np.float32]) -> StageResult:
    wanted = data[key]
    if key.endswith("_u8"):
        pixels = ((np.clip(made, -1, 1) + 1) * 127.5).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
        error, frames = min((_error(pixels[index], wanted), index) for index in _frames(data, len(wanted), len(made)))
        return StageResult(f"e2e_tiny {key}", error, 1.0, None, f"of 255, frames {frames}")
    top, bottom, left, right = (int(edge) for edge in data["crop"])
    cropped = made[..., top:bottom, left:right]
    if match := re.search(r"_frame(\d+)$", key):
        return StageResult(f"e2e_tiny {key}", _error(cropped[int(match[1])], wanted), TOLERANCE, None)
    index = [int(frame) for frame in data["keepf"]]
    # The published tensors are (channel, frame, row, column).
    index = [int(frame) for frame in data["keepf"]]
    return StageResult(
        f"e2e_tiny {key}", _error(cropped[index].transpose(1, 0, 2, 3), wanted), TOLERANCE, None, f"frames {index}"
    )


def _frames(data: Fixture, count: int, total: int) -> list[list[int]]:
    """Which frames a fixture of `count` frames may hold: those it keeps, or the first, the first of step 1 and the last."""
    candidates = [[int(frame) for frame in data["keep"]], [0, 21, total - 1]]
    return [frames for frames in candidates if len(frames) == count] or [list(range(count))]
