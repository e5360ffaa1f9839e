"""``vsflashsr doctor``: what runs where on this machine, and why, in a page."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import FlashsrError
from ..version import __version__

type State = Literal["ok", "no", "bad"]
"""It is there; it isn't, which only narrows what can be done; it should work and doesn't."""

PLUGINS = {
    "bs": ("bestsource", "reading files"),
    "bwdif": ("bwdif", "deinterlacing"),
    "vszip": ("vszip", "debanding, and SSIMULACRA2 in vsflashsr compare"),
    "zsmooth": ("zsmooth", "smoothing over time"),
    "mv": ("mvtools", "motion: denoising, interpolation"),
    "descratch": ("descratch", "scratches of film"),
}
"""A plugin's namespace → the end of its package's name (``vapoursynth-…``), and what it is wanted for."""
PROGRAMS = {
    "ffmpeg": "audio, subtitles, and every encoder it was built with",
    "x265": "HEVC, the default encoder",
    "x264": "H.264",
    "SvtAv1EncApp": "AV1",
    "mkvmerge": "timestamps and tracks of a raw stream",
}
TRIAL_S = 300


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the page."""

    state: State
    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class Section:
    """What is found out about one subject."""

    title: str
    findings: tuple[Finding, ...]


def doctor(*, device_id: int = 0) -> int:
    """Say what runs where on this machine, and why.

    Ends with status 1 if something that every installation needs doesn't work: VapourSynth, ONNX Runtime, or a frame through
    the built-in model.

    Parameters
    ----------
    device_id
        Which GPU to ask about.
    """
    sections = tuple(examine(device_id))
    sys.stdout.write(page(sections))
    return int(any(finding.state == "bad" for section in sections for finding in section.findings))


def examine(device_id: int) -> Iterator[Section]:
    """All sections, in the order in which one thing needs another."""
    yield Section("versions", tuple(_versions()))
    yield Section("backends", tuple(_backends(device_id)))
    yield Section("models", tuple(_models()))
    yield Section("plugins", tuple(_plugins()))
    yield Section("programs", tuple(_programs()))
    yield Section("trial", (_trial(),))


def page(sections: Iterable[Section]) -> str:
    """The sections as text."""
    signs = {"ok": "+", "no": "-", "bad": "!"}
    lines: list[str] = []
    for section in sections:
        wide = max((len(f.what) for f in section.findings), default=0)
        lines += [section.title]
        lines += [f"  {signs[f.state]} {f.what:<{wide}}  {f.detail}".rstrip() for f in section.findings]
    return "\n".join([*lines, "(+ there, - not there, ! should work and doesn't)", ""])


def _versions() -> Iterator[Finding]:
    yield Finding("ok", "vsflashsr", f"{__version__} in {Path(__file__).parents[1]}")
    yield Finding("ok", "Python", f"{platform.python_version()} on {platform.platform()}, {os.cpu_count()} cores")
    try:
        import vapoursynth as vs

        core = vs.core.core
        yield Finding(
            "ok",
            "VapourSynth",
            f"{core.core_version.release_major}, {core.num_threads} threads, frame cache up to {core.max_cache_size} MB",
        )
    except (ImportError, OSError) as error:
        yield Finding("bad", "VapourSynth", f"can't be imported ({_first_line(error)}); pip install vapoursynth")
    yield _package("numpy", needed=True)


def _package(name: str, *, needed: bool) -> Finding:
    try:
        return Finding("ok", name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding("bad" if needed else "no", name, f"isn't installed; pip install {name}")


def _backends(device_id: int) -> Iterator[Finding]:
    """Each backend, opened and closed; for "auto" the sentence it logs about its choice."""
    yield _package("onnxruntime", needed=True)
    from ..gpu.probe import device_count

    count = device_count()
    yield Finding("ok" if count else "no", "NVIDIA GPUs", f"{count}" if count else "none with a driver")
    from ..arguments import Arguments
    from ..runtimes.backend import backend_names, open_backend

    for name in sorted(backend_names(), key=lambda name: name == "auto"):
        said: list[str] = []
        try:
            backend = open_backend(Arguments(backend=name, device_id=device_id), said.append)
        except FlashsrError as error:
            yield Finding("no", name, str(error))
            continue
        backend.close()
        yield Finding("ok", name, "; ".join(said) or f"runs on {backend.where}")
    yield from _devices()


def _devices() -> Iterator[Finding]:
    """The devices that ``flashsr(backend=…, device_id=…)`` can name, where a backend has several kinds."""
    from ..runtimes import openvino, providers

    listed: list[tuple[str, list[str]]] = []
    for provider in providers.PROVIDERS:
        try:
            listed.append((provider.backend, [providers.described(device) for device in providers.devices(provider)]))
        except FlashsrError:
            continue  # said above
    if openvino.why_no_openvino() is None:
        listed.append(("openvino", [name for _, name in openvino.devices()]))
    for backend, names in listed:
        for number, name in enumerate(names):
            yield Finding("ok", f"{backend} device {number}", name)


def _models() -> Iterator[Finding]:
    """What is in the package, then what the user got."""
    from ..bundle import load_bundle
    from .models import known_models

    for model in known_models():
        try:
            bundle = load_bundle(model.folder)
        except FlashsrError as error:
            yield Finding("bad" if model.where == "in the package" else "no", model.name, str(error))
            continue
        scales = ", ".join(f"x{scale}" for scale in sorted(bundle.scales))
        yield Finding("ok", model.name, f"{bundle.kind}, {scales}, {bundle.precision}, {bundle.licence}")


def _plugins() -> Iterator[Finding]:
    try:
        import vapoursynth as vs
    except (ImportError, OSError):
        return
    for namespace, (package, purpose) in PLUGINS.items():
        if hasattr(vs.core, namespace):
            yield Finding("ok", namespace, purpose)
        else:
            yield Finding("no", namespace, f"{purpose}: pip install vapoursynth-{package}")


def _programs() -> Iterator[Finding]:
    for program, purpose in PROGRAMS.items():
        path = shutil.which(program)
        yield Finding("ok" if path else "no", program, f"{path} ({purpose})" if path else f"not on PATH ({purpose})")


_TRIAL = """
import vapoursynth as vs
from vsflashsr import flashsr
clip = vs.core.std.BlankClip(None, 64, 48, vs.YUV420P8, 3, color=[100, 128, 128])
out = flashsr(clip, scale=2, backend="onnxruntime", threads=1)
with out.get_frame(2) as f:
    assert (f.width, f.height) == (128, 96)
"""


def _trial() -> Finding:
    """Three frames through the built-in model, in a process of their own: a broken runtime may crash."""
    started = time.perf_counter()
    what = "built-in model"
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TRIAL],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TRIAL_S,
            check=False,
            env={**os.environ, "PYTHONPATH": path},
        )
    except subprocess.TimeoutExpired:
        return Finding("bad", what, f"three frames took more than {TRIAL_S} s")
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return Finding("bad", what, f"three frames failed ({lines[-1] if lines else f'status {done.returncode}'})")
    return Finding(
        "ok", what, f"three frames of 64x48 on the CPU, start included: {time.perf_counter() - started:.1f} s"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
