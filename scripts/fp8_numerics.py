#!/usr/bin/env python3
"""What eight-bit linear layers would do to FlashVSR's picture: golden runs with weights and inputs rounded to E4M3.

    python scripts/fp8_numerics.py GOLDEN

Nothing runs in eight bits: before each product of the DiT its input is rounded token by token, its weight output by output,
each with the scale that brings its largest number to 448 (`row`), or both in blocks of 128 values along the sum (`block`).
Products are float32. For each run: signal to noise of the predictions with the reference's masks injected and with the run's
own, and on how many of the kept pairs the masks disagree. The golden set is of reduced size with random weights: products sum
64 to 160 values, and scores lie closer together than in a trained model.
"""

from __future__ import annotations

import argparse
import sys
import unittest.mock
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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

LARGEST = 448.0
"""Of E4M3 (OCP 8-bit floating point specification)."""
BLOCK = 128


def rounded(x: Tensor, block: int | None) -> Tensor:
    """To E4M3 and back; one scale for each row, or for each `block` values of it."""
    if block is None or x.shape[-1] <= block:
        scale = x.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / LARGEST
        return (x / scale).to(torch.float8_e4m3fn).to(x.dtype) * scale
    return torch.cat([rounded(part, None) for part in torch.split(x, block, dim=-1)], dim=-1)


@contextmanager
def in_eight_bits(block: int | None) -> Iterator[None]:
    """Linear layers round what they read."""

    def forward(layer: nn.Linear, x: Tensor) -> Tensor:
        return F.linear(rounded(x, block), rounded(layer.weight, block), layer.bias)

    with unittest.mock.patch.object(nn.Linear, "forward", forward):
        yield


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


def run(checkpoint: Checkpoint, data: Mapping[str, Any], info: Mapping[str, Any], *, injected: bool) -> tuple[float, float]:
    """Signal to noise in dB of all predictions, and the share of kept pairs that differ from the reference's."""
    executor = Injected(checkpoint, (lambda step: golden_masks(data, step)) if injected else None)
    signal = noise = 0.0
    differ = pairs = 0
    for step in golden_steps(data, info, executor):
        wanted = data[f"c{step.index}_pred"][0].astype(np.float64)
        signal += float(np.square(wanted).sum())
        noise += float(np.square(step.velocity - wanted).sum())
        masks = golden_masks(data, step.index)
        for own, reference in zip(executor.kept, masks, strict=True):
            differ += int((own.numpy() != reference).sum())
            pairs += int(reference.sum())
        executor.kept.clear()
    return 10 * float(np.log10(signal / max(noise, 1e-300))), differ / pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("golden", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = open_golden(given.golden)
    for name, info in dit_fixtures(given.golden).items():
        with np.load(given.golden / f"{name}.npz") as data:
            for kind, block in (("row", None), ("block", BLOCK)):
                with in_eight_bits(block):
                    given_masks, _ = run(checkpoint, data, info, injected=True)
                    own_masks, differ = run(checkpoint, data, info, injected=False)
                print(
                    f"{name:<16} {kind:<6} {given_masks:6.1f} dB with the reference's masks, {own_masks:6.1f} dB with its own, "
                    f"of which {differ:.2%} of the kept pairs differ",
                    flush=True,
                )


if __name__ == "__main__":
    main()
