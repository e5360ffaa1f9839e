"""``python -m trt_build build | list | inspect | prune``: what they print where, and what they say when they can't."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install tensorrt-rtx")
pytest.importorskip("filelock", reason="needs the extra 'rtx'")

from trt_build import engine_commands as commands
from trt_build.cli import main
from vsflashsr.gpu import probe
from vsflashsr.runtimes.engines import store as store_module
from vsflashsr.runtimes.engines.key import EngineRequest, ShapeRange, Target
from vsflashsr.runtimes.engines.store import EngineStore

from ..runtimes.engines.test_engine_store import wait_for
from ..support.fake_tensorrt import FakeTensorRT
from ..support.mock_cuda import mock_device
from ..support.pipe import environment
from ..support.tiny import write_frame_graph, write_tiny_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "an engine folder ü"


def build(folder: Path, model: Path, *more: str) -> int:
    return main(["build", str(model), "--size", "20x12", "--cc", "8.9", "--engine-dir", str(folder), *more])


def one_line(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a command fails with."""
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


def test_build_list_inspect_prune(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_tiny_bundle(tmp_path / "tiny", schedule=(25, 21, 8, 8))
    assert build(folder, model, "--cc", "12.0", "--scale", "2") == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "[1/4] tiny/x2_first 20x12: 100%" in printed.err
    assert f"4 engines ready in '{folder}'" in printed.err and "4 built, 0 there already" in printed.err

    assert build(folder, model, "--size", "24x12", "--scale", "2") == 0
    assert "2 built, 2 there already" in capsys.readouterr().err

    assert main(["list", "--engine-dir", str(folder)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["engine", "size", "for", "built", "last", "used", "file"]
    assert len(table) == 8 and table[-1].startswith("6 engines, ")
    assert sum("any GPU of 12.0, tensorrt_rtx" in line for line in table) == 2
    assert table[1].startswith("tiny/x2 24x12 ")  # the newest used

    assert main(["inspect", "tiny/x2 24x12", "--engine-dir", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "state.held  FLOAT (4, 1, free, free)  built for (4, 1, 12, 24)" in shown
    assert "any GPU of 8.9, tensorrt_rtx" in shown and "checksum right" in shown
    file = table[1].split()[-1]
    assert main(["inspect", file, "--engine-dir", str(folder)]) == 0
    assert capsys.readouterr().out == shown
    assert main(["inspect", str(next(folder.glob(f"{file}*")))]) == 0
    assert capsys.readouterr().out == shown

    assert main(["prune", "--engine-dir", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("0 B freed; 6 engines left")
    assert main(["prune", "--older-than", "1h", "--max-size", "1G", "--engine-dir", str(folder)]) == 0
    assert "6 engines left" in capsys.readouterr().out
    sizes = sorted(engine.size_bytes for engine in EngineStore(folder).engines())
    assert main(["prune", "--max-size", str(sum(sizes) - 1), "--engine-dir", str(folder)]) == 0
    assert "5 engines left" in capsys.readouterr().out
    assert main(["prune", "--all", "--engine-dir", str(folder)]) == 0
    assert "0 engines left" in capsys.readouterr().out
    assert not any(path.is_file() for path in folder.rglob("*"))


def test_what_cannot_be_built_is_one_line(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(write_frame_graph(tmp_path / "x2.onnx", 2))
    where = ("--engine-dir", str(folder))
    assert "there is no model 'nothing'; give a bundle's folder" in one_line(capsys, "build", "nothing", "--size", "8x8")
    monkeypatch.setattr(probe, "device_count", lambda: 0)
    assert "no NVIDIA GPU and driver found to build for; name the GPU" in one_line(
        capsys, "build", model, "--size", "8x8", *where
    )
    assert "got 9.0; use backend='tensorrt'" in one_line(capsys, "build", model, "--size", "8x8", "--cc", "9.0", *where)
    (tmp_path / "broken.onnx").write_bytes(b"\x00broken")
    assert "broken.onnx" in one_line(
        capsys, "build", str(tmp_path / "broken.onnx"), "--size", "8x8", "--cc", "8.9", *where
    )
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert "can't be made" in one_line(
        capsys, "build", model, "--size", "8x8", "--cc", "8.9", "--engine-dir", str(tmp_path / "file" / "x")
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["build", "builtin"], "--size"),
        (["build", "builtin", "--size", "1280"], "a size is WxH, such as 1280x720, got '1280'"),
        (["build", "builtin", "--size", "0x8"], "a size is WxH"),
        (["build", "builtin", "--size", "8x8", "--cc", "89"], "a compute capability is X.Y, such as 8.9, got '89'"),
        (["prune", "--max-size", "many"], "a number with K, M, G or T"),
        (["prune", "--older-than", "30"], "a number with m, h, d or w"),
    ],
)
def test_what_cannot_be_understood_is_told_with_an_example(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_looking_makes_no_folder(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (store_module, commands):
        monkeypatch.setattr(module, "default_folder", lambda: folder)
    assert main(["list"]) == 0
    assert capsys.readouterr().out == f"0 engines, 0 B, in {str(folder)!r}\n"
    assert main(["prune", "--all"]) == 0
    assert "there are no engines" in capsys.readouterr().out
    assert "there is no engine 'x'" in one_line(capsys, "inspect", "x")
    assert "there is no engine folder" in one_line(capsys, "list", "--engine-dir", str(tmp_path / "nowhere"))
    assert not folder.exists()


def test_inspect_tells_of_damage_and_of_names_that_many_have(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_frame_graph(tmp_path / "blur.onnx", 2)
    assert build(folder, model, "--cc", "8.6") == 0
    capsys.readouterr()
    where = ("--engine-dir", str(folder))
    assert "2 engines are called 'blur 20x12'; name one by its file:" in one_line(capsys, "inspect", "blur 20x12", *where)
    path = next(folder.glob("*.engine"))
    path.write_bytes(path.read_bytes()[:-1])
    assert "is damaged: it has" in one_line(capsys, "inspect", str(path))
    assert main(["list", *where]) == 0
    assert "(damaged or not yours: it will be built anew)" in capsys.readouterr().out


def test_layers_are_shown_where_there_is_a_gpu(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = FakeTensorRT()
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    target = Target("tensorrt", trt.__version__, (9, 0), "NVIDIA H200")
    graph = write_frame_graph(tmp_path / "blur.onnx", 2)
    EngineStore(folder).get(EngineRequest(graph, {"input": ShapeRange.fixed((1, 3, 8, 8))}, target, "blur"))
    arguments = ("inspect", "blur", "--layers", "--engine-dir", str(folder))
    monkeypatch.setattr(probe, "device_count", lambda: 0)
    assert "shown on the GPU it is for, none found; leave --layers out" in one_line(capsys, *arguments)
    monkeypatch.setattr(probe, "device_count", lambda: 1)
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "for       NVIDIA H200, tensorrt 10.12.0.36" in shown and shown.endswith("one layer (ONELINE)\n")
    trt.rejects = 1
    assert "doesn't load here (the engine was made for another GPU)" in one_line(capsys, *arguments)


def test_the_gpu_that_is_there_is_built_for(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = FakeTensorRT()
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(probe, "device_count", lambda: 1)
    graph = write_frame_graph(tmp_path / "blur.onnx", 2)
    # A device of the command's own, as it is on a GPU; the mock asks that it be closed.
    with mock_device() as (device, _):
        monkeypatch.setattr("vsflashsr.gpu.device.Device", lambda ordinal: device)
        given = ["build", str(graph), "--size", "20x12", "--backend", "tensorrt", "--engine-dir", str(folder)]
        assert main(given) == 0
        assert "1 built" in capsys.readouterr().err
        assert main(["list", "--engine-dir", str(folder)]) == 0
        assert f"{device.name}, tensorrt 10.12.0.36" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "size"), [("5G", 5 * 10**9), ("500 MB", 5 * 10**8), ("1.5GiB", 3 << 29), ("7", 7), ("2k", 2000)]
)
def test_sizes(text: str, size: int) -> None:
    assert commands._size_bytes(text) == size


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C can't be sent to one process there")
def test_ctrl_c_ends_the_command_and_leaves_nothing(folder: Path) -> None:
    """In the time in which TensorRT makes no step: the process must not wait for it, and not crash under it."""
    # As from a terminal: a shell's background job, and so what it starts, ignores the signal.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from tests.support.held_build import HeldBuild; from trt_build.cli import main; "
        "HeldBuild(lambda: sys.stderr.write('held\\n'), deaf=True).take_over(); sys.exit(main())"
    )
    command = [sys.executable, "-c", code]
    arguments = ["build", "builtin", "--size", "96x64", "--cc", "8.9", "--engine-dir", str(folder)]
    process = subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    wait_for(process, "held")
    os.kill(process.pid, signal.SIGINT)
    out, said = process.communicate(timeout=60)  # the build never ends
    assert process.returncode == 130 and out == ""
    assert said.splitlines()[-1] == "trt_build: interrupted, nothing was kept"
    assert [path for path in folder.iterdir() if path.is_file()] == []
