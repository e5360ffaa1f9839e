"""What a user can choose about FlashVSR: ``model_options`` of ``flashsr``, and the defaults of a bundle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from ...arguments import OptionValue, changed
from ...bundle import ColorFix
from ...errors import FlashsrError, shown

type Padding = Literal["reflect", "replicate"]
type PieceWeights = Literal["shared", "constant"]
_FIXES: tuple[str, ...] = get_args(ColorFix.__value__)
_PADDINGS: tuple[str, ...] = get_args(Padding.__value__)
_FORMS: tuple[str, ...] = get_args(PieceWeights.__value__)


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
    color_fix: ColorFix = "adain"
    """``adain`` (mean and deviation of each channel, as published), ``wavelet`` (low frequencies) or ``none``, against the input.
    ``wavelet`` is what the authors advise where colours drift."""
    seed: int = 0
    """Of the noise, which depends on this and the frame number alone. Costs nothing."""
    padding: Padding = "reflect"
    """What stands beyond the picture where its size is no multiple of 128: ``reflect`` or ``replicate``. Cropped away again."""
    piece_weights: PieceWeights = "shared"
    """``shared``: one graph whose weights are inputs serves all layers (opens at once, weights are mapped from disk);
    ``constant``: one graph per layer (opens slowly, weights are copied into memory and packed). Same numbers to rounding."""

    def __post_init__(self) -> None:
        self._number("sparse_ratio", "a number above 0 (published: 1.5 and 2.0)", above=0.0)
        self._whole("local_range", 1, "a whole number from 1 (published: 9 and 11)")
        self._number("kv_ratio", "a number from 1 (published: 3)", least=1.0)
        self._whole("seed", -(2**63), "a whole number")
        for name, choices in (("color_fix", _FIXES), ("padding", _PADDINGS), ("piece_weights", _FORMS)):
            if (value := getattr(self, name)) not in choices:
                raise FlashsrError(f"{name} is one of {', '.join(choices)}, got {shown(value)}; choose one in model_options")

    def _number(self, name: str, wanted: str, *, above: float = -math.inf, least: float = -math.inf) -> None:
        value: object = getattr(self, name)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
            or not (value > above and value >= least)
        ):
            raise FlashsrError(f"{name} is {wanted}, got {shown(value)}; change it in model_options")

    def _whole(self, name: str, least: int, wanted: str) -> None:
        value: object = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise FlashsrError(f"{name} is {wanted}, got {shown(value)}; change it in model_options")

    def overridden(self, changes: Mapping[str, OptionValue]) -> Options:
        """These options with the user's changes.

        Raises:
            FlashsrError: there is no such option, or its value makes no sense.
        """
        return changed(self, changes, "FlashVSR")
