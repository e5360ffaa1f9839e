"""The modules that build and run engines, `tensorrt` and `tensorrt_rtx`: importing one, its log, and what it can build for."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
from functools import lru_cache
from typing import Any, Protocol

from ...errors import FlashsrError
from .key import MODULES, ModuleName, Target

OLDEST = {"tensorrt": (10, 12), "tensorrt_rtx": (1, 0)}
_EXTRAS = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}

log = logging.getLogger(__name__)


class Gpu(Protocol):
    """What is asked of a GPU; `vsflashsr.gpu.device.Device` is one."""

    @property
    def name(self) -> str: ...

    @property
    def capability(self) -> tuple[int, int]: ...


def installed(name: ModuleName) -> bool:
    """Is the module there? It is not imported."""
    return importlib.util.find_spec(name) is not None


def load_module(name: str) -> Any:
    """The module `tensorrt` or `tensorrt_rtx`. Importing it needs neither a GPU nor a driver.

    Raises:
        FlashsrError: there is none of that name, it isn't installed, doesn't load, or is too old.
    """
    if name not in MODULES:
        raise FlashsrError(f"engines are built by {' or '.join(MODULES)}, got {name!r}; choose one of them")
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: a library it needs is missing
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FlashsrError(f"{name} can't be loaded ({reason}); pip install vsflashsr[{_EXTRAS[name]}]") from error
    version, oldest = version_of(module), OLDEST[name]
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < oldest:
        raise FlashsrError(
            f"{name} {'.'.join(map(str, oldest))} or newer is needed, got {version}; pip install -U vsflashsr[{_EXTRAS[name]}]"
        )
    return module


def version_of(module: Any) -> str:
    """In full, build number included where the module tells it."""
    return str(module.__version__)


def target_of(name: ModuleName, gpu: Gpu) -> Target:
    """The target of engines for a GPU that is present.

    Raises:
        FlashsrError: the module can't be loaded, or makes no engines for this GPU.
    """
    module = load_module(name)
    target = Target(name, version_of(module), gpu.capability, gpu.name)
    check_target(module, target)
    return target


def target_without_gpu(name: ModuleName, capability: tuple[int, int]) -> Target:
    """The target of engines for any GPU of a compute capability, none of which need be present.

    Raises:
        FlashsrError: only `tensorrt_rtx` can do that, and not for every capability.
    """
    module = load_module(name)
    if name != "tensorrt_rtx":
        raise FlashsrError(
            f"{name} builds for the GPU it runs on only, got the compute capability {_dotted(capability)}; "
            "build on the machine with that GPU, or with tensorrt_rtx"
        )
    target = Target(name, version_of(module), capability)
    check_target(module, target)
    return target


def check_target(module: Any, target: Target) -> None:
    """Refuse what `tensorrt_rtx` lists no compute capability for (`tensorrt` has no such list: it asks the GPU).

    Raises:
        FlashsrError: with what it does list.
    """
    if target.module == "tensorrt_rtx" and not hasattr(module.ComputeCapability, compute_capability(target)):
        listed = sorted(
            (int(match[1]), int(match[2]))
            for name in dir(module.ComputeCapability)
            if (match := re.fullmatch(r"SM(\d+)(\d)", name))
        )
        raise FlashsrError(
            f"tensorrt_rtx {target.version} makes engines for the compute capabilities {', '.join(map(_dotted, listed))}, "
            f"got {_dotted(target.capability)}{f' of {target.gpu}' if target.gpu else ''}; "
            "use backend='tensorrt' on that GPU"
        )


def compute_capability(target: Target) -> str:
    """What `tensorrt_rtx.ComputeCapability` calls it."""
    return f"SM{target.capability[0]}{target.capability[1]}"


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


class Complaints:
    """The newest errors that a module reported, for the sentence that a failure is told in."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, line: str) -> None:
        self._lines = [*self._lines[-7:], line]

    def take(self) -> str:
        """The first since it was last taken (later ones are its consequences), in one line; empty if there was none."""
        first = self._lines[0] if self._lines else ""
        self._lines = []
        return " ".join(first.split())[:400]


@lru_cache(maxsize=4)
def module_log(module: Any) -> tuple[Any, Complaints]:
    """The module's logger, which writes to `logging` and never to stdout, and the errors it was told.

    One for the whole process: a logger must outlive all that was made with it, and TensorRT keeps the first it is given.
    """
    complaints = Complaints()
    severity = module.ILogger.Severity
    errors = (severity.INTERNAL_ERROR, severity.ERROR)

    class Logger(module.ILogger):  # type: ignore[misc]  # a base class that is only known at run time
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, level: Any, message: str) -> None:
            # An error is told in the sentence of the failure; all else is for TensorRT's own developers.
            if level in errors:
                complaints.add(message)
            log.debug("%s: %s", module.__name__, message)

    return Logger(), complaints
