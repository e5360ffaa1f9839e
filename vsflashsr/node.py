"""The model's output as a node: what the native plugin asks of Python, and what it is told.

``core.vsflashsr.Stream`` (``native/vsflashsr.c``) requests frames and hands them over; here is decided which, and here the
model works. Nothing here waits for a frame, and no lock is held while the model works or a device is waited for.
"""

from __future__ import annotations

import threading
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import vapoursynth as vs

from .errors import FlashsrError, printable
from .frames import ClipSource, Sight, is_finite, require_finite, to_array, to_frame
from .geometry import Array
from .model import Frame, Given, Model, fetched
from .stream import CausalStream, Done, Missing

if TYPE_CHECKING:
    from .staying import Stay

type Fix = Callable[[Array, Array], Array]
"""Brings a finished frame's colours back to those of its input frame: (finished, input) → finished."""
type Answer = dict[str, Any]
"""``need``: numbers of frames; ``frame``: the frame; ``error``: one sentence; or nothing."""

_INSTALL = "install vsflashsr with pip into the environment that VapourSynth runs in"
_FUNCTIONS = ("plan", "take", "step", "deliver", "drop")


def stream_node(
    clip: vs.VideoNode,
    model: Model[Any],
    *,
    find_cuts: bool,
    preroll: int,
    max_segment: int,
    fix: Fix | None = None,
    check_finite: bool = False,
) -> vs.VideoNode:
    """What ``model`` makes of ``clip`` (GRAYS or RGBS, as the model reads it): same length, ``scale`` times the size.

    Its format is that of ``clip``, or GRAYH or RGBH where the model makes halves.

    Where the clip is resident on the GPU, so is the result. Frames don't leave the GPU where the model works on that same one and
    takes them there; else what the model reads and makes crosses the bus, and one line in the log says why.

    Args:
        clip: the model's input.
        model: what makes it.
        find_cuts: begin afresh at scene cuts.
        preroll: frames run and thrown away before a segment that begins on the grid.
        max_segment: frames from one grid line to the next.
        fix: see ``Fix``.
        check_finite: see ``ClipSource``.

    Raises:
        FlashsrError: the native plugin isn't installed.
    """
    plugin = native_plugin()
    scale = model.spec.scale
    core = vs.core
    resident = bool(clip.gpu_resident)
    stays = _stay(model, plugin, fixed=fix is not None) if resident else None
    work = None if stays is None else stays.work
    source = ClipSource(clip.num_frames, find_cuts=find_cuts, check_finite=check_finite, work=work)
    requests = Requests(clip, source, model, preroll=preroll, max_segment=max_segment, fix=fix, stays=stays)
    size = clip.width * scale, clip.height * scale
    arguments = {"half": requests.half, **{name: _answered(getattr(requests, name)) for name in _FUNCTIONS}}
    if stays is not None:
        return plugin.GPUStream(clip, *size, wait=stays.waits, reserve=stays.reserved_bytes, **arguments)
    if not resident:
        return plugin.Stream(clip, *size, **arguments)
    return core.std.GPUUpload(plugin.Stream(core.std.GPUDownload(clip), *size, **arguments))


def _stay(model: Model[Any], plugin: vs.Plugin, *, fixed: bool) -> Stay | None:
    # Here, because a script whose clip isn't resident would begin 15 ms later (2026-11-25).
    from .staying import stay

    return stay(model, plugin, fixed=fixed)


def native_plugin() -> vs.Plugin:
    """``core.vsflashsr``.

    Raises:
        FlashsrError: it isn't installed, or doesn't fit this version of the package.
    """
    try:
        plugin = vs.core.vsflashsr
        signature = str(plugin.Stream.signature)
    except AttributeError as error:
        raise FlashsrError(
            f"the package's native part isn't there, got no core.vsflashsr.Stream; {_INSTALL} "
            "(there are binaries for Linux x86-64 and ARM64, Windows x86-64 and macOS ARM64)"
        ) from error
    wanted = {"half:int:opt", *(f"{name}:func" for name in _FUNCTIONS)}
    fits = wanted <= set(signature.split(";")) and hasattr(plugin, "GPUStream")
    if not fits:
        raise FlashsrError(
            f"the package's native part is of another version, got Stream({signature}); {_INSTALL} again"
        )
    return plugin


@dataclass(slots=True)
class _Request:
    """An output frame that somebody has asked for."""

    n: int
    coming: frozenset[int]
    """The input frames that were requested for it, until they are there."""
    low: Array | None = field(default=None)
    """Its input frame, where that is needed again."""


