"""The one exception that means: the user can do something about it."""


class FlashsrError(ValueError):
    """One sentence: what is wrong, the value that was got, and what to do about it."""
