"""SSIMULACRA2 of grey pictures as something that can be trained for: its luma plane alone, differentiable.

After the published metric (Sneyers, 2022: github.com/cloudinary/ssimulacra2), whose constants these are. Of a grey picture its
two colour planes are constant, so that what remains are the weights of the plane Y. `tests/test_train_builtin.py` holds it
against vszip's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_BIAS = 0.0037930732552754493
_C2 = 0.0009
_WEIGHTS: tuple[tuple[float, float, float, float, float, float], ...] = (
    (0.0, 7.466890328078848, 0.0, 0.0, 0.0, 17.445833984131262),
    (0.0006235601634041466, 6.683678146179332, 0.0, 0.00037724407979611296, 0.0, 1.027889937768264),
    (225.20515300849274, 19.213238186143016, 0.0, 0.0011401524586618361, 0.0, 0.001237755635509985),
    (176.39317598450694, 24.43300999870476, 0.0, 0.28520802612117757, 0.0, 0.0004485436923833408),
    (0.0, 34.77906344483772, 0.0, 44.835625328877896, 0.0, 0.0),
)
"""By scale (1/1, 1/2, 1/4 …): of the loss of structure, of artifacts and of lost detail, the 1-norm and the 4-norm."""
_LEAST = 16
"""Scales whose shorter side is smaller than this are left out: a blur of 11 taps makes nothing of them."""


def _blur(x: Tensor) -> Tensor:
    """Gaussian of sigma 1.5; edges are mirrored (the metric reads black there, which a crop's edge isn't)."""
    taps = torch.exp(-(torch.arange(-5, 6, device=x.device, dtype=x.dtype) ** 2) / 4.5)
    taps = (taps / taps.sum()).reshape(1, 1, 1, -1)
    n, c, h, w = x.shape
    x = F.pad(x.reshape(n * c, 1, h, w), (5, 5, 5, 5), mode="reflect")
    return F.conv2d(F.conv2d(x, taps), taps.transpose(2, 3)).reshape(n, c, h, w)


def _norms(error: Tensor) -> tuple[Tensor, Tensor]:
    """1-norm and 4-norm of each picture."""
    error = error.flatten(1)
    return error.mean(1), (error.square().square().mean(1) + 1e-12) ** 0.25


def luma_ssimulacra2(out: Tensor, truth: Tensor) -> Tensor:
    """Of pictures (n, 1, h, w) of luma 0..1 (gamma as in sRGB): their scores (n,), 100 where they are the same."""
    pair = torch.cat([out, truth]).clamp(0, 1)
    pair = torch.where(pair <= 0.04045, pair / 12.92, ((pair.clamp(min=0.04) + 0.055) / 1.055) ** 2.4)
    total = out.new_zeros(len(out))
    for scale, weights in enumerate(_WEIGHTS):
        if scale:
            pair = F.avg_pool2d(pair, 2)
        if min(pair.shape[-2:]) < _LEAST:
            break
        a, b = ((pair + _BIAS) ** (1 / 3) - _BIAS ** (1 / 3) + 0.01).chunk(2)
        ma, mb, aa, bb, ab = _blur(torch.cat([a, b, a * a, b * b, a * b], 1)).chunk(5, 1)
        structure = (2 * (ab - ma * mb) + _C2) / ((aa - ma * ma) + (bb - mb * mb) + _C2)
        edges = (1 + (a - ma).abs()) / (1 + (b - mb).abs()) - 1
        for part, (mean, high) in zip(
            (F.relu(1 - (1 - (ma - mb) ** 2) * structure), F.relu(edges), F.relu(-edges)),
            (weights[:2], weights[2:4], weights[4:]),
            strict=True,
        ):
            if mean or high:
                one, four = _norms(part)
                total = total + mean * one + high * four
    x = 0.9562382616834844 * total
    x = 2.326765642916932 * x - 0.020884521182843837 * x**2 + 6.248496625763138e-05 * x**3
    return 100 - 10 * (x + 1e-6) ** 0.6276336467831387
