"""The stages of SwiftVR that a golden set holds."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsflashsr.models.swiftvr.calls import step_calls
from vsflashsr.models.swiftvr.host import HostExecutor
from vsflashsr.models.swiftvr.network.attention import WindowedAttention
from vsflashsr.models.swiftvr.network.reae import Decoder, Encoder, from_patches, to_patches
from vsflashsr.models.swiftvr.options import Options
from vsflashsr.models.swiftvr.step import (
    DROPPED_FRAMES,
    FRAMES_PER_LATENT,
    Executor,
    Grid,
    Memories,
    decoded,
    denoised,
    encoded,
    grid_of,
    run_step,
)
from vsflashsr.models.swiftvr.upscale import upscale_tables
from vsflashsr.models.swiftvr.windows import angles, rotary, starts, windows
from vsflashsr.models.wan.network.pieces import LastPiece
from vsflashsr.runtimes.onnxruntime import CpuBackend

from ..stages import Array, StageResult, compared, run_module
from .checkpoint import Checkpoint, load_checkpoint, sinusoid
from .export import write_section
from .torch_executor import TorchExecutor

FIXTURES = (
    "constants",
    "windows",
    *("dit_3x7x9", "dit_2x2x11", "dit_2x4x4", "dit_1x8x8", "dit_2x5x13", "dit_1x9x6", "dit_win16_1x18x34", "dit_taps"),
    *("encoder", "decoder", "e2e_clip8", "e2e_clip24", "session_overlap1"),
)

_TABLE, _VALUE, _FRAME, _LEVEL = 1e-5, 1e-4, 5e-5, 1.0
"""Of tables; of predictions, taps, latents and states; of frames in 0..1; of 8-bit frames, where cutting off sits on an edge. A
correct port in float32 is a tenth of the middle two away, the smallest slip a thousand times more."""

type Fixture = Mapping[str, Array]
type Build = Callable[[tuple[int, int]], Executor]


def stages(golden: Path, executor: str, head_dim: int | None) -> Iterator[StageResult]:
    """All stages whose fixture is there. `executor` is "torch" or "onnxruntime".

    Raises:
        FlashsrError: the checkpoint can't be read.
    """
    info = json.loads((golden / "info.json").read_text(encoding="utf-8"))["config"]
    window, e2e_window = _side(info, "win", (16, 16)), _side(info, "e2e_win", (2, 2))
    checkpoint = load_checkpoint(golden, head_dim=head_dim or info.get("hd"), window=window)
    modules = TorchExecutor(checkpoint)

    def fixture(name: str) -> Iterator[Fixture]:
        path = golden / f"{name}.npz"
        if path.is_file():
            with np.load(path) as data:
                yield {key: data[key] for key in data}

    for data in fixture("constants"):
        yield from _constants(data, modules)
    for data in fixture("windows"):
        yield from _windows(data)
    with _executors(checkpoint, modules, executor) as build:
        tapped: Array | None = None
        first_grid = "dit_" + "x".join(map(str, info.get("grids", [(3, 7, 9)])[0]))
        for path in sorted(golden.glob("dit_*x*x*.npz")):
            side = (16, 16) if "win16" in path.stem else window
            for data in fixture(path.stem):
                latents = data["z"][0].astype(np.float32).swapaxes(0, 1)
                made = latents - _denoised(build(side), latents)
                yield compared(path.stem, made.swapaxes(0, 1)[None], data["pred"], _VALUE, f"windows of {side[0]}x{side[1]}")
                tapped = latents if path.stem == first_grid else tapped
        for data in fixture("dit_taps"):
            if tapped is not None:
                yield from _dit_taps(data, modules, tapped, window, executor)
        for data in fixture("encoder"):
            yield from _encoder(data, build(window), modules.encoder, executor)
        for data in fixture("decoder"):
            yield from _decoder(data, build(window), modules.decoder, executor)
        for name, clip_len in (("e2e_clip8", 8), ("e2e_clip24", 24)):
            for data in fixture(name):
                yield from _whole(name, data, build(e2e_window), clip_len)
        for data in fixture("session_overlap1"):
            for source in fixture("e2e_clip8"):
                yield from _session(data, source, build(e2e_window))


def _side(info: Mapping[str, Any], name: str, default: tuple[int, int]) -> tuple[int, int]:
    rows, cols = info.get(name, default)
    return int(rows), int(cols)


@contextmanager
def _executors(checkpoint: Checkpoint, modules: TorchExecutor, executor: str) -> Iterator[Build]:
    """Executors for windows of any size: a checkpoint doesn't tell it."""
    if executor == "torch":

        def build(side: tuple[int, int]) -> Executor:
            modules.window = side
            return modules

        yield build
        return
    with tempfile.TemporaryDirectory(prefix="vsflashsr-verify-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        section = write_section(checkpoint, folder, torch.float32, Options())
        calls = step_calls(folder, section, Options(), (32, 32), Grid(1, 1), lambda path: path.stem)
        graphs = calls.loaded(CpuBackend(1).load(list(calls)))
        yield lambda side: HostExecutor(replace(section, window=side), graphs)


def _constants(data: Fixture, modules: TorchExecutor) -> Iterator[StageResult]:
    constants = modules.constants
    dit = modules.config.dit
    made: dict[str, Array] = {
        "sinusoid": sinusoid(dit.freq_dim).numpy(),
        "temb": constants.t.numpy(),
        "timestep_proj": constants.t_mod.numpy()[None],
        "context": constants.context.numpy()[None],
    }
    for name, head_dim in (("rope", dit.head_dim), ("rope128", 128)):
        if f"{name}_cos" in data:
            count = len(data[f"{name}_cos"])
            turned = angles(np.repeat(np.arange(count)[:, None], 3, 1), head_dim).repeat(2, 1)
            made |= {f"{name}_cos": np.cos(turned), f"{name}_sin": np.sin(turned)}
    for name, array in made.items():
        if name in data:
            yield compared(f"constants {name}", array, data[name], _TABLE)


def _windows(data: Fixture) -> Iterator[StageResult]:
    """Index maps: equal or not."""
    differing = 0
    for size, kinds in enumerate(data["starts_win16"]):
        for shifted, found in enumerate(kinds):
            differing += starts(size, 16, shifted=bool(shifted)) != tuple(found[found >= 0])
    yield StageResult("windows starts", float(differing), 0.0, None, f"{len(data['starts_win16'])} sizes")
    for key, owner in data.items():
        match = re.fullmatch(r"owner_t(\d+)_(\d+)x(\d+)_(plain|shifted)", key)
        if match is not None:
            made = windows(int(match[1]), int(match[2]), int(match[3]), (16, 16), shifted=match[4] == "shifted")
            count = int(data[key.replace(f"owner_t{match[1]}", "count")])
            differing = int((made.owner != owner).sum()) + int(len(made.gather) != count)
            yield StageResult(f"windows {key}", float(differing), 0.0, None, f"{len(made.gather)} windows")


class _LayerTaps(nn.Module):
    """One layer from its input to its output: what precedes its attention, the attention, and what follows."""

    def __init__(self, before: Any, attention: WindowedAttention, after: Any) -> None:
        super().__init__()
        self.before, self.attention, self.after = before, attention, after

    names = ("sa_in", "q_win", "k_win", "v_win", "o_win", "sa_merged", "sa_out", "ca_in", "ca_out", "ffn_in", "ffn_out", "out")

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, gather: Tensor, owner: Tensor) -> tuple[Tensor, ...]:
        before, attention, after = self.before, self.attention, self.after
        sa_in = before.norm1(x)
        q, k, v = before(x)
        queries, keys = (attention.windowed(attention.rotated(part, cos, sin), gather) for part in (q, k))
        values = attention.windowed(v, gather)
        attended = F.scaled_dot_product_attention(queries, keys, values)
        merged = attention(q, k, v, cos, sin, gather, owner)
        sa_out = after.o(merged)
        middle = x + after.gate1 * sa_out
        ca_in = after.norm3(middle)
        ca_out = after.cross(ca_in)
        ffn_in = after.norm2(middle + ca_out)
        ffn_out = after.ffn_out(F.gelu(after.ffn_in(ffn_in), approximate="tanh"))
        windowed = (part.transpose(1, 2) for part in (queries, keys, values, attended))
        return sa_in, *windowed, merged, sa_out, ca_in, ca_out, ffn_in, ffn_out, after(x, merged)


