"""The noise FlashVSR starts from, a function of (seed, frame) alone, so that a seek or a split encode draws the same.

Counted, not drawn one after the other: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011)
makes four words of a key, the seed, and a counter, (quad, 0, frame), and Box and Muller's transform four normal numbers of
those. Logarithm and sine are polynomials, every product and sum of which is rounded to float32: the kernel `noise` makes the
same bits on a device.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

LATENT_CHANNELS = 16
LOG = (
    1.0, -0.49999988079071045, 0.33333325386047363, -0.25001585483551025, 0.2000207155942917,
    -0.16609126329421997, 0.14180079102516174, -0.13240842521190643, 0.129141703248024, -0.07638592272996902,
)  # fmt: skip
"""log(1 + t) / t in powers of t, for t from sqrt(1/2) - 1 to sqrt(2) - 1: a Chebyshev fit, 1.5e-9 off."""
SINE = (
    1.5707963705062866, -0.6459640860557556, 0.07969260960817337,
    -0.004681664984673262, 0.0001602623233338818, -3.4347215205343673e-06,
)  # fmt: skip
"""sin(pi/2 w) / w in powers of w², for w from 0 to 1, likewise; 3.1e-11 off."""
_WORD = 0xFFFFFFFFFFFFFFFF
_ROUNDS = 10
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85

type Floats = npt.NDArray[np.float32]
type Words = npt.NDArray[np.uint32]


def latent_noise(seed: int, frame: int, height: int, width: int) -> Floats:
    """(16, height, width) of a standard normal; height * width is a multiple of 4.

    `frame` is the clip's number of the first of the four frames that the projector makes the latent's tokens of.
    """
    first, second, third, fourth = _philox(signed(seed), signed(frame), LATENT_CHANNELS * height * width // 4)
    pairs = [*_normal(first, second), *_normal(third, fourth)]
    return np.stack(pairs, axis=1).reshape(LATENT_CHANNELS, height, width)


def noise_frames(numbers: Sequence[int]) -> Sequence[int]:
    """Whose noise a step starts from that reads the frames `numbers` (25 in a first step, 8 later).

    A first step's frame 0 only primes the projector; from then on every four frames make one latent.
    """
    return numbers[1::4] if len(numbers) % 4 == 1 else numbers[0::4]


def step_noise(seed: int, numbers: Sequence[int], height: int, width: int) -> Floats:
    """(16, latents, height, width) for a step that reads the frames `numbers`."""
    return np.stack([latent_noise(seed, number, height, width) for number in noise_frames(numbers)], axis=1)


def signed(number: int) -> int:
    """Its lowest 64 bits, as a signed number of 64 bits."""
    return ((number & _WORD) ^ 1 << 63) - (1 << 63)


def _philox(seed: int, frame: int, quads: int) -> tuple[Words, Words, Words, Words]:
    """Four words for each counter (quad, 0, frame's low word, its high word)."""
    keys = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]
    state = [np.arange(quads, dtype=np.uint32), *(np.full(quads, word, np.uint32) for word in (0, frame & 0xFFFFFFFF))]
    state.append(np.full(quads, frame >> 32 & 0xFFFFFFFF, np.uint32))
    for _ in range(_ROUNDS):
        products = [state[n].astype(np.uint64) * np.uint64(m) for n, m in zip((0, 2), _MULTIPLIERS, strict=True)]
        low = [product.astype(np.uint32) for product in products]
        high = [(product >> np.uint64(32)).astype(np.uint32) for product in products]
        state = [high[1] ^ state[1] ^ np.uint32(keys[0]), low[1], high[0] ^ state[3] ^ np.uint32(keys[1]), low[0]]
        keys = [(key + step) & 0xFFFFFFFF for key, step in zip(keys, _WEYL, strict=True)]
    return state[0], state[1], state[2], state[3]


def _normal(radius: Words, angle: Words) -> tuple[Floats, Floats]:
    """Two normal numbers of two words each."""
    uniform = ((radius >> np.uint32(8)) + np.uint32(1)).astype(np.float32) * np.float32(2.0**-24)
    bits = uniform.view(np.int32)
    exponent = (bits >> np.int32(23)) - np.int32(127)
    mantissa = ((bits & np.int32(0x7FFFFF)) | np.int32(0x3F800000)).view(np.float32)
    large = mantissa > np.float32(1.41421356)
    mantissa = np.where(large, mantissa * np.float32(0.5), mantissa)
    t = mantissa - np.float32(1)
    log = _polynomial(LOG, t) * t + (exponent + large).astype(np.float32) * np.float32(0.6931471805599453)
    length = np.sqrt(log * np.float32(-2) + np.float32(0))  # of 1 the logarithm is -0
    # The angle: a quarter by the two highest bits, and where in it by the next 22.
    quarter = angle >> np.uint32(30)
    w = (angle >> np.uint32(8) & np.uint32(0x3FFFFF)).astype(np.float32) * np.float32(2.0**-22)
    rest = np.float32(1) - w
    sine, cosine = _polynomial(SINE, w * w) * w, _polynomial(SINE, rest * rest) * rest
    odd, below, left = quarter & 1 == 1, quarter >= 2, (quarter == 1) | (quarter == 2)
    across = np.where(odd, sine, cosine) * length
    up = np.where(odd, cosine, sine) * length
    return np.where(left, -across, across), np.where(below, -up, up)


def _polynomial(coefficients: Sequence[float], x: Floats) -> Floats:
    """By Horner's rule, each step rounded."""
    value = np.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + np.float32(coefficient)
    return value
