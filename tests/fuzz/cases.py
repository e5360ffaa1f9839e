"""Makers of hostile inputs: each kind prepares its folder once and then makes a case of a seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .arguments import arguments
from .engines import engines
from .graphs import graphs
from .manifests import manifests
from .outcome import Case

KINDS: dict[str, Callable[[Path], Callable[[int], Case]]] = {
    "manifest": manifests,
    "onnx": graphs,
    "engine": engines,
    "argument": arguments,
}