class _HeadTaps(nn.Module):
    names = ("head_in", "head_out")

    def __init__(self, last: LastPiece) -> None:
        super().__init__()
        self.last = last

    def forward(self, x: Tensor, attended: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        return self.last.norm(self.last.after(x, attended)), patches - self.last(x, attended, patches)


def _dit_taps(
    data: Fixture, modules: TorchExecutor, latents: Array, side: tuple[int, int], executor: str
) -> Iterator[StageResult]:
    frames, _, height, width = latents.shape
    grid = frames, height // 2, width // 2
    cos, sin = rotary(*grid, modules.head_dim)
    patches = _patches(latents)
    x = modules.first(patches)[0]
    pieces = [modules.first_piece, *modules.middle_pieces, modules.last_piece]
    for layer in range(modules.layers):
        before, after = pieces[layer], pieces[layer + 1]
        over = windows(*grid, side, shifted=bool(layer % 2))
        taps = _LayerTaps(before.before, modules.attention, after.after)
        feeds = {"x": x, "cos": cos, "sin": sin, "gather": over.gather, "owner": over.owner}
        wanted = {key for key in data if key.startswith(f"b{layer}_")}
        made = run_module(taps, feeds, taps.names, executor if wanted else "torch")
        made["in"] = x
        for name, array in made.items():
            if f"b{layer}_{name}" in data:
                expected = data[f"b{layer}_{name}"]
                yield compared(f"dit_taps b{layer} {name}", array.reshape(expected.shape), expected, _VALUE)
        if layer + 1 == modules.layers:
            head = _HeadTaps(modules.last_piece)
            seen = run_module(head, {"x": x, "attended": made["sa_merged"], "patches": patches}, head.names, executor)
            for name, array in seen.items():
                if name in data:
                    yield compared(f"dit_taps {name}", array[None], data[name], _VALUE)
        x = made["out"]


class _EncoderTaps(nn.Module):
    """What goes into some layers, by the layer's number."""

    names = ("unshuffled", "3", "7", "8", "13")

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, frames: Tensor, *memories: Tensor) -> tuple[Tensor, ...]:
        after: list[Tensor] = []
        layers = self.encoder.layers
        unshuffled = F.pixel_unshuffle(frames, 2)
        third = layers["2"](F.relu(layers["0"](unshuffled)))
        seventh = self.encoder.remember(layers["3"](third), memories, after)
        eighth = layers["7"](seventh)
        thirteenth = layers["12"](self.encoder.remember(layers["8"](eighth), memories, after))
        return unshuffled, third, seventh, eighth, thirteenth


