"""Builds the wheel for every platform with a binary, checks each, and runs the one for this machine.

    python scripts/build_wheels.py [--into dist] [--only linux-x86_64 …] [--no-run]

Each binary may export VapourSynth's entry point alone and need nothing but the platform's own C library, of the age that the
wheel's tag promises. This machine's wheel is installed into an empty environment, whose path has a space and a letter that
isn't ASCII, and makes three frames through vspipe. Needs the dependency group "build".
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

import lief

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from hatch_build import FOLDER, STEM, TARGETS, Target, host_target  # noqa: E402

ENTRY = "VapourSynthPluginInit2"
SYSTEM = {
    ".so": r"lib(c|m|pthread)\.so\.6|ld-linux[-\w]*\.so\.\d|libpthread\.so\.0",
    ".dll": r"(KERNEL32|msvcrt|ntdll)\.dll|api-ms-win-crt-[-\w]+\.dll",
    ".dylib": r"/usr/lib/libSystem\.B\.dylib",
}
SCRIPT = """
import vapoursynth as vs
from vsflashsr import flashsr
clip = vs.core.std.BlankClip(width=64, height=48, format=vs.YUV420P8, length=3, color=[90, 120, 140])
flashsr(clip.std.SetFrameProps(_Matrix=1), 2).set_output()
"""


def build(key: str, into: Path) -> Path:
    """The wheel for a target."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
        subprocess.run(command, cwd=ROOT, env=os.environ | {"VSFLASHSR_TARGET": key}, check=True, stdout=sys.stderr)
        (made,) = Path(folder).glob("*.whl")
        into.mkdir(parents=True, exist_ok=True)
        wheel = into / made.name
        wheel.write_bytes(made.read_bytes())
    return wheel


def check(wheel: Path, target: Target) -> str:
    """What the wheel's binary exports and needs; ends the program where that isn't right."""
    name = f"{FOLDER}/{STEM}{target.suffix}"
    with zipfile.ZipFile(wheel) as archive:
        if archive.read(f"{FOLDER}/manifest.vs").decode().splitlines() != ["[VapourSynth Manifest V1]", STEM]:
            raise SystemExit(f"{wheel.name}: the manifest doesn't name {STEM}")
        data = archive.read(name)
    if not wheel.name.endswith(f"-py3-none-{target.wheel}.whl"):
        raise SystemExit(f"{wheel.name}: the tag isn't {target.wheel}")
    exports, libraries, versions = look(data)
    if exports != {ENTRY}:
        raise SystemExit(f"{wheel.name}: exports {sorted(exports)}, expected {ENTRY} alone")
    # A Mach-O library names itself too.
    foreign = [lib for lib in libraries if not re.fullmatch(SYSTEM[target.suffix], lib, re.I) and STEM not in lib]
    if foreign:
        raise SystemExit(f"{wheel.name}: needs {foreign}, which a user may not have")
    oldest = [int(part) for part in target.zig.rpartition("gnu.")[2].split(".")] if versions else []
    newer = [v for v in versions if [int(part) for part in v.removeprefix("GLIBC_").split(".")] > oldest]
    if newer:
        raise SystemExit(f"{wheel.name}: needs {newer}, its tag promises {target.wheel}")
    return f"{len(data)} bytes, exports {ENTRY}, needs {', '.join(libraries)}"


def look(data: bytes) -> tuple[set[str], list[str], list[str]]:
    """What a library exports, the libraries it needs, and the versions of their symbols (ELF)."""
    binary = lief.parse(list(data))
    match binary:
        case lief.PE.Binary():
            table = binary.get_export()
            exports = {str(entry.name) for entry in table.entries} if table else set()
            return exports, [str(lib.name) for lib in binary.imports], []
        case lief.MachO.Binary():
            # Two of them are the linker's own marks.
            found = {str(e.symbol.name) for e in binary.dyld_info.exports if e.symbol} if binary.dyld_info else set()
            marks = {"__mh_dylib_header", "___dso_handle"}
            return {name.removeprefix("_") for name in found - marks}, [str(lib.name) for lib in binary.libraries], []
        case lief.ELF.Binary():
            exports = {str(f.name) for f in binary.exported_functions} - {"_init", "_fini", "init", "fini"}
            needed = [r.get_auxiliary_symbols() for r in binary.symbols_version_requirement]
            return exports, [str(lib) for lib in binary.libraries], [str(v.name) for symbols in needed for v in symbols]
    raise SystemExit(f"got {type(binary).__name__} for a library")


def run(wheel: Path) -> str:
    """Three frames through vspipe in an empty environment with nothing but this wheel and what it depends on."""
    with tempfile.TemporaryDirectory(prefix="vsflashsr ü ") as folder:
        environment = Path(folder) / "an empty énvironment"
        venv.create(environment, with_pip=True)
        programs = environment / ("Scripts" if sys.platform == "win32" else "bin")
        python = programs / ("python.exe" if sys.platform == "win32" else "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True, stdout=sys.stderr)
        script = Path(folder) / "a scrípt.vpy"
        script.write_text(SCRIPT, encoding="utf-8")
        variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        variables |= {"XDG_CONFIG_HOME": folder, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
        subprocess.run([python, "-m", "vapoursynth", "config"], env=variables, check=True, stdout=sys.stderr)
        vspipe = programs / ("vspipe.exe" if sys.platform == "win32" else "vspipe")
        done = subprocess.run([vspipe, "-c", "y4m", script, "-"], env=variables, capture_output=True, check=False)
        sizes = b" W128 H96 "
        if done.returncode or sizes not in done.stdout[:100] or done.stdout.count(b"FRAME\n") != 3:
            raise SystemExit(f"{wheel.name} doesn't run:\n{done.stderr.decode(errors='replace')}")
    return "three frames through vspipe in an empty environment"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=ROOT / "dist")
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--no-run", action="store_true", help="don't install and run this machine's wheel")
    arguments = parser.parse_args()
    for key in arguments.only:
        wheel = build(key, arguments.into)
        print(f"{wheel.name}: {check(wheel, TARGETS[key])}", flush=True)
        if key == host_target() and not arguments.no_run:
            print(f"{wheel.name}: {run(wheel)}", flush=True)


if __name__ == "__main__":
    main()
