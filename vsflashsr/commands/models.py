"""``vsflashsr models``: which models there are, whether they are whole, and getting published ones."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from ..errors import FlashsrError
from ..models.published import PUBLISHED, Published, Variant

app = App(name="models", help="List models, check them, and get published ones.", help_format="plaintext")

_GB = 1e9


@dataclass(frozen=True, slots=True)
class Known:
    """A model that is there."""

    name: str
    folder: Path
    where: Literal["in the package", "yours"]


def known_models() -> Iterator[Known]:
    """The built-in models, then those in the user's folder."""
    from ..models.library import installed_names, models_folder
    from ..models.locate import builtin_names, locate

    for name in builtin_names():
        yield Known(name, locate(name), "in the package")
    for name in installed_names():
        yield Known(name, models_folder() / name, "yours")


@app.command(name="list")
def list_models() -> int:
    """List the models that flashsr(model="NAME") finds, and those that can be got."""
    from ..bundle import load_bundle
    from ..models.library import models_folder

    lines, bad = [], False
    present = list(known_models())
    for model in present:
        try:
            bundle = load_bundle(model.folder)
            scales = ", ".join(f"x{scale}" for scale in sorted(bundle.scales))
            size = sum(path.stat().st_size for path in model.folder.rglob("*") if path.is_file())
            words = [bundle.kind, scales, bundle.precision, _size(size), model.where, f"licence: {bundle.licence}"]
            lines.append((model.name, "; ".join(words)))
        except FlashsrError as error:
            bad = True
            lines.append((model.name, f"damaged: {error}"))
    names = {model.name for model in present}
    for entry in PUBLISHED.values():
        if entry.name not in names:
            lines.append((entry.name, f"not here; vsflashsr models get {entry.name}"))
    wide = max(len(name) for name, _ in lines)
    sys.stdout.writelines(f"{name:<{wide}}  {text}\n" for name, text in lines)
    sys.stdout.write(f"your models: {models_folder()}\n")
    return int(bad)


@app.command
def verify(names: list[str] | None = None) -> int:
    """Check models file by file against the hashes in their bundle.json. Ends with status 1 if one is damaged.

    Parameters
    ----------
    names
        Names of models, or folders of bundles; by default all that list shows.
    """
    from ..bundle import load_bundle
    from ..models.locate import locate

    folders = [locate(name) for name in names] if names else [model.folder for model in known_models()]
    damaged = 0
    for folder in folders:
        try:
            bundle = load_bundle(folder)
            sys.stdout.write(f"{bundle.name}: {len(bundle.files)} files are what they should be\n")
        except FlashsrError as error:
            damaged += 1
            sys.stdout.write(f"{folder.name}: damaged: {error}\n")
    return int(damaged > 0)


