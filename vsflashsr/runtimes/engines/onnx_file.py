"""What an ONNX file says about itself: its inputs, and the files beside it that hold its weights.

Read from the protobuf's wire format, because a user has no `onnx` package, and because a key must name every file whose
change makes another engine. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...bundle import safe_name, sha256_of
from ...errors import FlashsrError

_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODES, _GRAPH_INITIALIZERS, _GRAPH_INPUTS, _GRAPH_SPARSE = 1, 5, 11, 15
_FUNCTION_NODES = 7
_NODE_ATTRIBUTES = 5
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_TENSOR_NAME, _TENSOR_EXTERNAL = 8, 13
_SPARSE_VALUES, _SPARSE_INDICES = 1, 2


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
        import hashlib

        whole = hashlib.sha256(sha256_of(self.path).encode())
        for name in self.external:
            whole.update(f"\n{name}\n{sha256_of(self.path.parent / name)}".encode())
        return whole.hexdigest()


def read_onnx(path: Path) -> OnnxFile:
    """Reads the file's structure; weights are passed over.

    Raises:
        FlashsrError: there is no such file, it is no ONNX, or a file of weights is missing or outside its folder.
    """
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise FlashsrError(f"can't read the model {str(path)!r} ({error.strerror}); give another file") from error
    inputs: dict[str, GraphInput] = {}
    constants: set[str] = set()
    external: set[str] = set()
    graphs = 0
    try:
        for field, value in _fields(data):
            if field == _MODEL_GRAPH:
                graphs += 1
                for inner, part in _fields(_message(value)):
                    if inner == _GRAPH_INPUTS:
                        declared = _input(_message(part))
                        inputs[declared.name] = declared
                    elif inner == _GRAPH_INITIALIZERS:
                        constants.add(_name(_message(part), _TENSOR_NAME))
                external |= _graph_files(_message(value))
            elif field == _MODEL_FUNCTIONS:
                external |= _nodes_files(_message(value), _FUNCTION_NODES)
    except (ValueError, IndexError) as error:
        raise FlashsrError(f"{str(path)!r} is no ONNX model or is cut short; export or download it again") from error
    if not graphs:
        raise FlashsrError(f"{str(path)!r} is no ONNX model: it holds no graph; export or download it again")
    for name in external:
        safe_name(f"the model {str(path)!r}", name)
        if not (path.parent / name).is_file():
            raise FlashsrError(
                f"the model {str(path)!r} reads weights from {name!r}, which is not beside it; put both in one folder"
            )
    return OnnxFile(path, tuple(v for k, v in inputs.items() if k not in constants), tuple(sorted(external)))


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of a message; a value is a number or, for strings and messages, its bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                number, at = _varint(data, at)
                yield tag >> 3, number
            case 1:
                at += 8
            case 2:
                length, at = _varint(data, at)
                if at + length > len(data):
                    raise ValueError("a field is longer than its message")
                yield tag >> 3, data[at : at + length]
                at += length
            case 5:
                at += 4
            case kind:
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
    """ValueInfoProto: name = 1, type = 2 → tensor_type = 1 → shape = 2 → dim = 1 → dim_value = 1."""
    parts: list[memoryview] = [data]
    for field in (2, 1, 2):
        parts = [_message(v) for part in parts for number, v in _fields(part) if number == field]
    dims = [_message(v) for part in parts for number, v in _fields(part) if number == 1]
    sizes = [next((v for number, v in _fields(dim) if number == 1 and isinstance(v, int)), None) for dim in dims]
    return GraphInput(_name(data, 1), tuple(sizes))


def _graph_files(graph: memoryview) -> set[str]:
    found = _nodes_files(graph, _GRAPH_NODES)
    for field, value in _fields(graph):
        if field == _GRAPH_INITIALIZERS:
            found |= _tensor_files(_message(value))
        elif field == _GRAPH_SPARSE:
            for inner, part in _fields(_message(value)):
                if inner in (_SPARSE_VALUES, _SPARSE_INDICES):
                    found |= _tensor_files(_message(part))
    return found


def _nodes_files(owner: memoryview, nodes: int) -> set[str]:
    """Of constants in nodes, and of graphs inside them."""
    found: set[str] = set()
    attributes = (
        _message(attribute)
        for field, node in _fields(owner)
        if field == nodes
        for inner, attribute in _fields(_message(node))
        if inner == _NODE_ATTRIBUTES
    )
    for attribute in attributes:
        for field, value in _fields(attribute):
            if field in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
                found |= _tensor_files(_message(value))
            elif field in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                found |= _graph_files(_message(value))
    return found


def _tensor_files(tensor: memoryview) -> set[str]:
    """TensorProto.external_data: pairs of key = 1 and value = 2, of which ``location`` names the file."""
    entries = [_message(value) for field, value in _fields(tensor) if field == _TENSOR_EXTERNAL]
    return {_name(entry, 2) for entry in entries if _name(entry, 1) == "location"}
