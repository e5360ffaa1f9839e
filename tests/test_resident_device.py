"""Frames that stay on the GPU on their way through a model: exported, imported, read, made and delivered without a host copy.

Software Vulkan holds the frames (``scripts/setup_lavapipe.sh``; skipped without), the mock driver maps their memory: all but the
silicon is the way that frames go with CUDA.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("filelock", reason="needs the extra 'rtx'")

from .support.lavapipe import lavapipe_environment
from .support.pipe import environment
from .support.tiny import write_frame_graph

HEAD = """
import gc, json, os, random, sys, time
from pathlib import Path
import numpy as np
import vapoursynth as vs
from vapoursynth import core
from tests.support.clips import digest, noise
from tests.support.resident_gpu import ResidentGpu
models, folder = [Path(p) for p in sys.argv[2:]], Path(sys.argv[1])
up, down = core.std.GPUUpload, core.std.GPUDownload
said = []
core.add_log_handler(lambda kind, text: said.append(text))
def digests(clip, order=None):
    clip = down(clip) if clip.gpu_resident else clip
    return [digest(clip.get_frame(n)) for n in order] if order else [digest(f) for f in clip.frames()]
def gone(gpu):
    # The core frees nodes on threads of its own.
    for _ in range(100):
        gc.collect()
        if not gpu.mock.alive:
            return True
        time.sleep(0.05)
    return gpu.mock.alive
"""


def run(body: str, folder: Path, *models: Path, head: str = HEAD) -> Any:
    """What the script prints, which is JSON."""
    variables = lavapipe_environment() | {"PYTHONPATH": environment()["PYTHONPATH"]}
    command = [sys.executable, "-c", head + body, str(folder), *map(str, models)]
    done = subprocess.run(command, env=variables, capture_output=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return json.loads(done.stdout)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in (2, 3, 4))])
def test_any_order_gives_the_bytes_of_the_cpu_without_a_copy(
    tiny: Path, tiny_25_21: Path, tmp_path: Path, seed: int
) -> None:
    """Luma and RGB, sizes that have to be padded, cuts and segments; the mock raises where nothing orders what collides."""
    found = run(
        f"""
gpu = ResidentGpu(folder / "engines ü", {seed})
result = []
for model, frames in zip(models, (45, 60)):
    clip = up(noise(frames, 50, 38, vs.GRAYS, cuts=(17,)))
    out = gpu(clip, model=model, max_segment=30)
    wanted = digests(gpu.crossing(clip, model=model, max_segment=30, backend="onnxruntime", threads=1))
    shuffled = random.Random({seed}).sample(range(frames), frames)
    back = list(range(frames))[::-1]
    before = gpu.copies
    result += [bool(out.gpu_resident), digests(out) == wanted, len(set(wanted)) == frames]
    result += [digests(out, order) == [wanted[n] for n in order] for order in (shuffled, back)]
    sent, came = (gpu.copies.get(name, 0) - before.get(name, 0) for name in ("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync"))
    # A flag for each frame that is made, and a thumbnail for each that is looked at.
    result += [sent == 0, came < frames * 4 * 3000]
    del out
    result.append(gone(gpu))
print(json.dumps(result))
""",
        tmp_path,
        tiny,
        tiny_25_21,
    )
    assert found == [True] * 16, found


def test_a_model_of_halves_gives_resident_halves(tmp_path: Path) -> None:
    """Half as much memory is written, and the resizer after it reads them."""
    for channels in (1, 3):
        write_frame_graph(tmp_path / f"{channels}.onnx", 2, half=True, channels=channels)
    found = run(
        """
from vsflashsr import node
gpu, bits, result = ResidentGpu(folder / "engines"), [], []
stream = node.stream_node
def spy(*rest, **named):
    made = stream(*rest, **named)
    bits.append(made.format.bits_per_sample)
    return made
from vsflashsr import filter
filter.stream_node = spy
for channels in (1, 3):
    clip = up(noise(9, 50, 38, vs.YUV420P10))
    arguments = dict(model=folder / f"{channels}.onnx", scale=2)
    result += [digests(gpu(clip, **arguments)) == digests(gpu.crossing(clip, **arguments))]
print(json.dumps([result, bits]))
""",
        tmp_path,
    )
    assert found == [[True, True], [16] * 4]


def test_a_chain_of_filters_on_the_gpu_gives_the_host_path_s_bytes(tmp_path: Path) -> None:
    """The built-in model between resizers, in everyday formats, with all that is made of a frame after the model."""
    found = run(
        """
