"""The places that read what others wrote, over all that can be written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsflashsr.bundle import ScaleSpec, StateSpec, _Manifest
from vsflashsr.errors import FlashsrError, printable
from vsflashsr.files import safe_name
from vsflashsr.onnx_file import examined
from vsflashsr.runtimes.engines.container import Header, seal, unseal
from vsflashsr.typed_json import MalformedError, decode

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["format", "kind", "scales"]), inner),
    max_leaves=30,
)


@given(st.text() | st.lists(st.sampled_from(["..", ".", "a", "/", "\\", "C:", "", "~"])).map("/".join))
def test_a_name_is_refused_or_stays_in_its_folder(name: str) -> None:
    try:
        kept = safe_name("x", name)
    except FlashsrError as error:
        assert str(error).isprintable()
        return
    root = os.path.normpath("/bundle")
    assert os.path.commonpath([root, os.path.normpath(f"{root}/{kept}")]) == root
    assert Path(root, kept).name not in ("", "..")


@given(JSON)
@pytest.mark.parametrize("kind", [_Manifest, Header])
def test_any_json_is_read_or_refused_in_one_line(kind: type[object], data: object) -> None:
    with pytest.raises((MalformedError, FlashsrError)) as caught:
        decode(json.dumps(data).encode(), kind)
    assert printable(str(caught.value)).isprintable()


@given(st.binary())
@pytest.mark.parametrize("kind", [_Manifest, Header])
def test_any_bytes_are_refused(kind: type[object], data: bytes) -> None:
    with pytest.raises((MalformedError, FlashsrError)):
        decode(data, kind)


@given(st.binary() | st.binary().map(lambda data: b"\x3a" + bytes([len(data) % 128]) + data))
def test_any_bytes_are_no_graph_or_a_graph_without_files(data: bytes) -> None:
    try:
        assert examined(Path("x.onnx"), data).external == ()
    except FlashsrError as error:
        assert "; " in str(error)


@given(st.text())
def test_what_is_printable_stays_and_what_is_not_is_escaped(text: str) -> None:
    assert printable(text).isprintable() and (printable(text) == text) == text.isprintable()


@given(st.binary(), st.integers(0, 10**6))
def test_a_seal_breaks_with_any_byte(data: bytes, at: int) -> None:
    sealed = bytearray(seal(data))
    assert unseal(bytes(sealed)) == data
    sealed[at % len(sealed)] ^= 1
    assert unseal(bytes(sealed)) == b""


@given(st.integers(-(10**12), 10**12) | st.text(alphabet="0123456789hw*/", max_size=8), st.integers(1, 10**5))
def test_a_size_of_a_state_is_refused_or_bounded(size: int | str, pixels: int) -> None:
    try:
        state = StateSpec("x", (size,))
    except FlashsrError:
        return
    (got,) = state.resolve(pixels, pixels)
    assert 0 <= got <= max(10_000 * pixels, 1 << 16)
    if got == 0:
        with pytest.raises(FlashsrError, match="can't be for"):
            ScaleSpec("x", states=(state,)).check_states(pixels, pixels)
