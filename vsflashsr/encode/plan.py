"""A whole job as data: what every worker needs, written once, before the first frame. Pure but for its own JSON."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from .chunks import Chunk, plan_chunks
from .encoders import Settings
from .signal import Mastering, Signal


@dataclass(frozen=True, slots=True)
class Plan:
    """A job. Chunks follow from it alone, so that neither workers nor interruptions change them."""

    request: str
    """Hash of what was asked for and of the input: a work folder goes on only with the same."""
    script: str
    first: int
    stop: int
    """Output frames [first, stop) are encoded."""
    chunk_frames: int
    settings: Settings
    says: Signal
    """What the upscaled frames say of themselves."""
    width: int
    height: int
    bits: int
    rate: tuple[int, int]
    """Nominal frames a second, for the encoder: when a frame is shown, the timestamps tell."""
    constant: bool
    starts_s: tuple[float, ...]
    """Of the frames in [first, stop), on the source's clock."""
    remarks: tuple[str, ...]
    """What was decided, and why; one line each."""
    shortcoming: str | None
    """What of the source is missing; the job ends with another status then."""

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        return plan_chunks(self.first, self.stop, self.chunk_frames)

    @property
    def frames(self) -> int:
        return self.stop - self.first

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)


def from_json(text: str) -> Plan:
    """The plan that ``to_json`` wrote.

    Raises:
        ValueError, KeyError, TypeError: it isn't one.
    """
    data: dict[str, Any] = json.loads(text)
    says: dict[str, Any] = dict(data["says"])
    if (mastering := says["mastering"]) is not None:
        points = {name: mastering[name] for name in ("red", "green", "blue", "white")}
        pairs = {name: (float(x), float(y)) for name, (x, y) in points.items()}
        says["mastering"] = Mastering(**pairs, least=float(mastering["least"]), most=float(mastering["most"]))
    aspect = says["sample_aspect"]
    says["sample_aspect"] = None if aspect is None else (int(aspect[0]), int(aspect[1]))
    settings = {**data["settings"], "arguments": tuple(data["settings"]["arguments"])}
    rate = data["rate"]
    return Plan(
        **{
            **data,
            "settings": Settings(**settings),
            "says": Signal(**says),
            "rate": (int(rate[0]), int(rate[1])),
            "starts_s": tuple(float(t) for t in data["starts_s"]),
            "remarks": tuple(data["remarks"]),
        }
    )


def request_hash(facts: dict[str, Any]) -> str:
    """One name for everything that the frames depend on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
