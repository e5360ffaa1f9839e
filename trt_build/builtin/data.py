"""Training pairs: a folder of clips, decoded and degraded once into a cache, then cropped at random."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import av
import numpy as np
import torch
from tqdm import tqdm

from .degrade import VARIANTS, WEIGHTS, Luma, Planes, degrade, draw
from .degrade import split as split_planes
from .motion import SIZE_MULTIPLE
from .pages import page
from .shapes import shapes

SUFFIXES = {".mp4", ".mkv", ".webm", ".mov", ".avi", ".m2ts", ".ts", ".mpg", ".y4m"}
HOLD_OUT = 7
"""Every so manieth source (by name) is for validation only, with all its clips."""


@dataclass(frozen=True)
class Clip:
    """One clip's files in the cache."""

    name: str
    high: Path
    """(frames, height, width) of uint8, limited-range luma."""
    low: tuple[Path, ...]
    """The same at 1/scale, one file for each variant."""
    drawn: bool
    """Made here, not decoded from a file."""

    def load(self, variant: int) -> tuple[Luma, Luma]:
        """High and low resolution, memory-mapped."""
        return (
            cast(Luma, np.load(self.high, mmap_mode="r")),
            cast(Luma, np.load(self.low[variant], mmap_mode="r")),
        )


def decode(path: Path, frames: int, multiple: int = 16) -> Luma:
    """Luma of the first `frames` frames, cropped to multiples of `multiple`."""
    return decode_planes(path, frames, multiple)[0]


def _frames(path: Path, frames: int) -> Iterator[av.VideoFrame]:
    """The first of them, as 4:2:0 of limited range."""
    count = 0
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.reformat(format="yuv420p", dst_color_range="MPEG")
            count += 1
            if count == frames:
                break
    if not count:
        raise ValueError(f"{path} has no video frames; take it out of the folder")


def decode_planes(path: Path, frames: int, multiple: int = 16) -> Planes:
    """Y, U and V of the first `frames` frames, cropped to (of U and V half of) multiples of `multiple`."""
    found = [split_planes(cast(Luma, f.to_ndarray()), f.height, f.width) for f in _frames(path, frames)]
    planes = [np.stack(plane) for plane in zip(*found, strict=True)]
    height, width = (side - side % multiple for side in planes[0].shape[1:])
    return planes[0][:, :height, :width], *(plane[:, : height // 2, : width // 2] for plane in planes[1:])


def _save(path: Path, array: Luma) -> None:
    part = path.with_suffix(".part.npy")
    np.save(part, array)
    part.replace(path)


@dataclass(frozen=True)
class Drawing:
    """A clip that is drawn instead of decoded."""

    kind: Literal["page", "shapes"]
    number: int


def clip_luma(source: Path | Drawing, frames: int, seed: int) -> Luma:
    """A clip's luma: decoded from a file (`frames` of it, at most), or drawn from `seed`."""
    if isinstance(source, Path):
        return decode(source, frames)
    return (page if source.kind == "page" else shapes)(np.random.default_rng([seed, source.number]))


def _prepare(source: Path | Drawing, cache: Path, scale: int, frames: int, seed: int) -> Clip:
    # The key is the file's name and size: training clips do not change in place.
    if isinstance(source, Path):
        name, text = source.stem, f"{source.name} {source.stat().st_size} {frames}"
    else:
        name, text = f"{source.kind}_{source.number}", f"{source.kind} {source.number} {seed}"
    key = hashlib.sha256(text.encode()).hexdigest()[:10]
    high = cache / f"{name}-{key}.npy"
    if not high.exists():
        _save(high, clip_luma(source, frames, seed))
    low = tuple(cache / f"{name}-{key}-x{scale}-s{seed}-v{v}.npy" for v in range(VARIANTS))
    luma: Luma | None = None
    for variant, file in enumerate(low):
        if file.exists():
            continue
        if luma is None:
            luma = cast(Luma, np.load(high))
        rng = np.random.default_rng([seed, scale, variant, int(key, 16)])
        how = draw(variant, scale, rng)
        _save(file, degrade((luma,), scale, how, rng)[0])
        file.with_suffix(".json").write_text(json.dumps(how.__dict__), encoding="utf-8")
    return Clip(name, high, low, isinstance(source, Drawing))


def prepare(folder: Path, cache: Path, scale: int, frames: int, seed: int, jobs: int, drawn: int = 8) -> list[Clip]:
    """Decode and degrade every clip of `folder`, and `drawn` pages and as many shapes, into `cache`; what is there is kept."""
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} holds no clips; give a folder with some of {', '.join(sorted(SUFFIXES))}")
    cache.mkdir(parents=True, exist_ok=True)
    sources: list[Path | Drawing] = [*paths]
    sources += [Drawing("page", n) for n in range(drawn)] + [Drawing("shapes", n) for n in range(drawn)]
    if jobs == 1:
        return [_prepare(p, cache, scale, frames, seed) for p in tqdm(sources, desc="degrading", unit="clip")]
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(_prepare, p, cache, scale, frames, seed) for p in sources]
        return [w.result() for w in tqdm(waiting, desc="degrading", unit="clip")]


