"""What an ONNX file says about itself: its inputs, the files that hold its weights, and whether it can be meant.

Read from the protobuf's wire format, because a user has no `onnx` package, because a key must name every file whose change
makes another engine, and because what a graph declares is looked at before a runtime believes it. Field numbers are those of
onnx.proto.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .errors import FlashsrError
from .files import UnfitFileError, leaves, open_regular, read_regular, safe_name, sha256_of

LARGEST_GRAPH_BYTES = (1 << 31) - 1
"""What a protobuf can be."""
LARGEST_INPUT_BYTES = 1 << 30
"""Of an input whose size is fixed: two and a half RGB frames of 7680x4320 in single float."""
LARGEST_WEIGHTS_BYTES = 64 << 30
"""Of all tensors that a file declares."""
_DEEPEST = 32
"""Graphs within graphs."""

_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODES, _GRAPH_INITIALIZERS, _GRAPH_INPUTS, _GRAPH_SPARSE = 1, 5, 11, 15
_FUNCTION_NODES = 7
_NODE_ATTRIBUTES = 5
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_EXTERNAL = 1, 2, 8, 13
_SPARSE_VALUES, _SPARSE_INDICES = 1, 2
_NAMES_A_FILE = b"location"
"""What stands in front of the name of a file of weights, so that a graph without it has none (1,100 nodes: 9 ms, 2026-11-25)."""
_LARGEST_ITEM_BYTES = 16
_ITEM_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
"""Of TensorProto's types; of others, the most there is."""


@dataclass(frozen=True, slots=True)
class GraphInput:
    """An input as the file declares it."""

    name: str
    shape: tuple[int | None, ...]
    """None where the size is free."""


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """What was read; `path` is the file's own."""

    path: Path
    inputs: tuple[GraphInput, ...]
    """Without those that have a value in the file."""
    external: tuple[str, ...]
    """Files with weights, relative to the folder of the graph, sorted."""

    def sha256(self) -> str:
        """Of the graph and of every file it reads weights from, in one hexadecimal number."""
        whole = hashlib.sha256(sha256_of(self.path).encode())
        for name in self.external:
            whole.update(f"\n{name}\n{sha256_of(self.path.parent / name)}".encode())
        return whole.hexdigest()


@dataclass(slots=True)
class _Found:
    """What a walk over the graphs of a file has come by."""

    nodes: bool
    """Is it worth looking into nodes? Only constants with their values in another file are of interest there."""
    inputs: dict[str, GraphInput] = field(default_factory=dict)
    constants: set[str] = field(default_factory=set)
    external: dict[str, int] = field(default_factory=dict)
    """Name of the file → how far into it tensors reach."""
    declared_bytes: int = 0


def read_onnx(path: Path) -> OnnxFile:
    """Reads the file's structure; weights are passed over. See `examined`."""
    return examined(path, read_graph(path))


def read_graph(path: Path) -> bytes:
    """The file's bytes.

    Raises:
        FlashsrError: there is none, or something that is no regular file or too large for a graph.
    """
    try:
        return read_regular(path, limit_bytes=LARGEST_GRAPH_BYTES)
    except OSError as error:
        raise FlashsrError(f"can't read the model {str(path)!r} ({error.strerror}); give another file") from error


def examined(path: Path, graph: bytes) -> OnnxFile:
    """What a file with these bytes says about itself.

    Raises:
        FlashsrError: it is no ONNX, declares shapes that can't be meant, or reads weights from a file that is missing, too short,
            no regular one, or outside its folder.
    """
    where = f"the model {str(path)!r}"
    digest = hashlib.sha256(graph).digest()
    if (found := _walked.get(digest)) is None:
        found = _walk(where, graph)
        if len(_walked) >= _MOST_WALKED:
            _walked.clear()
        _walked[digest] = found
    if found.declared_bytes > LARGEST_WEIGHTS_BYTES:
        raise FlashsrError(
            f"{where} declares weights that can't be meant, got {found.declared_bytes} bytes; export or download it again"
        )
    for name, end in found.external.items():
        _check_external(where, path, name, end)
    inputs = tuple(value for name, value in found.inputs.items() if name not in found.constants)
    return OnnxFile(path, inputs, tuple(sorted(found.external)))


_walked: dict[bytes, _Found] = {}
"""By the sha256 of a graph: a bundle, its runtime and the key of its engine all look at the same one."""
_MOST_WALKED = 256


def _walk(where: str, graph: bytes) -> _Found:
    found = _Found(nodes=_NAMES_A_FILE in graph)
    graphs = 0
    try:
        for number, value in _fields(memoryview(graph)):
            if number == _MODEL_GRAPH:
                graphs += 1
                _walk_graph(_message(value), found, 0)
            elif number == _MODEL_FUNCTIONS and found.nodes:
                _walk_nodes(_message(value), _FUNCTION_NODES, found, 0)
    except FlashsrError as error:
        raise FlashsrError(f"{where} {error}") from error
    except (ValueError, IndexError) as error:
        raise FlashsrError(f"{where} is no ONNX or is cut short ({error}); export or download it again") from error
    if not graphs:
        raise FlashsrError(f"{where} is no ONNX: it holds no graph; export or download it again")
    return found


