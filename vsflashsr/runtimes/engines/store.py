"""The folder of engines: load what is there, build what isn't, let no two processes build the same, keep it bounded.

An engine is one file, named after its key, that appears complete or not at all (`container`). Whoever builds holds a file
lock of the same name. The folder is a cache: where it can't be written the engine is used from memory, and whatever is
broken in it is built anew.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import FlashsrError
from .build import Plan, TensorRecord, build_plan
from .container import (
    LARGEST_ENGINE_BYTES,
    SUFFIX,
    CorruptEngineError,
    Header,
    StoredTensor,
    read_engine,
    read_header,
    seal,
    unseal,
    write_engine,
)
from .key import EngineKey, EngineRequest, Target, key_of
from .progress import LogProgress, Progress
from .trust import distrust, is_regular, open_trusted

if TYPE_CHECKING:
    from filelock import BaseFileLock

LIMIT_BYTES = 20 << 30
"""What the engines may take on disk: several sizes of FlashVSR's largest form (2.6 GB of engines a size)."""
PARTIAL = ".partial"
_LOCKS = "locks"
_CACHE = ".cache"
_WAIT_S = 0.2

log = logging.getLogger(__name__)


class EngineRejectedError(Exception):
    """Raised by an opener: the runtime doesn't take this engine. The message is the reason."""


