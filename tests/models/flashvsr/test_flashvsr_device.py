"""FlashVSR's step on the mock device, kernels in NumPy and graphs in ONNX Runtime, against the reference step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the exporter needs the extra 'export'")

from vsflashsr.bundle import Bundle, load_bundle
from vsflashsr.model import fetched
from vsflashsr.models.flashvsr.calls import StepOf
from vsflashsr.models.flashvsr.device.memory import StepShape, work_bytes
from vsflashsr.models.flashvsr.device.model import DeviceFlashVSRModel, step_shape
from vsflashsr.models.flashvsr.device.step import DeviceStep
from vsflashsr.models.flashvsr.network.block_sparse import BlockSparseLibrary
from vsflashsr.models.flashvsr.network.graphs import load_graph
from vsflashsr.models.flashvsr.options import Options
from vsflashsr.models.flashvsr.section import read_section
from vsflashsr.models.wan.section import Graph
from vsflashsr.runtimes.graph import DeviceGraph
from vsflashsr.runtimes.torch import TorchGraph

from ...support.flashvsr_small import frames, small_bundle
from ...support.host_device import HostGraph
from ...support.host_kernels import HostKernels
from ...support.mock_cuda import MockDriver, mock_device
from ...support.models import host_flashvsr
from ...support.torch_device import QueuedModule
from ...support.torch_place import mock_place

LOW = (24, 60)
"""Height and width: x4 is 96x240, padded to 128x256: two windows, and something to crop."""


def bundle(variant: str, version: str) -> Bundle:
    """Of a FlashVSR whose head dimension the kernels know."""
    return load_bundle(small_bundle(variant, version))


def graphs(bundle: Bundle, mock: MockDriver) -> StepOf[DeviceGraph]:
    """The bundle's graphs with constant weights."""
    section = read_section("test", bundle.section)

    def piece(graph: Graph) -> tuple[HostGraph, ...]:
        return tuple(one(name) for name in graph.constant)

    def one(name: str) -> HostGraph:
        return HostGraph(bundle.folder / name, mock)

    return StepOf(
        first=piece(section.first),
        middle=piece(section.middle),
        last=piece(section.last),
        projector=one(section.projector),
        decoder=one(section.decoder),
        decoder_first=None if section.decoder_first is None else one(section.decoder_first),
    )


def torch_graphs(bundle: Bundle, mock: MockDriver) -> StepOf[Any]:
    """As backend "torch" has them: between its products our kernels."""
    section = read_section("test", bundle.section)
    place = mock_place(mock)

    def loaded(part: str, layer: int = 0) -> Any:
        graph = load_graph(bundle, section, part, layer, place)
        return QueuedModule.of(graph, mock) if isinstance(graph, TorchGraph) else graph

    return StepOf(
        projector=loaded("projector"),
        first=(loaded("first"),),
        middle=tuple(loaded("middle", layer) for layer in range(section.layers - 1)),
        last=(loaded("last"),),
        decoder_first=None,
        decoder=loaded("decoder"),
    )


def device_model(
    device: Any, mock: MockDriver, bundle: Bundle, options: Options, load: Any = graphs, **others: Any
) -> DeviceFlashVSRModel:
    """The model on the mock."""
    section = read_section("test", bundle.section)
    shape = step_shape(section, options, dtype="fp32", low=LOW, scale=4)
    step = DeviceStep(
        device,
        HostKernels(mock),  # type: ignore[arg-type]  # has the methods that are called
        load(bundle, mock),
        section,
        shape,
        padding=options.padding,
        color_fix=options.color_fix,
        **others,
    )
    return DeviceFlashVSRModel(bundle.spec(4), step, options.seed)


def worst(
    variant: str, version: str, changes: dict[str, Any], steps: int, seed: int, *, exact: bool, load: Any = graphs
) -> float:
    """The largest difference from the host's model over some steps, fetched late."""
    options = Options(**changes)
    clip = frames(25 + 8 * (steps - 1), *LOW)
    if exact:
        clip = [np.rint(frame * 255).astype(np.float32) / np.float32(255) for frame in clip]
    chosen = bundle(variant, version)
    host = host_flashvsr(chosen.folder, 4, threads=1, **changes)
    with mock_device(seed=seed, total_bytes=1 << 30) as (device, mock):
        model = device_model(device, mock, chosen, options, load)
        difference, state, host_state = 0.0, None, None
        pending: list[Any] = []
        wanted: list[Any] = []
        for index in range(steps):
            numbers = range(25) if index == 0 else range(8 * index + 17, 8 * index + 25)
            given = [clip[n] for n in numbers]
            made, state = model.step(given, numbers, state)
            pending += made
            reference, host_state = host.step(given, numbers, host_state)
            wanted += reference
        for made_frame, reference_frame in zip(pending, wanted, strict=True):
            # Unlike max, this lets a NaN through.
            difference = float(np.maximum(difference, np.abs(fetched(made_frame) - reference_frame).max()))
        del state
    return difference


@pytest.mark.parametrize(
    ("variant", "version", "changes", "exact", "steps"),
    [
        # Six steps go more than once around a ring of four slots.
        ("tiny", "v1.1", {"sparse_ratio": 0.05}, True, 6),
        pytest.param(
            *("tiny", "v1", {"color_fix": "wavelet", "padding": "replicate", "kv_ratio": 2.0}, False, 3),
            marks=pytest.mark.long,
        ),
        pytest.param("full", "v1.1", {"color_fix": "none", "local_range": 1}, False, 4, marks=pytest.mark.long),
    ],
)
def test_the_device_step_is_the_reference_step(
    variant: str, version: str, changes: dict[str, Any], exact: bool, steps: int
) -> None:
    assert worst(variant, version, changes, steps, 1, exact=exact) < 1e-4


def test_the_step_with_torch_between_our_kernels_is_the_reference_step() -> None:
    """Fused pieces work in memory that the step gives them, and leave the norms of q and k to the attention."""
    assert worst("tiny", "v1.1", {"sparse_ratio": 0.05}, 2, 2, exact=True, load=torch_graphs) < 1e-4


@pytest.mark.parametrize("color_fix", ["adain", "wavelet", "none"])
def test_finished_frames_are_halves_where_the_model_computes_no_more(
    monkeypatch: pytest.MonkeyPatch, color_fix: str
) -> None:
    """All else stays as it is, so what differs from the reference is their rounding."""
    changes = {"sparse_ratio": 0.05, "color_fix": color_fix}
    assert step_shape(read_section("test", bundle("tiny", "v1.1").section), Options(), dtype="bf16", low=LOW, scale=4).half
    monkeypatch.setattr(StepShape, "half", True)
    assert 2e-5 < worst("tiny", "v1.1", changes, 1, 3, exact=True) < 2.0**-12 + 1e-4


def test_what_cudnn_s_attention_makes_is_in_the_stated_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first step's output, which lies in memory of torch's before it is copied."""
    chosen, options = bundle("tiny", "v1.1"), Options()
    stated: list[dict[str, int]] = []
    for made in (HostKernels.made_bytes, BlockSparseLibrary.made_bytes):
        monkeypatch.setattr(HostKernels, "made_bytes", made)
        with mock_device(seed=1, total_bytes=1 << 30) as (device, mock):
            stated.append(dict(device_model(device, mock, chosen, options).memory.items))
    shape = step_shape(read_section("test", chosen.section), options, dtype="fp32", low=LOW, scale=4)
    more = stated[1].pop("runtime") - stated[0].pop("runtime")
    assert more == work_bytes(shape)["attended"] > 0
    assert stated[0] == stated[1]