def _check_external(where: str, path: Path, name: str, end: int) -> None:
    beside = path.parent / safe_name(where, name)
    try:
        if leaves(beside, path.parent):
            raise UnfitFileError("it is a link that leaves the folder", beside)
        with open_regular(beside) as file:
            size = file.seek(0, 2)
    except FileNotFoundError as error:
        raise FlashsrError(f"{where} reads weights from {name!r}, which is not beside it; put both in one folder") from error
    except OSError as error:
        raise FlashsrError(
            f"{where} reads weights from {name!r}, which can't be read ({error.strerror}); get the model again"
        ) from error
    if not 0 <= end <= size:
        raise FlashsrError(
            f"{where} reads weights up to byte {end} of {name!r}, got a file of {size} bytes; get the model again"
        )


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of a message; a value is a number or, for strings and messages, its bytes."""
    at, end = 0, len(data)
    while at < end:
        # Nearly all numbers are of one byte: without a call for those it takes half the time (1,100 nodes: 12 ms, 2026-11-25).
        tag = data[at]
        if tag < 128:
            at += 1
        else:
            tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 2:
            length = data[at]
            if length < 128:
                at += 1
            else:
                length, at = _varint(data, at)
            if at + length > end:
                raise ValueError("a field is longer than its message")
            yield tag >> 3, data[at : at + length]
            at += length
        elif kind == 0:
            number, at = _varint(data, at)
            yield tag >> 3, number
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"there is no wire type {kind}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message should be")
    return value


def _name(data: memoryview, field: int) -> str:
    for number, value in _fields(data):
        if number == field:
            return str(_message(value), "utf-8")
    return ""


def _input(data: memoryview) -> GraphInput:
    """ValueInfoProto: name = 1, type = 2 → tensor_type = 1 → elem_type = 1, shape = 2 → dim = 1 → dim_value = 1."""
    types: list[memoryview] = [data]
    for number in (2, 1):
        types = [_message(v) for part in types for n, v in _fields(part) if n == number]
    kinds = [v for part in types for n, v in _fields(part) if n == 1 and isinstance(v, int)]
    shapes = [_message(v) for part in types for n, v in _fields(part) if n == 2]
    dims = [_message(v) for part in shapes for n, v in _fields(part) if n == 1]
    sizes = [next((_signed(v) for n, v in _fields(dim) if n == 1 and isinstance(v, int)), None) for dim in dims]
    # Some exporters write -1 where a size is free.
    shape = tuple(None if size == -1 else size for size in sizes)
    name = _name(data, 1)
    fixed = [size for size in shape if size is not None]
    item = _ITEM_BYTES.get(kinds[0], _LARGEST_ITEM_BYTES) if kinds else _LARGEST_ITEM_BYTES
    if any(size < 1 for size in fixed) or math.prod(fixed) * item > LARGEST_INPUT_BYTES:
        raise FlashsrError(
            f"declares an input {name[:100]!r} that can't be a picture, got the shape {list(shape)[:8]}; export it again"
        )
    return GraphInput(name, shape)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _walk_graph(graph: memoryview, found: _Found, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"graphs lie within one another more than {_DEEPEST} times")
    for number, value in _fields(graph):
        if number == _GRAPH_NODES and found.nodes:
            _walk_node(_message(value), found, depth)
        elif number == _GRAPH_INPUTS and depth == 0:
            declared = _input(_message(value))
            found.inputs[declared.name] = declared
        elif number == _GRAPH_INITIALIZERS:
            _look_at_tensor(_message(value), found)
            if depth == 0:
                found.constants.add(_name(_message(value), _TENSOR_NAME))
        elif number == _GRAPH_SPARSE:
            for inner, part in _fields(_message(value)):
                if inner in (_SPARSE_VALUES, _SPARSE_INDICES):
                    _look_at_tensor(_message(part), found)


def _walk_nodes(owner: memoryview, nodes: int, found: _Found, depth: int) -> None:
    for number, node in _fields(owner):
        if number == nodes:
            _walk_node(_message(node), found, depth)


def _walk_node(node: memoryview, found: _Found, depth: int) -> None:
    """Its constants, and graphs inside it."""
    for inner, attribute in _fields(node):
        if inner != _NODE_ATTRIBUTES:
            continue
        for number, value in _fields(_message(attribute)):
            if number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
                _look_at_tensor(_message(value), found)
            elif number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                _walk_graph(_message(value), found, depth + 1)


def _look_at_tensor(tensor: memoryview, found: _Found) -> None:
    """TensorProto: dims = 1 (packed or not), data_type = 2, external_data = 13 with pairs of key = 1 and value = 2."""
    count, item, entries = 1, _LARGEST_ITEM_BYTES, dict[str, str]()
    for number, value in _fields(tensor):
        if number == _TENSOR_DIMS:
            for size in [value] if isinstance(value, int) else _packed(value):
                if _signed(size) < 0:
                    raise ValueError("a constant has a negative size")
                count *= size
        elif number == _TENSOR_TYPE and isinstance(value, int):
            item = _ITEM_BYTES.get(value, _LARGEST_ITEM_BYTES)
        elif number == _TENSOR_EXTERNAL:
            entries[_name(_message(value), 1)] = _name(_message(value), 2)
        if count > LARGEST_WEIGHTS_BYTES:
            raise ValueError("a constant is too large to be meant")
    found.declared_bytes += count * item
    if "location" in entries:
        offset, length = (int(entries.get(key, usual)[:20]) for key, usual in (("offset", "0"), ("length", str(count * item))))
        if offset < 0 or length < 0:
            raise ValueError("weights lie before the beginning of their file")
        name = entries["location"]
        found.external[name] = max(found.external.get(name, 0), offset + length)


def _packed(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def loadable(path: Path) -> bytes | Path:
    """The graph, examined, as a runtime should load it: what was looked at, or its name where it has weights in other files.

    Raises:
        FlashsrError: see ``read_graph`` and ``examined``.
    """
    graph = read_graph(path)
    return path if examined(path, graph).external else graph
