"""``FlashSR``: the filter as a vs-jetpack scaler, usable wherever vs-jetpack takes one. Needs the package vsjetpack."""

from __future__ import annotations

from typing import Any

import vapoursynth as vs
from vskernels import KernelLike, ScalerLike, Spline36
from vsscale import BaseGenericScaler

from .filter import flashsr

_MOST = 4
"""What one call of the filter enlarges by."""


class FlashSR(BaseGenericScaler):
    """Streaming, causal super-resolution as a scaler.

    ```py
    from vsflashsr import FlashSR

    doubled = FlashSR().supersample(clip, 2)
    hd = FlashSR("builtin-hq", threads=4).scale(clip, 1440, 1080)
    rescaled = Rescale(clip, 720, Bilinear, upscaler=FlashSR).upscale
    ```

    Sizes that aren't a multiple of the clip's in both directions, and shifts, are left to ``scaler`` and ``shifter``; more than
    four times the size is made in two passes; where nothing is enlarged, ``scaler`` does it alone.
    """

    _static_kernel_radius = 2

    def __init__(
        self,
        model: str | None = None,
        *,
        kernel: KernelLike = Spline36,
        scaler: ScalerLike | None = None,
        shifter: KernelLike | None = None,
        **options: Any,
    ) -> None:
        """Take the model and its options; nothing is opened before a clip is scaled.

        Args:
            model: see ``flashsr``.
            kernel: what ``scaler`` and ``shifter`` are if they aren't given.
            scaler: brings what the model made to the exact size.
            shifter: shifts by parts of a pixel.
            options: further arguments of ``flashsr``, such as ``backend``, ``tile``, ``strength`` or ``threads``.
        """
        self.model = model
        self.options = options
        super().__init__(kernel=kernel, scaler=scaler, shifter=shifter)

    def scale(
        self,
        clip: vs.VideoNode,
        width: int | None = None,
        height: int | None = None,
        shift: tuple[float, float] = (0, 0),
        **kwargs: Any,
    ) -> vs.VideoNode:
        """Scale a clip to a size.

        Args:
            clip: what ``flashsr`` takes.
            width: pixels; None: as many as the clip has.
            height: likewise.
            shift: down and to the right, in pixels of the output.
            kwargs: arguments of ``flashsr`` that take precedence over those given before.

        Raises:
            vs.Error: see ``flashsr``.
        """
        width, height = self._wh_norm(clip, width, height)
        made = clip
        while (factor := max(width / made.width, height / made.height)) > 1:
            before = made
            made = flashsr(made, min(_MOST, factor), **{"model": self.model, **self.options, **kwargs})
            if (made.width, made.height) == (before.width, before.height):
                break
        return self._finish_scale(made, clip, width, height, shift)
