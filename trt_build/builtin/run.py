"""A run of a training in a folder: what every step leaves, kept so that it goes on to the same bytes where it was interrupted."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Run:
    """`last.pt` and `log.jsonl` in a folder.

    Args:
        net: what is trained.
        average: another of its shape, which follows it: what is validated and exported.
        optimizer: of `net`.
        shape: the network's, which a checkpoint must have too.
        config: how it is trained.
        out: the folder.
    """

    def __init__(
        self,
        net: nn.Module,
        average: nn.Module,
        optimizer: torch.optim.Optimizer,
        shape: DataclassInstance,
        config: DataclassInstance,
        out: Path,
    ) -> None:
        average.load_state_dict(net.state_dict())
        self._net, self._average, self._optimizer = net, average, optimizer
        self._about = {"net": asdict(shape), "train": asdict(config)}
        self.out = out
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
            "net": self._net.state_dict(),
            "average": self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self.step,
            "log": self.log,
            "config": self._about,
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    def read(self, path: Path) -> dict[str, Any]:
        """A checkpoint of the same shape.

        Raises:
            ValueError: it is of another.
        """
        state: dict[str, Any] = torch.load(path, map_location=next(self._net.parameters()).device, weights_only=True)
        if state["config"]["net"] != self._about["net"]:
            raise ValueError(f"{path} is of another network, {state['config']['net']}; give another one, or its shape")
        return state

    def resume(self) -> None:
        """Go on from the checkpoint."""
        state = self.read(self.checkpoint)
        self._net.load_state_dict(state["net"])
        self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self.log = state["step"], state["log"]

    def note(self, row: dict[str, float]) -> None:
        """Add to the log."""
        self.log.append(row)
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def follow(self, most: float, done: int) -> None:
        """The average takes a step towards the net: with `most` as its decay, less in the first of the `done` steps."""
        decay = min(most, (done + 1) / (done + 10))
        with torch.no_grad():
            for mean, now in zip(self._average.parameters(), self._net.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
