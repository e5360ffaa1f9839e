"""Files of weights: safetensors and torch pickles, tensors by name and on demand, nothing executed."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from vsflashsr.errors import FlashsrError

type Shape = tuple[int, ...]

WRAPPERS = ("model_state", "state_dict")

_SHOWN = 4
_FLOATS = ("float32", "float16", "bfloat16")
_SAFETENSORS_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class SafetensorsFile:
    """Opened for each tensor: nothing stays mapped, so memory never holds more than the tensors in use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shapes: dict[str, Shape] = {}
        self.dtypes: dict[str, str] = {}
        try:
            with safe_open(path, "pt") as file:
                for key in file.keys():  # noqa: SIM118 - not a dict
                    view = file.get_slice(key)
                    self.shapes[key] = tuple(view.get_shape())
                    self.dtypes[key] = _SAFETENSORS_DTYPES.get(view.get_dtype(), view.get_dtype())
        except (SafetensorError, OSError, ValueError) as error:
            raise FlashsrError(
                f"{path.name} can't be read as safetensors ({_line(error)}), size {path.stat().st_size} bytes; "
                "the file is truncated or damaged: download it again"
            ) from error

    def read(self, key: str) -> torch.Tensor:
        with safe_open(self.path, "pt") as file:
            tensor: torch.Tensor = file.get_tensor(key).clone()
        return tensor


class PickleFile:
    """A torch pickle, loaded with `weights_only` (nothing in it is executed) and mapped where it can be."""

    def __init__(self, path: Path, wrappers: Sequence[str] = WRAPPERS, lone: str = "") -> None:
        self.path = path
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
        if is_zip and not zipfile.is_zipfile(path):
            raise FlashsrError(
                f"{path.name} ends too early ({path.stat().st_size} bytes); the file is truncated: download it again"
            )
        try:
            loaded: object = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError) as error:
            if "Unsupported global" in str(error):
                raise FlashsrError(
                    f"{path.name} holds more than plain tensors and is refused, because loading the rest could run code; "
                    "use the published file"
                ) from error
            raise FlashsrError(
                f"{path.name} can't be read as a torch checkpoint, size {path.stat().st_size} bytes; the file is "
                "truncated or damaged: download it again"
            ) from error
        self._tensors = _flat(loaded, path, wrappers, lone)
        self.shapes = {key: tuple(tensor.shape) for key, tensor in self._tensors.items()}
        self.dtypes = {key: str(tensor.dtype).removeprefix("torch.") for key, tensor in self._tensors.items()}

    def read(self, key: str) -> torch.Tensor:
        return self._tensors[key].detach().clone()


WeightsFile = SafetensorsFile | PickleFile


def _flat(loaded: object, path: Path, wrappers: Sequence[str], lone: str) -> dict[str, torch.Tensor]:
    """The tensors of a loaded pickle by name; a lone tensor is called `lone`, if that isn't empty."""
    if isinstance(loaded, torch.Tensor) and lone:
        return {lone: loaded}
    if isinstance(loaded, Mapping):
        for wrapper in wrappers:
            if isinstance(loaded.get(wrapper), Mapping):
                return _flat(loaded[wrapper], path, wrappers, lone)
        tensors = {str(key): value for key, value in loaded.items() if isinstance(value, torch.Tensor)}
        if tensors:
            return tensors
    raise FlashsrError(
        f"{path.name} holds no tensors but a {type(loaded).__name__}; use the published file, a flat state dict"
    )


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".")[:160] if text else type(error).__name__


def open_weights(path: Path, wrappers: Sequence[str] = WRAPPERS, lone: str = "") -> WeightsFile:
    """The file's tensors by name, read when asked for.

    Args:
        path: a ``.safetensors`` file or a torch pickle.
        wrappers: keys of a pickled dict under which the tensors may lie, the preferred first.
        lone: what a pickle that holds a single tensor calls it.

    Raises:
        FlashsrError: the file is damaged, or holds more than tensors.
    """
    return SafetensorsFile(path) if path.suffix == ".safetensors" else PickleFile(path, wrappers, lone)


def compare(path: Path, title: str, got: Mapping[str, Shape], expected: Mapping[str, Shape], remedy: str) -> None:
    """Refuses a file whose tensors aren't those of a whole `title`, naming some of what differs.

    Raises:
        FlashsrError: as it says.
    """
    missing = [f"{name} {shape}" for name, shape in expected.items() if name not in got]
    differing = [
        f"{name} {got[name]} instead of {shape}" for name, shape in expected.items() if got.get(name, shape) != shape
    ]
    unexpected = [f"{name} {shape}" for name, shape in got.items() if name not in expected]
    faults = [
        f"{len(names)} {what} ({some(names)})"
        for what, names in (("missing", missing), ("of another shape", differing), ("unexpected", unexpected))
        if names
    ]
    if faults:
        raise FlashsrError(
            f"{path.name} isn't a complete {title}: of {len(expected)} tensors {', '.join(faults)}; {remedy}"
        )


def check_dtypes(file: WeightsFile, keys: Iterable[str]) -> None:
    """Refuses quantised tensors among `keys`."""
    wrong = [f"{key} is {file.dtypes[key]}" for key in keys if file.dtypes[key] not in _FLOATS]
    if wrong:
        raise FlashsrError(
            f"{file.path.name} holds {len(wrong)} tensors of a type that can't be converted ({some(wrong)}), expected "
            f"{', '.join(_FLOATS)}; use the published file, not a quantised one"
        )


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:_SHOWN]) + (f", … {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
