"""GPU-resident clips on software Vulkan: residency follows the clip, and the model's part gives the host's bytes.

``scripts/setup_lavapipe.sh`` gets the software Vulkan; without it these tests are skipped.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .support.lavapipe import lavapipe_environment
from .support.pipe import environment

HEAD = """
import json, os, random, sys
import numpy as np
import vapoursynth as vs
from vapoursynth import core
from tests.support.clips import digest, noise, planes
from vsflashsr import flashsr
model = sys.argv[1]
def difference(a, b):
    pairs = [zip(planes(f), planes(g), strict=True) for f, g in zip(a.frames(), b.frames(), strict=True)]
    return max(float(np.abs(x.astype(float) - y).max()) for pair in pairs for x, y in pair)
"""


def run(body: str, model: Path) -> Any:
    """What the script prints, which is JSON."""
    variables = lavapipe_environment() | {"PYTHONPATH": environment()["PYTHONPATH"]}
    command = [sys.executable, "-c", HEAD + body, str(model)]
    done = subprocess.run(command, env=variables, capture_output=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return json.loads(done.stdout)


def test_a_chain_on_the_gpu_gives_the_bytes_of_the_model_on_the_host(tiny: Path) -> None:
    """In linear and in shuffled order; the resizers are the GPU's in both, so that only the filter differs."""
    found = run(
        """
low = core.resize.Bicubic(core.std.GPUUpload(noise(40, 50, 38, vs.GRAYS, cuts=(17,))), 64, 48)
out = flashsr(low, 2, model=model)
chain = core.std.GPUDownload(core.resize.Bicubic(out, 100, 76))
host = flashsr(core.std.GPUDownload(low), 2, model=model)
reference = core.std.GPUDownload(core.resize.Bicubic(core.std.GPUUpload(host), 100, 76))
wanted = [digest(f) for f in reference.frames()]
order = random.Random(2).sample(range(40), 40)
print(json.dumps({
    "resident": [bool(clip.gpu_resident) for clip in (low, out, host)],
    "linear": [digest(f) for f in chain.frames()] == wanted,
    "shuffled": [digest(chain.get_frame(n)) for n in order] == [wanted[n] for n in order],
    "distinct": len(set(wanted)),
}))
""",
        tiny,
    )
    assert found == {"resident": [True, True, False], "linear": True, "shuffled": True, "distinct": 40}


def test_every_kind_of_format_is_taken_and_given_back_resident(tiny: Path) -> None:
    """The GPU's resizers round otherwise than the host's, by a level; properties are the host's."""
    found = run(
        """
result = {}
for name in ("YUV420P8", "YUV444P10", "YUV420P16", "RGB24", "RGBS", "GRAY8", "GRAYS"):
    clip = noise(3, 64, 48, getattr(vs, name), _Range=1)
    host, out = flashsr(clip, 2, model=model), flashsr(core.std.GPUUpload(clip), 2, model=model)
    down = core.std.GPUDownload(out)
    same = all(dict(f.props) == dict(g.props) for f, g in zip(host.frames(), down.frames(), strict=True))
    result[name] = [bool(out.gpu_resident), out.format.name, same, difference(host, down)]
print(json.dumps(result))
""",
        tiny,
    )
    assert len(found) == 7
    for name, (resident, output, same, difference) in found.items():
        assert resident and output.upper() == name and same, name
        assert difference <= {"YUV420P16": 2, "RGBS": 1e-6, "GRAYS": 0}.get(name, 1), (name, difference)


def test_chroma_is_predicted_of_resident_clips_too(tiny_chroma: Path) -> None:
    found = run(
        """
result = {}
for name in ("YUV420P8", "YUV444P10", "RGB24"):
    clip = noise(3, 64, 48, vs.YUV420P8, _Range=1, _Matrix=1)
    arguments = {"model": model, "format": getattr(vs, name)}
    host, out = flashsr(clip, 2, **arguments), flashsr(core.std.GPUUpload(clip), 2, **arguments)
    plain = flashsr(clip, 2, **arguments, model_options={"chroma": False})
    result[name] = [bool(out.gpu_resident), difference(host, core.std.GPUDownload(out)), difference(host, plain)]
print(json.dumps(result))
""",
        tiny_chroma,
    )
    assert set(found) == {"YUV420P8", "YUV444P10", "RGB24"}
    for name, (resident, apart, predicted) in found.items():
        assert resident and apart <= 2 and predicted > 20, (name, apart, predicted)


