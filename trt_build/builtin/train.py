"""The training loop: steps, validation, checkpoints. A resumed run gives the same bytes as an uninterrupted one."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .data import Clip, Sampler, to_unit
from .motion import SIZE_MULTIPLE, motion
from .network import Net, NetConfig

VALIDATION = {"clean": 0, "degraded": 3}
"""Variants of the held-out clips that are scored."""


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
    flat: float = 0.1
    """Weight of the mean error of a flat crop, which must stay flat."""
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
    net: Net, clips: list[Clip], device: torch.device, forget: bool = False, frames: int = 8, side: int = 160
) -> dict[str, float]:
    """Mean PSNR of the held-out clips, in dB: "clean" and "degraded", and "clean drawn", "degraded drawn" of the drawn ones."""
    s = net.config.scale
    scores: dict[str, float] = {}
    with torch.no_grad():
        for name, variant in VALIDATION.items():
            values: dict[bool, list[float]] = {False: [], True: []}
            for clip in clips:
                high, low = clip.load(variant)
                h, w = (min(side, d - d % 8) for d in low.shape[1:])
                top, left = (low.shape[1] - h) // 2, (low.shape[2] - w) // 2
                a = torch.from_numpy(np.array(low[:frames, top : top + h, left : left + w]))[None, :, None]
                b = torch.from_numpy(np.array(high[:frames, s * top : s * (top + h), s * left : s * (left + w)]))
                out = run_sequence(net, to_unit(a.to(device)), forget)
                values[clip.drawn].append(psnr(out[0], to_unit(b[:, None].to(device))))
            scores |= {name + (" drawn" if k else ""): sum(v) / len(v) for k, v in values.items() if v}
    return scores


class Trainer:
    """A run in a folder: `last.pt`, `single.pt` (as the first phase ended), `log.jsonl`, `curve.png`."""

    def __init__(self, net: NetConfig, train: TrainConfig, out: Path, device: str) -> None:
        torch.manual_seed(train.seed)
        self.config, self.out, self.device = train, out, torch.device(device)
        self.net = Net(net).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        self.average = Net(net).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        self.average.load_state_dict(self.net.state_dict())
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=train.single_rate, betas=(0.9, 0.99))
        self.step = 0
        self.log: list[dict[str, float]] = []
        out.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoint(self) -> Path:
        """Where the run is kept."""
        return self.out / "last.pt"

    def save(self, path: Path | None = None) -> None:
        """Write the checkpoint (elsewhere if `path` is given); an interrupted write leaves the old one."""
        path = path or self.checkpoint
        state = {
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "log": self.log,
            "config": {"net": asdict(self.net.config), "train": asdict(self.config)},
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    def resume(self) -> None:
        """Go on from the checkpoint."""
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if state["config"]["net"] != asdict(self.net.config):
            raise ValueError(f"{self.checkpoint} is another network, {state['config']['net']}; give another --out")
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.log = state["step"], state["log"]

    def start_from(self, path: Path) -> None:
        """Take over the averaged weights of another run where the shapes agree (x4 from x2: all but the head)."""
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
        while self.step < stop:
            first = self.step < self.config.single
            loss = self._train_step(*(single if first else sequences)(self.step), first)
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            self.step += 1
            bar.update()
            if self.step % self.config.validate_every == 0 or self.step in (self.config.single, total):
                scores = validate(self.average, held, self.device, first)
                self.log.append({"step": self.step, **scores})
                with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(self.log[-1]) + "\n")
                bar.write(json.dumps(self.log[-1]))
                plot(self.log, self.out / "curve.png")
            if self.step % self.config.save_every == 0 or self.step == stop:
                self.save()
            if self.step == self.config.single:
                self.save(self.out / "single.pt")
        bar.close()

    def _train_step(self, low: Tensor, high: Tensor, single: bool) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.config, self.step)
        a, b = to_unit(low.to(self.device)), to_unit(high.to(self.device))
        # The last of the batch is flat. Its level is of no importance: the network is given differences only.
        a = torch.cat([a, torch.zeros_like(a[:1])])
        with torch.autocast(self.device.type, torch.bfloat16):
            out = run_sequence(self.net, a, single, 0 if single else self.config.margin)
        kind = self.config.single_loss if single else self.config.loss
        loss = penalty(out[:-1], b, kind) + self.config.flat * out[-1].abs().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 0.5)
        self.optimizer.step()
        # It begins anew with the second phase, else it would lag behind: the memory's weights by half after 1000 steps.
        done = self.step if single else self.step - self.config.single
        decay = min(self.config.average, (done + 1) / (done + 10))
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.net.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
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