def _encoder(data: Fixture, executor: Executor, encoder: Encoder, kind: str) -> Iterator[StageResult]:
    clip = _clip_of(data["video_u8"], 1)
    video = clip.frames
    zeros, _ = executor.memories(*video.shape[2:])
    memories, start = zeros, 0
    for chunk in range(sum(key.startswith("latents_") and key[8:].isdecimal() for key in data)):
        wanted = data[f"latents_{chunk}"]
        stop = start + FRAMES_PER_LATENT * wanted.shape[1]
        made, memories = clip.encoded(executor, video[start:stop], memories)
        yield compared(f"encoder latents_{chunk}", made[None], wanted, _VALUE, f"frames {start}..{stop - 1}")
        yield from _states("encoder", chunk, memories, data, encoder.memories)
        if chunk == 0:
            taps = _EncoderTaps(encoder)
            names = [f"memory{n}" for n in range(len(zeros))]
            seen = run_module(taps, {"frames": video[:stop], **dict(zip(names, zeros, strict=True))}, taps.names, kind)
            if "unshuffled_f0" in data:
                yield compared("encoder unshuffled_f0", seen["unshuffled"][0], data["unshuffled_f0"], _TABLE)
            for key, tap in data.items():
                if key.startswith("tap_before_"):
                    yield compared(f"encoder {key}", seen[key.removeprefix("tap_before_")], tap, _VALUE)
        start = stop
    for key, wanted in data.items():
        match = re.fullmatch(r"latents_last_(\d+)", key)
        if match is not None:
            made, _ = clip.encoded(executor, _filled(video[: int(match[1])]), zeros)
            yield compared(f"encoder {key}", made[None], wanted, _VALUE, "its last frame repeated")


