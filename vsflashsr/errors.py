"""The one exception that means: the user can do something about it."""

_LONGEST = 80


class FlashsrError(ValueError):
    """One sentence: what is wrong, the value that was got, and what to do about it.

    It reaches terminals, and names in it may come from anywhere: what isn't printable is escaped.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(sentence))


def printable(text: str) -> str:
    """``text`` with escapes for control characters and everything else that a terminal could take for more than text."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shown(value: object) -> str:
    """``repr`` of what a user gave, short enough for a sentence."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python writes out
        return f"{type(value).__name__} of over 4,300 digits"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 20]}… ({len(text)} characters)"
