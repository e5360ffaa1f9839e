"""What a user can choose about SwiftVR: ``model_options`` of ``flashsr``, and the defaults of a bundle. What follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...arguments import OptionValue, changed
from ...errors import FlashsrError, shown
from ...schedule import Schedule
from .step import DROPPED_FRAMES, FRAMES_PER_LATENT

LONGEST_CLIP = 24
"""As trained and published."""
MAX_SEGMENT = 240
"""A multiple of every ``clip_len``, so that the grid's lines lie on chunks."""
_ENCODER_LATENTS, _DECODER_REACH_FRAMES = 7, 27
"""Latents before which an encoder forgets where it began, and frames behind the first exact latent that the decoder takes."""


@dataclass(frozen=True, slots=True)
class Options:
    """The default is the published one."""

    clip_len: int = LONGEST_CLIP
    """Frames that the DiT sees at once: 24, 20, 16, 12, 8 or 4. Fewer take less memory and wait
    for fewer frames; the model was trained on 24, and sees nothing of other chunks."""

    def __post_init__(self) -> None:
        value: object = self.clip_len
        wanted = range(FRAMES_PER_LATENT, LONGEST_CLIP + 1, FRAMES_PER_LATENT)
        if isinstance(value, bool) or not isinstance(value, int) or value not in wanted:
            raise FlashsrError(
                f"clip_len is one of {', '.join(map(str, wanted))}, got {shown(value)}; change it in model_options"
            )

    def overridden(self, changes: Mapping[str, OptionValue]) -> Options:
        """These options with the user's changes.

        Raises:
            FlashsrError: there is no such option, or its value makes no sense.
        """
        return changed(self, changes, "SwiftVR")

    @property
    def schedule(self) -> Schedule:
        """The first step reads four frames more and drops three, for what the model looks ahead."""
        c = self.clip_len
        return Schedule(c + FRAMES_PER_LATENT, c + FRAMES_PER_LATENT - DROPPED_FRAMES, c, c)

    @property
    def preroll(self) -> int:
        """Frames after which a run is as good as one that began earlier, to the bit (spec 6.3), in whole chunks: then all runs
        of a shot have the same ones."""
        latents = self.clip_len // FRAMES_PER_LATENT
        exact = FRAMES_PER_LATENT * (1 + latents * -(-_ENCODER_LATENTS // latents)) + _DECODER_REACH_FRAMES
        return -(-exact // self.clip_len) * self.clip_len

    @property
    def max_segment(self) -> int:
        """Frames between grid lines, in whole chunks."""
        return MAX_SEGMENT // self.clip_len * self.clip_len
