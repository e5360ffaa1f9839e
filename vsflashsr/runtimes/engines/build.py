"""One graph into one engine: parse, set shapes, compile in a thread that the user can leave."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...errors import FlashsrError
from .key import EngineRequest, ShapeRange
from .modules import Complaints, check_target, compute_capability, load_module, module_log
from .progress import BuildStatus, Phases, Progress, monitor_class

PATIENCE_S = 0.5
"""How long an interrupted build may take to notice. TensorRT-RTX 1.7.1 makes no step for 1.6 s when it ends the build of the
built-in model (2 cores, 2026-11-22): such a build is left to end by itself, and what it makes is thrown away."""
_POLL_S = 0.1
_THREAD = "building engine "

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """An input or output of an engine, as its graph declares it."""

    name: str
    shape: tuple[int | None, ...] | None
    """None where a size is free; None for the whole where TensorRT can't tell."""
    dtype: str
    """TensorRT's name of it: FLOAT, HALF, BF16, INT64, …"""


@dataclass(frozen=True, slots=True)
class Plan:
    """A built engine, in memory."""

    data: memoryview
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    seconds: float
    timings: bytes | None
    """TensorRT's timing cache after the build; None for TensorRT-RTX, which has none."""


def build_plan(
    request: EngineRequest,
    *,
    progress: Progress | None = None,
    timings: bytes = b"",
    enter_thread: Callable[[], None] | None = None,
) -> Plan:
    """Builds the engine. TensorRT works in a thread of its own, so that Ctrl-C is taken at once.

    Args:
        request: graph, shapes and target.
        progress: told how far it is, in the calling thread.
        timings: an older timing cache of the same module and GPU.
        enter_thread: called first in the building thread; makes the right GPU current there.

    Raises:
        FlashsrError: the module, the graph, the shapes or the builder refuse.
        KeyboardInterrupt: within a second; what TensorRT can't be stopped in goes on in the background, to no effect.
    """
    module = load_module(request.target.module)
    check_target(module, request.target)
    job = _Job(module, request, timings, enter_thread)
    # A daemon: a build that was left must not keep the process from ending.
    thread = threading.Thread(target=job.run, name=f"{_THREAD}{request.label}", daemon=True)
    start = time.perf_counter()
    try:
        thread.start()
        # Short waits: on Windows a longer one would not be interrupted by Ctrl-C.
        while not job.done.wait(_POLL_S):
            if progress is not None:
                phase, fraction = job.phases.now()
                progress(BuildStatus(request.label, phase, fraction, time.perf_counter() - start))
    except BaseException:
        job.cancelled.set()
        job.done.wait(PATIENCE_S)
        raise
    if job.error is not None:
        raise job.error
    assert job.plan is not None
    if progress is not None:
        progress(BuildStatus(request.label, "", 1.0, job.plan.seconds, finished=True))
    return job.plan


def builds_left_behind() -> bool:
    """Is a build that was interrupted still on its way out? A process that ends now should end hard, by ``os._exit``."""
    return any(thread.name.startswith(_THREAD) for thread in threading.enumerate())


