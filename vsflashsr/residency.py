"""Clips whose frames are resident on the GPU (VapourSynth's ``vnode:gpu``): the way there and back, and whether a model stays."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import vapoursynth as vs

from .errors import FlashsrError
from .gpu.budget import MemoryPlan
from .gpu.device import Device
from .gpu.frames import FrameWork
from .host_log import say
from .model import Model, OnDevice
from .stream import kept_frames


def uploaded(clip: vs.VideoNode) -> vs.VideoNode:
    """The clip, resident.

    Raises:
        FlashsrError: there is no Vulkan device that the core can use.
    """
    if clip.gpu_resident:
        return clip
    try:
        return vs.core.std.GPUUpload(clip)
    except vs.Error as error:
        reason = str(error).strip().removeprefix("GPUUpload: ")
        raise FlashsrError(
            f"resident=True needs a GPU with Vulkan 1.4, got none that VapourSynth can use ({reason}); update the GPU driver and "
            "the Vulkan loader, or leave resident out"
        ) from error


def downloaded(clip: vs.VideoNode) -> vs.VideoNode:
    """The clip, on the host."""
    return vs.core.std.GPUDownload(clip) if clip.gpu_resident else clip


@dataclass(frozen=True, slots=True)
class Stay:
    """Frames don't leave the GPU on their way through a model."""

    work: FrameWork
    waits: bool
    """Are frames waited for on the host, because their timelines can't be shared?"""
    reserved_bytes: int
    """What the model, its caches and the frames that are kept take of the GPU's memory beside VapourSynth's own."""

    @property
    def imported(self) -> dict[str, int]:
        """What the plugin is to reserve from now on, where that changes: on Windows memory that is imported counts twice."""
        return {"reserved": self.reserved_bytes + self.work.imports.size_bytes} if sys.platform == "win32" else {}


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
        work = FrameWork(model.device, lambda semaphore: int(plugin.GPUSemaphore(semaphore)))
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
