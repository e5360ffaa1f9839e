#!/usr/bin/env python3
"""What eight-bit linear layers would do to FlashVSR's picture: golden runs with weights and inputs rounded to E4M3.

    python scripts/fp8_numerics.py GOLDEN                                  # all layers
    python scripts/fp8_numerics.py GOLDEN --only v o --fixtures dit_sparse  # these, of every block
    python scripts/fp8_numerics.py GOLDEN --subsets --steps 1               # each alone, then the best together

Nothing runs in eight bits: before each product of the DiT its input is rounded token by token, its weight output by output,
each with the scale that brings its largest number to 448 (`row`), or both in blocks of 128 values along the sum (`block`).
Products are float32. For each run: signal to noise of the predictions with the reference's masks injected and with the run's
own, and on how many of the kept pairs the masks disagree. `--subsets` runs each layer alone, then the best ones together until
the limit is passed. Shares are of the multiplications at the published width. The golden set is of reduced size with random
weights: products sum 64 to 160 values, and scores lie closer together than in a trained model.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import unittest.mock
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trt_build.flashvsr.checkpoint import Checkpoint
from trt_build.flashvsr.torch_executor import TorchExecutor
from trt_build.flashvsr.verify_dit import dit_fixtures, golden_masks, golden_steps, open_golden
from vsflashsr.models.flashvsr.network.config import FlashVSRConfig
from vsflashsr.models.wan.network.pieces import patch_values

PARTS = ("q", "k", "v", "o", "cross_q", "cross_o", "ffn_in", "ffn_out", "patch", "head")
"""Linear layers: of every block, and the two at the ends."""
LIMIT_DB = 38.0
"""What a correct port reaches in bf16, with masks injected (`trt_build.gpu_check.golden`)."""
LARGEST = 448.0
"""Of E4M3 (OCP 8-bit floating point specification)."""
BLOCK = 128


def rounded(x: Tensor, block: int | None) -> Tensor:
    """To E4M3 and back; one scale for each row, or for each `block` values of it."""
    if block is None or x.shape[-1] <= block:
        scale = x.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / LARGEST
        return (x / scale).to(torch.float8_e4m3fn).to(x.dtype) * scale
    return torch.cat([rounded(part, None) for part in torch.split(x, block, dim=-1)], dim=-1)


def share(parts: Collection[str]) -> float:
    """Of all linear layers' multiplications, at the published width."""
    config = FlashVSRConfig()
    widths = dict.fromkeys(PARTS, config.dim) | dict.fromkeys(("ffn_in", "ffn_out"), config.ffn)
    cost = {part: config.layers * config.dim * width for part, width in widths.items()}
    cost |= dict.fromkeys(("patch", "head"), config.dim * patch_values(config))
    return sum(cost[part] for part in parts) / sum(cost.values())


@contextmanager
def in_eight_bits(executor: TorchExecutor, parts: Collection[str], block: int | None) -> Iterator[None]:
    """These layers of the executor's pieces round what they read."""
    pieces: list[nn.Module] = [executor._first, *executor._middle, executor._last]
    names = {layer: name for piece in pieces for name, layer in piece.named_modules() if isinstance(layer, nn.Linear)}

    def forward(layer: nn.Linear, x: Tensor) -> Tensor:
        name = names[layer].rpartition(".")[2]
        if name == "qkv":
            weights = zip("qkv", layer.weight.chunk(3), layer.bias.chunk(3), strict=True)
            made = [product(x, weight, bias, block if part in parts else 0) for part, weight, bias in weights]
            return torch.cat(made, dim=-1)
        return product(x, layer.weight, layer.bias, block if name in parts else 0)

    with unittest.mock.patch.object(nn.Linear, "forward", forward):
        yield


def product(x: Tensor, weight: Tensor, bias: Tensor, block: int | None) -> Tensor:
    """In eight bits unless `block` is 0."""
    return F.linear(x, weight, bias) if block == 0 else F.linear(rounded(x, block), rounded(weight, block), bias)