def test_strength_and_a_colour_fix_work_on_resident_clips(tiny: Path) -> None:
    found = run(
        """
clip = noise(3, 64, 48, vs.RGBS)
def both(**arguments):
    host = flashsr(clip, 2, model=model, **arguments)
    return difference(host, core.std.GPUDownload(flashsr(core.std.GPUUpload(clip), 2, model=model, **arguments)))
print(json.dumps([both(strength=0.5), both(strength=0), both(color_fix="adain"), both(tile=32, overlap=8)]))
""",
        tiny,
    )
    assert max(found) <= 1e-5, found


@pytest.mark.parametrize("frames", [200, pytest.param(1000, marks=pytest.mark.long)])
@pytest.mark.skipif(sys.platform != "linux", reason="counts files in /proc")
def test_nothing_is_left_behind(tiny: Path, frames: int) -> None:
    """File descriptors, GPU memory and the process's memory after many frames, and after the filter is gone."""
    found = run(
        f"""
import gc, psutil
core.max_vram_cache_size = 64
clip = core.std.GPUUpload(noise(50, 96, 64, vs.YUV420P8).std.Loop(100)[: {frames} + 1])
def used():
    return len(os.listdir("/proc/self/fd")), core.vulkan_device_info["allocated"], psutil.Process().memory_info().rss
out, seen = flashsr(clip, 2, model=model), []
for n, f in enumerate(core.std.GPUDownload(out).frames(close=True)):
    if n in ({frames} // 2, {frames}):
        seen.append(used())
del out
gc.collect()
print(json.dumps(seen))
""",
        tiny,
    )
    (files, vram, memory), (files_later, vram_later, memory_later) = found
    assert files_later <= files and vram_later <= 1.2 * vram and memory_later < 1.08 * memory, found


def test_where_the_result_is_to_be_is_said(tiny: Path) -> None:
    """From either side to either side; a clip that was uploaded gives what a resident one gives."""
    found = run(
        """
clip = noise(3, 64, 48, vs.YUV420P8)
up = core.std.GPUUpload(clip)
outs = {(name, wanted, strength): flashsr(given, 2, model=model, resident=wanted, strength=strength)
        for name, given in (("host", clip), ("gpu", up)) for wanted in (None, True, False) for strength in (1, 0.5, 0)}
def digests(out):
    out = core.std.GPUDownload(out) if out.gpu_resident else out
    return [digest(f) for f in out.frames()]
print(json.dumps({
    "resident": {f"{name} {wanted}": [bool(outs[name, wanted, s].gpu_resident) for s in (1, 0.5, 0)]
                 for name, wanted, s in outs if s == 1},
    "same": [len({tuple(digests(outs[key])) for key in
                  (("gpu", None, s), ("gpu", True, s), ("gpu", False, s), ("host", True, s))}) for s in (1, 0.5, 0)],
    "host": [digests(outs["host", None, s]) == digests(outs["host", False, s]) for s in (1, 0.5, 0)],
}))
""",
        tiny,
    )
    resident = {"host True", "gpu None", "gpu True"}
    assert {key for key, where in found["resident"].items() if where == [True] * 3} == resident
    assert {key for key, where in found["resident"].items() if where == [False] * 3} == {
        "host None",
        "host False",
        "gpu False",
    }
    assert found["same"] == [1, 1, 1] and found["host"] == [True, True, True]


def test_without_vulkan_a_resident_result_is_refused_in_one_sentence(tiny: Path) -> None:
    script = """
import sys
import vapoursynth as vs
from vsflashsr import flashsr
try:
    flashsr(vs.core.std.BlankClip(width=64, height=48, format=vs.GRAY8, length=2), 2, model=sys.argv[1], resident=True)
except vs.Error as error:
    print(error)
"""
    variables = {**environment(), "VK_DRIVER_FILES": "no such file", "VK_LOADER_LAYERS_DISABLE": "~all~"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tiny)],
        env=variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert re.fullmatch(
        r"flashsr: resident=True needs a GPU with Vulkan 1.4, got none that VapourSynth can use \(.+\); update .+\n",
        done.stdout,
    ), done.stdout
