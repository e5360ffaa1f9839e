"""Models in the user's own folder, where ``vsflashsr models get`` puts them and ``flashsr(model="…")`` finds them by name."""

from __future__ import annotations

from pathlib import Path

from ..bundle import MANIFEST


def models_folder() -> Path:
    """The folder; it needn't exist. ``~/.local/share/vsflashsr/models`` on Linux, under ``%LOCALAPPDATA%`` on Windows."""
    import platformdirs

    return platformdirs.user_data_path("vsflashsr", appauthor=False) / "models"


def installed_names() -> list[str]:
    """Names of the bundles in the folder."""
    return sorted(
        path.parent.name for path in models_folder().glob(f"*/{MANIFEST}") if not path.parent.name.startswith(".")
    )


def installed(name: str) -> Path | None:
    """Where the bundle of that name lies, if there is one. A name is a single word, never a path."""
    return models_folder() / name if name in installed_names() else None