def _pair(low: Path, high: Path, cache: Path, scale: int, frames: int) -> Clip:
    key = hashlib.sha256(f"{low.name} {low.stat().st_size} {high.name} {high.stat().st_size} {frames}".encode()).hexdigest()[:10]
    files = [cache / f"{high.stem}-{key}-x{scale}-pair-{side}.npy" for side in ("low", "high")]
    if not all(file.exists() for file in files):
        small, large = decode(low, frames, 1), decode(high, frames, 1)
        if (len(small), scale * small.shape[1], scale * small.shape[2]) != large.shape:
            raise ValueError(
                f"the pair {high.stem!r} should be as many frames, and the high side {scale} times as large, got "
                f"{_said(small)} and {_said(large)}; cut and crop both alike, or change --scale"
            )
        height, width = (side - side % SIZE_MULTIPLE for side in small.shape[1:])
        if not height or not width:
            raise ValueError(f"the pair {high.stem!r} is too small, got {_said(small)}; give {SIZE_MULTIPLE} pixels and more")
        _save(files[0], small[:, :height, :width])
        _save(files[1], large[:, : scale * height, : scale * width])
    return Clip(high.stem, files[1], (files[0],) * VARIANTS, drawn=False)


def _said(luma: Luma) -> str:
    count, height, width = luma.shape
    return f"{count} of {width}x{height}"


def prepare_pairs(folder: Path, cache: Path, scale: int, frames: int) -> list[Clip]:
    """A user's own pairs, `folder`/low/NAME.* and `folder`/high/NAME.*: the same frames, `scale` times as large. Nothing is
    degraded; what is there in `cache` is kept."""
    low, high = (
        {p.stem: p for p in sorted(Path(folder, side).glob("*")) if p.suffix.lower() in SUFFIXES} for side in ("low", "high")
    )
    if not high or low.keys() != high.keys():
        alone = ", ".join(sorted(low.keys() ^ high.keys())) or "no clips at all"
        raise ValueError(f"{folder} should hold low/NAME and high/NAME of each pair, got {alone}; add what is missing")
    cache.mkdir(parents=True, exist_ok=True)
    return [_pair(low[name], high[name], cache, scale, frames) for name in tqdm(sorted(high), desc="decoding", unit="pair")]


def source_of(name: str) -> str:
    """Where a clip comes from: its name without the number at its end."""
    return re.sub(r"_\d+$", "", name)


