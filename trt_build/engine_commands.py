"""The commands ``build``, ``list``, ``inspect`` and ``prune`` of ``python -m trt_build``."""

from __future__ import annotations

import argparse
import logging
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vsflashsr.arguments import OptionValue
from vsflashsr.errors import FlashsrError, printable
from vsflashsr.runtimes.engines.container import CorruptEngineError, Header, read_engine
from vsflashsr.runtimes.engines.key import MODULES, ModuleName, Target
from vsflashsr.runtimes.engines.modules import installed, load_module, module_log, target_of, target_without_gpu
from vsflashsr.runtimes.engines.progress import BuildStatus
from vsflashsr.runtimes.engines.store import LIMIT_BYTES, EngineStore, StoredEngine, default_folder

type _Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def add_commands(commands: _Commands) -> None:
    """Adds all four."""
    _add_build(commands)
    _add_list(commands)
    _add_inspect(commands)
    _add_prune(commands)


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine-dir",
        type=Path,
        metavar="DIR",
        help="folder of engines, as in flashsr(engine_dir=) (default: the user's folder for caches; list shows it)",
    )


def model_option(text: str) -> tuple[str, OptionValue]:
    """ "NAME=VALUE" as it stands in ``model_options``.

    Raises:
        FlashsrError: there is no "=".
    """
    name, sign, value = text.partition("=")
    if not sign:
        raise FlashsrError(f"--option takes NAME=VALUE, got {text!r}; write it like sparse_ratio=1.5")
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


# build


def _add_build(commands: _Commands) -> None:
    parser = commands.add_parser(
        "build",
        help="build a model's TensorRT engines ahead of time",
        description="Builds the TensorRT engines that flashsr() would otherwise build when a script first runs. Engines that "
        "are there already are checked and left alone.",
    )
    parser.add_argument("model", metavar="MODEL", help="built-in name (such as builtin), a bundle's folder, or an .onnx file")
    parser.add_argument(
        "--size",
        dest="sizes",
        type=_size,
        action="append",
        required=True,
        metavar="WxH",
        help="size of the input frames, or of tile= where one is used; may be given several times",
    )
    parser.add_argument(
        "--scale", type=float, default=4, metavar="N", help="as in flashsr(scale=) (default: %(default)s)"
    )
    parser.add_argument(
        "--backend",
        choices=MODULES,
        help="what builds and later runs them, as in flashsr(backend=) (default: what is installed; "
        "of both, tensorrt on a GPU and tensorrt_rtx for --cc)",
    )
    parser.add_argument(
        "--cc",
        dest="capabilities",
        type=_capability,
        action="extend",
        nargs="+",
        metavar="X.Y",
        help="compute capabilities to build for instead of the GPU in this machine, which then needs none "
        "(tensorrt_rtx only): 7.5 GeForce 20, 8.6 GeForce 30, 8.9 GeForce 40, 12.0 GeForce 50",
    )
    parser.add_argument(
        "--device", type=int, default=0, metavar="N", help="which GPU, as in flashsr(device_id=) (default: %(default)s)"
    )
    parser.add_argument(
        "--piece-weights",
        choices=("shared", "constant"),
        help="form of FlashVSR's layers, as in model_options (default: the bundle's)",
    )
    parser.add_argument(
        "--option",
        dest="options",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="as in flashsr(model_options=), such as clip_len=8: what the script will say, since some change the engines",
    )
    _add_folder(parser)
    parser.set_defaults(run=_build)


def _build(given: argparse.Namespace) -> int:
    from vsflashsr.arguments import Arguments
    from vsflashsr.models.opening import graphs_ahead
    from vsflashsr.runtimes.engines.requests import engine_requests

    _log_to_stderr()
    form = given.piece_weights
    options = dict(map(model_option, given.options)) | ({} if form is None else {"piece_weights": form})
    wanted = Arguments(model=given.model, scale=given.scale, model_options=options)
    calls = graphs_ahead(wanted, [(height, width) for width, height in given.sizes])
    store, targets = _store_and_targets(given)
    if store.distrust:
        raise FlashsrError(
            f"the engine folder {str(store.folder)!r} {store.distrust}; chmod or chown it, or give another --engine-dir"
        )
    # Bundle and graphs are read once: their hashes are remembered.
    requests = [request for target in targets for request in engine_requests(calls, target)]
    built, size = 0, 0
    for number, request in enumerate(requests, 1):
        with _Bar(f"[{number}/{len(requests)}] {request.label}") as bar:
            size += len(store.get(request, bar))
            built += bar.finished
    sys.stderr.write(
        f"{_count(len(requests), 'engine')} ready in {str(store.folder)!r}, {_bytes(size)}: {built} built, "
        f"{len(requests) - built} there already\n"
    )
    return 0


