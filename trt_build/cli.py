"""Command line of the offline tools: ``python -m trt_build export | verify | build | list | inspect | prune``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vsflashsr.errors import FlashsrError
from vsflashsr.runtimes.engines.build import builds_left_behind

from .engine_commands import add_commands, model_option

MODELS = ("flashvsr", "realviformer", "swiftvr")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand; an error is one sentence on stderr and status 1."""
    parser = argparse.ArgumentParser(prog="python -m trt_build", description="Checkpoints in, bundles and engines out.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_export(commands)
    _add_verify(commands)
    add_commands(commands)
    given = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = given.run
    try:
        return run(given)
    except FlashsrError as error:
        sys.stderr.write(f"trt_build: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("trt_build: interrupted, nothing was kept\n")
        if builds_left_behind():
            # TensorRT is still at work in a thread, and would crash in a process that ends under it.
            sys.stderr.flush()
            os._exit(130)
        return 130


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "export",
        help="turn a checkpoint into a bundle for flashsr(model=...)",
        description="Turns a published checkpoint into a bundle. FlashVSR's takes 4 GB of memory, and 6.5 GB of disk in fp32 or "
        "3.3 GB in 16 bit; SwiftVR's up to 9 GB in 16 bit; RealViformer's 1 GB of memory, and 24 or 12 MB.",
    )
    parser.add_argument(
        "--model", choices=MODELS, default="flashvsr", help="what the checkpoint is of (default: %(default)s)"
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="folder with the published files")
    parser.add_argument(
        "--precision",
        choices=("fp16", "bf16", "fp32"),
        default="fp16",
        help="of matrix products (default: %(default)s; fp32 for the CPU, bf16 runs on GPUs only)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder to make; it must not exist")
    parser.add_argument("--name", help="name of the bundle (default: that of the folder)")
    parser.add_argument("--head-dim", type=int, metavar="N", help="channels per head of FlashVSR or SwiftVR (default: 128)")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="default of a bundle of FlashVSR or SwiftVR, such as sparse_ratio=1.5; see model_options in the documentation",
    )
    flashvsr = parser.add_argument_group("FlashVSR")
    flashvsr.add_argument(
        "--version",
        choices=("v1", "v1.1"),
        help="release the files are from, which nothing in them tells: the wrong one makes pictures that ghost",
    )
    flashvsr.add_argument("--variant", choices=("tiny", "full"), help="decoder (default: tiny)")
    parser.set_defaults(run=_export)


def _export(given: argparse.Namespace) -> int:
    from tqdm import tqdm

    if given.out.exists():
        raise FlashsrError(f"{str(given.out)!r} is there already; give another --out or remove it first")
    total, write = _EXPORTERS[given.model](given)
    with tqdm(total=total, unit="B", unit_scale=True, desc="export", file=sys.stderr) as bar:

        def progress(what: str, size: int) -> None:
            bar.set_postfix_str(what)
            bar.update(size)

        write(progress)
        bar.total = bar.n  # the total was an estimate
    return 0


type _Export = tuple[int, Callable[[Callable[[str, int], None]], None]]
"""About how many bytes, and what writes them."""


def _flashvsr(given: argparse.Namespace) -> _Export:
    from vsflashsr.models.flashvsr.options import Options

    from .flashvsr.checkpoint import load_checkpoint
    from .flashvsr.export import export_bundle, export_bytes

    options = Options().overridden(dict(map(model_option, given.option)))
    if given.version is None:
        raise FlashsrError(
            "export needs --version for FlashVSR, got none; say v1 or v1.1, the release the files are from: nothing in them tells"
        )
    checkpoint = load_checkpoint(
        given.checkpoint, version=given.version, variant=given.variant or "tiny", head_dim=given.head_dim or 128
    )
    return export_bytes(checkpoint.config, given.precision), lambda progress: export_bundle(
        checkpoint, given.out, precision=given.precision, options=options, name=given.name, progress=progress
    )


def _realviformer(given: argparse.Namespace) -> _Export:
    from .realviformer.checkpoint import load_checkpoint
    from .realviformer.export import export_bundle, export_bytes

    _refuse(given, "version", "variant", "head_dim", "option")
    checkpoint = load_checkpoint(given.checkpoint)
    return export_bytes(checkpoint, given.precision), lambda progress: export_bundle(
        checkpoint, given.out, precision=given.precision, name=given.name, progress=progress
    )


def _swiftvr(given: argparse.Namespace) -> _Export:
    from vsflashsr.models.swiftvr.options import Options

    from .swiftvr.checkpoint import load_checkpoint
    from .swiftvr.export import export_bundle, export_bytes

    _refuse(given, "version", "variant")
    options = Options().overridden(dict(map(model_option, given.option)))
    checkpoint = load_checkpoint(given.checkpoint, head_dim=given.head_dim)
    return export_bytes(checkpoint.config, given.precision), lambda progress: export_bundle(
        checkpoint, given.out, precision=given.precision, options=options, name=given.name, progress=progress
    )


def _refuse(given: argparse.Namespace, *names: str) -> None:
    """What has no meaning for this model."""
    for name in names:
        if value := getattr(given, name):
            flag = "--" + name.replace("_", "-")
            raise FlashsrError(f"{flag} says nothing to --model {given.model}, got {value!r}; leave it out")


_EXPORTERS: dict[str, Callable[[argparse.Namespace], _Export]] = {
    "flashvsr": _flashvsr,
    "realviformer": _realviformer,
    "swiftvr": _swiftvr,
}


def _add_verify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "verify",
        help="hold every stage against reference numbers",
        description="Runs every stage whose fixture is in the folder and prints its largest error; exits 1 if one is out "
        "of tolerance or a mask differs.",
    )
    parser.add_argument("golden", type=Path, metavar="GOLDEN_DIR", help="checkpoints and fixtures")
    parser.add_argument("--executor", choices=("torch", "onnxruntime"), default="torch")
    parser.add_argument(
        "--head-dim", type=int, metavar="N", help="channels per head (default: what the folder says, else 128)"
    )
    parser.set_defaults(run=_verify)


def _verify(given: argparse.Namespace) -> int:
    from .verify import verify

    return 0 if verify(given.golden, given.executor, given.head_dim, sys.stdout.write) else 1
