"""Backend "torch" as far as it goes without a GPU: float32 stays float32, the built-in model runs, memory is stated."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'export'")

import torch

from vsflashsr.arguments import Arguments
from vsflashsr.gpu.budget import MemoryRefusedError
from vsflashsr.model import fetched
from vsflashsr.models.opening import read_kind
from vsflashsr.runtimes.onnxruntime import CpuBackend
from vsflashsr.runtimes.torch import exact_arithmetic

from ..support.mock_cuda import mock_device
from ..support.torch_device import OnMock, QueuedModule


def test_float32_is_computed_in_float32_whatever_the_process_has_chosen() -> None:
    cudnn = torch.backends.cudnn

    def chosen() -> tuple[bool, bool, bool, str]:
        return cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, torch.get_float32_matmul_precision()

    with cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
        torch.set_float32_matmul_precision("high")
        try:
            with exact_arithmetic():
                assert chosen() == (False, False, True, "highest")
            with pytest.raises(KeyError), exact_arithmetic():
                raise KeyError
            assert chosen() == (True, True, False, "high")
        finally:
            torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("held_bytes", [0, 200 << 20])
def test_the_built_in_model_in_torch_is_the_one_on_the_cpu(held_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the mock; and torch's own memory is part of what is stated, and refused where it isn't there."""
    torch.set_num_threads(1)
    kind = read_kind(Arguments(scale=2))
    monkeypatch.setattr(QueuedModule, "held_bytes", held_bytes)
    size = (20, 36)
    host = kind.load(CpuBackend(), size, tiles=None).model
    with mock_device(seed=1, total_bytes=400 << 20) as (device, mock):
        if held_bytes:
            with pytest.raises(MemoryRefusedError, match="runtime 200 MiB"):
                kind.load(OnMock(device, mock), size, tiles=None)
            return
        model = kind.load(OnMock(device, mock), size, tiles=None).model
        random = np.random.default_rng(0)
        state = host_state = None
        for n in range(4):
            frame = random.random((1, *size), dtype=np.float32)
            (made,), state = model.step([frame], [n], state)
            (wanted,), host_state = host.step([frame], [n], host_state)
            assert np.abs(fetched(made) - fetched(wanted)).max() < 1e-5
