"""What one line of `python -m trt_build verify` is made of."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StageResult:
    """How far one stage is from its fixture."""

    name: str
    """Fixture and, where it holds several, the part: `lq_proj v1.1`."""
    max_error: float
    """Largest absolute difference, in the units of the fixture."""
    tolerance: float
    """Largest difference that passes."""
    masks_identical: bool | None
    """Whether every kept block agrees; None where the stage has no masks."""
    note: str = ""
    """Anything a reader of the line should know, such as the number of steps."""

    @property
    def passed(self) -> bool:
        """A NaN never passes."""
        return self.max_error <= self.tolerance and self.masks_identical is not False