def _store_and_targets(given: argparse.Namespace) -> tuple[EngineStore, list[Target]]:
    default: ModuleName = "tensorrt_rtx" if given.capabilities else next(filter(installed, MODULES), MODULES[0])
    name: ModuleName = given.backend or default
    if given.capabilities:
        targets = [target_without_gpu(name, capability) for capability in given.capabilities]
        return EngineStore(given.engine_dir), targets
    from vsflashsr.gpu.probe import device_count

    if device_count() == 0:
        raise FlashsrError(
            "no NVIDIA GPU and driver found to build for; name the GPU that the engines are for, such as --cc 8.9, "
            "or build on the machine that has it"
        )
    from vsflashsr.gpu.device import Device

    device = Device(given.device)
    return EngineStore(given.engine_dir, enter_thread=device.make_current), [target_of(name, device)]


class _Bar:
    """A progress bar on stderr; it appears only if the engine has to be built."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: Any = None
        self.finished = False

    def __call__(self, status: BuildStatus) -> None:
        from tqdm import tqdm

        if self._bar is None:
            layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
            self._bar = tqdm(total=1.0, desc=self._label, file=sys.stderr, bar_format=layout)
        self._bar.set_postfix_str(status.phase, refresh=False)
        self._bar.n = status.fraction
        self._bar.refresh()
        self.finished = status.finished

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


# list


def _add_list(commands: _Commands) -> None:
    parser = commands.add_parser(
        "list", help="show the engines there are", description="Shows the engines in the folder, the newest used first."
    )
    _add_folder(parser)
    parser.set_defaults(run=_list)


def _list(given: argparse.Namespace) -> int:
    store = _existing(given.engine_dir)
    engines = store.engines() if store else []
    rows = [("engine", "size", "for", "built", "last used", "file")]
    for engine in reversed(engines):
        size, used, file = _bytes(engine.size_bytes), _ago(engine.last_use), engine.path.stem[:12]
        if engine.header is None:
            rows.append(("(damaged or not yours: it will be built anew)", size, "", "", used, printable(file)))
        else:
            header = engine.header
            rows.append((printable(header.label), size, _purpose(header), _ago(header.built), used, printable(file)))
    if engines:
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    total = sum(engine.size_bytes for engine in engines)
    print(f"{_count(len(engines), 'engine')}, {_bytes(total)}, in {str(given.engine_dir or default_folder())!r}")
    return 0


def _purpose(header: Header) -> str:
    key = header.key
    gpu = key.gpu or "any GPU of {}.{}".format(*key.capability)
    return printable(f"{gpu}, {key.module} {key.version}")


def _existing(folder: Path | None) -> EngineStore | None:
    """The store, if its folder is there: looking at it makes none."""
    if folder is not None and not folder.is_dir():
        raise FlashsrError(f"there is no engine folder {str(folder)!r}; give another --engine-dir")
    return EngineStore(folder) if (folder or default_folder()).is_dir() else None


# inspect


def _add_inspect(commands: _Commands) -> None:
    parser = commands.add_parser(
        "inspect",
        help="show what an engine is",
        description="Shows what an engine was built from and for, and its inputs and outputs. Needs no GPU.",
    )
    parser.add_argument("engine", metavar="ENGINE", help="its name or the beginning of its file's, as list shows them, or a path")
    parser.add_argument("--layers", action="store_true", help="also show its layers as TensorRT tells them (needs the GPU)")
    _add_folder(parser)
    parser.set_defaults(run=_inspect)


def _inspect(given: argparse.Namespace) -> int:
    path = _find(given.engine, given.engine_dir)
    try:
        header, plan = read_engine(path)
    except OSError as error:
        raise FlashsrError(f"can't read {str(path)!r} ({error.strerror}); give another engine") from error
    except CorruptEngineError as error:
        raise FlashsrError(f"the engine {str(path)!r} is damaged: {error}; it will be built anew when it is needed") from error
    key = header.key
    layers = _layers(key.module, plan) if given.layers else ""
    print(f"{printable(header.label)}\n  file      {printable(str(path))}")
    print(f"  size      {_bytes(header.plan_bytes)} (checksum right)")
    print(f"  for       {_purpose(header)}")
    print(f"  built     {_when(header.built)} in {header.build_seconds:g} s by builder {key.builder}")
    print(printable(f"  graph     sha256 {key.graph_sha256}, {key.precision}"))
    for title, records in (("inputs", header.inputs), ("outputs", header.outputs)):
        print(f"  {title}")
        for record in records:
            span = ""
            if record.opt is not None:
                span = f"  built for {_shape(record.opt)}"
                if record.min != record.max:
                    span += f", {_shape(record.min)} to {_shape(record.max)}"
            print(printable(f"    {record.name}  {record.dtype} {_shape(record.shape)}{span}"))
    if layers:
        print(layers)
    return 0


def _find(wanted: str, folder: Path | None) -> Path:
    if (path := Path(wanted)).is_file():
        return path
    store = _existing(folder)
    engines = store.engines() if store else []
    names: list[StoredEngine] = [e for e in engines if e.header is not None and e.header.label == wanted]
    found = names or [engine for engine in engines if engine.path.name.startswith(wanted)]
    if len(found) == 1:
        return found[0].path
    if found:
        files = ", ".join(engine.path.stem[:12] for engine in found)
        raise FlashsrError(f"{len(found)} engines are called {wanted!r}; name one by its file: {files}")
    raise FlashsrError(f"there is no engine {wanted!r} in {str(folder or default_folder())!r}; see trt_build list")


def _layers(name: str, plan: memoryview) -> str:
    from vsflashsr.gpu.probe import device_count

    if device_count() == 0:  # where there is no driver, Runtime() ends the process
        raise FlashsrError("the layers of an engine are shown on the GPU it is for, none found; leave --layers out")
    module = load_module(name)
    logger, complaints = module_log(module)
    engine = module.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise FlashsrError(f"the engine doesn't load here ({complaints.take()}); leave --layers out")
    return str(engine.create_engine_inspector().get_engine_information(module.LayerInformationFormat.ONELINE))


# prune


def _add_prune(commands: _Commands) -> None:
    parser = commands.add_parser(
        "prune",
        help="remove engines",
        description="Removes engines, those that were longest not used first. They are built again when they are needed. "
        "Without options, the folder is brought below its own bound and leftovers of broken builds are removed.",
    )
    parser.add_argument("--max-size", type=_size_bytes, metavar="SIZE", help="keep no more than this, such as 5G or 500M")
    parser.add_argument(
        "--older-than", type=_duration_s, metavar="AGE", help="remove what was not used for so long, such as 30d, 12h, 2w"
    )
    parser.add_argument("--all", action="store_true", help="remove all engines and caches")
    _add_folder(parser)
    parser.set_defaults(run=_prune)


def _prune(given: argparse.Namespace) -> int:
    store = _existing(given.engine_dir)
    if store is None:
        print(f"there are no engines in {str(default_folder())!r}")
        return 0
    asked = given.all or given.max_size is not None or given.older_than is not None
    pruned = store.prune(
        max_bytes=given.max_size if asked else LIMIT_BYTES, older_than_s=given.older_than, everything=given.all
    )
    for engine in pruned.engines:
        name = engine.header.label if engine.header else engine.path.name
        print(f"removed {printable(name)}, {_bytes(engine.size_bytes)}")
    left = store.engines()
    print(
        f"{_bytes(pruned.freed_bytes)} freed; {_count(len(left), 'engine')} left, "
        f"{_bytes(sum(engine.size_bytes for engine in left))}"
    )
    return 0


# What is typed and shown


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)[x×](\d+)", text)
    if match is None or "0" in match.groups():
        raise argparse.ArgumentTypeError(f"a size is WxH, such as 1280x720, got {text!r}")
    return int(match[1]), int(match[2])


def _capability(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)\.(\d)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"a compute capability is X.Y, such as 8.9, got {text!r}")
    return int(match[1]), int(match[2])


def _size_bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?", text.upper())
    if match is None or match[2] not in _UNITS:
        raise argparse.ArgumentTypeError(f"a size is a number with K, M, G or T, such as 5G, got {text!r}")
    return int(float(match[1]) * _UNITS[match[2]])


def _duration_s(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"an age is a number with m, h, d or w, such as 30d, got {text!r}")
    return float(match[1]) * _SECONDS[match[2]]


def _bytes(size: int) -> str:
    if size < 1000:
        return f"{size} B"
    for unit in ("kB", "MB", "GB"):
        size_in = size / _UNITS[unit[0].upper()]
        if size_in < 999.95 or unit == "GB":
            return f"{size_in:.1f} {unit}"
    raise AssertionError


def _ago(moment: float) -> str:
    seconds = max(0.0, time.time() - moment)
    for limit_s, unit_s, name in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit_s:
            return f"{seconds / unit_s:.0f} {name} ago"
    return f"{seconds / 86400:.0f} d ago"


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _shape(shape: Sequence[int | None] | None) -> str:
    return "?" if shape is None else f"({', '.join('free' if size is None else str(size) for size in shape)})"


def _log_to_stderr() -> None:
    """What the store has to say (it waits for another process, an engine is damaged), beside the bar."""
    for name in ("trt_build", "vsflashsr"):
        logger = logging.getLogger(name)
        if not logger.handlers:
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter("trt_build: %(message)s"))
            logger.addHandler(handler)
        logger.setLevel(logging.INFO)
