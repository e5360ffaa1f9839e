"""FSRCNNX as published for mpv (GLSL, igv/FSRCNN-TensorFlow) as an ONNX graph of luma, to compare with.

    python scripts/fsrcnnx_to_onnx.py FSRCNNX_x2_16-0-4-1.glsl fsrcnnx16.onnx

The shader isn't part of this repository. It reads luma as mpv hands it over, 8-bit values over 255, which is folded into the
first and the last layer here: the graph takes and gives 0..1 for 16..235 and is x2; apply it twice for x4. Of release 1.1 (sha256
of the 16: d5a24a27…, of the 8: e800dbc5…) every pass is a sum of matrices over 4 channels, which is read off line by line.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TAP = re.compile(
    r"res \+= (?:vec4|mat4|mat4x4)\(([^)]*)\) \* (?:float\()?(\w+)_texOff\((?:vec2\((-?\d+),(-?\d+)\)|0)\)\)?;"
)
_SLOPE = re.compile(r"res = max\(res, vec4\(0\.0\)\) \+ vec4\(([^)]*)\) \* min")
_ADDED = re.compile(r"res \+= (\w+)_texOff\(0\);")


def _numbers(text: str) -> list[float]:
    return [float(v) for v in text.split(",")]


class Pass(nn.Module):
    """One pass of the shader: a convolution of the textures it binds, something added, PReLU."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.output = re.findall(r"//!SAVE (\w+)", text)[0]
        taps = _TAP.findall(text)
        if not taps:
            raise ValueError(f"pass {self.output} is of another form than FSRCNNX 1.1's; give that release's shader")
        self.inputs = list(dict.fromkeys(name for _, name, _, _ in taps))
        self.added = _ADDED.findall(text)
        reach = max(abs(int(v or 0)) for _, _, *place in taps for v in place)
        width = len(_numbers(taps[0][0])) // 4
        weight = torch.zeros(4, width * len(self.inputs), 2 * reach + 1, 2 * reach + 1, dtype=torch.float64)
        for values, name, x, y in taps:
            first = width * self.inputs.index(name)
            # GLSL's matrices are given column by column, one for each channel that is read.
            columns = torch.tensor(_numbers(values), dtype=torch.float64).reshape(width, 4).T
            weight[:, first : first + width, reach + int(y or 0), reach + int(x or 0)] = columns
        (bias,) = re.findall(r"vec4 res = vec4\(([^)]*)\);", text) or ["0,0,0,0"]
        self.reach = reach
        self.register_buffer("weight", weight)
        self.register_buffer("bias", torch.tensor(_numbers(bias), dtype=torch.float64))
        slopes = _SLOPE.findall(text)
        self.register_buffer(
            "slope", torch.tensor(_numbers(slopes[0]), dtype=torch.float64) if slopes else torch.ones(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (self.reach,) * 4, mode="replicate")
        return F.conv2d(padded, cast(Tensor, self.weight), cast(Tensor, self.bias))


class Shader(nn.Module):
    """The network: (1, 1, h, w) -> (1, 1, 2h, 2w), luma 0..1."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        *passes, last = path.read_text(encoding="utf-8").split("//!HOOK LUMA")[1:]
        if "[index.x * 2 + index.y]" not in last:
            raise ValueError(f"{path} doesn't end as FSRCNNX 1.1 does; give that release's shader")
        self.passes = nn.ModuleList(Pass(text) for text in passes)
        first, final = (cast(list[Pass], list(self.passes)) for _ in range(2))
        for stage in first:
            if stage.inputs == ["LUMA"]:
                weight = cast(Tensor, stage.weight)
                stage.bias = cast(Tensor, stage.bias) + weight.sum((1, 2, 3)) * 16 / 255
                stage.weight = weight * (219 / 255)
        final[-1].weight = cast(Tensor, final[-1].weight) * (255 / 219)
        final[-1].bias = (cast(Tensor, final[-1].bias) * 255 - 16) / 219
        self.float()

    def forward(self, frame: Tensor) -> Tensor:
        textures = {"LUMA": frame}
        for stage in cast(list[Pass], list(self.passes)):
            x = stage(torch.cat([textures[name] for name in stage.inputs], 1))
            for name in stage.added:
                x = x + textures[name]
            if not bool((cast(Tensor, stage.slope) == 1).all()):
                x = F.prelu(x, cast(Tensor, stage.slope))
            textures[stage.output] = x
        # The last texture's channels are the phases column by column.
        return F.pixel_shuffle(x[:, [0, 2, 1, 3]], 2)


def main() -> None:
    """Convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shader", type=Path)
    parser.add_argument("out", type=Path, help="the graph")
    arguments = parser.parse_args()
    size = {2: "h", 3: "w"}
    torch.onnx.export(
        Shader(arguments.shader).eval(),
        (torch.rand(1, 1, 32, 40),),
        str(arguments.out),
        input_names=["frame"],
        output_names=["out"],
        dynamic_axes={"frame": size, "out": {2: "2*h", 3: "2*w"}},
        opset_version=17,
        dynamo=False,
    )


if __name__ == "__main__":
    main()