class _Job:
    """The thread's work, and what came of it."""

    def __init__(
        self, module: Any, request: EngineRequest, timings: bytes, enter_thread: Callable[[], None] | None
    ) -> None:
        self._module, self._request, self._timings, self._enter = module, request, timings, enter_thread
        self.phases = Phases()
        self.cancelled = threading.Event()
        self.done = threading.Event()
        self.plan: Plan | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            if self._enter is not None:
                self._enter()
            self.plan = self._build()
        except BaseException as error:  # noqa: BLE001  (raised again where the engine was asked for)
            self.error = error
        finally:
            self.done.set()

    def _build(self) -> Plan:
        start = time.perf_counter()
        module, request = self._module, self._request
        logger, complaints = module_log(module)
        complaints.take()
        builder = module.Builder(logger)
        if builder is None:
            raise self._refusal("can't be built here", complaints)
        # TensorRT 11 has strongly typed networks only, and may drop the flag.
        flag = getattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        network = builder.create_network(0 if flag is None else 1 << int(flag))
        self._parse(network, logger, complaints)
        config = builder.create_builder_config()
        monitor = monitor_class(module)(self.phases, self.cancelled)
        config.progress_monitor = monitor
        if request.target.module == "tensorrt_rtx":
            config.num_compute_capabilities = 1
            value = getattr(module.ComputeCapability, compute_capability(request.target))
            if not config.set_compute_capability(value, 0):
                raise self._refusal(f"can't be built for {value}", complaints)
        else:
            self._set_timings(config)
        self._set_shapes(builder, network, config, complaints)
        serialized = builder.build_serialized_network(network, config)
        if serialized is None:
            if self.cancelled.is_set():
                raise FlashsrError(f"the build of the engine {request.label!r} was interrupted; start it again")
            raise self._refusal("doesn't build", complaints)
        timings = None if request.target.module == "tensorrt_rtx" else bytes(config.get_timing_cache().serialize())
        return Plan(
            memoryview(serialized).cast("B"),
            tuple(_record(network.get_input(i)) for i in range(network.num_inputs)),
            tuple(_record(network.get_output(i)) for i in range(network.num_outputs)),
            time.perf_counter() - start,
            timings,
        )

    def _parse(self, network: Any, logger: Any, complaints: Complaints) -> None:
        """From the bytes and not by name, which on Windows must be in the system's code page; the name finds the weights."""
        parser = self._module.OnnxParser(network, logger)
        path = self._request.graph
        if parser.parse(path.read_bytes(), str(path)):
            return
        said = _parser_error(parser.get_error(0)) if parser.num_errors else complaints.take()
        hint = "export the model again, or use backend='onnxruntime'"
        if sys.platform == "win32" and not str(path).isascii():
            hint = f"{hint}; if it reads weights from another file, move both to a folder with a plain name"
        raise FlashsrError(
            f"{self._request.target.module} can't read the graph {str(path)!r} ({_line(said)}); {hint}"
        )

    def _set_timings(self, config: Any) -> None:
        """The older timing cache; an empty one if it is damaged, or of another GPU or version."""
        cache = config.create_timing_cache(self._timings)
        if cache is None or not config.set_timing_cache(cache, False):
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def _set_shapes(self, builder: Any, network: Any, config: Any, complaints: Complaints) -> None:
        request = self._request
        inputs = {(tensor := network.get_input(i)).name: tuple(tensor.shape) for i in range(network.num_inputs)}
        if unknown := sorted(set(request.shapes) - set(inputs)):
            raise FlashsrError(
                f"the graph {request.graph.name!r} has the inputs {', '.join(inputs)}, "
                f"got a shape for {unknown[0]!r}; leave it out"
            )
        profile = builder.create_optimization_profile()
        for name, declared in inputs.items():
            wanted = request.shapes.get(name)
            if wanted is None and -1 not in declared:
                continue
            if wanted is None or not _fits(declared, wanted):
                raise FlashsrError(
                    f"the input {name!r} of the graph {request.graph.name!r} is {_shown(declared)}, "
                    f"got {'no shape' if wanted is None else f'{wanted.min} to {wanted.max}'}; give one that fits"
                )
            if -1 in declared:
                profile.set_shape(name, wanted.min, wanted.opt, wanted.max)
        if any(-1 in declared for declared in inputs.values()) and config.add_optimization_profile(profile) < 0:
            raise self._refusal("can't have these shapes", complaints)

    def _refusal(self, what: str, complaints: Complaints) -> FlashsrError:
        said = _line(complaints.take())
        return FlashsrError(
            f"the engine {self._request.label!r} {what} with {self._request.target.module} {self._request.target.version}"
            f"{f' ({said})' if said else ''}; use backend='onnxruntime', or another size or precision"
        )


def _parser_error(error: Any) -> str:
    """What is wrong, and with which node if it is one."""
    operator = error.node_operator()
    return f"{operator} {error.node_name()!r}: {error.desc()}" if operator else str(error.desc())


def _fits(declared: tuple[int, ...], wanted: ShapeRange) -> bool:
    shapes = (wanted.min, wanted.opt, wanted.max)
    return all(len(shape) == len(declared) for shape in shapes) and all(
        0 < low <= usual <= high and (size == -1 or low == high == size)
        for size, low, usual, high in zip(declared, *shapes, strict=True)
    )


def _record(tensor: Any) -> TensorRecord:
    try:
        shape = tuple(None if size < 0 else int(size) for size in tensor.shape)
    except ValueError:  # an output whose rank depends on data
        shape = None
    return TensorRecord(tensor.name, shape, tensor.dtype.name)


def _shown(declared: tuple[int, ...]) -> str:
    return f"({', '.join('free' if size == -1 else str(size) for size in declared)})"


def _line(text: str) -> str:
    """In one line, without what follows it."""
    return " ".join(text.split())[:400]
