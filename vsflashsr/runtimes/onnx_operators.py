"""ONNX operators as torch calls, as far as the built-in models and common single-frame upscalers have them.

Each takes its node's attributes and inputs, None for those that are left out, and returns a tensor or several. Inputs that say
how it works, rather than on what, are on the host. Definitions: ONNX's Operators.md, opsets 9 to 21.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor
from torch.nn import functional as F

type Attributes = Mapping[str, Any]
type Operator = Callable[[Attributes, Sequence[Any]], Any]

TYPES: Mapping[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.BOOL: torch.bool,
}


@dataclass(frozen=True, slots=True)
class Known:
    """An operator of the table."""

    run: Operator
    host: frozenset[int]
    """Inputs that must be on the host, and so must not depend on the picture."""


OPERATORS: dict[str, Known] = {}


def _operator(*names: str, host: Sequence[int] = ()) -> Callable[[Operator], Operator]:
    def add(run: Operator) -> Operator:
        for name in names:
            OPERATORS[name] = Known(run, frozenset(host))
        return run

    return add


def _simple(name: str, function: Callable[..., Any]) -> None:
    OPERATORS[name] = Known(lambda a, x: function(*x), frozenset())


_TORCH: Mapping[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "And": torch.logical_and,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Log": torch.log,
    "MatMul": torch.matmul,
    "Mish": F.mish,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Softplus": F.softplus,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
    "Where": torch.where,
}
for _name, _function in _TORCH.items():
    _simple(_name, _function)


# --- numbers ---


@_operator("Div")
def _div(a: Attributes, x: Sequence[Any]) -> Any:
    whole = not x[0].is_floating_point()
    return torch.div(x[0], x[1], rounding_mode="trunc") if whole else torch.div(x[0], x[1])


@_operator("Mod")
def _mod(a: Attributes, x: Sequence[Any]) -> Any:
    return torch.fmod(*x) if a.get("fmod") else torch.remainder(*x)


@_operator("Pow")
def _pow(a: Attributes, x: Sequence[Any]) -> Any:
    return torch.pow(x[0], x[1]).to(x[0].dtype)


@_operator("Min")
def _min(a: Attributes, x: Sequence[Any]) -> Any:
    found = x[0]
    for other in x[1:]:
        found = torch.minimum(found, other)
    return found


@_operator("Max")
def _max(a: Attributes, x: Sequence[Any]) -> Any:
    found = x[0]
    for other in x[1:]:
        found = torch.maximum(found, other)
    return found


@_operator("Clip", host=(1, 2))
def _clip(a: Attributes, x: Sequence[Any]) -> Any:
    low, high = (a.get(name, _scalar(x, place)) for name, place in (("min", 1), ("max", 2)))
    return torch.clamp(x[0], low, high)


@_operator("LeakyRelu")
def _leaky(a: Attributes, x: Sequence[Any]) -> Any:
    return F.leaky_relu(x[0], a.get("alpha", 0.01))


@_operator("PRelu")
def _prelu(a: Attributes, x: Sequence[Any]) -> Any:
    return torch.where(x[0] < 0, x[0] * x[1], x[0])


@_operator("Elu")
def _elu(a: Attributes, x: Sequence[Any]) -> Any:
    return F.elu(x[0], a.get("alpha", 1.0))


@_operator("HardSigmoid")
def _hard_sigmoid(a: Attributes, x: Sequence[Any]) -> Any:
    return (x[0] * a.get("alpha", 0.2) + a.get("beta", 0.5)).clamp(0, 1)


@_operator("Gelu")
def _gelu(a: Attributes, x: Sequence[Any]) -> Any:
    return F.gelu(x[0], approximate=a.get("approximate", "none"))


@_operator("Softmax")
def _softmax(a: Attributes, x: Sequence[Any]) -> Any:
    return torch.softmax(x[0], a.get("axis", -1))


@_operator("Cast")
def _cast(a: Attributes, x: Sequence[Any]) -> Any:
    return x[0].to(TYPES[a["to"]])


@_operator("Dropout")
def _dropout(a: Attributes, x: Sequence[Any]) -> Any:
    return x[0]  # as it is when it doesn't train


# --- products and convolutions ---


@_operator("Gemm")
def _gemm(a: Attributes, x: Sequence[Any]) -> Any:
    left = x[0].T if a.get("transA") else x[0]
    right = x[1].T if a.get("transB") else x[1]
    made = a.get("alpha", 1.0) * (left @ right)
    return made if len(x) < 3 or x[2] is None else made + a.get("beta", 1.0) * x[2]


@_operator("Einsum")
def _einsum(a: Attributes, x: Sequence[Any]) -> Any:
    return torch.einsum(a["equation"], *x)


@_operator("Conv")
def _conv(a: Attributes, x: Sequence[Any]) -> Any:
    count = x[0].ndim - 2
    stride, dilation = a.get("strides", [1] * count), a.get("dilations", [1] * count)
    picture, padding = _padded(x[0], a, x[1].shape[2:], stride, dilation)
    bias = x[2] if len(x) > 2 else None
    run = (F.conv1d, F.conv2d, F.conv3d)[count - 1]
    return run(picture, x[1], bias, stride, padding, dilation, a.get("group", 1))


@_operator("ConvTranspose")
def _conv_transpose(a: Attributes, x: Sequence[Any]) -> Any:
    count = x[0].ndim - 2
    stride, dilation = a.get("strides", [1] * count), a.get("dilations", [1] * count)
    begin, end = _pads(a, count)
    if a.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or "output_shape" in a:
        raise ValueError("auto_pad and output_shape aren't known")
    extra = a.get("output_padding", [0] * count)
    # Torch crops both sides alike; what is cropped less at the end is output padding.
    extra = [more + first - last for more, first, last in zip(extra, begin, end, strict=True)]
    if min(extra) < 0:
        raise ValueError(f"pads of {begin} and {end} aren't known")
    bias = x[2] if len(x) > 2 else None
    run = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[count - 1]
    return run(x[0], x[1], bias, stride, begin, extra, a.get("group", 1), dilation)


@_operator("AveragePool")
def _average_pool(a: Attributes, x: Sequence[Any]) -> Any:
    size = a["kernel_shape"]
    stride = a.get("strides", [1] * len(size))
    begin, end = _pads(a, len(size))
    counted = bool(a.get("count_include_pad", 0))
    if begin != end and not counted:
        raise ValueError(f"pads of {begin} and {end} aren't known")
    picture, padding = _padded(x[0], a, size, stride, [1] * len(size))
    run = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(size) - 1]
    return run(picture, size, stride, padding, bool(a.get("ceil_mode", 0)), counted)


@_operator("MaxPool")
def _max_pool(a: Attributes, x: Sequence[Any]) -> Any:
    size = a["kernel_shape"]
    stride, dilation = a.get("strides", [1] * len(size)), a.get("dilations", [1] * len(size))
    picture, padding = _padded(x[0], a, size, stride, dilation, value=-math.inf)
    run = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(size) - 1]
    return run(picture, size, stride, padding, dilation, bool(a.get("ceil_mode", 0)))


@_operator("GlobalAveragePool")
def _global_average_pool(a: Attributes, x: Sequence[Any]) -> Any:
    return x[0].mean(tuple(range(2, x[0].ndim)), keepdim=True)


@_operator("BatchNormalization")
def _batch_norm(a: Attributes, x: Sequence[Any]) -> Any:
    return F.batch_norm(x[0], x[3], x[4], x[1], x[2], eps=a.get("epsilon", 1e-5))


@_operator("InstanceNormalization")
def _instance_norm(a: Attributes, x: Sequence[Any]) -> Any:
    return F.instance_norm(x[0], weight=x[1], bias=x[2], eps=a.get("epsilon", 1e-5))


@_operator("LayerNormalization")
def _layer_norm(a: Attributes, x: Sequence[Any]) -> Any:
    axis = a.get("axis", -1) % x[0].ndim
    bias = x[2] if len(x) > 2 else None
    return F.layer_norm(x[0], x[0].shape[axis:], x[1].reshape(x[0].shape[axis:]), bias, a.get("epsilon", 1e-5))


@_operator("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2", host=(1,))
def _reduce(a: Attributes, x: Sequence[Any]) -> Any:
    axes = a.get("axes") if len(x) < 2 or x[1] is None else x[1].tolist()
    if not axes:
        if a.get("noop_with_empty_axes"):
            return x[0]
        axes = list(range(x[0].ndim))
    axes = sorted((axis % x[0].ndim for axis in axes), reverse=True)
    keep = bool(a.get("keepdims", 1))
    match a["op_type"]:
        case "ReduceMean":
            return x[0].mean(axes, keepdim=keep)
        case "ReduceSum":
            return x[0].sum(axes, keepdim=keep)
        case "ReduceMax":
            return x[0].amax(axes, keepdim=keep)
        case "ReduceMin":
            return x[0].amin(axes, keepdim=keep)
        case "ReduceL2":
            return torch.linalg.vector_norm(x[0], dim=axes, keepdim=keep)
        case _:
            made = x[0]
            for axis in axes:
                made = made.prod(axis, keepdim=keep)
            return made


# --- order and shape ---


@_operator("Concat")
def _concat(a: Attributes, x: Sequence[Any]) -> Any:
    return torch.cat(list(x), a["axis"])


@_operator("Split", host=(1,))
def _split(a: Attributes, x: Sequence[Any]) -> Any:
    axis = a.get("axis", 0)
    sizes = a.get("split") if len(x) < 2 or x[1] is None else x[1].tolist()
    if sizes is None:
        whole, count = x[0].shape[axis], a.get("num_outputs", a["output_count"])
        each = -(-whole // count)
        sizes = [min(each, whole - n * each) for n in range(count)]
    return torch.split(x[0], sizes, axis)


@_operator("Slice", host=(1, 2, 3, 4))
def _slice(a: Attributes, x: Sequence[Any]) -> Any:
    if len(x) == 1:
        starts, ends, axes, steps = a["starts"], a["ends"], a.get("axes"), None
    else:
        starts, ends, axes, steps = (x[n].tolist() if len(x) > n and x[n] is not None else None for n in (1, 2, 3, 4))
    made = x[0]
    for n, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = (axes[n] if axes else n) % made.ndim
        step = steps[n] if steps else 1
        picked = range(made.shape[axis])[start:end:step] if step > 0 else _backwards(made.shape[axis], start, end, step)
        if step > 0:
            at = (slice(None),) * axis + (slice(picked.start, max(picked.start, picked.stop), step),)
            made = made[at]
        else:
            made = made.index_select(axis, torch.tensor(list(picked), device=made.device))
    return made


def _backwards(size: int, start: int, end: int, step: int) -> range:
    start = min(start + size if start < 0 else start, size - 1)
    end = max(end + size, -1) if -size <= end < 0 else -1 if end < -size else end
    return range(start, end, step)


@_operator("Reshape", host=(1,))
def _reshape(a: Attributes, x: Sequence[Any]) -> Any:
    sizes = x[1].tolist()
    if not a.get("allowzero"):
        sizes = [x[0].shape[n] if size == 0 else size for n, size in enumerate(sizes)]
    return x[0].reshape(sizes)


@_operator("Flatten")
def _flatten(a: Attributes, x: Sequence[Any]) -> Any:
    axis = a.get("axis", 1)
    axis = axis if axis >= 0 else axis + x[0].ndim
    return x[0].reshape(math.prod(x[0].shape[:axis]), -1)


@_operator("Transpose")
def _transpose(a: Attributes, x: Sequence[Any]) -> Any:
    return x[0].permute(a.get("perm", list(range(x[0].ndim))[::-1]))


@_operator("Squeeze", host=(1,))
def _squeeze(a: Attributes, x: Sequence[Any]) -> Any:
    axes = a.get("axes") if len(x) < 2 or x[1] is None else x[1].tolist()
    return x[0].squeeze() if axes is None else x[0].squeeze(tuple(axes))


@_operator("Unsqueeze", host=(1,))
def _unsqueeze(a: Attributes, x: Sequence[Any]) -> Any:
    axes = a["axes"] if len(x) < 2 else x[1].tolist()
    made = x[0]
    for axis in sorted(axis % (x[0].ndim + len(axes)) for axis in axes):
        made = made.unsqueeze(axis)
    return made


@_operator("Expand", host=(1,))
def _expand(a: Attributes, x: Sequence[Any]) -> Any:
    return x[0].expand([max(pair) for pair in _aligned(x[0].shape, x[1].tolist())])


def _aligned(shape: Sequence[int], sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Both from their ends, filled up with ones."""
    count = max(len(shape), len(sizes))
    return list(zip([1] * (count - len(shape)) + list(shape), [1] * (count - len(sizes)) + list(sizes), strict=True))


