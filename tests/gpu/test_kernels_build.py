"""Kernels compile ahead of time, without a GPU, for every GPU family; and a library finds, loads and runs the right ones."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from vsflashsr.errors import FlashsrError
from vsflashsr.gpu.kernels import kernel as kernel_module
from vsflashsr.gpu.kernels import library, manifest
from vsflashsr.gpu.kernels.kernel import CAPABILITIES, SHARED_LIMIT_BYTES, Kernel, KernelSet, Launch
from vsflashsr.gpu.kernels.library import KernelLibrary
from vsflashsr.gpu.kernels.manifest import Image, Manifest, read_manifest, write_manifest
from vsflashsr.gpu.kernels.planes import PLANES
from vsflashsr.models.flashvsr.kernels.table import KERNELS, kernels, tuning

from ..support import mock_cuda

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="compiling needs Triton")

MAIN = ("attend.fp16.d128", "attend.bf16.d128")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is found that another run compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


def check(kernel: Kernel, capability: int) -> None:
    from vsflashsr.gpu.kernels.compile import compiled

    made = compiled(KERNELS, kernel, capability)
    assert made.cubin[:4] == b"\x7fELF"
    assert made.shared_bytes <= SHARED_LIMIT_BYTES[capability]
    assert made.threads == 32 * tuning(kernel, capability).warps
    if kernel.function == "attend" and "fp32" not in kernel.name:
        assert ("wgmma" in made.ptx) == (capability == 90), "Hopper's own matrix products, asked for as sm_90a"
        assert "cp.async.cg.shared.global" in made.ptx, "16 bytes at once, straight into shared memory"
        keys = f"3x{tuning(kernel, capability).constants['BLOCK_N']}x128x" if capability == 90 else "2x64x128x"
        if "d128" in kernel.name:
            assert f"local_alloc : () -> !ttg.memdesc<{keys}" in made.ttgir, "keys are asked for before they are needed"


@needs_triton
@pytest.mark.parametrize(("name", "capability"), [(MAIN[0], 90), (MAIN[1], 86)])
def test_the_attention_compiles_and_is_pipelined(cache: None, name: str, capability: int) -> None:
    check(kernels()[name], capability)


@needs_triton
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_all_kernels_compile(cache: None, capability: int) -> None:
    for kernel in kernels().values():
        check(kernel, capability)
    from vsflashsr.gpu.kernels.compile import compiled

    for kernel in PLANES.kernels().values():
        assert compiled(PLANES, kernel, capability).cubin[:4] == b"\x7fELF"


@needs_triton
def test_what_is_built_is_found_and_matches_the_launches(cache: None, tmp_path: Path) -> None:
    """A cubin for a GPU that is named, PTX for one to come, and the arguments that Triton adds at the end."""
    from vsflashsr.gpu.kernels.compile import build

    out = tmp_path / "compiled ü"
    out.mkdir()
    (out / "somebody's.txt").touch()
    with pytest.raises(FlashsrError, match="name another"):
        build(KERNELS, out, names=["softmax"], capabilities=[86])
    (out / manifest.MANIFEST).touch()
    made = build(KERNELS, out, names=["softmax"], capabilities=[86])
    assert read_manifest(out) == made and made.sources == KERNELS.digest
    assert sorted(path.name for path in out.iterdir()) == [
        "manifest.json",
        "softmax.ptx",
        "softmax.sm86.cubin",
    ]
    ptx = (out / "softmax.ptx").read_text(encoding="utf-8")
    assert ".version 8.0\n.target sm_80\n" in ptx, "what drivers of CUDA 12.0 take"
    image = made.image("softmax", 86)
    assert image is not None and ptx.count(".param .") == 2 + image.extra_pointers


@needs_triton
@pytest.mark.parametrize("own", [KERNELS, PLANES], ids=lambda own: own.package)
def test_the_catalogue_is_what_the_sources_say(own: KernelSet) -> None:
    """Every argument and constant of every kernel, in order: checked here because the driver checks nothing."""
    for kernel in own.kernels().values():
        module = importlib.import_module(f"{own.package}.sources.{kernel.module}")
        names = list(inspect.signature(getattr(module, kernel.function).fn).parameters)
        for capability in CAPABILITIES:
            constants = {**kernel.constants, **own.tuning(kernel, capability).constants}
            assert names[: len(kernel.arguments)] == [name for name, _ in kernel.arguments], kernel.name
            assert set(names[len(kernel.arguments) :]) == set(constants), kernel.name


# --- the library, on the mock driver ---


def write_images(folder: Path, *, capabilities: tuple[int, ...] = (86, 89, 90), ptx: bool = True) -> Manifest:
    """Images for the mock, each of which says in its entry what it was compiled for."""

    def image(name: str, target: str) -> Image:
        entry = f"{name}@{target}"
        code = mock_cuda.image(entry)
        (folder / entry).write_bytes(code)
        return Image(entry, hashlib.sha256(code).hexdigest(), entry, threads=64, shared_bytes=1024, extra_pointers=2)

    made = Manifest(
        "3.7.1",
        KERNELS.digest,
        {name: {target: image(name, f"sm{target}") for target in capabilities} for name in kernels()},
        {name: image(name, "ptx") for name in kernels()} if ptx else {},
    )
    write_manifest(folder, made)
    return made


def ran(folder: Path, capability: tuple[int, int]) -> list[tuple[str, tuple[int, int, int], list[Any]]]:
    """Launch a kernel twice on a GPU of this capability: (entry, grid, arguments) of each run."""
    seen: list[tuple[str, tuple[int, int, int], list[Any]]] = []

    def note(entry: str, grid: tuple[int, int, int], args: Sequence[Any], view: object) -> None:
        seen.append((entry, grid, list(args)))

    with mock_cuda.mock_device(capability=capability) as (device, mock):
        for path in folder.iterdir():
            mock.kernels[path.name] = functools.partial(note, path.name)
        stream, memory = device.stream(), device.alloc(1 << 16)
        found = KernelLibrary(device, KERNELS, folder)
        launch = Launch("softmax", (2, 1, 1), (("p", memory.address), ("i32", 64)))
        found.run(stream, launch, launch)
        stream.synchronize()
    return seen


@pytest.mark.parametrize(
    ("capability", "target"),
    [
        ((8, 6), "sm86"),
        ((8, 9), "sm89"),
        ((8, 7), "sm86"),
        ((9, 0), "sm90"),
        ((8, 0), "ptx"),
        ((9, 1), "ptx"),
        ((12, 1), "ptx"),
    ],
)
def test_the_image_that_fits_the_gpu_runs(tmp_path: Path, capability: tuple[int, int], target: str) -> None:
    """Ampere's and Ada's run on their newer relatives; Hopper's and Blackwell's (sm_90a, sm_120a) nowhere else."""
    write_images(tmp_path)
    runs = ran(tmp_path, capability)
    assert [(entry, grid) for entry, grid, _ in runs] == [(f"softmax@{target}", (2, 1, 1))] * 2
    assert runs[0][2][1:] == [64, 0, 0], "Triton's own pointers are null"


def test_of_several_that_fit_the_newest_runs(tmp_path: Path) -> None:
    write_images(tmp_path, capabilities=(80, 86, 90))
    assert ran(tmp_path, (8, 9))[0][0] == "softmax@sm86"


def refused(folder: Path, capability: tuple[int, int]) -> str:
    with pytest.raises(FlashsrError) as error:
        ran(folder, capability)
    return str(error.value)


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "old" in refused(empty, (7, 5)) and "7.5" in refused(empty, (7, 5))
    assert "8.9" in refused(empty, (8, 9)) and "trt_build.kernels" in refused(empty, (8, 9))
    write_images(tmp_path, ptx=False)
    assert "not for it" in refused(tmp_path, (12, 0))
    assert len(ran(tmp_path, (8, 9))) == 2
    monkeypatch.setattr(kernel_module, "_digest", lambda sources: "other")
    assert "other sources" in refused(tmp_path, (8, 9))


def test_damage_is_said(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "softmax@sm89").write_bytes(mock_cuda.image("softmax@sm89", "more"))
    assert "sha256" in refused(tmp_path, (8, 9))
    (tmp_path / "softmax@sm89").unlink()
    assert "reinstall" in refused(tmp_path, (8, 9))
    path = tmp_path / manifest.MANIFEST
    document = json.loads(path.read_text(encoding="utf-8"))
    document["ptx"]["softmax"]["file"] = "../softmax"
    path.write_text(json.dumps(document), encoding="utf-8")
    assert "damaged" in refused(tmp_path, (8, 9))
    for wrong in ("{", "[]", "null", '{"format": 2}'):
        path.write_text(wrong, encoding="utf-8")
        assert "damaged" in refused(tmp_path, (8, 9))


@needs_triton
def test_triton_compiles_where_nothing_fits(cache: None, tmp_path: Path) -> None:
    """A source checkout: no folder of compiled kernels. The mock knows a cubin by its symbols."""
    seen: list[str] = []
    with mock_cuda.mock_device() as (device, mock):
        mock.kernels["softmax"] = lambda grid, args, view: seen.append("softmax")
        stream, memory = device.stream(), device.alloc(1 << 16)
        launch = Launch("softmax", (2, 1, 1), (("p", memory.address), ("i32", 64)))
        KernelLibrary(device, KERNELS, tmp_path).run(stream, launch)
        stream.synchronize()
    assert seen == ["softmax"]