gpu = ResidentGpu(folder / "engines")
result = {}
for name, arguments in (("YUV420P8", {}), ("RGB24", {}), ("YUV420P10", {"strength": 0.5}), ("GRAYS", {"format": vs.GRAY16})):
    clip = core.resize.Bicubic(up(noise(8, 50, 38, getattr(vs, name), cuts=(4,), _Range=1)), 64, 48)
    wanted = digests(core.resize.Bicubic(gpu.crossing(clip, model="builtin", **arguments), 100, 76))
    before = gpu.copies.get("cuMemcpyHtoDAsync", 0)
    got = digests(core.resize.Bicubic(gpu(clip, model="builtin", **arguments), 100, 76))
    result[name] = [got == wanted, gpu.copies["cuMemcpyHtoDAsync"] == before, len(set(wanted))]
print(json.dumps(result))
""",
        tmp_path,
    )
    assert found == {name: [True, True, 8] for name in ("YUV420P8", "RGB24", "YUV420P10", "GRAYS")}


def test_what_is_not_finite_is_named_whichever_frame_is_asked_for(tiny: Path, tmp_path: Path) -> None:
    from .support.tiny import write_tiny_bundle

    bad = write_tiny_bundle(tmp_path / "bad", gain=float("nan"))
    found = run(
        """
gpu = ResidentGpu(folder / "engines")
def error(clip, n):
    try:
        down(clip).get_frame(n)
    except vs.Error as error:
        return str(error)
clip = noise(20, 32, 24, vs.GRAYS)
holed = up(clip[:9] + clip[9].std.Expr("x 0 / x -") + clip[10:])
out = gpu(holed, model=models[0], scene_change=False)
whole = digests(out, [5])
print(json.dumps([error(gpu(up(clip), model=models[1]), 3), error(out, 12), error(out, 9), digests(out, [5]) == whole]))
""",
        tmp_path,
        tiny,
        bad,
    )
    assert found[0].startswith("flashsr: the model put out a value that is not finite") and "frame 3" in found[0]
    assert all(text.startswith("flashsr: the input's frame 9 holds a value that is not finite") for text in found[1:3])
    assert found[3]


def test_where_frames_can_not_stay_they_cross_the_bus_and_the_log_says_why(tiny: Path, tmp_path: Path) -> None:
    found = run(
        """
clip, result = up(noise(6, 50, 38, vs.GRAYS)), []
for same, arguments in ((False, {}), (True, {"tile": 24, "overlap": 4}), (True, {"color_fix": "adain"})):
    gpu = ResidentGpu(folder / "engines", same=same)
    said.clear()
    out, wanted = gpu(clip, model=models[0], **arguments), gpu.crossing(clip, model=models[0], **arguments)
    result.append([bool(out.gpu_resident), digests(out) == digests(wanted), "\\n".join(said)])
    del out, wanted
    assert gone(gpu)
print(json.dumps(result))
""",
        tmp_path,
        tiny,
    )
    reasons = (
        "the model is on Mock GPU, VapourSynth's frames on llvmpipe",
        "it works on the CPU or in tiles, or its kind can't",
        "the colour fix of this model is made on the host",
    )
    for (resident, same, said), reason in zip(found, reasons, strict=True):
        assert resident and same and f"frames cross the bus before and after the model: {reason}" in said


@pytest.mark.skipif(sys.platform != "linux", reason="counts files in /proc")
def test_a_failing_gpu_names_the_frame_and_loses_no_handle(tiny: Path, tmp_path: Path) -> None:
    """Calls of the driver on the way of a frame fail; file descriptors are counted, and the frame comes out after."""
    found = run(
        """
gpu = ResidentGpu(folder / "engines")
clip, result, files = up(noise(12, 32, 24, vs.GRAYS)), [], []
wanted = digests(gpu.crossing(clip, model=models[0]))
calls = ("cuEventRecord", "cuStreamWaitEvent", "cuMemsetD8Async", "cuMemcpyDtoHAsync", "cuEventSynchronize")
def failing(out, n, call, after, sentence):
    gpu.mock.fail(call, after=after)
    try:
        down(out).get_frame(n)
        result.append(f"{call}: nothing failed")
    except vs.Error as error:
        result.append(sentence in str(error) and "while making frame" in str(error))
    gpu.mock.heal()
    result.append(digests(out, [n]) == [wanted[n]])
for _ in range(3):
    out = gpu(clip, model=models[0])
    failing(out, 0, "cuImportExternalMemory", 0, "failed to import the memory of a resident frame")
    for n, call in enumerate(calls):
        failing(out, n + 2, call, 1, "CUDA_ERROR_UNKNOWN")
    del out
    result.append(gone(gpu))
    files.append(len(os.listdir("/proc/self/fd")))
