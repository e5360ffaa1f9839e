"""Compiles the VapourSynth plugin into the wheel, with zig as a package: no compiler is needed where it is installed.

Where it goes: ``vapoursynth/plugins/vsflashsr`` beside the installed VapourSynth, with the manifest that names it; in an
editable install too. ``VSFLASHSR_TARGET`` (a key of ``TARGETS``) builds for another platform, see scripts/build_wheels.py.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
SOURCES = ROOT / "vsflashsr" / "native"
FOLDER = "vapoursynth/plugins/vsflashsr"
STEM = "libvsflashsr"


class Target(NamedTuple):
    """A platform with a binary."""

    zig: str
    """zig's name, with the oldest C library that is supported."""
    suffix: str
    wheel: str
    """The wheel's platform tag."""


TARGETS = {
    "linux-x86_64": Target("x86_64-linux-gnu.2.17", ".so", "manylinux_2_17_x86_64"),
    "linux-aarch64": Target("aarch64-linux-gnu.2.28", ".so", "manylinux_2_28_aarch64"),
    "windows-x86_64": Target("x86_64-windows-gnu", ".dll", "win_amd64"),
    "macos-arm64": Target("aarch64-macos.11.0", ".dylib", "macosx_11_0_arm64"),
}


def host_target() -> str:
    """The key of this machine's target.

    Raises:
        RuntimeError: there is none.
    """
    system = {"win32": "windows", "darwin": "macos"}.get(sys.platform, sys.platform)
    machine = {"amd64": "x86_64", "arm64": "arm64" if system == "macos" else "aarch64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    key = f"{system}-{machine}"
    if key not in TARGETS:
        raise RuntimeError(f"flashsr: there is no binary for this platform, got {key}; it runs on {', '.join(TARGETS)}")
    return key


VULKAN_TYPES = """#pragma once
#include <stdint.h>
#define VK_UUID_SIZE 16
#define VK_LUID_SIZE 8
typedef struct VkInstance_T *VkInstance;
typedef struct VkPhysicalDevice_T *VkPhysicalDevice;
typedef struct VkDevice_T *VkDevice;
typedef struct VkCommandBuffer_T *VkCommandBuffer;
typedef struct VkBuffer_T *VkBuffer;
typedef struct VkSemaphore_T *VkSemaphore;
typedef struct VkDeviceMemory_T *VkDeviceMemory;
typedef struct VkMemoryRequirements VkMemoryRequirements;
typedef uint64_t VkDeviceSize, VkDeviceAddress;
typedef uint32_t VkMemoryPropertyFlags, VkBufferUsageFlags;
typedef void (*PFN_vkGetInstanceProcAddr)(void);
"""
"""What VSVulkan4.h needs of Vulkan's own header, as 64-bit platforms have it; the plugin calls no function of Vulkan's."""


def vulkan_types(header: str) -> str:
    """In the place of vulkan_core.h, which isn't installed where this is built; ``header`` is VSVulkan4.h."""
    names = re.findall(r"FN\(VS_VK_\w+, +VS_VK_\w+, (\w+)\)", header)
    return VULKAN_TYPES + "".join(f"typedef void (*PFN_vk{name})(void);\n" for name in names)


def compile_plugin(target: Target, folder: Path) -> Path:
    """The plugin, compiled into ``folder``.

    Raises:
        RuntimeError: the compiler failed; its messages.
    """
    import vapoursynth

    out = folder / f"{STEM}{target.suffix}"
    headers = Path(vapoursynth.__file__).parent / "include"
    vulkan = folder / "headers" / "vulkan" / "vulkan_core.h"
    vulkan.parent.mkdir(parents=True, exist_ok=True)
    vulkan.write_text(vulkan_types((headers / "VSVulkan4.h").read_text(encoding="utf-8")), encoding="utf-8")
    # zig's own cache would stay in the user's home.
    environment = {
        "ZIG_GLOBAL_CACHE_DIR": str(folder / "cache"),
        "ZIG_LOCAL_CACHE_DIR": str(folder / "cache"),
    } | os.environ
    command = [sys.executable, "-m", "ziglang", "cc", "-target", target.zig, "-std=c11", "-O2", "-shared", "-fPIC"]
    command += ["-fvisibility=hidden", "-Wall", "-Wextra", "-Werror", "-s", "-o", str(out)]
    if target.suffix == ".dylib":
        command.append(f"-Wl,-install_name,@rpath/{out.name}")
    command += ["-I", str(headers), "-I", str(vulkan.parents[1]), *map(str, sorted(SOURCES.glob("*.c")))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode or not out.is_file():
        raise RuntimeError(f"flashsr: the plugin can't be compiled for {target.zig}:\n{done.stderr}")
    return out


class NativePlugin(BuildHookInterface[Any]):
    """The hook that hatchling calls for a wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say what goes where; ``version`` is "standard" or "editable"."""
        target = TARGETS[os.environ.get("VSFLASHSR_TARGET") or host_target()]
        self._made = tempfile.TemporaryDirectory(prefix="vsflashsr")
        folder = Path(self._made.name)
        binary = compile_plugin(target, folder)
        manifest = folder / "manifest.vs"
        manifest.write_text(f"[VapourSynth Manifest V1]\n{STEM}\n", encoding="utf-8")
        key = "force_include_editable" if version == "editable" else "force_include"
        build_data[key] |= {str(path): f"{FOLDER}/{path.name}" for path in (binary, manifest)}
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{target.wheel}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled: it is in the wheel."""
        self._made.cleanup()
