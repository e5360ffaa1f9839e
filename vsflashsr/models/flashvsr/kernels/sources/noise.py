"""The noise that a step starts from (`models/flashvsr/noise.py`), to the bit: compiled without fused multiply-adds."""

# Triton is untyped, and reads annotations its own way.
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator, attr-defined"

import triton
import triton.language as tl


@triton.jit
def _log_over(t):
    value = tl.full(t.shape, -0.07638592272996902, tl.float32)
    value = value * t + 0.129141703248024
    value = value * t + -0.13240842521190643
    value = value * t + 0.14180079102516174
    value = value * t + -0.16609126329421997
    value = value * t + 0.2000207155942917
    value = value * t + -0.25001585483551025
    value = value * t + 0.33333325386047363
    value = value * t + -0.49999988079071045
    return value * t + 1.0


@triton.jit
def _sine_of(w):
    square = w * w
    value = tl.full(w.shape, -3.4347215205343673e-06, tl.float32)
    value = value * square + 0.0001602623233338818
    value = value * square + -0.004681664984673262
    value = value * square + 0.07969260960817337
    value = value * square + -0.6459640860557556
    value = value * square + 1.5707963705062866
    return value * w


@triton.jit
def _normal(radius, angle):
    uniform = ((radius >> 8).to(tl.int32) + 1).to(tl.float32) * 5.960464477539063e-08
    bits = uniform.to(tl.int32, bitcast=True)
    mantissa = ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
    large = mantissa > 1.41421356
    mantissa = tl.where(large, mantissa * 0.5, mantissa)
    t = mantissa - 1.0
    exponent = ((bits >> 23) - 127 + large.to(tl.int32)).to(tl.float32)
    log = _log_over(t) * t + exponent * 0.6931471805599453
    length = tl.sqrt_rn(log * -2.0 + 0.0)  # of 1 the logarithm is -0
    quarter = (angle >> 30).to(tl.int32)
    w = ((angle >> 8).to(tl.int32) & 0x3FFFFF).to(tl.float32) * 2.384185791015625e-07
    sine = _sine_of(w)
    cosine = _sine_of(1.0 - w)
    odd = (quarter & 1) == 1
    across = tl.where(odd, sine, cosine) * length
    up = tl.where(odd, cosine, sine) * length
    left = (quarter == 1) | (quarter == 2)
    return tl.where(left, -across, across), tl.where(quarter >= 2, -up, up)


@triton.jit
def noise(keys, out, latents, plane, BLOCK: tl.constexpr):
    """out (16, latents, plane) float32. keys int64: the seed, then a frame for each latent.

    plane is a multiple of 4. Grid: (cdiv(4 * plane, BLOCK), latents).
    """
    quad = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    latent = tl.program_id(1)
    frame = tl.load(keys + 1 + latent)
    counter = quad.to(tl.uint32)
    zero = tl.zeros((BLOCK,), tl.uint32)
    low = zero + (frame & 0xFFFFFFFF).to(tl.uint32)
    high = zero + ((frame >> 32) & 0xFFFFFFFF).to(tl.uint32)
    first, second, third, fourth = tl.philox(tl.load(keys), counter, zero, low, high)
    across, up = _normal(first, second)
    other_across, other_up = _normal(third, fourth)
    # Quads side by side: (across, up) of the first pair of words, then of the second.
    four = tl.join(tl.join(across, other_across), tl.join(up, other_up)).reshape(BLOCK, 4)
    quads = plane // 4
    channel = quad // quads
    into = (channel * latents + latent).to(tl.int64) * plane + (quad - channel * quads) * 4
    at = out + into[:, None] + tl.arange(0, 4)[None, :]
    tl.store(at, four, mask=(quad < quads * 16)[:, None])