class _DecoderTaps(nn.Module):
    """What goes into some layers, by the layer's number, with the upsampling where it was published."""

    names = ("1", "8", "13", "14", "19", "20", "raw")

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, latents: Tensor, *memories: Tensor) -> tuple[Tensor, ...]:
        after: list[Tensor] = []
        layers = self.decoder.layers

        def remember(x: Tensor) -> Tensor:
            return self.decoder.remember(x, memories, after)

        def up(x: Tensor) -> Tensor:
            return F.interpolate(x, scale_factor=2.0)

        first = _soft_clamp(latents)
        eighth = layers["7"](up(remember(F.relu(layers["1"](first)))))
        thirteenth = up(remember(layers["8"](eighth)))
        fourteenth = layers["13"](thirteenth)
        nineteenth = up(remember(layers["14"](fourteenth)))
        twentieth = layers["19"](nineteenth)
        raw = layers["22"](F.relu(layers["20"](twentieth)))
        return first, eighth, thirteenth, fourteenth, nineteenth, twentieth, raw


def _soft_clamp(latents: Tensor) -> Tensor:
    """The decoder's soft clamp."""
    return (latents / 3).tanh() * 3


def _decoder(data: Fixture, executor: Executor, decoder: Decoder, kind: str) -> Iterator[StageResult]:
    latents = data["latents"][0].astype(np.float32)
    _, zeros = executor.memories(*(16 * side for side in latents.shape[2:]))
    memories, start = zeros, 0
    for chunk in range(sum(key.startswith("frames_") for key in data)):
        wanted = data[f"frames_{chunk}"][0]
        lead = DROPPED_FRAMES if chunk == 0 else 0
        stop = start + (len(wanted) + lead) // FRAMES_PER_LATENT
        made, memories = _decoded(executor, latents[start:stop], memories)
        yield compared(f"decoder frames_{chunk}", made[lead:], wanted, _FRAME, f"latents {start}..{stop - 1}")
        yield from _states("decoder", chunk, memories, data, decoder.memories)
        start = stop
    taps = _DecoderTaps(decoder)
    names = [f"memory{n}" for n in range(len(zeros))]
    seen = run_module(taps, {"latents": latents[:2], **dict(zip(names, zeros, strict=True))}, taps.names, kind)
    for key, tap in data.items():
        if key.startswith("tap_before_"):
            name = key.removeprefix("tap_before_")
            first = 1 if name in ("14", "19", "20") else 0
            yield compared(f"decoder {key}", seen[name][first : first + len(tap)], tap, _VALUE)
    if "raw_before_clamp_0" in data:
        raw = data["raw_before_clamp_0"]
        yield compared("decoder raw_before_clamp_0", seen["raw"][DROPPED_FRAMES :][: len(raw)], raw, _VALUE)


def _states(
    name: str, chunk: int, memories: Sequence[Array], data: Fixture, layers: tuple[int, ...]
) -> Iterator[StageResult]:
    for layer, memory in zip(layers, memories, strict=True):
        key = f"state_{chunk}_mem_{layer}"
        if key in data:
            yield compared(f"{name} {key}", memory[None], data[key], _VALUE)


