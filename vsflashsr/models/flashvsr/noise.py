"""The noise FlashVSR starts from, a function of (seed, frame) alone, so that a seek or a split encode draws the same."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

LATENT_CHANNELS = 16
_WORD = 0xFFFFFFFFFFFFFFFF


def latent_noise(seed: int, frame: int, height: int, width: int) -> npt.NDArray[np.float32]:
    """(16, height, width) of a standard normal.

    `frame` is the clip's number of the first of the four frames that the projector makes the latent's tokens of.
    """
    generator = np.random.Generator(np.random.Philox(key=np.array([seed & _WORD, frame & _WORD], dtype=np.uint64)))
    return generator.standard_normal((LATENT_CHANNELS, height, width), dtype=np.float32)


def step_noise(seed: int, numbers: Sequence[int], height: int, width: int) -> npt.NDArray[np.float32]:
    """(16, latents, height, width) for a step that reads the frames `numbers` (25 in a first step, 8 later).

    A first step's frame 0 only primes the projector; from then on every four frames make one latent.
    """
    first = numbers[1::4] if len(numbers) % 4 == 1 else numbers[0::4]
    return np.stack([latent_noise(seed, number, height, width) for number in first], axis=1)
