"""Frames that stay on the GPU, with the real import: copies between host and device, bytes, and time against the other ways.

Needs an NVIDIA GPU whose driver has Vulkan 1.4 beside CUDA. The chain is upload, resize, the built-in model at x2, resize,
download: one filter alone gains nothing by resident frames, chains do.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest import mock

import vapoursynth as vs

from vsflashsr import flashsr
from vsflashsr.arguments import Arguments
from vsflashsr.errors import FlashsrError
from vsflashsr.gpu import driver
from vsflashsr.runtimes.backend import BACKENDS

from .settings import Settings

SIZES = ((1080, 1920), (2160, 3840))
"""(height, width) of the output."""
FRAMES = 200
IN_FLIGHT = 8
_COPIES = ("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync")
_LARGEST_FLAG_BYTES = 64
"""What says of a frame that it is finite is fetched, too."""


class Counting:
    """The driver's module, with the copies between host and device counted that a frame might be in."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.copies: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if name not in _COPIES:
            return found

        def counted(target: Any, source: Any, size: int, stream: Any) -> Any:
            if size > _LARGEST_FLAG_BYTES:
                self.copies["copies"] += 1
                self.copies["bytes"] += size
            return found(target, source, size, stream)

        return counted


def part(settings: Settings) -> dict[str, Any]:
    """By output size and by way: frames per second, copies per frame; whether the bytes are the same."""
    require_vulkan()
    return report(usable_backend(settings), settings, SIZES, FRAMES)


def require_vulkan() -> None:
    """Raises ``FlashsrError`` where VapourSynth has no GPU that shares its memory."""
    try:
        info = vs.core.vulkan_device_info
    except vs.Error as error:
        raise FlashsrError(
            f"resident frames need a GPU with Vulkan 1.4 beside CUDA, got {error}; install the GPU driver's Vulkan part and a "
            "loader of 1.4, or leave the part 'resident' out"
        ) from error
    if not info["export_handle_type"]:
        raise FlashsrError(
            f"resident frames need a Vulkan driver that shares memory, got {info['name']}; choose the NVIDIA GPU with "
            "core.set_vulkan_device, or leave the part 'resident' out"
        )


def usable_backend(settings: Settings) -> str:
    """The first that works on a device.

    Raises:
        FlashsrError: there is none.
    """
    reasons: list[str] = []
    for row in BACKENDS:
        if row.name not in ("tensorrt", "tensorrt_rtx", "torch"):
            continue
        reason = row.missing()
        if reason is None:
            try:
                row.open(Arguments(backend=row.name, engine_dir=settings.engines)).close()
            except FlashsrError as error:
                reason = str(error)
            else:
                return row.name
        reasons.append(reason)
    raise FlashsrError(f"no backend works on this GPU, got {'; '.join(reasons)}; install one of them")


def report(backend: str, settings: Settings, sizes: tuple[tuple[int, int], ...], frames: int) -> dict[str, Any]:
    """See ``part``."""
    info = vs.core.vulkan_device_info
    found: dict[str, Any] = {
        "vulkan": info["name"],
        "backend": backend,
        "timelines_shared": bool(info["semaphore_export_handle_type"]),
    }
    for height, width in sizes:
        ways = {way: _measured(way, backend, settings, height, width, frames) for way in ("stays", "crosses", "host")}
        stays, crosses = ways["stays"], ways["crosses"]
        same = stays.pop("digest") == crosses.pop("digest")
        ways["host"].pop("digest")  # the core's resizers round otherwise there
        found[f"{height}p"] = {
            **ways,
            "same_bytes": same,
            "time_saved": 1 - crosses["frames_per_s"] / stays["frames_per_s"],
        }
        found[f"{height}p_passed"] = same and stays["copies_per_frame"] == 0 and crosses["copies_per_frame"] > 0
    found["passed"] = all(value for name, value in found.items() if name.endswith("_passed"))
    return found


def _measured(
    way: str, backend: str, settings: Settings, height: int, width: int, frames: int
) -> dict[str, Any]:
    """A chain that ``stays`` on the GPU, ``crosses`` the bus around the model, or is on the ``host`` but for the model."""
    core = vs.core
    module = Counting(driver.api())
    crossing: AbstractContextManager[object] = nullcontext()
    if way == "crosses":
        crossing = mock.patch("vsflashsr.staying.stay", lambda *_, **__: None)
    with driver.use(module), crossing:
        clip = core.std.BlankClip(width=width // 2 + 16, height=height // 2, format=vs.YUV420P10, length=frames, keep=True)
        # Every frame differs, as far as the core can do that without a plugin.
        clip = core.std.FrameEval(clip, lambda n: core.std.BlankClip(clip, length=1, color=[64 + n * 7 % 800, 512, 512]))
        clip = core.std.AddBorders(clip.std.Crop(right=16), left=16, color=[800, 400, 600]).std.SetFrameProps(_Matrix=1)
        low = clip if way == "host" else core.std.GPUUpload(clip)
        low = core.resize.Bicubic(low, width // 2, height // 2)
        made = flashsr(low, 2, backend=backend, engine_dir=settings.engines, scene_change=False)
        out = core.resize.Bicubic(made, width, height)
        out = out if way == "host" else core.std.GPUDownload(out)
        module.copies.clear()
        total, first, began = hashlib.sha256(), True, 0.0
        waiting: deque[Any] = deque()
        for n in range(frames + IN_FLIGHT):
            if n < frames:
                waiting.append(out.get_frame_async(n))
            if n >= IN_FLIGHT or n >= frames:
                with waiting.popleft().result() as frame:
                    total.update(b"".join(bytes(plane) for plane in frame.readchunks()))
                if first:
                    # What the first frame takes longer for isn't the way.
                    first, began = False, time.perf_counter()
            if not waiting:
                break
        seconds = time.perf_counter() - began
    return {
        "frames_per_s": (frames - 1) / seconds,
        "copies_per_frame": module.copies["copies"] / frames,
        "bytes_per_frame": module.copies["bytes"] / frames,
        "digest": total.hexdigest(),
    }
