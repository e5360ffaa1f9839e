"""Makes an .onnx that flashsr takes of an upscaler's .pth or .safetensors, and holds it against torch before it writes it.

    python scripts/export_onnx.py 4x_some_model.pth [--out 4x_some_model.onnx] [--tile 256]

Needs the extra "export" and spandrel, which knows the architectures, and takes nothing but tensors out of a pickle. Models that
work in windows hold for one size only: --tile exports them for tiles of that side, in which flashsr then runs them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from spandrel import ImageModelDescriptor, ModelLoader

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


OPSET = 18
FREE = {"input": {2: "height", 3: "width"}, "output": {2: "out_height", 3: "out_width"}}
TOLERANCE = 2e-3
"""Of values from 0 to 1: half a level of 8 bits."""


def load(path: Path) -> ImageModelDescriptor:
    """The model, on the CPU, if it is a single-frame upscaler."""
    try:
        found = ModelLoader(device="cpu").load_from_file(path)
    except Exception as error:  # pickle's, torch's, safetensors' and spandrel's own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SystemExit(f"export_onnx: {path} is no model that spandrel knows ({reason}); see its list") from error
    channels = found.input_channels
    if not isinstance(found, ImageModelDescriptor) or channels != found.output_channels or channels not in (1, 3):
        raise SystemExit(f"export_onnx: flashsr takes models of one image in, one image out, got {found.architecture.name}")
    return found.eval()


def export(model: ImageModelDescriptor, side: tuple[int, int], out: Path, *, free: bool) -> None:
    """Trace the model with a picture of that height and width."""
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the tracer's, about sizes: what they warn of is held against torch below
        torch.onnx.export(
            model.model,
            (torch.rand(1, model.input_channels, *side),),
            str(out),
            input_names=["input"],
            output_names=["output"],
            dynamic_axes=FREE if free else None,
            opset_version=OPSET,
            dynamo=False,
        )


def difference(model: ImageModelDescriptor, path: Path, side: tuple[int, int]) -> float:
    """The largest difference between ONNX Runtime and torch for a picture of that height and width."""
    picture = torch.rand(1, model.input_channels, *side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model.model(picture).numpy()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {"input": picture.numpy()})
    return float(np.abs(made - expected).max()) if made.shape == expected.shape else float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL", help="a .pth or .safetensors")
    parser.add_argument("--out", type=Path, help="default: beside it, with .onnx")
    parser.add_argument("--tile", type=int, metavar="PX", help="side of the only size that the graph is to take")
    given = parser.parse_args()
    out = given.out or given.model.with_suffix(".onnx")
    if out.exists():
        raise SystemExit(f"export_onnx: {out} is there already; give another --out or remove it first")
    model = load(given.model)
    multiple = max(8, model.size_requirements.multiple_of, model.size_requirements.minimum)
    sides = [(given.tile, given.tile)] if given.tile else [(multiple * 6, multiple * 6), (multiple * 4, multiple * 5)]
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        part = Path(folder, out.name)
        try:
            export(model, sides[0], part, free=given.tile is None)
            worst = max(difference(model, part, side) for side in sides)
        except Exception as error:  # torch, onnx and ONNX Runtime each have their own
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            hint = "" if given.tile else "; it may hold for one size only: try --tile 256"
            raise SystemExit(f"export_onnx: {model.architecture.name} can't be exported ({reason}){hint}") from error
        if worst > TOLERANCE:
            hint = "another size" if given.tile else "other sizes: try --tile 256"
            raise SystemExit(f"export_onnx: the graph of {model.architecture.name} is wrong by {worst:.3g} at {hint}")
        part.replace(out)
    size = "one size" if given.tile else "any size"
    sys.stdout.write(f"{out}: {model.architecture.name} x{model.scale}, {size}, within {worst:.1e} of torch\n")


if __name__ == "__main__":
    main()
