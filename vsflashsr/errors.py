"""The one error type users see."""


class FlashsrError(ValueError):
    """Something the user can put right: the message says what is wrong, the value, and what to do."""
