"""The command line itself: what it imports, how it fails, and that `doctor` tells the truth."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import vsflashsr
from vsflashsr.commands import app, doctor
from vsflashsr.errors import FlashsrError

from ..support.pipe import environment


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vsflashsr", *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        env=environment(),
        check=False,
    )


def test_version_imports_no_core_and_no_runtime() -> None:
    code = (
        "import sys\nfrom vsflashsr.commands.app import main\nstatus = main(['--version'])\n"
        "heavy = {'vapoursynth', 'onnxruntime', 'numpy', 'torch', 'tensorrt', 'tensorrt_rtx'}\n"
        "print(status, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", env=environment(), timeout=60, check=True
    )
    assert done.stdout.split() == [vsflashsr.__version__, "0", "[]"]


def test_every_command_is_there_and_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main([]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, (where, summary) in app.COMMANDS.items():
        module, _, function = where.partition(":")
        assert callable(getattr(importlib.import_module(module), function)), name
        assert name in shown
        assert summary.split()[0] in shown


@pytest.mark.parametrize("arguments", [["nothing-like-it"], ["doctor", "--device-id", "x"], ["doctor", "--wrong"]])
def test_wrong_use_is_one_sentence_and_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("vsflashsr: ")
    assert err.count("\n") == 1


def test_an_error_is_one_sentence_and_status_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> int:
        raise FlashsrError("the moon is full, got 100 %; wait")

    monkeypatch.setattr(doctor, "doctor", fails)
    assert app.main(["doctor"]) == 1
    assert capsys.readouterr().err == "vsflashsr: the moon is full, got 100 %; wait\n"


def test_doctor_says_what_runs() -> None:
    done = run("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert any(line.split()[:3] == ["+", "vsflashsr", vsflashsr.__version__] for line in lines)
    assert any(line.startswith("  + auto ") for line in lines)
    assert any(line.startswith("  + builtin ") for line in lines)
    assert any(line.startswith("  + built-in model") for line in lines)


def test_doctor_fails_where_the_model_doesnt_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_TRIAL", "raise SystemExit('no such luck')")
    monkeypatch.setattr(doctor, "examine", lambda _: iter([doctor.Section("trial", (doctor._trial(),))]))
    assert app.main(["doctor"]) == 1
    assert "! built-in model  three frames failed (no such luck)" in capsys.readouterr().out
