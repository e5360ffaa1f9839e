"""The training loop: steps, validation, checkpoints. A resumed run gives the same bytes as an uninterrupted one."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from . import compact
from .data import Clip, Sampler, to_unit
from .degrade import VARIANTS
from .graph import unfold
from .motion import SIZE_MULTIPLE, motion
from .network import Net, NetConfig
from .perceptual import luma_ssimulacra2
from .run import Run

VALIDATION = ("clean", "degraded")
"""How the held-out clips are scored: bicubic, and the clips' other versions in turn."""


@dataclass(frozen=True)
class TrainConfig:
    """How it is trained; with the data and NetConfig it fixes the result.

    First single frames, many independent crops a step; then sequences, in which the memory is learned.
    """

    single: int
    """Steps of the first phase."""
    steps: int
    """Steps of the second."""
    seed: int = 1
    single_batch: int = 32
    single_crop: int = 32
    """Side of a crop of the first phase in low-resolution pixels."""
    single_rate: float = 2e-3
    """Adam's learning rate in the first phase, after a warm-up of 100 steps."""
    batch: int = 8
    length: int = 8
    """Frames of a training sequence; the state is zero before the first."""
    crop: int = 40
    """Side of a crop of the second phase."""
    margin: int = 16
    """Pixels around it that only the motion is found by, so that crop and margins are a multiple of 8: with crops of 40
    pixels alone the motion was so much worse than in whole frames that the memory was trusted too little (2026-11-22: a
    gate fixed at 0.4 gained 0.20 dB on degraded clips, the learned one 0.08)."""
    rate: float = 8e-4
    """The learning rate in the second phase."""
    decay: float = 0.5
    """The last part of each phase, in which the learning rate falls to 1 % along a cosine."""
    average: float = 0.999
    """Decay of the running average of the weights, which is what is validated and exported."""
    single_loss: Literal["charbonnier", "psnr"] = "charbonnier"
    """The first phase's: mean error, or the mean over crops of the logarithm of their squared error."""
    loss: Literal["charbonnier", "psnr"] = "psnr"
    """The second phase's."""
    sharpness: float = 0.0
    """Weight of what is missing to 100 in luma's SSIMULACRA2, of 100."""
    validate_every: int = 500
    save_every: int = 200

    def __post_init__(self) -> None:
        if (self.crop + 2 * self.margin) % SIZE_MULTIPLE:
            raise ValueError(
                f"a crop and its margins should be a multiple of {SIZE_MULTIPLE} pixels, got {self.crop} and twice "
                f"{self.margin}; change --crop or --margin"
            )


def rate(config: TrainConfig, step: int) -> float:
    """Learning rate of a step."""
    first = step < config.single
    peak, steps = (config.single_rate, config.single) if first else (config.rate, config.steps)
    step = step if first else step - config.single
    falling = max(0.0, 1 - (steps - step) / max(1.0, config.decay * steps))
    return peak * min(1.0, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * falling)))


def run_sequence(net: Net, low: Tensor, forget: bool = False, margin: int = 0) -> Tensor:
    """(n, t, 1, h, w) in 0..1 -> (n, t, 1, scale * h, scale * w), from a zero state, or (`forget`) without any memory.

    What is upscaled is `low` without a `margin` all around, which motion is found by.
    """
    n, t, _, h, w = low.shape
    inner = low[..., margin : h - margin, margin : w - margin]
    shape = (n, t, 1, inner.shape[3] * net.config.scale, inner.shape[4] * net.config.scale)
    if forget:
        return net.single(inner.flatten(0, 1)).reshape(shape)
    state = net.first_state(inner[:, 0])
    flow = low.new_zeros(n, 1, 2, *inner.shape[3:])
    if t > 1:
        with torch.no_grad(), torch.autocast(low.device.type, enabled=False):
            moved = motion(low[:, 1:].reshape(-1, 1, h, w), low[:, :-1].reshape(-1, 1, h, w))
        moved = moved[..., margin : h - margin, margin : w - margin]
        flow = torch.cat([flow, moved.reshape(n, t - 1, 2, *inner.shape[3:])], 1)
    out = []
    for k in range(t):
        picture, *following = net(inner[:, k], *state, flow[:, k])
        state = (following[0], following[1].detach())
        out.append(picture)
    return torch.stack(out, 1)


def penalty(out: Tensor, truth: Tensor, kind: str) -> Tensor:
    """Loss of (n, t, 1, h, w)."""
    error = (out - truth).square()
    if kind == "psnr":
        return 0.01 * torch.log(error.mean((1, 2, 3, 4)) + 1e-6).mean()
    return torch.sqrt(error + 1e-6).mean()


def psnr(out: Tensor, truth: Tensor, border: int = 8) -> float:
    """Mean over frames of the PSNR of 8-bit limited-range luma, without the border, at most 100 dB."""
    a = (out * 219 + 16).round().clamp(0, 255)[..., border:-border, border:-border]
    b = (truth * 219 + 16).round()[..., border:-border, border:-border]
    error = (a - b).square().mean((-1, -2, -3)).clamp(min=255**2 * 1e-10)
    return float((10 * torch.log10(255**2 / error)).mean())