@dataclass(frozen=True, slots=True)
class StoredEngine:
    """A file of the store."""

    path: Path
    header: Header | None
    """None where it can't be read."""
    size_bytes: int
    last_use: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed."""

    engines: tuple[StoredEngine, ...]
    freed_bytes: int
    """With caches and leftovers."""


def default_folder() -> Path:
    """Where engines lie if the user doesn't say: the user's folder for caches."""
    try:
        import platformdirs
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    return platformdirs.user_cache_path("vsflashsr", appauthor=False) / "engines"


def _not_installed(reason: object) -> FlashsrError:
    return FlashsrError(f"engines can't be kept ({reason}); pip install vsflashsr[rtx] or vsflashsr[tensorrt]")


class EngineStore:
    """The engines of one folder.

    Args:
        folder: where they lie; None: `default_folder`.
        limit_bytes: what they may take; beyond it, those that were longest not used make room.
        enter_thread: called first in the thread that builds; makes the right GPU current there.

    Raises:
        FlashsrError: the folder was named by the user and can't be made.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        limit_bytes: int = LIMIT_BYTES,
        enter_thread: Callable[[], None] | None = None,
    ) -> None:
        self.folder = default_folder() if folder is None else folder
        self._limit_bytes, self._enter_thread = limit_bytes, enter_thread
        self._used: set[Path] = set()
        self._warned = False
        self._passed_over: set[str] = set()
        if importlib.util.find_spec("filelock") is None:
            raise _not_installed("No module named 'filelock'")
        self.distrust = ""
        """Why nothing in the folder is loaded and nothing kept there; empty where all is well."""
        try:
            self._make_folder()
        except OSError as error:
            if folder is not None:
                raise FlashsrError(
                    f"the engine folder {str(folder)!r} can't be made ({error.strerror}); give another engine_dir"
                ) from error
            self._warn(f"the engine folder {str(self.folder)!r} can't be made ({error.strerror})")

    def _make_folder(self) -> None:
        """Makes it for this user alone. The usual one of a version that let a group write is taken back."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if distrust(self.folder) and self.folder == default_folder():
            with suppress(OSError):  # it is another's
                self.folder.chmod(0o700)
        self.distrust = distrust(self.folder)

    def path_of(self, key: EngineKey) -> Path:
        """Where the engine of a key lies."""
        return self.folder / f"{key.digest}{SUFFIX}"

    def has(self, request: EngineRequest) -> bool:
        """Is it there, by its header? The plan is checked when it is loaded."""
        key = key_of(request)
        try:
            return not self.distrust and read_header(self.path_of(key)).key == key
        except (OSError, CorruptEngineError):
            return False

    def get(self, request: EngineRequest, progress: Progress | None = None) -> memoryview:
        """The plan, from the folder or built; see `load`."""
        return self.load(request, lambda plan: plan, progress)

    def load[T](
        self, request: EngineRequest, opener: Callable[[memoryview], T], progress: Progress | None = None
    ) -> T:
        """What `opener` makes of the plan, which comes from the folder or is built.

        A stored plan that is damaged, or that `opener` rejects with `EngineRejectedError`, is built anew, once.

        Args:
            progress: told how far a build is; None: lines in the log.

        Raises:
            FlashsrError: the engine can't be built, or is rejected fresh from the builder.
            KeyboardInterrupt: within a second, while building and while waiting for another process that builds it.
        """
        key = key_of(request)
        path = self.path_of(key)
        bad: set[_Identity] = set()
        if (found := self._open_stored(path, key, request.label, opener, bad)) is not None:
            return found[0]
        with self._locked(key.digest, request.label):
            # Another process may have built it while this one waited.
            if (found := self._open_stored(path, key, request.label, opener, bad)) is not None:
                return found[0]
            self._sweep(held=key.digest)
            plan = build_plan(
                request,
                progress=progress or LogProgress(),
                timings=self._timings(request.target),
                enter_thread=self._enter_thread,
            )
            self._keep(path, key, request, plan)
        try:
            return opener(plan.data)
        except EngineRejectedError as error:
            with suppress(OSError):  # the next start would only build it anew
                path.unlink(missing_ok=True)
            raise FlashsrError(
                f"the engine {request.label!r} was built but doesn't load ({error}); update the driver and "
                f"{request.target.module}, or use backend='onnxruntime'"
            ) from error

    def _open_stored[T](
        self, path: Path, key: EngineKey, label: str, opener: Callable[[memoryview], T], bad: set[_Identity]
    ) -> tuple[T] | None:
        """The opened engine, or None where there is none that is any good; `bad` are files that were no good before."""
        if self.distrust:
            return None
        try:
            if (identity := _identity(path)) in bad:
                return None
            bad.add(identity)
            header, plan = read_engine(path)
            if header.key != key:
                raise CorruptEngineError("it is of another key")
            opened = opener(plan)
        except FileNotFoundError:
            return None
        except (CorruptEngineError, OSError, EngineRejectedError) as error:
            reason = error.strerror or error if isinstance(error, OSError) else error
            log.info("the stored engine %r can't be used (%s): it is built anew", label, reason)
            return None
        self._used.add(path)
        with suppress(OSError):  # a folder that may not be written keeps no times of use
            os.utime(path)
        return (opened,)

    def _keep(self, path: Path, key: EngineKey, request: EngineRequest, plan: Plan) -> None:
        """Puts a built engine into the folder. Where that fails it says so, once, and leaves nothing."""
        if self.distrust:
            self._warn(f"the engine folder {str(self.folder)!r} {self.distrust}; chmod or chown it, or give another engine_dir")
            return
        header = Header(
            label=request.label,
            key=key,
            inputs=tuple(_described(record, request) for record in plan.inputs),
            outputs=tuple(_described(record, request) for record in plan.outputs),
            plan_bytes=len(plan.data),
            built=round(time.time()),
            build_seconds=round(plan.seconds, 2),
            id=uuid.uuid4().hex,
        )
        partial = path.with_name(f".{key.digest}-{header.id}{PARTIAL}")
        try:
            self._make_room(len(plan.data), path)
            write_engine(partial, header, plan.data)
            self._clear(path)
            partial.replace(path)
            self._used.add(path)
        except OSError as error:
            reason = error.strerror or str(error)
            self._warn(f"the engine folder {str(self.folder)!r} can't be written ({reason})")
            return
        finally:
            with suppress(OSError):  # the folder is read-only or gone, and then so is the file
                partial.unlink(missing_ok=True)
        if plan.timings is not None:
            self.write_cache("timings", request.target, plan.timings)

    def _clear(self, path: Path) -> None:
        """What has an engine's name and is no file is moved aside, or each start would build the engine anew."""
        if not path.is_symlink() and path.is_dir():
            aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.aside")
            path.rename(aside)
            log.warning("%r in the engine folder is no file: it is now %r", path.name, aside.name)

    def _warn(self, message: str) -> None:
        """Once: what one engine meets, the next ones meet too."""
        if not self._warned:
            self._warned = True
            log.warning("%s: engines are used from memory and built again next time", message)

    # What else lies there

    def read_cache(self, kind: str, target: Target) -> bytes:
        """What `write_cache` kept for this GPU and version of the module; empty where there is nothing."""
        path = self._cache_path(kind, target)
        try:
            with open_trusted(path, limit_bytes=LARGEST_ENGINE_BYTES) as file:
                data = b"" if self.distrust else unseal(file.readall())
        except OSError:
            return b""
        with suppress(OSError):  # a folder that may not be written keeps no times of use
            os.utime(path)
        return data

    def write_cache(self, kind: str, target: Target, data: bytes | memoryview) -> None:
        """Keeps what makes the next start faster: TensorRT's `timings`, TensorRT-RTX's compiled `kernels`.

        Of two processes that write, the later is kept. Never fails: without it things are only slower.
        """
        if self.distrust:
            return
        path = self._cache_path(kind, target)
        partial = path.with_name(f".{path.stem}-{uuid.uuid4().hex}{PARTIAL}")
        try:
            partial.touch(mode=0o600, exist_ok=False)
            partial.write_bytes(seal(data))
            partial.replace(path)
        except OSError as error:
            log.debug("%s can't be written (%s)", path, error)
        finally:
            with suppress(OSError):  # the folder is read-only or gone, and then so is the file
                partial.unlink(missing_ok=True)

    def _cache_path(self, kind: str, target: Target) -> Path:
        gpu = target.gpu or "any GPU of {}.{}".format(*target.capability)
        return self.folder / f"{kind}-{target.module}-{_plain(target.version)}-{_plain(gpu)}{_CACHE}"

    def _timings(self, target: Target) -> bytes:
        return b"" if target.module == "tensorrt_rtx" else self.read_cache("timings", target)

    def engines(self) -> list[StoredEngine]:
        """All engines in the folder, the longest unused first."""
        found: list[StoredEngine] = []
        for path in self._files(SUFFIX):
            with suppress(FileNotFoundError):  # another process removed it
                stat = path.stat()
                header: Header | None = None
                with suppress(CorruptEngineError, OSError):
                    header = read_header(path)
                found.append(StoredEngine(path, header, stat.st_size, stat.st_mtime))
        return sorted(found, key=lambda engine: engine.last_use)

    def prune(
        self, *, max_bytes: int | None = None, older_than_s: float | None = None, everything: bool = False
    ) -> Pruned:
        """Removes engines: all, those not used for `older_than_s`, and the longest unused until `max_bytes` are left.

        Caches go with all, and where they are as old.

        Leftovers of builds that were killed always go. An engine that is being built, or that this process uses, stays.

        Raises:
            FlashsrError: a file can't be removed.
        """
        freed = self._sweep()
        now = time.time()
        engines = self.engines()
        total = sum(engine.size_bytes for engine in engines)
        removed: list[StoredEngine] = []
        for engine in engines:
            old = older_than_s is not None and now - engine.last_use > older_than_s
            too_much = max_bytes is not None and total > max_bytes
            if (everything or old or too_much) and self._remove(engine.path):
                removed.append(engine)
                total -= engine.size_bytes
        for path in self._files(_CACHE):
            with suppress(FileNotFoundError):  # another process removed it
                if everything or (older_than_s is not None and now - path.stat().st_mtime > older_than_s):
                    freed += self._removed_bytes(path)
        if everything:
            self._remove_locks()
        return Pruned(tuple(removed), freed + sum(engine.size_bytes for engine in removed))

    def _make_room(self, size_bytes: int, path: Path) -> None:
        """Removes what was longest not used, so that a file of this size stays within the bound."""
        others = [engine for engine in self.engines() if engine.path != path]
        total = size_bytes + sum(engine.size_bytes for engine in others)
        for engine in others:
            if total <= self._limit_bytes:
                return
            try:
                if self._remove(engine.path):
                    log.info("the engine %r made room for another", engine.header.label if engine.header else engine.path.name)
                    total -= engine.size_bytes
            except FlashsrError as error:
                log.debug("%s", error)
        if total > self._limit_bytes:
            log.info("the engines in use take %.1f GB, more than the %.1f GB they should", total / 1e9, self._limit_bytes / 1e9)

    def _remove(self, path: Path) -> bool:
        """Removes an engine unless it is in use; says whether."""
        if path in self._used:
            return False
        with self._unused(path.stem) as unused:
            if unused:
                self._removed_bytes(path)
            return unused

    def _removed_bytes(self, path: Path) -> int:
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise FlashsrError(
                f"{str(path)!r} can't be removed ({error.strerror}); end the programs that use it, or mind its permissions"
            ) from error
        return size

    def _sweep(self, held: str | None = None) -> int:
        """Removes what killed builds left: partial files whose lock nobody holds. `held` is the lock this thread holds."""
        freed = 0
        for path in self._files(PARTIAL):
            digest = path.name.removeprefix(".").partition("-")[0]
            with self._unused(digest) if digest != held else nullcontext(True) as unused:
                if unused:
                    try:
                        freed += self._removed_bytes(path)
                    except FlashsrError as error:
                        log.debug("%s", error)
        return freed

    def _files(self, suffix: str) -> list[Path]:
        """Files of ours. Whatever else has such a name is passed over, with one line."""
        try:
            named = sorted(path for path in self.folder.iterdir() if path.name.endswith(suffix))
        except OSError:
            return []
        for path in named:
            if not is_regular(path) and path.name not in self._passed_over:
                self._passed_over.add(path.name)
                log.warning("%s in the engine folder is no file of ours: it is passed over", ascii(path.name))
        return [path for path in named if is_regular(path)]

    # Locks

    @contextmanager
    def _locked(self, digest: str, label: str) -> Iterator[None]:
        """Holds the key's lock; waits, interruptibly, while another process has it. Without one where none can be had."""
        lock = self._lock(digest)
        waited = False
        try:
            while not _acquired(lock):
                if not waited:
                    log.info("another process is building the engine %r: waiting for it", label)
                waited = True
                time.sleep(_WAIT_S)
        except (OSError, NotImplementedError) as error:
            # Two processes may then build the same; neither gets a broken one.
            log.debug("no lock in %s (%s)", self.folder, error)
        try:
            yield
        finally:
            lock.release()

    def _remove_locks(self) -> None:
        """Lock files nobody holds: empty, but one for each engine there ever was."""
        with suppress(OSError):  # there are none, or the system keeps them while they are open
            for path in (self.folder / _LOCKS).iterdir():
                with self._unused(path.stem) as unused, suppress(OSError):
                    if unused and not (self.folder / f"{path.stem}{SUFFIX}").exists():
                        path.unlink()

    @contextmanager
    def _unused(self, digest: str) -> Iterator[bool]:
        """Does nobody hold the key's lock? If so, it is held meanwhile."""
        lock = self._lock(digest)
        try:
            unused = _acquired(lock)
        except (OSError, NotImplementedError):
            unused = True  # where there are no locks, nobody can hold one
        try:
            yield unused
        finally:
            lock.release()

    def _lock(self, digest: str) -> BaseFileLock:
        from filelock import FileLock

        return FileLock(self.folder / _LOCKS / f"{digest}.lock")


def _acquired(lock: BaseFileLock) -> bool:
    from filelock import Timeout

    Path(lock.lock_file).parent.mkdir(exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


type _Identity = tuple[int, int, int]


def _identity(path: Path) -> _Identity:
    """What tells a file from one that took its place."""
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _plain(text: str) -> str:
    """For file names on every system; two texts may give the same."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("._")[:60] or "model"


def _described(record: TensorRecord, request: EngineRequest) -> StoredTensor:
    given = request.shapes.get(record.name)
    ranges = {} if given is None else {"min": given.min, "opt": given.opt, "max": given.max}
    return StoredTensor(record.name, record.shape, record.dtype, **ranges)
