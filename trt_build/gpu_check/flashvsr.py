"""FlashVSR at the published size with random weights: frames per second, milliseconds by stage, memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from vsflashsr.geometry import Array
from vsflashsr.gpu.device import Device
from vsflashsr.gpu.pipeline import RunState
from vsflashsr.gpu.results import StepResult
from vsflashsr.models.flashvsr.calls import StepOf
from vsflashsr.models.flashvsr.device.model import step_shape
from vsflashsr.models.flashvsr.device.step import DeviceStep, StepInputs, norms_left
from vsflashsr.models.flashvsr.kernels import launches
from vsflashsr.models.flashvsr.network.config import FlashVSRConfig
from vsflashsr.models.flashvsr.noise import noise_frames
from vsflashsr.models.flashvsr.options import Options
from vsflashsr.runtimes.graph import DeviceGraph, weights_bytes

from .random_flashvsr import section_of
from .timing import median_ms
from .work import step_flop

SCALE = 4


@dataclass(frozen=True)
class Given:
    """What the measurement stands on; a test puts a mock in its place."""

    device: Device
    library: Any
    graphs: StepOf[DeviceGraph]
    config: FlashVSRConfig
    dtype: str


class Running:
    """A step at full size on the way through random frames.

    Args:
        size: (height, width) of the output.
        captured: replay phases as CUDA graphs.
    """

    def __init__(self, given: Given, size: tuple[int, int], *, captured: bool) -> None:
        low = (size[0] // SCALE, size[1] // SCALE)
        section = section_of(given.config)
        self.shape = step_shape(section, Options(), dtype=given.dtype, low=low, scale=SCALE)
        self.step = DeviceStep(given.device, given.library, given.graphs, section, self.shape, captured=captured)
        self.state: RunState | None = None
        random = np.random.default_rng(0)
        self._clip = [random.random((3, *low), dtype=np.float32) for _ in range(25)]

    def submit(self) -> StepResult:
        """The next step."""
        count = 25 if self.state is None else 8
        inputs = StepInputs(self._clip[:count], 0, noise_frames(range(count)))
        result, self.state = self.step.submit(inputs, self.state)
        return result

    def warm(self) -> Array:
        """The first step, whose frames are returned, and four more: every phase has run, and is captured if that is asked."""
        first = np.stack(list(self.submit().fetch()))
        for _ in range(4):
            self.submit().fetch()
        return first


def measured(given: Given, size: tuple[int, int], *, captured: bool, steps: int, repeats: int) -> dict[str, Any]:
    """One size, (height, width) of the output: a first step, four to warm up, then `steps` that are timed three ways."""
    device = given.device
    free_before = device.free_bytes()
    running = Running(given, size, captured=captured)
    step, shape, submit = running.step, running.shape, running.submit
    first = running.warm()

    def fetched() -> None:
        """As the filter does it: the next step is submitted, then this one's frames are fetched."""
        waiting = None
        for _ in range(steps):
            newest = submit()
            if waiting is not None:
                waiting.fetch()
            waiting = newest
        assert waiting is not None
        waiting.fetch()

    def unfetched() -> None:
        """Nothing is copied on the host: what the device alone can do."""
        newest = None
        for _ in range(steps):
            newest = submit()
        assert newest is not None
        newest.fetch()

    def one_by_one() -> None:
        """Every step is waited for before the next is submitted: no overlap."""
        for _ in range(steps):
            submit().fetch()

    ways = {"fetched": fetched, "device": unfetched, "serial": one_by_one}
    rates = {name: 8 * steps / _seconds(way) for name, way in ways.items()}
    last = np.stack(list(submit().fetch()))
    assert running.state is not None
    finite = bool(np.isfinite(last).all() and np.isfinite(first).all())
    flop = step_flop(given.config, shape.grid)
    report = {
        "size": list(size),
        "captured": captured,
        "frames_per_s": rates,
        "overlap": rates["fetched"] / rates["serial"],
        "tflop_per_step": {name: value / 1e12 for name, value in flop.items()},
        "tflop_per_s": sum(flop.values()) / 1e12 * rates["device"] / 8,
        "stages_ms": _stages(step, running.state, repeats),
        "memory": {
            "stated_bytes": step.memory.total_bytes,
            "items": dict(step.memory.items),
            "taken_bytes": free_before - device.free_bytes() + weights_bytes(given.graphs),
        },
        "finite": finite,
    }
    return report


def _stages(step: DeviceStep, state: RunState, repeats: int) -> dict[str, float]:
    """Milliseconds of each stage of a steady step, alone on the device."""
    shape, run, work, device = step.shape, state.memory, step._work, step.device
    stream, decode = device.stream(), device.stream()
    device.make_current()
    phase = step._phases[1]
    values = {"v": run.buffers["values.0"].address}
    made = {"q": work["q"].address, "k": work["k"].address, **values}
    scratch = step._dit_scratch.address
    attention = shape.attention(1, shape.slots)
    at = launches.AttentionAddresses(
        q=work["q"].address,
        k=work["k"].address,
        keys=run.buffers["keys.0"].address,
        values=run.buffers["values.0"].address,
        key_means=run.buffers["pooled.0"].address,
        cosine=step._given(0, "cosine"),
        sine=step._given(0, "sine"),
        out=work["attended"].address,
        scratch=work["attention"].address,
        norms=norms_left(phase.middle.graph(0)),
    )
    middle = {"x": work["x.0"].address, "attended": work["attended"].address, "x_out": work["x.1"].address, **made}

    def timed(work_: Callable[[], object], on: Any = stream) -> float:
        return median_ms(device, on, work_, repeats)

    parts = launches.attention(attention, at, 0)
    each = {launch.kernel: timed(partial(step._run, stream, [launch])) for launch in parts}
    layers = shape.layers
    return {
        "projector": timed(lambda: step._queue_projector(stream, run, step.plan(state), 0)),
        "one piece": timed(lambda: phase.middle.enqueue(0, stream, middle, scratch)),
        "pieces": layers * timed(lambda: phase.middle.enqueue(0, stream, middle, scratch)),
        "attention": layers * timed(lambda: step._run(stream, parts)),
        **{f"attention: {name}": layers * value for name, value in each.items()},
        "decoder and colours": timed(lambda: step._queue_decode(decode, run, step.plan(state), 0), decode),
    }


def _seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
