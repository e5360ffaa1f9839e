"""Training pairs: what the filter would hand to the network, made with the filter itself, and the chroma that was there."""

from __future__ import annotations

import hashlib
import multiprocessing
import zipfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import vapoursynth as vs
from torch import Tensor
from tqdm import tqdm

from vsflashsr import chroma, flashsr

from ..data import SUFFIXES, decode_planes, held_sources, source_of
from ..degrade import Planes, degrade, draw, node_of

FRAMES = 8
"""Decoded of each clip; the memory of the model that makes luma has settled by then."""
KEPT = (3, 7)
"""Of these pairs are made: between neighbours little changes."""
VARIANTS = {0: 0.3, 1: 0.2, 2: 0.2, 3: 0.2, 6: 0.1}
"""Versions of each clip, as in `degrade.draw`, and how often each is drawn: twice clean, twice H.264, MPEG-2 or noise, VP9."""
CLEAN = (0, 1)
UNIT = 224.0
"""Steps of 8 bit from the least to the most of U and V, which are -0.5..0.5."""


@dataclass(frozen=True)
class Pairs:
    """Of one clip in one version."""

    name: str
    variant: int
    reads: npt.NDArray[np.float16]
    """(kept, 3, h, w): what the network reads, luma and resized U and V."""
    truth: npt.NDArray[np.uint8]
    """(kept, 2, h, w): U and V, 8-bit limited range."""


def _read(planes: Planes, low: Planes, scale: int, model: str) -> npt.NDArray[np.float16]:
    """What the filter hands to the network for the kept frames of the low-resolution clip `low`."""
    tagged = node_of(low).std.SetFrameProps(_Matrix=1, _Range=0, _ChromaLocation=0)
    made = flashsr(tagged, scale, model=model, format=vs.GRAYS, threads=1)
    reads = chroma.to_network(made, tagged)
    kept = [n for n in KEPT if n < reads.num_frames] or [reads.num_frames - 1]
    # In order, so that no frame of the model is made twice.
    frames = [np.stack([np.array(f[p]) for p in range(3)]) for f in reads.frames(close=True)]
    return np.stack([frames[n] for n in kept]).astype(np.float16)


def prepare(folder: Path, cache: Path, scale: int, models: Sequence[str], seed: int, jobs: int) -> list[Pairs]:
    """Pairs of every clip of `folder`, by one of `models` for each version in turn; what is there in `cache` is kept."""
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} holds no clips; give a folder with some of {', '.join(sorted(SUFFIXES))}")
    cache.mkdir(parents=True, exist_ok=True)
    wanted = [
        (path, variant, cache, scale, models[(number + variant) % len(models)], seed)
        for number, path in enumerate(paths)
        for variant in VARIANTS
    ]
    if jobs == 1:
        return [_prepared(*one) for one in tqdm(wanted, desc="chroma", unit="version")]
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(_prepared, *one) for one in wanted]
        return [w.result() for w in tqdm(waiting, desc="chroma", unit="version")]


def _prepared(path: Path, variant: int, cache: Path, scale: int, model: str, seed: int) -> Pairs:
    # The key is the file's name and size: training clips do not change in place.
    text = f"{path.name} {path.stat().st_size} {scale} {variant} {model} {seed}"
    key = hashlib.sha256(text.encode()).hexdigest()[:10]
    file = cache / f"{path.stem}-{key}.npz"
    if not file.exists():
        # Blocks of the network at half of the picture's size, and even sizes of what is made smaller.
        planes = decode_planes(path, FRAMES, 4 * scale)
        rng = np.random.default_rng([seed, scale, variant, int(key, 16)])
        reads = _read(planes, degrade(planes, scale, draw(variant, scale, rng), rng), scale, model)
        kept = [n for n in KEPT if n < len(planes[0])] or [len(planes[0]) - 1]
        part = file.with_suffix(".part.npz")
        np.savez(part, reads=reads, truth=np.stack([np.stack([plane[n] for plane in planes[1:]]) for n in kept]))
        part.replace(file)
    try:
        with np.load(file) as found:
            return Pairs(path.stem, variant, found["reads"], found["truth"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} can't be read ({error}); delete it") from error


def split(pairs: Sequence[Pairs]) -> tuple[list[Pairs], list[Pairs]]:
    """For training and for validation, no source in both: the same sources are held out as of luma's training."""
    held = held_sources({source_of(p.name) for p in pairs})
    return [p for p in pairs if source_of(p.name) not in held] or list(pairs), [
        p for p in pairs if source_of(p.name) in held
    ]


def to_unit(truth: npt.NDArray[np.uint8]) -> Tensor:
    """8-bit U and V to -0.5..0.5."""
    return (torch.from_numpy(np.ascontiguousarray(truth)).float() - 128.0) / UNIT


class Sampler:
    """Random crops; what step n gets depends on the seed and n alone, so a run can be resumed."""

    def __init__(self, pairs: Sequence[Pairs], batch: int, crop: int, seed: int) -> None:
        self.pairs, self.batch, self.crop, self.seed = pairs, batch, crop, seed
        shares = np.array([VARIANTS[p.variant] for p in pairs])
        self._shares = shares / shares.sum()

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """(what the network reads, U and V) of a step: (batch, 3, crop, crop) and (batch, 2, crop, crop)."""
        rng = np.random.default_rng([self.seed, step])
        both = [self._one(rng) for _ in range(self.batch)]
        return torch.stack([b[0] for b in both]), torch.stack([b[1] for b in both])

    def _place(self, rng: np.random.Generator) -> tuple[float, npt.NDArray[np.float16], npt.NDArray[np.uint8]]:
        """A crop and how much there is to see in its chroma."""
        pair = self.pairs[rng.choice(len(self.pairs), p=self._shares)]
        n, (height, width) = rng.integers(len(pair.truth)), pair.truth.shape[2:]
        # Where blocks of the resized chroma begin, which is every 4 pixels at x4.
        top, left = (4 * int(rng.integers(max(0, side - self.crop) // 4 + 1)) for side in (height, width))
        window = np.s_[n, :, top : top + self.crop, left : left + self.crop]
        truth = pair.truth[window]
        signed = truth.astype(np.int16)
        return float(sum(np.abs(np.diff(signed, axis=a)).mean() for a in (1, 2))), pair.reads[window], truth

    def _one(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        # Of three: most of most pictures has no chroma to speak of.
        _, reads, truth = max((self._place(rng) for _ in range(3)), key=lambda place: place[0])
        x, t = torch.from_numpy(reads.astype(np.float32)), to_unit(truth)
        short = self.crop - x.shape[1], self.crop - x.shape[2]
        if max(short) > 0:  # a clip smaller than a crop
            x, t = (torch.nn.functional.pad(v[None], (0, short[1], 0, short[0]), mode="replicate")[0] for v in (x, t))
        for axis in (1, 2):
            if rng.random() < 0.5:
                x, t = x.flip(axis), t.flip(axis)
        if rng.random() < 0.5:
            x, t = x.transpose(1, 2), t.transpose(1, 2)
        # What holds for one hue holds for all: U and V change places and signs.
        if rng.random() < 0.5:
            x, t = x[[0, 2, 1]], t[[1, 0]]
        signs = torch.tensor(rng.choice([-1.0, 1.0], 2), dtype=torch.float32)[:, None, None]
        return torch.cat([x[:1], signs * x[1:]]), signs * t
