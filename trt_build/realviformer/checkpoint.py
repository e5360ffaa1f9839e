"""Reads RealViformer's published checkpoint and its re-packs: every name and shape checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from vsflashsr.errors import FlashsrError

from ..weights_file import Shape, check_dtypes, compare, open_weights, some
from .layout import MASK
from .network import RealViformer

NAMES = ("weights.pth", "realviformer.safetensors", "realviformer_weights.pth", "ckpt_small.safetensors")
"""What the file is called: as published, and as others keep it."""
_SOURCE = "the folder that the README of Yuehan717/RealViformer links to"
# Not "params_ema": those are other weights, and give a softer picture.
_WRAPPERS = ("params", "state_dict")


@dataclass(frozen=True)
class Checkpoint:
    """A checked checkpoint, in memory (23 MB)."""

    path: Path
    tensors: Mapping[str, Tensor]
    """Float32, by published name."""

    @property
    def shapes(self) -> dict[str, Shape]:
        """All shapes by name."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def network(self) -> RealViformer:
        """The model with these weights."""
        network = RealViformer(self.shapes)
        network.load_state_dict(dict(self.tensors))
        return network.eval().requires_grad_(False)


def load_checkpoint(source: Path) -> Checkpoint:
    """Opens a file, or the folder it lies in.

    Sizes are read off the shapes. A pickle may hold the tensors under ``params`` (published) or flat.

    Raises:
        FlashsrError: naming the file, what differs, and what to do.
    """
    path = _find(source)
    file = open_weights(path, _WRAPPERS)
    shapes = {name: shape for name, shape in file.shapes.items() if name != MASK}
    network = _built(shapes, path)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    compare(path, "RealViformer", shapes, expected, f"use {NAMES[0]} from {_SOURCE}")
    check_dtypes(file, shapes)
    return Checkpoint(path, {name: file.read(name).float() for name in expected})


def _find(source: Path) -> Path:
    if source.is_file():
        return source
    if not source.is_dir():
        raise FlashsrError(f"there is no checkpoint {str(source)!r}; give the folder that holds {NAMES[0]}")
    found = [source / name for name in NAMES if (source / name).is_file()]
    if not found:
        found = sorted(source.glob("*.safetensors")) + sorted(source.glob("*.pth"))
    if len(found) != 1:
        what = "none" if not found else some([path.name for path in found])
        raise FlashsrError(
            f"{str(source)!r} should hold one checkpoint of RealViformer, got {what}; give the file, {NAMES[0]} from {_SOURCE}"
        )
    return found[0]


def _built(shapes: Mapping[str, Shape], path: Path) -> RealViformer:
    try:
        return RealViformer(shapes)
    except KeyError as error:
        raise FlashsrError(
            f"{path.name} isn't a complete RealViformer: it has no {error.args[0]}; use {NAMES[0]} from {_SOURCE}"
        ) from error
    except (ValueError, ZeroDivisionError, RuntimeError) as error:
        raise FlashsrError(
            f"{path.name} isn't a RealViformer, its tensors make no layers ({error}); use {NAMES[0]} from {_SOURCE}"
        ) from error


def aligned(tensors: Mapping[str, Tensor], multiple: int = 16) -> dict[str, Tensor]:
    """The same model with hidden widths of the feed-forwards that tensor cores like (127, 255 and 510 are none).

    What is added is zeros, of which the gate makes zeros: the same numbers.
    """
    out = dict(tensors)
    for name, last in tensors.items():
        if not name.endswith(".ffn.project_out.weight"):
            continue
        block = name.removesuffix("project_out.weight")
        more = -last.shape[1] % multiple
        out[name] = F.pad(last, (0, 0, 0, 0, 0, more))
        for layer in ("project_in", "dwconv"):
            for part in ("weight", "bias"):
                key = f"{block}{layer}.{part}"
                if key in tensors:
                    halves = tensors[key].chunk(2)
                    out[key] = torch.cat([F.pad(half, (0, 0) * (half.ndim - 1) + (0, more)) for half in halves])
    return out
