"""Whether frames of a resident clip stay on the GPU through a model, and how they do. Only imported where a clip is resident."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import vapoursynth as vs

from .errors import FlashsrError
from .frames import require_finite
from .gpu.budget import MemoryPlan
from .gpu.device import Device
from .gpu.external import close_handle
from .gpu.frames import FrameWork, KeptFrame
from .gpu.imports import ExportedPlane
from .host_log import say
from .model import Frame, Given, Model, OnDevice
from .stream import kept_frames


@dataclass(frozen=True, slots=True)
class Stay:
    """Frames don't leave the GPU on their way through a model."""

    work: FrameWork
    waits: bool
    """Are frames waited for on the host, because their timelines can't be shared?"""
    reserved_bytes: int
    """What the model, its caches and the frames that are kept take of the GPU's memory beside VapourSynth's own."""

    @property
    def _imported(self) -> dict[str, int]:
        """What the plugin is to reserve from now on, where that changes: on Windows memory that is imported counts twice."""
        return {"reserved": self.reserved_bytes + self.work.imports.size_bytes} if sys.platform == "win32" else {}

    def take(self, pairs: Sequence[tuple[int, vs.VideoFrame]], planes: Mapping[str, Any]) -> dict[int, Given]:
        """The frames of these numbers, which stay where they are: where that is, the plugin says in ``planes``."""
        found: dict[int, Given] = {}
        left = _exported(planes)
        try:
            for k, f in pairs:
                own, left = left[: f.format.num_planes], left[f.format.num_planes :]
                found[k] = self.work.frame(own, (f.height, f.width), f)
        finally:
            _give_back(left)
        return found

    def deliver(
        self, n: int, finished: Callable[[], Frame], planes: Mapping[str, Any], timeline: int
    ) -> dict[str, int]:
        """The answer to the plugin when frame n, which is ``finished``, is to be written into the planes of a new one."""
        exported = _exported(planes)
        try:
            frame = finished()
            assert isinstance(frame, KeptFrame), "a model that takes frames on the device keeps them there"
            require_finite(frame.is_finite(), n)
        except BaseException:
            _give_back(exported)
            raise
        return {"value": self.work.deliver(frame, exported, timeline), **self._imported}



def stay(model: Model[Any], plugin: vs.Plugin, *, fixed: bool) -> Stay | None:
    """How frames of a resident clip stay on the GPU; None: they cross the bus before and after the model.

    One line in the log says why they do.

    Args:
        model: what reads and makes them.
        plugin: ``core.vsflashsr``.
        fixed: are colours fixed on the host?
    """
    if not isinstance(model, OnDevice):
        say(
            "frames cross the bus before and after the model: it works on the CPU or in tiles, or its kind can't take them on "
            "the GPU yet"
        )
        return None
    try:
        if fixed:
            raise FlashsrError("the colour fix of this model is made on the host")
        info = vs.core.vulkan_device_info
        _check_device(model.device, info)
        schedule = model.spec.schedule
        kept = kept_frames(model.spec, max(schedule.first_emits, schedule.emits), model.kept_bytes)
        plan = MemoryPlan({"frames kept": kept * model.kept_bytes})
        plan.require(model.device.free_bytes(), "use a smaller model")
        delivers = np.dtype(np.float16 if model.spec.half else np.float32)
        work = FrameWork(model.device, lambda semaphore: int(plugin.GPUSemaphore(semaphore)), delivers)
    except FlashsrError as error:
        say(f"frames cross the bus before and after the model: {error}")
        return None
    model.stay(work)
    waits = not (info["semaphore_export_handle_type"] and model.device.timelines)
    return Stay(work, waits, model.memory.total_bytes + plan.total_bytes)


def _check_device(device: Device, info: Any) -> None:
    """Are VapourSynth's frames on this device, and can they be shared?"""
    own, other = device.uuid.removeprefix("GPU-").replace("-", ""), str(info["uuid"])
    if own != other:
        raise FlashsrError(f"the model is on {device.name}, VapourSynth's frames on {info['name']}")
    if not info["export_handle_type"]:
        raise FlashsrError(f"the Vulkan driver of {info['name']} can't share memory")


def _exported(planes: Mapping[str, Any]) -> list[ExportedPlane]:
    """Planes as the plugin describes them, frame by frame."""
    # A single value comes without its list.
    columns = {name: [values] if isinstance(values, int) else values for name, values in planes.items()}
    return [ExportedPlane(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def _give_back(planes: Sequence[ExportedPlane]) -> None:
    for plane in planes:
        close_handle(plane.handle)
