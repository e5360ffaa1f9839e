"""The training loop: steps, validation, checkpoints. A resumed run gives the same bytes as an uninterrupted one."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..perceptual import ssimulacra2
from ..run import Run
from .data import CLEAN, Pairs, Sampler, to_unit
from .network import ChromaConfig, ChromaNet


@dataclass(frozen=True)
class TrainConfig:
    """How it is trained; with the data and ChromaConfig it fixes the result."""

    steps: int = 4000
    seed: int = 1
    batch: int = 10
    crop: int = 96
    """Side of a crop of chroma: at the scales down to 1/16 of the picture that SSIMULACRA2 weighs colours by, 12 pixels."""
    rate: float = 2e-3
    """Adam's learning rate after a warm-up of 100 steps; over the last 60 % it falls to 1 % along a cosine."""
    sharpness: float = 0.3
    """Weight of what is missing to 100 in SSIMULACRA2, of 100, beside 0.01 times the logarithm of the squared error."""
    average: float = 0.999
    """Decay of the running average of the weights, which is what is validated and exported."""
    validate_every: int = 500
    save_every: int = 250


def rate(config: TrainConfig, step: int) -> float:
    """Learning rate of a step."""
    falling = max(0.0, 1 - (config.steps - step) / (0.6 * config.steps))
    return config.rate * min(1.0, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * falling)))


def to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    """R, G and B 0..1 of BT.709, (n, 1, h, w) and (n, 2, h, w) → (n, 3, h, w)."""
    u, v = chroma[:, :1], chroma[:, 1:]
    return torch.cat([luma + 1.5748 * v, luma - 0.187324 * u - 0.468124 * v, luma + 1.8556 * u], 1)


def scores(luma: Tensor, chroma: Tensor, truth: Tensor) -> Tensor:
    """SSIMULACRA2 (n,) of pictures that differ by their chroma alone, which is on a grid of half the picture's size."""
    return ssimulacra2(to_rgb(luma, chroma), to_rgb(luma, truth), halved=1)


def penalty(luma: Tensor, chroma: Tensor, truth: Tensor, sharpness: float) -> Tensor:
    """The loss."""
    loss = 0.01 * torch.log((chroma - truth).square().mean((1, 2, 3)) + 2e-6).mean()
    return loss + sharpness * (1 - scores(luma, chroma, truth) / 100).mean() if sharpness else loss


def validate(net: ChromaNet, held: Sequence[Pairs], border: int = 8) -> dict[str, float]:
    """What is gained over Spline36, means over the pairs, "clean" and "degraded": PSNR of U and V in dB, and SSIMULACRA2 of the
    picture (" colour"), whose luma is as it should be in both."""
    gains: dict[str, list[float]] = {}
    inner = (..., slice(border, -border), slice(border, -border))
    for pairs in held:
        reads, truth = torch.from_numpy(pairs.reads[-1:]).float(), to_unit(pairs.truth[-1:])
        height, width = (side - side % 8 for side in truth.shape[2:])
        reads, truth = reads[..., :height, :width], truth[..., :height, :width]
        with torch.no_grad():
            made = net(reads)
        (error, score), (error_before, score_before) = (
            ((c - truth)[inner].square().mean(), scores(reads[:, :1], c, truth)) for c in (made[:, 1:], reads[:, 1:])
        )
        kind = "clean" if pairs.variant in CLEAN else "degraded"
        gains.setdefault(kind, []).append(float(10 * torch.log10((error_before + 1e-6) / (error + 1e-6))))
        gains.setdefault(f"{kind} colour", []).append(float(score - score_before))
    return {name: sum(values) / len(values) for name, values in gains.items()}


class Trainer(Run):
    """A run in a folder: `last.pt`, which is small enough for the repository, and `log.jsonl`."""

    def __init__(self, shape: ChromaConfig, config: TrainConfig, out: Path) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.net, self.average = ChromaNet(shape), ChromaNet(shape)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=config.rate, betas=(0.9, 0.99))
        super().__init__(self.net, self.average, self.optimizer, shape, config, out)

    def start_from(self, path: Path) -> None:
        """Take over the averaged weights and the optimizer of another run of the same shape."""
        state = self.read(path)
        self.net.load_state_dict(state["average"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])

    def run(self, sampler: Sampler, held: Sequence[Pairs], stop: int | None = None) -> None:
        """Train up to step `stop` (all steps if None)."""
        stop = self.config.steps if stop is None else stop
        bar = tqdm(total=self.config.steps, initial=self.step, desc=f"x{self.net.config.scale} chroma", unit="step")
        while self.step < stop:
            loss = self._train_step(*sampler(self.step))
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            self.step += 1
            bar.update()
            if held and (self.step % self.config.validate_every == 0 or self.step == self.config.steps):
                row = {"step": self.step, **validate(self.average, held)}
                self.note(row)
                bar.write(json.dumps(row))
            if self.step % self.config.save_every == 0 or self.step == stop:
                self.save()
        bar.close()

    def _train_step(self, reads: Tensor, truth: Tensor) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.config, self.step)
        loss = penalty(reads[:, :1], self.net(reads)[:, 1:], truth, self.config.sharpness)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 0.5)
        self.optimizer.step()
        self.follow(self.config.average, self.step)
        return float(loss.detach())
