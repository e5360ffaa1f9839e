"""Who may know whom: the layout of CONTRIBUTING.md, held."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import grimp
import pytest

PURE = ("arguments", "bundle", "files", "onnx_file", "typed_json", "geometry", "model", "schedule", "segments", "version")
RUNTIMES = ("vapoursynth", "onnxruntime", "tensorrt", "tensorrt_rtx", "torch", "cuda")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Every import of both packages, those inside functions too; not those that only a type checker sees."""
    return grimp.build_graph(
        "vsflashsr", "trt_build", include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )


def imports(graph: grimp.ImportGraph, importer: str, imported: str) -> list[tuple[str, str]]:
    """(module, what it imports) for modules of the package `importer` that import something of `imported`."""
    return sorted(
        (module, found)
        for module in graph.modules
        if f"{module}.".startswith(f"{importer}.")
        for found in graph.find_modules_directly_imported_by(module)
        if f"{found}.".startswith(f"{imported}.")
    )


def test_no_import_comes_back_to_where_it_began(graph: grimp.ImportGraph) -> None:
    ours = {module for module in graph.modules if module.split(".")[0] in ("vsflashsr", "trt_build")}
    order = TopologicalSorter({module: graph.find_modules_directly_imported_by(module) & ours for module in ours})
    try:
        order.prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' ← '.join(error.args[1])}")


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("vsflashsr", "trt_build"),
        ("vsflashsr.gpu", "vsflashsr.models"),
        ("vsflashsr.gpu", "vsflashsr.runtimes"),
        ("vsflashsr.runtimes", "vsflashsr.models"),
        ("vsflashsr.models", "vapoursynth"),
        ("vsflashsr.runtimes", "vapoursynth"),
        ("vsflashsr.gpu", "vapoursynth"),
    ],
)
def test_one_does_not_know_the_other(graph: grimp.ImportGraph, importer: str, imported: str) -> None:
    assert imports(graph, importer, imported) == []


TORCH_RUNTIME = ["vsflashsr.runtimes.onnx_operators", "vsflashsr.runtimes.onnx_torch", "vsflashsr.runtimes.torch"]


def test_torch_is_known_to_networks_and_its_runtime_only(graph: grimp.ImportGraph) -> None:
    knowing = {module for module, _ in imports(graph, "vsflashsr", "torch")}
    assert [module for module in sorted(knowing) if ".network." not in module] == TORCH_RUNTIME
    # Nothing but its runtime takes it along.
    for module in TORCH_RUNTIME[:2]:
        assert graph.find_modules_that_directly_import(module) <= set(TORCH_RUNTIME)


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_reach_no_runtime(graph: grimp.ImportGraph, name: str) -> None:
    reached = graph.find_upstream_modules(f"vsflashsr.{name}")
    assert not reached & set(RUNTIMES)
    assert not {module for module in reached if module.startswith(("vsflashsr.gpu", "vsflashsr.runtimes", "vsflashsr.models"))}