def held_sources(sources: set[str]) -> set[str]:
    """Those that are for validation only."""
    ordered = sorted(sources)
    return set(ordered[HOLD_OUT // 2 + 1 :: HOLD_OUT] or ordered[-1:])


def split(clips: list[Clip]) -> tuple[list[Clip], list[Clip]]:
    """Training and validation clips, no source in both: of the drawn ones, one of each kind is held out; a single source serves
    both."""
    found, drawn = [c for c in clips if not c.drawn], [c for c in clips if c.drawn]
    kept_back = held_sources({source_of(c.name) for c in found})
    held = [c for c in found if source_of(c.name) in kept_back]
    half = len(drawn) // 2
    held += [drawn[half - 1], drawn[-1]] if half else []
    return [c for c in clips if c not in held] or held, held


def to_unit(luma: torch.Tensor) -> torch.Tensor:
    """8-bit limited range to 0..1."""
    return (luma.float() - 16.0) / 219.0


class Sampler:
    """Random crops of random clips; what step n gets depends on the seed and n alone, so a run can be resumed."""

    def __init__(
        self, clips: list[Clip], scale: int, batch: int, length: int, crop: int, seed: int, margin: int = 0
    ) -> None:
        self.scale, self.batch, self.length, self.crop, self.seed = scale, batch, length, crop, seed
        self.margin = margin
        self.pairs = [[c.load(v) for v in range(VARIANTS)] for c in clips]

    def __call__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(low, high) of a step: (batch, length, 1, crop, crop) and scale times that, uint8; `low` has the margin all around."""
        rng = np.random.default_rng([self.seed, step])
        both = [self._one(rng) for _ in range(self.batch)]
        return torch.from_numpy(np.stack([b[0] for b in both])), torch.from_numpy(np.stack([b[1] for b in both]))

    def _place(self, rng: np.random.Generator) -> tuple[tuple[Luma, Luma], int, int, int, int, float]:
        """A pair, the first frame, top, left and side of a crop, and its detail (mean absolute gradient)."""
        pair = self.pairs[rng.integers(len(self.pairs))][rng.choice(VARIANTS, p=WEIGHTS)]
        count, height, width = pair[1].shape
        crop = min(self.crop, height, width)
        top, left = int(rng.integers(height - crop + 1)), int(rng.integers(width - crop + 1))
        start = int(rng.integers(max(1, count - self.length + 1)))
        part = pair[1][start, top : top + crop, left : left + crop].astype(np.int16)
        detail = np.abs(np.diff(part, axis=0)).mean() + np.abs(np.diff(part, axis=1)).mean()
        return pair, start, top, left, crop, float(detail)

    def _one(self, rng: np.random.Generator) -> tuple[Luma, Luma]:
        s = self.scale
        # Half of the crops are the one with most detail of four: flat areas teach little, text and texture are rare.
        candidates = [self._place(rng) for _ in range(4 if rng.random() < 0.5 else 1)]
        (high, low), start, top, left, crop, _ = max(candidates, key=lambda c: c[-1])
        count = len(low)
        # A clip that is too short goes back and forth.
        there = np.concatenate([np.arange(count), np.arange(count - 2, 0, -1)]) if count > 1 else np.zeros(1, np.int64)
        index = there[(start + np.arange(self.length)) % len(there)]
        if rng.random() < 0.5:
            index = index[::-1]
        # Edges of the frame repeat.
        around = np.arange(-self.margin, crop + self.margin)
        rows, columns = (np.clip(at + around, 0, size - 1) for at, size in zip((top, left), low.shape[1:], strict=True))
        a = low[index[:, None, None], rows[:, None], columns]
        b = high[index, s * top : s * (top + crop), s * left : s * (left + crop)]
        turns, flip = int(rng.integers(4)), rng.random() < 0.5
        a, b = np.rot90(a, turns, (1, 2)), np.rot90(b, turns, (1, 2))
        if flip:
            a, b = a[..., ::-1], b[..., ::-1]
        return np.ascontiguousarray(a[:, None]), np.ascontiguousarray(b[:, None])
