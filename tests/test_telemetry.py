"""Nothing is sent, and nothing is written outside our own folders, by whichever door ONNX Runtime comes in."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .support.pipe import ROOT, VSPIPE, environment
from .support.tiny import write_frame_graph

VARIABLE = "ORT_DISABLE_TELEMETRY"

SCRIPT = """
import vapoursynth as vs
from vsflashsr import flashsr
clip = vs.core.std.BlankClip(format=vs.YUV420P8, width=32, height=16, length=2)
flashsr(clip, 2, backend="onnxruntime").set_output()
"""


def clean(home: Path) -> dict[str, str]:
    """An environment in which all that a program writes by itself lands in ``home``, and nobody has chosen anything."""
    home.mkdir()
    own = {
        name: str(home)
        for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "TMPDIR", "TEMP", "TMP", "LOCALAPPDATA", "APPDATA")
    }
    return {k: v for k, v in environment().items() if k != VARIABLE} | own | {"PYTHONDONTWRITEBYTECODE": "1"}


def written(home: Path) -> list[str]:
    return sorted(path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file())


def commands(tmp_path: Path) -> dict[str, list[str]]:
    """Each way in: the filter, the tools, a runtime alone in a child of a tool."""
    script, model = tmp_path / "script.vpy", tmp_path / "x2.onnx"
    script.write_text(SCRIPT, encoding="utf-8")
    write_frame_graph(model, 2)
    session = f"from vsflashsr.runtimes.onnxruntime import OnnxSession; OnnxSession(__import__('pathlib').Path({str(model)!r}))"
    child = f"import subprocess, sys, trt_build; subprocess.run([sys.executable, '-c', {session!r}], check=True)"
    return {
        "filter": [str(VSPIPE), str(script), "-c", "y4m", os.devnull],
        "tools": [sys.executable, "-c", "import trt_build, onnxruntime"],
        "child": [sys.executable, "-c", child],
    }


@pytest.mark.parametrize("door", ["filter", "tools", "child"])
def test_nothing_is_written_and_no_connection_is_opened(door: str, tmp_path: Path) -> None:
    command, home = commands(tmp_path)[door], tmp_path / "home"
    trace = tmp_path / "trace"
    if strace := shutil.which("strace"):
        command = [strace, "-f", "-e", "trace=%network", "-o", str(trace), *command]
    done = subprocess.run(command, env=clean(home), capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert written(home) == []
    if strace:
        calls = trace.read_text(errors="replace").splitlines()
        assert [line for line in calls if "AF_INET" in line] == []


def test_who_has_set_the_variable_keeps_his_choice(tmp_path: Path) -> None:
    code = f"import os, vsflashsr; print(os.environ[{VARIABLE!r}])"
    for chosen, expected in (("0", "0"), ("1", "1"), (None, "1")):
        home = tmp_path / str(chosen)
        own = clean(home) | ({} if chosen is None else {VARIABLE: chosen})
        done = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected


@pytest.mark.parametrize("folder", ["scripts", "samples"])
def test_scripts_import_onnxruntime_after_this_package(folder: str) -> None:
    """That is inside a function, as imports at the top are sorted."""
    for path in [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.vpy")]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not any(name.partition(".")[0] == "onnxruntime" for name in names), path
