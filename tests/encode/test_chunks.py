"""The chunk plan covers every frame once, on the grid, whatever the numbers."""

from hypothesis import given, settings
from hypothesis import strategies as st

from vsflashsr.encode.chunks import chunk_length, plan_chunks

FIRST = st.integers(0, 5_000)


@settings(deadline=None)
@given(FIRST, st.integers(1, 5_000), st.integers(1, 700))
def test_every_frame_is_in_one_chunk(first: int, count: int, length: int) -> None:
    chunks = plan_chunks(first, first + count, length)
    assert [n for chunk in chunks for n in range(chunk.start, chunk.stop)] == list(range(first, first + count))
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert all(chunk.start % length == 0 for chunk in chunks[1:])
    assert all(0 < chunk.frames <= length * 1.25 for chunk in chunks)


@settings(deadline=None)
@given(FIRST, st.integers(1, 5_000), st.integers(1, 700))
def test_no_stub_at_the_end(first: int, count: int, length: int) -> None:
    chunks = plan_chunks(first, first + count, length)
    assert len(chunks) == 1 or chunks[-1].frames >= length / 4


@settings(deadline=None)
@given(st.integers(1, 2_000), st.integers(1, 2_000))
def test_length_is_the_least_on_the_grid(max_segment: int, wanted: int) -> None:
    length = chunk_length(max_segment, wanted)
    assert length % max_segment == 0
    assert length >= wanted > length - max_segment
