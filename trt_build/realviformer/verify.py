"""The stages of RealViformer that a golden set holds."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsflashsr.runtimes.onnxruntime import OnnxSession

from ..graphs import write_graph
from ..stages import Array, StageResult, compared, run_module
from .blocks import Block, call, mixed, scores, warp
from .checkpoint import Checkpoint, load_checkpoint
from .export import step_graph
from .network import SCALE, Merge, RealViformer
from .spynet import SpyNet, levels_of, resized

FIXTURES = (
    "primitives",
    "spynet",
    "sequence",
    "stages_t1",
    "merge_t1",
    "block_shallow",
    "block_latent0",
    "block_dec1_0",
)

_PRIMITIVE, _FLOW, _STAGE = 1e-5, 1e-4, 3e-4
_OUT, _LATER, _STATE, _RMS = 1e-4, 3e-4, 1e-3, 2e-5
"""Of outputs up to frame 2 and after it, of the state after it, and the root mean square of any output. A correct port in
float32 is at a tenth of these; GELU by tanh, the smallest slip there is, is at 6.5e-5 (rms) in frame 0."""
_EVERY = re.compile(r"(?P<name>.+?)(?:_ch::(?P<every>\d+))?")

type Taps = Mapping[str, Array]


def stages(golden: Path, executor: str) -> Iterator[StageResult]:
    """All stages whose fixture is there. `executor` is "torch" or "onnxruntime".

    Raises:
        FlashsrError: the checkpoint can't be read.
    """
    checkpoint = load_checkpoint(golden)
    network = checkpoint.network()

    def fixture(name: str) -> Iterator[Mapping[str, Array]]:
        path = golden / f"{name}.npz"
        if path.is_file():
            with np.load(path) as data:
                yield {key: data[key] for key in data}

    for data in fixture("primitives"):
        yield from _primitives(data, executor)
    for data in fixture("spynet"):
        yield from _spynet(data, network, executor)
    for data in fixture("sequence"):
        frames = _pixels(data["frames_u8"])
        # The published code has another pyramid for frames this narrow.
        network.spynet.levels = levels_of(frames.shape[3])
        yield from _sequence(data, frames, checkpoint, network, executor)
        yield from _second_step(frames, network, executor, fixture)


def _primitives(data: Mapping[str, Array], executor: str) -> Iterator[StageResult]:
    """Warping and the three resizes."""

    class Warps(nn.Module):
        def forward(self, x: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
            return warp(x, flow, "zeros"), warp(x, flow, "border")

    class Function(nn.Module):
        def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.function = function

        def forward(self, x: Tensor) -> Tensor:
            return self.function(x)

    feeds = {"x": data["warp_x"][None], "flow": data["warp_flow"][None]}
    made = {k: v[0] for k, v in run_module(Warps(), feeds, ("warp_zeros", "warp_border"), executor).items()}
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "bilinear4": lambda x: F.interpolate(x, scale_factor=4.0, mode="bilinear", align_corners=False),
        "flowup": lambda x: 2 * F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True),
    }
    if "toceil32" in data:
        size = data["toceil32"].shape[1:]
        functions["toceil32"] = lambda x: resized(x, size)
    for name, function in functions.items():
        if name in data:
            made[name] = run_module(Function(function), {"x": data[f"{name}_in"][None]}, (name,), executor)[name][0]
    for name in sorted(made):
        if name in data:
            yield compared(f"primitives {name}", made[name], data[name], _PRIMITIVE)


class _FlowTaps(nn.Module):
    """What goes into each level and comes out, and the flow."""

    def __init__(self, spynet: SpyNet) -> None:
        super().__init__()
        self.spynet = spynet
        self.names = (*(f"l{n}_in" for n in range(spynet.levels)), *(f"l{n}_flow" for n in range(spynet.levels)), "flow")

    def forward(self, ref: Tensor, supp: Tensor) -> tuple[Tensor, ...]:
        given, flows = self.spynet.pyramid(ref, supp)
        return *given, *flows, self.spynet(ref, supp)


def _spynet(data: Mapping[str, Array], network: RealViformer, executor: str) -> Iterator[StageResult]:
    for key in data:
        match = re.fullmatch(r"(\d+x\d+)_pair_u8", key)
        if match is None:
            continue
        size = match[1]
        supp, ref = _pixels(data[key])[:, None]
        network.spynet.levels = levels_of(ref.shape[3])
        taps = _FlowTaps(network.spynet)
        made = run_module(taps, {"ref": ref, "supp": supp}, taps.names, executor)
        for name, array in made.items():
            if f"{size}_{name}" in data:
                yield compared(f"spynet {size} {name}", array[0], data[f"{size}_{name}"], _FLOW)


class _StepTaps(nn.Module):
    """A step with everything that lies between."""

    names = (
        "flow",
        "warped",
        "shallow_conv",
        "shallow",
        "merged",
        *("enc1", "down1_2", "enc2", "down2_3", "latent", "up3_2", "reduced", "dec2", "up2_1", "dec1", "refined"),
        "feat",
    )

    def __init__(self, network: RealViformer) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor, feat: Tensor, prev: Tensor) -> tuple[Tensor, ...]:
        network = self.network
        flow = network.spynet(frames, prev)
        warped = warp(feat, flow, "zeros")
        shallow_conv = call(network.shallow_extraction[0], frames)
        shallow = network.shallow_extraction[1](shallow_conv)
        merged = network.attn_merge(shallow, warped)
        later = network.refined(merged)
        return flow, warped, shallow_conv, shallow, merged, *later.values(), call(network.compress, later["refined"])


def _sequence(
    data: Mapping[str, Array], frames: Array, checkpoint: Checkpoint, network: RealViformer, executor: str
) -> Iterator[StageResult]:
    """Steps over the whole clip, by the graph of the bundle where graphs are asked for; flow and warping beside them."""
    taps = _StepTaps(network)
    step = _step(checkpoint, network, executor)
    features = checkpoint.shapes["compress.weight"][0]
    feat, prev = np.zeros((1, features, *frames.shape[2:]), np.float32), np.zeros_like(frames[:1])
    last = len(frames) - 1
    crops = next(data[key] for key in data if key.startswith("out_crop_"))
    top, bottom, left, right = data["crop_y0y1x0x1"]
    kept = {int(n): index for index, n in enumerate(data["feat_frames"])}
    for n in range(len(frames)):
        if n > 0:
            feeds = {"frames": frames[n : n + 1], "feat": feat, "prev": prev}
            seen = run_module(taps, feeds, taps.names, executor)
            yield compared(f"sequence flow of frame {n}", seen["flow"][0], data["flow"][n - 1], _FLOW)
            if n == 1:
                yield compared("sequence warped_t1", seen["warped"][0], data["warped_t1"], _STAGE)
        out, feat, prev = step(frames[n : n + 1], feat, prev)
        wanted = data["out_last"] if n == last else crops[n]
        made = out[0] if n == last else out[0, :, top:bottom, left:right]
        yield compared(f"sequence frame {n}", made, wanted, _OUT if n < 3 else _LATER)
        rms = float(np.sqrt(np.square(made - wanted, dtype=np.float64).mean()))
        yield StageResult(f"sequence frame {n} rms", rms, _RMS, None, f"{SCALE}x, {made.shape[2]}x{made.shape[1]}")
        if n in kept:
            yield compared(f"sequence state of frame {n}", feat[0], data["feat"][kept[n]], _STATE if n else _STAGE)


def _step(
    checkpoint: Checkpoint, network: RealViformer, executor: str
) -> Callable[[Array, Array, Array], tuple[Array, Array, Array]]:
    session: OnnxSession | None = None
    if executor != "torch" and network.spynet.levels == SpyNet(checkpoint.shapes).levels:
        with tempfile.TemporaryDirectory(prefix="vsflashsr-verify-", ignore_cleanup_errors=True) as folder:
            path = Path(folder, "step.onnx")
            write_graph(step_graph(checkpoint, "fp32"), path)
            session = OnnxSession(path, threads=1)

    def step(frame: Array, feat: Array, prev: Array) -> tuple[Array, Array, Array]:
        if session is not None:
            made = session.run({"frames": frame, "state.feat": feat, "state.prev": prev})
            return made["out"].numpy(), made["next.feat"].numpy(), made["next.prev"].numpy()
        names = ("out", "next.feat", "next.prev")
        out = run_module(network, {"frames": frame, "feat": feat, "prev": prev}, names, executor)
        return out["out"], out["next.feat"], out["next.prev"]

    return step


class _MergeTaps(nn.Module):
    names = ("norm_q", "norm_kv", "q", "kv", "attn_mixed", "attn", "norm_out", "ffn1", "merged")

    def __init__(self, merge: Merge) -> None:
        super().__init__()
        self.merge = merge

    def forward(self, now: Tensor, past: Tensor) -> tuple[Tensor, ...]:
        merge = self.merge
        query, key = merge.norm_q(now), merge.norm_kv(past)
        q, kv, attn_mixed = merge.attn.parts(query, key)
        attn = merge.attn.project_out(attn_mixed)
        normed = merge.norm_out(attn)
        ffn1 = merge.ffn[:2](torch.cat([query, normed], 1))
        return query, key, q, kv, attn_mixed, attn, normed, ffn1, merge(now, past)


class _BlockTaps(nn.Module):
    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block
        squeezed = ("compress",) if block.compress is not None else ()
        masked = ("mask_in", "mask_hidden", "mask_logits") if block.attn.linear1 is not None else ()
        expanded = ("expand",) if block.expand is not None else ()
        self.names = (
            *squeezed,
            *("norm1", "qkv", *masked, "attn_mixed", "attn", *expanded, "norm2", "ffn_gated", "ffn", "out"),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        block = self.block
        narrow = x if block.compress is None else block.compress(x)
        norm1 = block.norm1(narrow)
        qkv = block.attn.projected(norm1)
        q, k, v = qkv.chunk(3, 1)
        cosines = scores(q, k, block.attn.temperature)
        masks = block.attn.mask_parts(cosines) if block.attn.linear1 is not None else ()
        attn_mixed = mixed(block.attn.weights(cosines), v)
        attn = block.attn.project_out(attn_mixed)
        expand = (block.expand(attn),) if block.expand is not None else ()
        norm2 = block.norm2(x + (expand[0] if expand else attn))
        return (
            *(() if block.compress is None else (narrow,)),
            *(norm1, qkv, *masks, attn_mixed, attn, *expand, norm2),
            *(block.ffn.gated(norm2), block.ffn(norm2), block(x)),
        )


def _second_step(
    frames: Array,
    network: RealViformer,
    executor: str,
    fixture: Callable[[str], Iterator[Mapping[str, Array]]],
) -> Iterator[StageResult]:
    """The inside of frame 1: stages, merge, and three blocks."""
    taps = _StepTaps(network)

    def step(n: int, feat: Array) -> Taps:
        feeds = {"frames": frames[n : n + 1], "feat": feat, "prev": frames[max(0, n - 1) : max(1, n)]}
        return run_module(taps, feeds, taps.names, executor)

    features = network.compress.weight.shape[0]
    before = step(0, np.zeros((1, features, *frames.shape[2:]), np.float32))
    made = step(1, before["feat"])
    for data in fixture("stages_t1"):
        yield from _all("stages_t1", made, data)
    for data in fixture("merge_t1"):
        merge = _MergeTaps(network.attn_merge)
        seen = run_module(merge, {"now": made["shallow"], "past": made["warped"]}, merge.names, executor)
        yield from _all("merge_t1", {**seen, "merged_t0": before["merged"]}, data)
    blocks: dict[str, tuple[Any, Array]] = {
        "block_shallow": (network.shallow_extraction[1], made["shallow_conv"]),
        "block_latent0": (network.latent[0], made["down2_3"]),
        "block_dec1_0": (network.decoder_level1[0], np.concatenate([made["up2_1"], made["enc1"]], 1)),
    }
    for name, (block, x) in blocks.items():
        for data in fixture(name):
            block_taps = _BlockTaps(block)
            yield from _all(name, run_module(block_taps, {"x": x}, block_taps.names, executor), data)


def _all(stage: str, made: Taps, data: Mapping[str, Array]) -> Iterator[StageResult]:
    """Every array of the fixture; one whose name ends in `_ch::4` holds each fourth channel. Masks have no batch axis."""
    for key, wanted in data.items():
        match = _EVERY.fullmatch(key)
        assert match is not None
        array = made[match["name"]]
        array = array if match["name"].startswith("mask_") else array[0]
        yield compared(f"{stage} {match['name']}", array[:: int(match["every"] or 1)], wanted, _STAGE)


def _pixels(frames: Array) -> Array:
    """(n, 3, h, w) of 0..255 → 0..1."""
    pixels: Array = frames.astype(np.float32) / np.float32(255)
    return pixels