def _whole(name: str, data: Fixture, executor: Executor, clip_len: int) -> Iterator[StageResult]:
    """Whole clips as the published tool cuts them, and as this project's steps do (`padded`)."""
    lr = data["lr_u8"]
    for length in sorted({int(m[1]) for key in data if (m := re.match(r"t(\d+)_", key))}, reverse=True):
        yield from _clip(name, f"t{length}_", data, executor, lr[:length], clip_len)
    if "u8" in data or "f32" in data:
        yield from _clip(name, "", data, executor, lr, clip_len)
    if "padded_f32" in data:
        clip = _clip_of(lr, data["padded_f32"].shape[-1] // lr.shape[2])
        steps = -(-(len(lr) + DROPPED_FRAMES - clip_len - FRAMES_PER_LATENT) // clip_len) + 1
        missing = clip_len * steps + FRAMES_PER_LATENT - len(lr)
        given = np.concatenate([clip.frames, *[clip.frames[-1:]] * missing])
        made, state, start = [], None, 0
        while start < len(given):
            stop = start + clip_len + (FRAMES_PER_LATENT if state is None else 0)
            out, state = run_step(executor, given[start:stop], clip.tables, clip.grid, state)
            made.append(out)
            start = stop
        frames = clip.cropped(np.concatenate(made)[: len(lr)])
        yield compared(f"{name} padded", frames[data["padded_keep"]], data["padded_f32"], _FRAME, f"{steps} steps")


def _clip(
    name: str, prefix: str, data: Fixture, executor: Executor, lr: Array, clip_len: int
) -> Iterator[StageResult]:
    def get(*keys: str) -> Array | None:
        return next((data[prefix + key] for key in keys if prefix + key in data), None)

    wide = get("u8", "f32")
    assert wide is not None
    width = wide.shape[2] if wide.dtype == np.uint8 else wide.shape[3]
    clip = _clip_of(lr, width // lr.shape[2])
    title = f"{name} {prefix.rstrip('_')}".strip()
    if (wanted := get("prep_f0")) is not None:
        prepared = executor.upscale(_filled(clip.frames[:1]), clip.tables)[0]
        yield compared(f"{title} prep_f0", prepared, wanted, _TABLE)
    frames: list[Array] = []
    for index, (latents, restored, made) in enumerate(_official(executor, clip, clip_len)):
        for key, array in (("z", latents), ("den", restored)):
            if (wanted := get(f"{key}_{index}")) is not None:
                yield compared(f"{title} {key}_{index}", array[None], wanted, _VALUE)
        frames.append(made)
    out = clip.cropped(np.concatenate(frames))
    if (kept := get("f32")) is not None:
        numbers = get("keep")
        assert numbers is not None
        yield compared(f"{title} frames", out[numbers], kept, _FRAME, f"{len(out)} frames")
    if (bytes_ := get("u8")) is not None:
        made = np.floor(out * 255).transpose(0, 2, 3, 1)
        yield compared(f"{title} u8", made, bytes_.astype(np.float32), _LEVEL, "levels of 255, cut off as published")


@dataclass(frozen=True)
class _Clip:
    """Low-resolution frames, and how they become large ones."""

    frames: Array
    """(n, 3, h, w) in 0..1."""
    size: tuple[int, int]
    """(height, width) of the output."""
    grid: Grid
    tables: Mapping[str, Array]

    def encoded(self, executor: Executor, frames: Array, memories: Memories) -> tuple[Array, Memories]:
        """Latents (n/4, C, 2h, 2w) of some of the frames."""
        patches, memories = encoded(executor, frames, self.tables, memories)
        return _latents(patches, self.grid), memories

    def cropped(self, frames: Array) -> Array:
        """Without padding."""
        return frames[:, :, : self.size[0], : self.size[1]]


def _clip_of(lr: Array, scale: int) -> _Clip:
    """Of frames (n, h, w, 3) of 0..255."""
    low = lr.shape[1], lr.shape[2]
    size = scale * low[0], scale * low[1]
    grid = grid_of(*size)
    return _Clip(_pixels(lr), size, grid, upscale_tables(low, scale, (grid.height_px, grid.width_px)))


def _latents(patches: Array, grid: Grid) -> Array:
    return from_patches(torch.from_numpy(patches), 2 * grid.rows, 2 * grid.cols).numpy()


def _patches(latents: Array) -> Array:
    return to_patches(torch.from_numpy(latents)).numpy()


def _denoised(executor: Executor, latents: Array) -> Array:
    grid = Grid(latents.shape[2] // 2, latents.shape[3] // 2)
    return _latents(denoised(executor, _patches(latents), grid), grid)


def _decoded(executor: Executor, latents: Array, memories: Memories) -> tuple[Array, Memories]:
    grid = Grid(latents.shape[2] // 2, latents.shape[3] // 2)
    return decoded(executor, _patches(latents), grid, memories)


def _official(executor: Executor, clip: _Clip, clip_len: int) -> Iterator[tuple[Array, Array, Array]]:
    """Chunks as the published tool makes them: latents, restored latents, frames.

    The last takes what is left, filled up to whole latents, behind the latents before it (zeros where there are none).
    """
    frames = clip.frames
    encoder, decoder = executor.memories(clip.grid.height_px, clip.grid.width_px)
    count = clip_len // FRAMES_PER_LATENT
    before: Array | None = None
    start = 0
    while start < len(frames):
        stop = start + clip_len + (FRAMES_PER_LATENT if start == 0 else 0)
        last = stop >= len(frames)
        own = frames[start:stop]
        latents, encoder = clip.encoded(executor, _filled(own), encoder)
        given = latents
        if last:
            missing = count + 1 - len(latents)
            known = np.zeros((missing, *latents.shape[1:]), np.float32) if before is None else before[len(before) - missing :]
            given = np.concatenate([known, latents])
        restored = _denoised(executor, given)[len(given) - len(latents) :]
        made, decoder = _decoded(executor, restored, decoder)
        yield latents, restored, made if start else made[DROPPED_FRAMES:]
        before, start = latents, stop


def _session(data: Fixture, source: Fixture, executor: Executor) -> Iterator[StageResult]:
    """The published streaming session: whatever comes is run, one latent before it is seen again."""
    lr = source["lr_u8"]
    clip = _clip_of(lr, source["padded_f32"].shape[-1] // lr.shape[2])
    encoder, decoder = executor.memories(clip.grid.height_px, clip.grid.width_px)
    before: Array | None = None
    waiting = clip.frames[:0]
    made: list[Array] = []
    start = 0
    for count in (8, 8, 3, len(lr) - 19, None):
        if count is None:
            waiting = _filled(waiting)
        else:
            waiting, start = np.concatenate([waiting, clip.frames[start : start + count]]), start + count
        ready = len(waiting) // FRAMES_PER_LATENT * FRAMES_PER_LATENT
        if not ready:
            continue
        latents, encoder = clip.encoded(executor, waiting[:ready], encoder)
        waiting = waiting[ready:]
        given = latents if before is None else np.concatenate([before[-1:], latents])
        frames, decoder = _decoded(executor, _denoised(executor, given)[len(given) - len(latents) :], decoder)
        made.append(frames if before is not None else frames[DROPPED_FRAMES:])
        before = latents
    out = clip.cropped(np.concatenate(made))
    kept = data.get("keep", np.arange(len(out)))
    frames = next(array for array in data.values() if array.ndim == 4)
    yield compared("session_overlap1 frames", out[kept], frames, _FRAME, f"{len(out)} frames")


def _filled(frames: Array) -> Array:
    """Its last frame repeated up to whole latents."""
    return np.concatenate([frames, *[frames[-1:]] * (-len(frames) % FRAMES_PER_LATENT)])


def _pixels(frames: Array) -> Array:
    """(n, h, w, 3) of 0..255 → (n, 3, h, w) of 0..1."""
    return np.ascontiguousarray((frames.astype(np.float32) / np.float32(255)).transpose(0, 3, 1, 2))