print(json.dumps([result, files]))
""",
        tmp_path,
        tiny,
    )
    result, files = found
    assert result == [True] * 39 and files[2] <= files[1], found


@pytest.mark.parametrize("frames", [150, pytest.param(2000, marks=pytest.mark.long)])
@pytest.mark.skipif(sys.platform != "linux", reason="counts files in /proc")
def test_nothing_is_left_behind(tiny: Path, tmp_path: Path, frames: int) -> None:
    """Files, imports, device memory, frames and the process's memory after many frames, with jumps; and at the end."""
    found = run(
        f"""
import psutil
core.max_vram_cache_size = 64
gpu = ResidentGpu(folder / "engines")
clip = up(noise(50, 96, 64, vs.YUV420P8).std.Loop(100)[: {frames} + 1])
def used():
    alive = gpu.mock.alive
    counts = [len(os.listdir("/proc/self/fd")), alive["imports"], alive["device memory"], core.vulkan_device_info["allocated"]]
    # The device's memory counts as "allocated"; here its pages are files, mapped twice, and touched by degrees.
    memory = psutil.Process().memory_info()
    return [*counts, memory.rss - memory.shared]
out, seen = gpu(clip, model=models[0]), []
for n, f in enumerate(down(out).frames(close=True)):
    gpu.mock.calls.clear(), gpu.mock.ran.clear()
    if n % 40 == 7:
        down(out).get_frame(({frames} - n) // 2).close()
    if n % 20 == 7:
        core.clear_cache()  # 256 MB of frames may be in it, however low its limit; they come with jumps back
    if n in ({frames} // 2, {frames}):
        seen.append(used())
del out
print(json.dumps([seen, gone(gpu)]))
""",
        tmp_path,
        tiny,
    )
    ((files, imports, device, vram, memory), later), ended = found
    assert ended is True
    assert later[0] <= files + 1 and later[1] <= imports and later[2] <= device + 8, found
    assert later[3] <= 1.2 * vram and later[4] < 1.08 * memory, found


CORES = """
import gc, json, os, sys, threading, time
from pathlib import Path
import vapoursynth as vs

class Policy(vs.EnvironmentPolicy):
    "One environment after the other; callbacks bring theirs along to whatever thread they run in."
    def on_policy_registered(self, api):
        self.api, self.local = api, threading.local()
    def on_policy_cleared(self): ...
    def get_current_environment(self):
        return getattr(self.local, "environment", None)
    def set_environment(self, environment):
        before, self.local.environment = self.get_current_environment(), environment
        return before

policy = Policy()
vs.register_policy(policy)
from tests.support.clips import digest, noise
from tests.support.resident_gpu import ResidentGpu
folder, model = map(Path, sys.argv[1:])

def once(seed):
    environment = policy.api.create_environment()
    with policy.api.wrap_environment(environment).use():
        core = vs.core.core
        gpu = ResidentGpu(folder / "engines", seed)
        out = core.std.GPUDownload(gpu(core.std.GPUUpload(noise(12, 32, 24, vs.GRAYS)), model=model))
        first = digest(out.get_frame(3))
        for n in range(4, 12):
            out.get_frame_async(n)  # nobody waits for these
        mock = gpu.mock
        del gpu, out
    policy.api.destroy_environment(environment)
    del core, environment
    for _ in range(100):
        gc.collect()
        if not mock.alive:
            break
        time.sleep(0.05)
    return first, mock.alive, len(os.listdir("/proc/self/fd"))

found = [once(seed) for seed in range(10)]
print(json.dumps({"distinct": len({first for first, _, _ in found}), "held": [alive for _, alive, _ in found],
                  "files": [files for _, _, files in found]}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts files in /proc")
def test_ten_cores_after_each_other(tiny: Path, tmp_path: Path) -> None:
    """Each with frames in flight when it goes: nothing of the GPU is held then, and no file."""
    found = run(CORES, tmp_path, tiny, head="")
    assert found["distinct"] == 1 and found["held"] == [{}] * 10, found
    assert found["files"][-1] <= found["files"][1], found


def test_gpu_check_measures_this_and_says_what_is_missing(tmp_path: Path) -> None:
    """On the mock: what it finds of copies and bytes; its speeds mean nothing here. Without Vulkan it is one sentence."""
    found = run(
        """
from trt_build.gpu_check import resident
from trt_build.gpu_check.settings import Settings
gpu = ResidentGpu(folder / "engines")
settings = Settings((), "fp16", 1, 1, folder / "engines")
resident.require_vulkan()
print(json.dumps(resident.report(resident.usable_backend(settings), settings, ((96, 128),), 12)))
""",
        tmp_path,
    )
    assert found["passed"] and found["backend"] == "tensorrt", found
    ways = found["96p"]
    assert ways["stays"]["bytes_per_frame"] == 0 and ways["same_bytes"]
    # There and back, of luma and of what predicts chroma.
    assert ways["crosses"]["copies_per_frame"] == 4 and ways["host"]["copies_per_frame"] == 4
    script = "from trt_build.gpu_check import resident; resident.require_vulkan()"
    variables = {**environment(), "VK_DRIVER_FILES": "no such file", "VK_LOADER_LAYERS_DISABLE": "~all~"}
    done = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True, timeout=120, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode and "resident frames need a GPU with Vulkan 1.4 beside CUDA, got" in last, last