def validate(
    net: Net, clips: list[Clip], device: torch.device, forget: bool = False, side: int = 160
) -> dict[str, float]:
    """Means over the held-out clips: Y-PSNR in dB and luma's SSIMULACRA2 (" sharp"), "clean" and "degraded"; PSNR of the drawn
    ones apart. Of a sequence the last of 6 frames counts for SSIMULACRA2; without memory two frames are seen."""
    s = net.config.scale
    scores: dict[str, list[float]] = {}
    with torch.no_grad():
        for kind in VALIDATION:
            for number, clip in enumerate(clips):
                high, low = clip.load(0 if kind == "clean" else 1 + number % (VARIANTS - 1))
                h, w = (min(side, d - d % 8) for d in low.shape[1:])
                top, left = (low.shape[1] - h) // 2, (low.shape[2] - w) // 2
                frames = slice(0, 6) if not forget else slice(0, None, max(1, len(low) - 1))
                a = torch.from_numpy(np.array(low[frames, top : top + h, left : left + w]))[None, :, None]
                b = torch.from_numpy(np.array(high[frames, s * top : s * (top + h), s * left : s * (left + w)]))
                truth = to_unit(b[:, None].to(device))
                out = run_sequence(net, to_unit(a.to(device)), forget)[0]
                scores.setdefault(kind + (" drawn" if clip.drawn else ""), []).append(psnr(out, truth))
                if not clip.drawn:
                    sharp = float(luma_ssimulacra2(out[-1:], truth[-1:]))
                    scores.setdefault(kind + " sharp", []).append(sharp)
    return {name: sum(v) / len(v) for name, v in scores.items()}


def merit(scores: dict[str, float]) -> float:
    """By which the best of a run's checkpoints is chosen: dB, where 8 points of SSIMULACRA2 count as much as one."""
    return sum(scores[kind] + scores[f"{kind} sharp"] / 8 for kind in VALIDATION)


class Trainer(Run):
    """A run in a folder: `last.pt`, `single.pt` (as the first phase ended), `best.pt` (of the phase, by `merit`),
    `log.jsonl`, `curve.png`."""

    def __init__(self, net: NetConfig, train: TrainConfig, out: Path, device: str) -> None:
        torch.manual_seed(train.seed)
        self.config, self.device = train, torch.device(device)
        self.net = Net(net).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        self.average = Net(net).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        # Where a CPU has no instructions for it, bf16 is several times slower than fp32.
        self.bf16 = self.device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=train.single_rate, betas=(0.9, 0.99))
        super().__init__(self.net, self.average, self.optimizer, net, train, out)

    def start_from(self, path: Path) -> None:
        """Take over the weights of a graph (.onnx), or the averaged ones of another run, where the shapes agree (x4 from x2:
        all but the head); of a compact checkpoint of the same network, the optimizer's moments too."""
        if path.suffix == ".onnx":
            theirs = cast(dict[str, Tensor], unfold(path).state_dict())
        elif kept := compact.load(path):
            theirs = cast(dict[str, Tensor], kept["weights"])
            compact.restore(self.optimizer, self.net, kept)
        else:
            theirs = cast(dict[str, Tensor], torch.load(path, map_location=self.device, weights_only=True)["average"])
        mine = self.net.state_dict()
        mine |= {k: v for k, v in theirs.items() if k in mine and mine[k].shape == v.shape}
        self.net.load_state_dict(mine)
        self.average.load_state_dict(mine)

    def run(self, single: Sampler, sequences: Sampler, held: list[Clip], stop: int | None = None) -> None:
        """Train up to step `stop` (all steps of both phases if None)."""
        total = self.config.single + self.config.steps
        stop = total if stop is None else stop
        bar = tqdm(total=total, initial=self.step, desc=f"x{self.net.config.scale}", unit="step")
        if self.step == 0:
            bar.write(json.dumps(self._score(held, self.config.single > 0)))
        while self.step < stop:
            first = self.step < self.config.single
            loss = self._train_step(*(single if first else sequences)(self.step), first)
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            self.step += 1
            bar.update()
            if self.step % self.config.validate_every == 0 or self.step in (self.config.single, total):
                bar.write(json.dumps(self._score(held, first)))
            if self.step % self.config.save_every == 0 or self.step == stop:
                self.save()
            if self.step == self.config.single:
                self.save(self.out / "single.pt")
        bar.close()

    def _score(self, held: list[Clip], first: bool) -> dict[str, float]:
        """Validate, log, keep the best."""
        row = {"step": self.step, **validate(self.average, held, self.device, first)}
        self.note(row)
        plot(self.log, self.out / "curve.png")
        phase = [merit(r) for r in self.log if (r["step"] <= self.config.single) == (self.step <= self.config.single)]
        if merit(row) >= max(phase):
            self.save(self.out / "best.pt")
        return row

    def _train_step(self, low: Tensor, high: Tensor, single: bool) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.config, self.step)
        a, b = to_unit(low.to(self.device)), to_unit(high.to(self.device))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            out = run_sequence(self.net, a, single, 0 if single else self.config.margin)
        kind = self.config.single_loss if single else self.config.loss
        loss = penalty(out, b, kind)
        if self.config.sharpness:
            missing = 1 - luma_ssimulacra2(out.float().flatten(0, 1), b.flatten(0, 1)) / 100
            loss = loss + self.config.sharpness * missing.mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 0.5)
        self.optimizer.step()
        # It begins anew with the second phase, else it would lag behind: the memory's weights by half after 1000 steps.
        self.follow(self.config.average, self.step if single else self.step - self.config.single)
        return float(loss.detach())


def plot(log: list[dict[str, float]], path: Path) -> None:
    """The validation curve as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(VALIDATION), figsize=(10, 4))
    for axis, name in zip(cast(Any, axes), VALIDATION, strict=True):
        axis.plot([row["step"] for row in log], [row[name] for row in log])
        axis.set(title=f"held-out clips, {name}", xlabel="step", ylabel="Y-PSNR, dB")
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)