class Requests:
    """Answers the plugin. See the func arguments in ``native/vsflashsr.c``.

    ``step`` is called for one frame at a time, until that one is finished or has failed; the others at any time, from any
    thread. The model belongs to ``step``; what the lock guards is short bookkeeping.
    """

    def __init__(
        self,
        clip: vs.VideoNode,
        source: ClipSource,
        model: Model[Any],
        *,
        preroll: int,
        max_segment: int,
        fix: Fix | None,
        stays: Stay | None,
    ) -> None:
        assert clip.format is not None
        self._core = vs.core.core
        self.half = model.spec.half and fix is None
        """Are the frames that are delivered in half float? Else in single."""
        self._format = clip.format.replace(bits_per_sample=16) if self.half else clip.format
        self._model = model
        # Frames on a device come only where the model takes them (``staying.stay``).
        self._step = cast("Callable[[Sequence[Given], Sequence[int], Any], tuple[Sequence[Frame], Any]]", model.step)
        self._fix = fix
        self._stays = stays
        self._source = source
        self._stream: CausalStream[Any] = CausalStream(
            model.spec, self._source, preroll=preroll, max_segment=max_segment
        )
        self._lock = threading.Lock()
        self._open: dict[int, _Request] = {}
        self._waited: Counter[int] = Counter()
        """How many requests wait for each output frame."""
        self._keep: frozenset[int] = frozenset()
        """Of the frames that ``step`` has been given, those it has yet to read."""

    def plan(self, n: int, ticket: int) -> Answer:
        """A request for output frame ``n`` begins: which input frames are worth fetching while others are made?"""
        with self._lock:
            wanted = self._stream.ahead(n)
            coming = {k for request in self._open.values() for k in request.coming}
            asked = [k for k in wanted if k not in coming]
            if wanted and not asked:
                # Others have asked for them all, for the same step. The last of them comes when theirs do.
                asked = wanted[-1:]
            if self._fix is not None and n not in asked:
                asked.append(n)
            self._open[ticket] = _Request(n, frozenset(asked))
            self._waited[n] += 1
        return {"need": asked}

    def take(self, n: int, ticket: int, numbers: int | Sequence[int], frames: Any, **planes: Any) -> Answer:
        """The frames that ``plan`` asked for are there."""
        given, sights = self._seen(numbers, frames, planes)
        with self._lock:
            request = self._open[ticket]
            request.coming = frozenset()
            if self._fix is not None:
                low = given[n]
                assert isinstance(low, np.ndarray)
                request.low = low
            self._note(sights)
            # Only what is still wanted: frames that were fetched to be looked at, or have been read since, go.
            wanted = set(self._stream.ahead(n))
            self._source.lend({k: frame for k, frame in given.items() if k in wanted}, ticket)
        return {}

    def step(self, n: int, numbers: int | Sequence[int], frames: Any, **planes: Any) -> Answer:
        """Finish output frame ``n``, or say which input frames that takes; they come with the next call for the same n."""
        keep, self._keep = self._keep, frozenset()
        given, sights = self._seen(numbers, frames, planes)
        with self._lock:
            self._note(sights)
            self._source.hold(given, keep if given else ())
        return self._advance(n)

    def _advance(self, n: int) -> Answer:
        while True:
            with self._lock:
                todo = self._stream.next(n)
                if isinstance(todo, Done):
                    self._source.hold({}, ())
                    return {}
                if isinstance(todo, Missing):
                    assert todo.frames, "nothing is missing, and yet it can't go on"
                    self._keep = todo.keep
                    return {"need": list(todo.frames)}
                self._source.read(todo.numbers)
            try:
                emitted, state = self._step(todo.frames, todo.numbers, todo.cursor.state)
                state_bytes = self._model.state_bytes(state)
            except BaseException:
                with self._lock:
                    self._stream.fail(todo)
                raise
            with self._lock:
                self._stream.put(todo, emitted, state, state_bytes, self._waited)

    def deliver(self, n: int, ticket: int, timeline: int = 0, **planes: Any) -> Answer:
        """Output frame ``n``, which is finished, as VapourSynth's, or into the planes of a new one. The request ends."""
        if self._stays is not None:
            return self._stays.deliver(n, lambda: self._finished(n, ticket)[0], planes, timeline)
        finished, request = self._finished(n, ticket)
        array = fetched(finished)
        require_finite(is_finite(array), n)
        if self._fix is not None:
            assert request.low is not None
            array = self._fix(array.astype(np.float32, copy=False), request.low)
        return {"frame": to_frame(self._core, array, self._format)}

    def _finished(self, n: int, ticket: int) -> tuple[Frame, _Request]:
        """Output frame ``n``; the request ends."""
        with self._lock:
            finished = self._stream.result(n)
            request = self._close(ticket)
        assert finished is not None and request is not None, "a frame that is waited for is kept"
        return finished, request

    def drop(self, n: int, ticket: int) -> Answer:
        """The request for output frame ``n`` has failed."""
        with self._lock:
            self._close(ticket)
        return {}

    def _close(self, ticket: int) -> _Request | None:
        request = self._open.pop(ticket, None)
        if request is not None:
            self._waited[request.n] -= 1
            self._waited += Counter()  # only what is above zero stays
            self._source.end(ticket)
        return request

    def _seen(
        self, numbers: int | Sequence[int], frames: Any, planes: dict[str, Any]
    ) -> tuple[dict[int, Given], dict[int, Sight | None]]:
        """Frames as the model reads them, and what there is to see of them."""
        # A single value comes without its list.
        pairs = [(numbers, frames)] if isinstance(numbers, int) else list(zip(numbers, frames, strict=True))
        if self._stays is None:
            given: dict[int, Given] = {k: to_array(f) for k, f in pairs}
        else:
            given = self._stays.take(pairs, planes)
        return given, {k: self._source.look(k, f, given[k]) for k, f in pairs}

    def _note(self, sights: dict[int, Sight | None]) -> None:
        for k, sight in sights.items():
            self._source.note(k, sight)


def _answered(call: Callable[..., Answer]) -> Callable[..., Answer]:
    """``call``, whose failure is an answer, too: one line, with a traceback below it where the user can do nothing about it."""

    def answered(n: int, *rest: Any, **named: Any) -> Answer:
        try:
            return call(n, *rest, **named)
        except FlashsrError as error:
            said = str(error)
        except MemoryError:
            said = "there is too little memory, got an allocation refused; use tile=, or a smaller core.max_cache_size"
        except Exception as error:  # noqa: BLE001  # the core would print the traceback alone
            what = f"{type(error).__name__}: {printable(str(error))}"
            said = f"this is a fault of vsflashsr, got {what}; report it with the lines below (while making frame {n})"
            return {"error": f"flashsr: {said}\n{traceback.format_exc()}"}
        return {"error": f"flashsr: {said} (while making frame {n})"}

    return answered
