"""Chunks on a Ray cluster of this machine: the same bytes with any number of workers, and with one of them killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ..support.pipe import environment
from .files import make, needs_programs, stream_hash, upscale

pytest.importorskip("ray")
pytestmark = [needs_programs, pytest.mark.long]


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> tuple[list[str], Path]:
    """Arguments but for the output, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("ray")
    source = make(folder / "in.mkv", frames=300)
    options = ["--model", str(tiny), "--max-segment", "20", "--chunk-frames", "20", "--encoder", "ffv1"]
    done = upscale(source, folder / "once.mkv", *options)
    assert done.returncode == 0, done.stderr
    return [str(source), *options], folder / "once.mkv"


@pytest.mark.parametrize(("workers", "stream"), [(1, False), (2, False), (4, False), (2, True)])
def test_the_same_bytes_with_any_number_of_workers(
    once: tuple[list[str], Path], workers: int, stream: bool, tmp_path: Path
) -> None:
    arguments, result = once
    out = tmp_path / "out.mkv"
    how = ["--ray", "local", "--workers", str(workers), *(["--ray-stream"] if stream else [])]
    done = upscale(arguments[0], out, *arguments[1:], *how)
    assert done.returncode == 0, done.stderr
    assert stream_hash(out, "v:0") == stream_hash(result, "v:0")


@pytest.mark.parametrize("workers", [2, 4])
def test_a_killed_worker_costs_a_chunk_and_nothing_else(
    once: tuple[list[str], Path], workers: int, tmp_path: Path
) -> None:
    arguments, result = once
    out = tmp_path / "out.mkv"
    command = [sys.executable, "-m", "vsflashsr", "upscale", arguments[0], str(out), *arguments[1:]]
    process = subprocess.Popen(
        [*command, "--ray", "local", "--workers", str(workers)],
        env=environment(),
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    killed = 0
    while process.poll() is None and not killed:
        parts = list((tmp_path / "out.mkv.work").glob("chunk-*.part"))
        if parts and list((tmp_path / "out.mkv.work").glob("chunk-*.json")):
            victim = int(parts[0].name.split(".")[1])  # a part is named after the process that writes it
            assert "ray::" in psutil.Process(victim).name()
            os.kill(victim, signal.SIGKILL)
            killed = victim
        time.sleep(0.005)
    _, said = process.communicate(timeout=200)
    assert killed
    assert process.returncode == 0, said
    assert stream_hash(out, "v:0") == stream_hash(result, "v:0")
