"""SSIMULACRA2 as something that can be trained for, differentiable: of grey pictures, and of coloured ones.

After the published metric (Sneyers, 2022: github.com/cloudinary/ssimulacra2), whose constants these are. Of a grey picture its
two colour planes are constant, so that what remains are the weights of the plane Y. `tests/test_train_builtin.py` holds both
against vszip's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

_BIAS = 0.0037930732552754493
_C2 = 0.0009
_OPSIN = (
    (0.30, 0.622, 0.078),
    (0.23, 0.692, 0.078),
    (0.24342268924547819, 0.20476744424496821, 0.5518098665095536),
)
"""Linear RGB to what the three kinds of cone see."""
_NONE = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
_X = (
    (0.0, 0.0, 0.0007376606707406586, 0.0007793481682867309, 0.0, 0.0),
    (0.0, 1.1041726426657346, 0.0004371155730107379, 0.00066284834129271, 0.0, 0.00015231632783718752),
    (0.0, 1.8422455520539298, 0.0016406437456599754, 11.441172603757666, 0.0, 0.0),
    (0.0007989109436015163, 1.8787594979546387, 0.000176816438078653, 10.94906990605142, 0.0, 0.0),
    (
        0.0007289346991508072,
        0.00014003424285435884,
        0.9677937080626833,
        0.9981766977854967,
        0.0,
        0.00031949755934435053,
    ),
    (0.0004550992113792063, 0.0013648766163243398, 0.0, 0.0, 0.0, 0.0),
)
_Y = (
    (0.0, 7.466890328078848, 0.0, 0.0, 0.0, 17.445833984131262),
    (0.0006235601634041466, 6.683678146179332, 0.0, 0.00037724407979611296, 0.0, 1.027889937768264),
    (225.20515300849274, 19.213238186143016, 0.0, 0.0011401524586618361, 0.0, 0.001237755635509985),
    (176.39317598450694, 24.43300999870476, 0.0, 0.28520802612117757, 0.0, 0.0004485436923833408),
    (0.0, 34.77906344483772, 0.0, 44.835625328877896, 0.0, 0.0),
    _NONE,
)
_B = (
    (0.0, 0.0, 0.0008680556573291698, 0.0, 0.0, 0.0),
    (0.0, 0.00016533814161379112, 0.0005313191874358747, 0.0, 0.0, 0.0),
    (0.0, 0.0004179171803251336, 0.0, 0.0017290828234722833, 0.0, 0.0),
    (0.0020827005846636437, 8.826982764996862, 0.0, 23.19243343998926, 0.0, 0.0),
    (
        95.1080498811086,
        0.0012286405048278493,
        0.9863978034400682,
        171.2667255897307,
        0.9834382792465353,
        0.9807858872435379,
    ),
    (0.0, 0.0005130064588990679, 0.0, 0.0, 0.0, 0.00010854057858411537),
)
"""By scale (1/1, 1/2, 1/4 …): of the loss of structure, of artifacts and of lost detail, the 1-norm and the 4-norm."""
_LEAST = 12
"""Scales whose shorter side is smaller than this are left out: a blur of 11 taps makes nothing of them."""


@cache
def _smear(size: int) -> Tensor:
    """A Gaussian of sigma 1.5 over `size` samples as a matrix; edges are mirrored (the metric reads black there, which a crop's
    edge isn't).

    Of crops of 96 pixels a product of matrices is five times as fast as a convolution of one channel (2026-11-25).
    """
    taps = torch.exp(-(torch.arange(-5, 6) ** 2) / 4.5)
    matrix = torch.zeros(size, size)
    for tap, offset in zip(taps / taps.sum(), range(-5, 6), strict=True):
        for row in range(size):
            column = abs(row + offset)
            matrix[row, min(column, 2 * (size - 1) - column)] += tap
    return matrix


def _blur(x: Tensor) -> Tensor:
    rows, columns = (_smear(side).to(x) for side in x.shape[-2:])
    return rows @ x @ columns.T


def _norms(error: Tensor) -> Tensor:
    """1-norm and 4-norm of each plane of each picture: (n, planes, 2)."""
    error = error.flatten(2)
    return torch.stack([error.mean(2), (error.square().square().mean(2) + 1e-16) ** 0.25], 2)


def _cube_root(x: Tensor) -> Tensor:
    root: Tensor = (x + _BIAS) ** (1 / 3) - _BIAS ** (1 / 3)
    return root


def _grey(linear: Tensor) -> Tensor:
    return _cube_root(linear) + 0.01


def _xyb(linear: Tensor) -> Tensor:
    opsin = torch.tensor(_OPSIN, dtype=linear.dtype, device=linear.device)
    long, middle, short = _cube_root(torch.einsum("ij,njhw->nihw", opsin, linear)).unbind(1)
    x, y = (long - middle) / 2, (long + middle) / 2
    return torch.stack([14 * x + 0.42, y + 0.01, short - y + 0.55], 1)


def _score(out: Tensor, truth: Tensor, seen: Callable[[Tensor], Tensor], weights: Tensor, first: int) -> Tensor:
    """`weights` (planes, scales, 3, 2); pictures are those of scale `first`."""
    pair = torch.cat([out, truth]).clamp(0, 1)
    pair = torch.where(pair <= 0.04045, pair / 12.92, ((pair.clamp(min=0.04) + 0.055) / 1.055) ** 2.4)
    total = out.new_zeros(len(out))
    for scale in range(first, weights.shape[1]):
        if scale > first:
            pair = F.avg_pool2d(pair, 2)
        if min(pair.shape[-2:]) < _LEAST:
            break
        a, b = seen(pair).chunk(2)
        ma, mb, aa, bb, ab = _blur(torch.cat([a, b, a * a, b * b, a * b], 1)).chunk(5, 1)
        structure = (2 * (ab - ma * mb) + _C2) / ((aa - ma * ma) + (bb - mb * mb) + _C2)
        edges = (1 + (a - ma).abs()) / (1 + (b - mb).abs()) - 1
        parts = F.relu(1 - (1 - (ma - mb) ** 2) * structure), F.relu(edges), F.relu(-edges)
        for kind, part in enumerate(parts):
            if (weight := weights[:, scale, kind].to(out)).any():
                total = total + (weight * _norms(part)).sum((1, 2))
    x = 0.9562382616834844 * total
    x = 2.326765642916932 * x - 0.020884521182843837 * x**2 + 6.248496625763138e-05 * x**3
    return 100 - 10 * (x + 1e-6) ** 0.6276336467831387


_WEIGHTS = torch.tensor([_X, _Y, _B]).reshape(3, 6, 3, 2)


def luma_ssimulacra2(out: Tensor, truth: Tensor) -> Tensor:
    """Of pictures (n, 1, h, w) of luma 0..1 (gamma as in sRGB): their scores (n,), 100 where they are the same."""
    return _score(out, truth, _grey, _WEIGHTS[1:2], 0)


def ssimulacra2(out: Tensor, truth: Tensor, halved: int = 0) -> Tensor:
    """Of pictures (n, 3, h, w) of R, G and B 0..1 (gamma as in sRGB): their scores (n,), 100 where they are the same.

    Of what is the whole picture `halved` times made half as large, the finest scales are left out.
    """
    return _score(out, truth, _xyb, _WEIGHTS, halved)