@_operator("Tile", host=(1,))
def _tile(a: Attributes, x: Sequence[Any]) -> Any:
    return x[0].repeat(x[1].tolist())


@_operator("Gather")
def _gather(a: Attributes, x: Sequence[Any]) -> Any:
    axis, index = a.get("axis", 0) % x[0].ndim, x[1].to(torch.int64)
    index = torch.where(index < 0, index + x[0].shape[axis], index)
    made = x[0].index_select(axis, index.reshape(-1))
    return made.reshape([*x[0].shape[:axis], *index.shape, *x[0].shape[axis + 1 :]])


@_operator("ConstantOfShape", host=(0,))
def _constant_of_shape(a: Attributes, x: Sequence[Any]) -> Any:
    value = a.get("value", torch.zeros(1))
    return value.reshape(()).expand(x[0].tolist())


@_operator("Range", host=(0, 1, 2))
def _range(a: Attributes, x: Sequence[Any]) -> Any:
    start, limit, delta = (part.item() for part in x)
    return torch.arange(start, limit, delta, dtype=x[0].dtype)


@_operator("DepthToSpace")
def _depth_to_space(a: Attributes, x: Sequence[Any]) -> Any:
    block = a["blocksize"]
    if a.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x[0], block)
    n, c, h, w = x[0].shape
    made = x[0].reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return made.reshape(n, c // block**2, h * block, w * block)


@_operator("SpaceToDepth")
def _space_to_depth(a: Attributes, x: Sequence[Any]) -> Any:
    block = a["blocksize"]
    n, c, h, w = x[0].shape
    made = x[0].reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return made.reshape(n, c * block**2, h // block, w // block)


@_operator("Pad", host=(1, 2, 3))
def _pad(a: Attributes, x: Sequence[Any]) -> Any:
    pads = a["pads"] if len(x) < 2 else x[1].tolist()
    value = a.get("value", 0.0) if len(x) < 3 or x[2] is None else x[2].item()
    if len(x) > 3 and x[3] is not None:
        axes, some = [axis % x[0].ndim for axis in x[3].tolist()], pads
        pads = [0] * (2 * x[0].ndim)
        for n, axis in enumerate(axes):
            pads[axis], pads[axis + x[0].ndim] = some[n], some[n + len(axes)]
    ndim, mode = x[0].ndim, a.get("mode", "constant")
    both = [(pads[n], pads[n + ndim]) for n in range(ndim)]
    if mode == "constant":
        return F.pad(x[0], [size for pair in reversed(both) for size in pair], value=value)
    made = x[0]
    for axis, (before, after) in enumerate(both):
        # Crops are negative.
        at = torch.arange(-before, made.shape[axis] + after, device=made.device)
        last = made.shape[axis] - 1
        if mode == "edge":
            at = at.clamp(0, last)
        elif mode == "reflect":
            at = last - (last - at.abs()).abs()
        else:
            at = at % (last + 1)
        if before or after:
            made = made.index_select(axis, at)
    return made


@_operator("GridSample")
def _grid_sample(a: Attributes, x: Sequence[Any]) -> Any:
    mode = a.get("mode", "bilinear")
    mode = {"linear": "bilinear", "cubic": "bicubic"}[mode] if mode in ("linear", "cubic") else mode
    return F.grid_sample(x[0], x[1], mode, a.get("padding_mode", "zeros"), bool(a.get("align_corners", 0)))


@_operator("Resize", host=(1, 2, 3))
def _resize(a: Attributes, x: Sequence[Any]) -> Any:
    if a.get("antialias") or a.get("exclude_outside"):
        raise ValueError("antialias and exclude_outside aren't known")
    given = [part if part is not None and part.numel() else None for part in (*x[1:], None, None, None)[:3]]
    # Opset 10 has the scales second; later ones have a region of interest there, which one transformation alone reads.
    scales, sizes = (given[0], None) if len(x) == 2 else (given[1], given[2])
    whole = list(x[0].shape)
    axes = a.get("axes", list(range(x[0].ndim)))
    made = x[0]
    for n, axis in enumerate(axes):
        if sizes is not None:
            target = int(sizes[n])
            scale = target / whole[axis]
        else:
            assert scales is not None
            scale = float(scales[n])
            target = math.floor(whole[axis] * scale)
        if target != whole[axis] or scale != 1:
            made = _along(made, axis, target, scale, a)
    return made


@_operator("Upsample", host=(1,))
def _upsample(a: Attributes, x: Sequence[Any]) -> Any:
    scales = a.get("scales") if len(x) < 2 else x[1].tolist()
    chosen = {**a, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    made = x[0]
    for axis, scale in enumerate(scales or ()):
        if scale != 1:
            made = _along(made, axis, math.floor(x[0].shape[axis] * scale), float(scale), chosen)
    return made


def _along(x: Tensor, axis: int, target: int, scale: float, a: Attributes) -> Tensor:
    """One axis resized: a few taps of it for every output."""
    size, mode = x.shape[axis], a.get("mode", "nearest")
    at = torch.arange(target, dtype=torch.float64)
    match a.get("coordinate_transformation_mode", "half_pixel"):
        case "half_pixel":
            place = (at + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            place = (at + 0.5) / scale - 0.5 if target > 1 else at * 0
        case "asymmetric":
            place = at / scale
        case "align_corners":
            place = at * ((size - 1) / (target - 1)) if target > 1 else at * 0
        case other:
            raise ValueError(f"the transformation {other!r} isn't known")

    def picked(index: Tensor) -> Tensor:
        return x.index_select(axis, index.clamp(0, size - 1).to(torch.int64).to(x.device))

    if mode == "nearest":
        rounded = {
            "round_prefer_floor": torch.ceil(place - 0.5),
            "round_prefer_ceil": torch.floor(place + 0.5),
            "floor": torch.floor(place),
            "ceil": torch.ceil(place),
        }
        whole = round(scale)
        if whole == scale and bool((rounded[a.get("nearest_mode", "round_prefer_floor")] == at // whole).all()):
            return x.repeat_interleave(whole, axis)
        return picked(rounded[a.get("nearest_mode", "round_prefer_floor")])
    first = torch.floor(place)
    part = place - first
    if mode == "linear":
        taps = {0: 1 - part, 1: part}
    else:
        taps = {n: _cubic(part - n, a.get("cubic_coeff_a", -0.75)) for n in (-1, 0, 1, 2)}
    shape = [1] * x.ndim
    shape[axis] = target
    made: Tensor | None = None
    for offset, weight in taps.items():
        term = picked(first + offset) * weight.to(x.dtype).reshape(shape).to(x.device)
        made = term if made is None else made + term
    assert made is not None
    return made


def _cubic(x: Tensor, a: float) -> Tensor:
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


# --- shared ---


def _scalar(x: Sequence[Any], place: int) -> Any:
    return x[place].item() if len(x) > place and x[place] is not None else None


def _pads(a: Attributes, count: int) -> tuple[list[int], list[int]]:
    pads = a.get("pads", [0] * (2 * count))
    return list(pads[:count]), list(pads[count:])


def _padded(
    x: Tensor, a: Attributes, size: Sequence[int], stride: Sequence[int], dilation: Sequence[int], value: float = 0.0
) -> tuple[Tensor, list[int]]:
    """The picture and what is left to pad on both sides: what differs between the sides is padded here."""
    begin, end = _pads(a, len(size))
    auto = a.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        for n, (whole, side, step, apart) in enumerate(zip(x.shape[2:], size, stride, dilation, strict=True)):
            missing = max(0, (-(-whole // step) - 1) * step + (side - 1) * apart + 1 - whole)
            small, large = missing // 2, missing - missing // 2
            begin[n], end[n] = (small, large) if auto == "SAME_UPPER" else (large, small)
    if begin == end:
        return x, begin
    each = [pad for pair in zip(reversed(begin), reversed(end), strict=True) for pad in pair]
    return F.pad(x, each, value=value), [0] * len(size)
