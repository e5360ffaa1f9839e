"""What a user can choose about FlashVSR: ``model_options`` of ``flashsr``, and the defaults of a bundle."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import FlashsrError

PADDINGS = ("reflect", "replicate")
COLOR_FIXES = ("adain", "wavelet", "none")
FORMS = ("shared", "constant")


@dataclass(frozen=True, slots=True)
class Options:
    """Defaults are the published ones. Costs are for a whole step, of 8 frames."""

    sparse_ratio: float = 2.0
    """How many key windows a query window keeps on average, in units of 60. Attention's work is proportional to it: 1.5 does
    three quarters of what 2.0 does, which is steadier. Larger keeps *more*; frames of 768x640 and less keep everything anyway."""
    local_range: int = 11
    """Windows of 128 px that a window sees across, itself in the middle. Costs no time; 9 is crisper, 11 steadier."""
    kv_ratio: float = 3.0
    """Groups of 8 frames the cache keeps, 2 or more. Each costs a quarter of the attention's time and, at 1280x768 in 16 bit,
    1.4 GB; whole numbers count, the rest is dropped."""
    color_fix: str = "adain"
    """``adain`` (mean and deviation of each channel, as published), ``wavelet`` (low frequencies) or ``none``, against the input.
    ``wavelet`` is what the authors advise where colours drift."""
    seed: int = 0
    """Of the noise, which depends on this and the frame number alone. Costs nothing."""
    padding: str = "reflect"
    """What stands beyond the picture where its size is no multiple of 128: ``reflect`` or ``replicate``. Cropped away again."""
    piece_weights: str = "shared"
    """``shared``: one graph whose weights are inputs serves all layers (opens at once, weights are mapped from disk);
    ``constant``: one graph per layer (opens slowly, weights are copied into memory and packed). Same numbers to rounding."""

    def __post_init__(self) -> None:
        self._number("sparse_ratio", lambda value: value > 0, "a number above 0 (published: 1.5 and 2.0)")
        self._whole("local_range", 1, "a whole number from 1 (published: 9 and 11)")
        self._number("kv_ratio", lambda value: value >= 1, "a number from 1 (published: 3)")
        self._whole("seed", -(2**63), "a whole number")
        for name, choices in (("color_fix", COLOR_FIXES), ("padding", PADDINGS), ("piece_weights", FORMS)):
            if getattr(self, name) not in choices:
                raise FlashsrError(f"{name} is one of {', '.join(choices)}, got {getattr(self, name)!r}; choose one")

    def _number(self, name: str, good: Any, wanted: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not good(value):
            raise FlashsrError(f"{name} is {wanted}, got {value!r}; change it in model_options")

    def _whole(self, name: str, least: int, wanted: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise FlashsrError(f"{name} is {wanted}, got {value!r}; change it in model_options")

    def overridden(self, changes: Mapping[str, Any]) -> Options:
        """These options with the user's changes.

        Raises:
            FlashsrError: there is no such option, or its value makes no sense.
        """
        known = [field.name for field in dataclasses.fields(self)]
        if unknown := sorted(set(changes) - set(known)):
            raise FlashsrError(f"FlashVSR has no option {unknown[0]!r}; model_options takes {', '.join(known)}")
        return dataclasses.replace(self, **changes)
