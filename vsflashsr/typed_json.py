"""The one place that reads JSON which others may have made: into dataclasses, strictly, or one sentence about what is wrong."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from .errors import FlashsrError

_PLACE = re.compile(r"(?P<what>.*?)(?: - at `(?P<place>[^`]*)`(?: in `(?P<owner>[^`]*)`)?)?", re.DOTALL)
_EXPECTED = re.compile(r"Expected `(?P<kind>.+?)`(?P<bound>.*?)(?:, got `?(?P<got>.+?)`?)?", re.DOTALL)


class MalformedError(ValueError):
    """What is wrong, and the value that was got, without what to do about it."""


def decode[T](data: bytes, kind: type[T]) -> T:
    """``data`` as a ``kind``: types are never guessed, numbers not rounded, fields that ``kind`` doesn't know passed over.

    Raises:
        MalformedError: it is no JSON, or of another form.
        FlashsrError: a dataclass refuses its own values.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, FlashsrError):
            raise error.__cause__ from error
        raise MalformedError(_sentence(str(error), data)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedError(str(error)[:200]) from error
    except RecursionError as error:
        raise MalformedError("its lists or objects are nested too deep") from error


def _sentence(message: str, data: bytes) -> str:
    """From ``Expected `int` >= 1 - at `$.max_segment``` to ``'max_segment' should be int >= 1, got 0``."""
    match = _PLACE.fullmatch(message)
    assert match is not None, "it matches anything"
    what, place = match["what"], match["place"] or "$"
    if match["owner"]:
        return f"a name in {_shown(match['owner'])} is not one it may have ({what})"
    if (expected := _EXPECTED.fullmatch(what)) is not None:
        got = _value(place, data, expected["got"])
        return f"{_shown(place)} should be {expected['kind']}{expected['bound']}, got {got}"
    if what.startswith("Object missing required field"):
        return f"{_shown(place)} lacks the field {what.rpartition(' ')[2].strip('`')!r}, got {_value(place, data, None)}"
    if what.startswith("Invalid enum value"):
        return f"{_shown(place)} is none of the values it may have, got {_value(place, data, what.rpartition(' ')[2])}"
    return f"{_shown(place)}: {what[:1].lower()}{what[1:]}, got {_value(place, data, None)}"


def _shown(place: str) -> str:
    return "the whole" if place == "$" else repr(place.removeprefix("$."))


def _value(place: str, data: bytes, otherwise: str | None) -> str:
    """What stands there, in a few letters; its type where the place isn't unique."""
    try:
        value: Any = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        place = "[...]"
    if "[...]" in place:
        return otherwise or "another value"
    for name, index in re.findall(r"\.([^.\[]+)|\[(\d+)\]", place):
        value = value[name] if name else value[int(index)]
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
