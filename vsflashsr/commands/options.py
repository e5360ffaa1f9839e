"""What the commands take of ``flashsr``'s arguments, and how they are written on a command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ..errors import FlashsrError


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class FilterOptions:
    """``flashsr``'s arguments beside the clip and the scale; what isn't given is left to the filter."""

    model: str | None = None
    """A built-in model, a model that was got or a bundle's folder, or an .onnx single-frame upscaler."""
    backend: str | None = None
    """What runs it: auto, onnxruntime, tensorrt, tensorrt_rtx or torch."""
    device_id: str | None = None
    """Which device: its number, or part of its name (doctor lists them)."""
    precision: str | None = None
    """fp32, fp16 or bf16."""
    tile: str | None = None
    """Side of the tiles to work in, or WIDTHxHEIGHT, in input pixels; auto: the fewest that fit into the GPU's memory."""
    overlap: int | None = None
    """By how many input pixels tiles overlap."""
    color_fix: str | None = None
    """none, adain or wavelet: pull a generative model's colours back to the input's."""
    strength: float | None = None
    """0 (plain Lanczos) to 1 (the model)."""
    scene_change: bool | None = None
    """Begin afresh at scene cuts."""
    max_segment: int | None = None
    """Frames after which the carried state begins anew."""
    preroll: int | None = None
    """Frames run and thrown away before such a point."""
    format: str | None = None
    """Output format in VapourSynth's words, such as YUV420P10."""
    seed: int | None = None
    """For models that draw noise."""
    engine_dir: Path | None = None
    """Where GPU engines are kept."""
    threads: int | None = None
    """CPU threads for one step."""
    model_options: Annotated[list[str] | None, Parameter(name="--option", negative="")] = None
    """A model's own option, NAME=VALUE; any number of times."""

    def keywords(self) -> dict[str, Any]:
        """Keyword arguments for ``flashsr``: only those that were given.

        Raises:
            FlashsrError: a tile, format or option is written so that it can't be read.
        """
        given = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}
        readers: dict[str, Callable[[Any], Any]] = {
            "device_id": read_device,
            "tile": read_tile,
            "format": read_format,
            "model_options": read_model_options,
        }
        return {name: readers[name](value) if name in readers else value for name, value in given.items()}


def read_device(text: str) -> int | str:
    """A number, or else a name."""
    return int(text) if text.isdecimal() else text


def read_tile(text: str) -> int | tuple[int, int] | str:
    """``256``, ``256x128`` or ``auto``."""
    if text == "auto":
        return text
    sides = text.lower().split("x")
    if len(sides) in (1, 2) and all(side.isdecimal() for side in sides):
        return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))
    raise FlashsrError(f"--tile is a side, WIDTHxHEIGHT or auto, got {text!r}; give e.g. 256")


def read_format(text: str) -> int:
    """A format's name in VapourSynth, whatever its case."""
    import vapoursynth as vs

    known = {f.name: int(f) for f in vs.PresetVideoFormat if f.name != "NONE"}
    if text.upper() not in known:
        raise FlashsrError(f"--format is a name such as YUV420P10, got {text!r}; one of {', '.join(known)}")
    return known[text.upper()]


def read_model_options(items: Sequence[str]) -> dict[str, Any]:
    """``["sparse_ratio=1.5"]`` → ``{"sparse_ratio": 1.5}``: whole numbers, numbers, true and false, else text."""
    return dict(map(_model_option, items))


def _model_option(text: str) -> tuple[str, int | float | bool | str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise FlashsrError(f"--option takes NAME=VALUE, got {text!r}; write it like sparse_ratio=1.5")
    if value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value
