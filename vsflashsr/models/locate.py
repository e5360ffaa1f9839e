"""Where a model lies that the user named: a built-in name, a bundle's folder, an ``.onnx`` file, a name in his library."""

from __future__ import annotations

from pathlib import Path

from ..arguments import home_expanded
from ..errors import FlashsrError, shown
from .library import installed, installed_names
from .published import PUBLISHED

BUNDLES = Path(__file__).parent.parent / "bundles"
DEFAULT = "builtin"


def builtin_names() -> list[str]:
    """Names of the models in the package."""
    return sorted(path.parent.name for path in BUNDLES.glob("*/bundle.json"))


def locate(model: str | Path | None) -> Path:
    """Where a model lies; None: the built-in default.

    Raises:
        FlashsrError: there is nothing.
    """
    if model is None:
        return BUNDLES / DEFAULT
    names = builtin_names()
    if isinstance(model, str) and model in names:
        return BUNDLES / model
    path = home_expanded("model", Path(model))
    if _exists(path):
        return path
    if isinstance(model, str) and (own := installed(model)) is not None:
        return own
    if model in PUBLISHED:
        raise FlashsrError(f"the model {model!r} isn't here yet; vsflashsr models get {model}")
    names += installed_names()
    raise FlashsrError(
        f"there is no model {shown(str(model))}; "
        f"give a bundle's folder, an .onnx file, or one of {', '.join(map(repr, names))}"
    )


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (OSError, ValueError):  # ValueError: a character that no path has
        return False
    return True