class Injected(TorchExecutor):
    """Keeps the pairs that it is told to, if it is; notes those that it would keep."""

    def __init__(self, checkpoint: Checkpoint, masks: Callable[[int], Any] | None) -> None:
        super().__init__(checkpoint)
        self._masks, self._calls = masks, 0
        self.kept: list[Tensor] = []

    def _kept(self, queries: Tensor, keys: Tensor, plan: Any) -> Tensor:
        own = super()._kept(queries, keys, plan)
        self.kept.append(own)
        step, layer = divmod(self._calls, self.layers)
        self._calls += 1
        return own if self._masks is None else torch.from_numpy(self._masks(step)[layer])


@dataclass(frozen=True)
class Golden:
    """A fixture, read."""

    name: str
    checkpoint: Checkpoint
    data: Mapping[str, Any]
    info: Mapping[str, Any]
    steps: int | None
    """How many are run; None: all."""

    def run(self, parts: Collection[str], block: int | None, *, injected: bool) -> tuple[float, float]:
        """Signal to noise in dB of all predictions, and the share of kept pairs that differ from the reference's."""
        masks = (lambda step: golden_masks(self.data, step)) if injected else None
        executor = Injected(self.checkpoint, masks)
        signal = noise = 0.0
        differ = pairs = 0
        with in_eight_bits(executor, parts, block):
            for step in itertools.islice(golden_steps(self.data, self.info, executor), self.steps):
                wanted = self.data[f"c{step.index}_pred"][0].astype(np.float64)
                signal += float(np.square(wanted).sum())
                noise += float(np.square(step.velocity - wanted).sum())
                for own, reference in zip(executor.kept, golden_masks(self.data, step.index), strict=True):
                    differ += int((own.numpy() != reference).sum())
                    pairs += int(reference.sum())
                executor.kept.clear()
        return 10 * float(np.log10(signal / max(noise, 1e-300))), differ / pairs

    def told(self, parts: Collection[str], kind: str, block: int | None) -> float:
        """A line about one run; dB with the masks injected."""
        given_masks, _ = self.run(parts, block, injected=True)
        own_masks, differ = self.run(parts, block, injected=False)
        print(
            f"{self.name:<15} {kind:<5} {' '.join(parts):<54} {share(parts):6.1%} of the products: {given_masks:5.1f} dB with "
            f"the reference's masks, {own_masks:5.1f} dB with its own, of which {differ:.2%} of the kept pairs differ",
            flush=True,
        )
        return given_masks

    def subsets(self, kind: str, block: int | None) -> None:
        """Each layer alone, then more and more of them together until the limit is passed."""
        alone = {part: self.told((part,), kind, block) for part in PARTS}
        order = sorted(PARTS, key=lambda part: -alone[part])
        for count in range(2, len(order) + 1):
            if self.told(order[:count], kind, block) < LIMIT_DB:
                break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("golden", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="layers in eight bits (default: all)")
    parser.add_argument("--subsets", action="store_true", help="each alone, then the best together")
    parser.add_argument("--fixtures", nargs="+", help="of the golden set (default: all of the DiT)")
    parser.add_argument("--scales", nargs="+", choices=("row", "block"), default=("row", "block"))
    parser.add_argument("--steps", type=int, help="steps of each fixture (default: all)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint, fixtures = open_golden(given.golden), dit_fixtures(given.golden)
    for name in given.fixtures or fixtures:
        if name not in fixtures:
            parser.error(f"there is no fixture {name!r}; there are {', '.join(fixtures)}")
        with np.load(given.golden / f"{name}.npz") as data:
            golden = Golden(name, checkpoint, data, fixtures[name], given.steps)
            for kind in given.scales:
                block = BLOCK if kind == "block" else None
                if given.subsets:
                    golden.subsets(kind, block)
                else:
                    golden.told(given.only, kind, block)


if __name__ == "__main__":
    main()