@app.command
def get(
    name: str,
    *,
    variant: Variant | None = None,
    precision: Literal["fp16", "bf16", "fp32"] = "fp16",
    name_as: str | None = None,
    prompt: Path | None = None,
    keep: bool = False,
    yes: Annotated[bool, Parameter(alias="-y")] = False,
) -> int:
    """Fetch a published checkpoint and make a bundle of it, which flashsr(model="NAME") then finds.

    Licence and size are shown first. What was fetched before an interruption isn't fetched again.

    Parameters
    ----------
    name
        flashvsr-v1.1, flashvsr-v1 or swiftvr.
    variant
        FlashVSR's decoder: tiny (the default), or full (a little better, five times the work in the decoder).
    precision
        fp16 and bf16 for GPUs, half the size (fp16 runs on the CPU, too); fp32 for the CPU.
    name_as
        Name of the bundle; by default NAME, with -full and -fp32 or -bf16 where they aren't the default.
    prompt
        FlashVSR's posi_prompt.pth, if you have it; else it is fetched from its code repository.
    keep
        Keep the checkpoint's files after the conversion.
    yes
        Don't ask.
    """
    from ..models.library import models_folder
    from . import getting

    entry = _entry(name)
    if prompt is not None and not prompt.is_file():
        raise FlashsrError(f"there is no file {str(prompt)!r}; give the path of posi_prompt.pth, or leave --prompt out")
    for flag, value, has in (("variant", variant, entry.variants), ("prompt", prompt, entry.prompt)):
        if value is not None and not has:
            raise FlashsrError(f"--{flag} says nothing to {entry.name}, got {str(value)!r}; leave it out")
    variant = variant or "tiny"
    bundle_bytes = entry.bundle_bytes * (2 if precision == "fp32" else 1)
    folder = models_folder()
    out = folder / (name_as or _bundle_name(entry, variant, precision))
    if out.name != Path(out.name).name or out.parent != folder or out.name.startswith("."):
        raise FlashsrError(f"--name-as is a plain name, got {name_as!r}; give one like my-flashvsr")
    if out.exists():
        raise FlashsrError(
            f"the model {out.name!r} is there already, in {str(out)!r}; remove that folder first, or give --name-as"
        )
    getting.hub()
    _needs("torch", "onnx", "safetensors")
    offer = getting.look_up(entry, variant)
    sys.stderr.write(
        f"{entry.name}: {entry.title} by its authors, {entry.repository} at {offer.revision[:12]}\n"
        f"licence: {offer.licence}\n"
        f"to fetch: {_size(offer.size_bytes)} in {len(offer.files)} files{', and the prompt (4 MB)' if entry.prompt else ''}\n"
        f"the bundle: about {_size(bundle_bytes)} in {out}\n"
    )
    if not yes and not _agreed():
        raise FlashsrError("nothing was fetched; give --yes to fetch without being asked")
    downloads = folder / ".downloads" / f"{entry.name}"
    _make_room(downloads, offer.size_bytes, bundle_bytes)
    from filelock import FileLock

    with FileLock(folder / ".downloads" / f"{entry.name}.lock"):
        getting.fetch(entry, offer, downloads, prompt)
        getting.convert(entry, downloads, out, variant=variant, precision=precision)
        if not keep:
            shutil.rmtree(downloads)
    sys.stdout.write(f'{out.name}: flashsr(clip, model="{out.name}")\n')
    return 0


def _entry(name: str) -> Published:
    if name not in PUBLISHED:
        raise FlashsrError(f"what can be got is {', '.join(PUBLISHED)}, got {name!r}; choose one of them")
    return PUBLISHED[name]


def _bundle_name(entry: Published, variant: Variant, precision: str) -> str:
    return entry.name + ("-full" if variant == "full" else "") + (f"-{precision}" if precision != "fp16" else "")


def _needs(*modules: str) -> None:
    """What the conversion imports, asked for before gigabytes are fetched."""
    from importlib.util import find_spec

    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise FlashsrError(f"the conversion needs {', '.join(missing)}, got none; pip install 'vsflashsr[export]'")


def _agreed() -> bool:
    """Asks whoever sits there; without a terminal nobody does."""
    if sys.stdin is None or not sys.stdin.isatty():
        return False
    sys.stderr.write("go on? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _make_room(downloads: Path, fetch_bytes: int, bundle_bytes: float) -> None:
    downloads.mkdir(parents=True, exist_ok=True)
    there = sum(path.stat().st_size for path in downloads.rglob("*") if path.is_file())
    needed = max(0, fetch_bytes - there) + bundle_bytes
    free = shutil.disk_usage(downloads).free
    if free < needed:
        raise FlashsrError(
            f"{_size(needed)} are needed in {str(downloads.parent.parent)!r}, got {_size(free)} free; make room, or let "
            "XDG_DATA_HOME (on Linux) point to another disk"
        )


def _size(size_bytes: float) -> str:
    return f"{size_bytes / _GB:.1f} GB" if size_bytes >= _GB / 10 else f"{size_bytes / 1e6:.1f} MB"
