"""Holds the projector, the decoders and the colour correction against fixtures in the format of the golden set."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vsflashsr import colour_fix
from vsflashsr.models.flashvsr.network.config import FRAMES_PER_LATENT, LATENT_PATCH, LQ_PATCH, FlashVSRConfig
from vsflashsr.models.flashvsr.network.projector import build_projector
from vsflashsr.models.flashvsr.network.tcdecoder import TCDecoder
from vsflashsr.models.flashvsr.network.wan_vae import WanVaeDecoder, cache_specs
from vsflashsr.models.flashvsr.section import DecoderState
from vsflashsr.runtimes.onnxruntime import OnnxSession

from ..stages import StageResult
from .checkpoint import MissingFileError, Weights, load_part
from .export_parts import write_projector, write_tcdecoder, write_vae

type Array = npt.NDArray[np.float32]
type Fixture = Mapping[str, npt.NDArray[Any]]
type Call = Callable[[Mapping[str, Array]], Sequence[Array]]
"""A graph or module: inputs by name -> outputs in order."""

TOLERANCE = 1e-3
"""On float32 values of about 1; errors of a correct port are a hundred times smaller."""


def stages(golden: Path, executor: str) -> Iterator[StageResult]:
    """All stages whose fixture and checkpoint file are there. `executor` is "torch" or "onnxruntime"."""
    checks: dict[str, Callable[[Path, Fixture, str], Iterator[StageResult]]] = {
        "lq_proj": _lq_proj,
        "tcdecoder": _tcdecoder,
        "wan_vae_decoder": _wan_vae,
        "color_fix": _color_fix,
    }
    for name, check in checks.items():
        path = golden / f"{name}.npz"
        if not path.is_file():
            continue
        try:
            with np.load(path) as data:
                yield from check(golden, data, executor)
        except MissingFileError:
            continue


def _lq_proj(golden: Path, data: Fixture, executor: str) -> Iterator[StageResult]:
    weights, config = load_part(golden, "projector")
    video = _pixels(data["video_u8"])
    for version, key in (("v1", "tokens_v1"), ("v1.1", "tokens_v11")):
        if key in data:
            tokens = _project(_projector(config, weights, version, executor), config, version, video, data["slices"])
            yield _result(f"lq_proj {version}", tokens, data[key], f"{len(tokens)} calls")


def _project(
    call: Call, config: FlashVSRConfig, version: str, video: Array, slices: npt.NDArray[np.integer[Any]]
) -> Array:
    """Tokens of every call but the first, whose clip is one frame and stands for four copies of it."""
    rows, cols = (size // LQ_PATCH for size in video.shape[2:])
    before = np.repeat(video[:1], 2, axis=0)
    features = np.zeros((2, config.lq_hidden[0], rows, cols), np.float32)
    tokens: list[Array] = []
    for start, stop in slices:
        clip = video[start:stop]
        if len(clip) == 1:
            clip = np.repeat(clip, FRAMES_PER_LATENT, axis=0)
        if version == "v1":
            made = call({"clip": clip})[0]
        else:
            made, features = call({"clip": clip, "ctx1": before, "ctx2": features})
        before = clip[2:]
        tokens.append(made)
    return np.stack(tokens[1:])


def _projector(config: FlashVSRConfig, weights: Weights, version: str, executor: str) -> Call:
    if executor == "torch":
        return _module(build_projector(config, version), weights)
    with tempfile.TemporaryDirectory(prefix="vsflashsr-verify-", ignore_cleanup_errors=True) as folder:
        write_projector(config, weights, version, Path(folder), torch.float32)
        return _graph(Path(folder, "projector.onnx"))


def _tcdecoder(golden: Path, data: Fixture, executor: str) -> Iterator[StageResult]:
    weights, config = load_part(golden, "tcdecoder")
    if executor == "torch":
        module = TCDecoder(config)
        call = _module(module, weights)
        states = tuple(DecoderState(1, width, 1 << (index // 3)) for index, width in enumerate(module.channels))
    else:
        with tempfile.TemporaryDirectory(prefix="vsflashsr-verify-", ignore_cleanup_errors=True) as folder:
            states = write_tcdecoder(config, weights, Path(folder), torch.float32)
            call = _graph(Path(folder, "decoder.onnx"))
    latents = data["latents"].astype(np.float32)
    lq = _pixels(data["cond_u8"])
    lead = FRAMES_PER_LATENT * latents.shape[2] - len(lq)
    lq = np.concatenate([lq[:1]] * lead + [lq])
    carried = _zeros(states, latents)
    frames: list[Array] = []
    for index in range(latents.shape[2]):
        condition = lq[FRAMES_PER_LATENT * index :][:FRAMES_PER_LATENT]
        made, *after = call({"latent": latents[:, :, index], "lq": condition, **carried})
        carried = dict(zip(carried, after, strict=True))
        frames.append(made)
    yield _result("tcdecoder", _clip(frames)[:, :, lead:], data["frames"], f"{latents.shape[2]} latents")


def _wan_vae(golden: Path, data: Fixture, executor: str) -> Iterator[StageResult]:
    weights, config = load_part(golden, "vae")
    specs = cache_specs(config, first=False)
    names = [name for name, _, _ in specs]
    firsts = [f"state{names.index(name)}" for name, _, _ in cache_specs(config, first=True)]
    if executor == "torch":
        first, later = (_module(WanVaeDecoder(config, first=first), weights) for first in (True, False))
    else:
        with tempfile.TemporaryDirectory(prefix="vsflashsr-verify-", ignore_cleanup_errors=True) as folder:
            write_vae(config, weights, Path(folder), torch.float32)
            first, later = (_graph(Path(folder, f"{stem}.onnx")) for stem in ("decoder.first", "decoder"))
    latents = data["z"].astype(np.float32)
    carried = _zeros([DecoderState(2, width, LATENT_PATCH // pixels) for _, width, pixels in specs], latents)
    frames: list[Array] = []
    for index in range(latents.shape[2]):
        used = firsts if index == 0 else list(carried)
        made, *after = (later if index else first)(
            {"latent": latents[:, :, index], **{name: carried[name] for name in used}}
        )
        carried |= dict(zip(used, after, strict=True))
        frames.append(made)
    yield _result("wan_vae_decoder", _clip(frames), data["frames"], f"{latents.shape[2]} latents, clamped")


def _color_fix(_golden: Path, data: Fixture, _executor: str) -> Iterator[StageResult]:
    hq = data["hq"][0].astype(np.float32).swapaxes(0, 1)
    lq = _pixels(data["lq_u8"])
    for name, fix in (("adain", colour_fix.adain), ("wavelet", colour_fix.wavelet)):
        if name in data:
            yield _result(f"color_fix {name}", fix(hq, lq).swapaxes(0, 1)[None], data[name], f"{len(lq)} frames")


def _module(module: nn.Module, weights: Weights) -> Call:
    module.load_state_dict({name: tensor.float() for name, tensor in weights.items()})

    @torch.inference_mode()
    def call(feeds: Mapping[str, Array]) -> Sequence[Array]:
        outputs = module(*(torch.from_numpy(np.ascontiguousarray(array)) for array in feeds.values()))
        return [tensor.numpy() for tensor in (outputs if isinstance(outputs, tuple) else (outputs,))]

    return call


def _graph(path: Path) -> Call:
    session = OnnxSession(path)

    def call(feeds: Mapping[str, Array]) -> Sequence[Array]:
        made = session.run({name: np.ascontiguousarray(array) for name, array in feeds.items()})
        return [value.numpy() for value in made.values()]

    return call


def _zeros(states: Sequence[DecoderState], latents: Array) -> dict[str, Array]:
    rows, cols = latents.shape[-2:]
    return {
        f"state{n}": np.zeros((state.frames, state.channels, rows * state.factor, cols * state.factor), np.float32)
        for n, state in enumerate(states)
    }


def _pixels(video: npt.NDArray[np.uint8]) -> Array:
    """(n, h, w, 3) of 0..255 -> (n, 3, h, w) of -1..1."""
    return np.ascontiguousarray((video.astype(np.float32) / 255 * 2 - 1).transpose(0, 3, 1, 2))


def _clip(frames: Sequence[Array]) -> Array:
    """(n, 3, H, W) parts -> (1, 3, all, H, W)."""
    return np.concatenate(frames).swapaxes(0, 1)[None]


def _result(name: str, made: Array, wanted: npt.NDArray[Any], note: str) -> StageResult:
    error = float(np.abs(made - wanted).max()) if made.shape == wanted.shape else float("inf")
    return StageResult(name, error, TOLERANCE, None, note)
