"""Queues of the mock driver: what runs when, and whether what collides in memory is ordered.

Order is known by vector clocks: an operation knows, for each stream, how much of it is sure to have run before. So a missing
event is found whatever order was drawn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .mock_memory import Access, Allocation, MockError, Use

type Clock = dict[int, int]
"""Stream handle -> number of the last operation on it that is sure to have run."""


@dataclass(eq=False, slots=True)
class Operation:
    """Something that is queued."""

    name: str
    run: Callable[[], object]
    uses: tuple[Use, ...]
    stream: int
    number: int
    """Of the operation on its stream."""
    clock: Clock
    after: list[Operation]
    """What it waits for and has not run yet."""
    done: bool = False

    @property
    def end(self) -> Clock:
        """What is sure to have run when this has."""
        return self.clock | {self.stream: self.number}


@dataclass(eq=False, slots=True)
class StreamState:
    handle: int
    eager: bool
    tail: Operation | None = None
    count: int = 0
    capture: Capture | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A captured operation."""

    name: str
    run: Callable[[], object]
    uses: tuple[Use, ...]


@dataclass(eq=False, slots=True)
class Capture:
    """Of one stream: what is queued on it, in its order."""

    nodes: list[Node] = field(default_factory=list)
    valid: bool = True


@dataclass(eq=False, slots=True)
class Executable:
    """A graph that can be launched."""

    nodes: list[Node]
    last: Operation | None = None
    """The end of its last launch."""


def merged(clocks: Iterable[Clock]) -> Clock:
    result: Clock = {}
    for clock in clocks:
        for stream, number in clock.items():
            result[stream] = max(number, result.get(stream, 0))
    return result


class Queue:
    """All operations that are queued and have not run.

    Args:
        rng: of everything that is left open.
        eagerness: share of the streams that run at once.
        races: raise where operations collide in memory that nothing orders.
    """

    def __init__(self, rng: random.Random, eagerness: float, *, races: bool) -> None:
        self._random = rng
        self._eagerness = eagerness
        self._races = races
        self._pending: dict[Operation, None] = {}
        self._host: Clock = {}
        """What the host has waited for."""
        self._seen: list[tuple[int, NDArray[np.uint8], NDArray[np.uint8]]] | None = None
        """Address, memory and former contents of what the kernel that is running looks at."""
        self.ran: list[str] = []
        self.clock_ms = 0.0

    def stream(self, handle: int) -> StreamState:
        return StreamState(handle, self._random.random() < self._eagerness)

    def put(
        self,
        stream: StreamState,
        name: str,
        run: Callable[[], object],
        uses: tuple[Use, ...] = (),
        after: Iterable[Operation] = (),
    ) -> Operation:
        """Queue an operation on a stream that isn't captured, behind ``after`` too."""
        before = [*after, *([stream.tail] if stream.tail is not None else [])]
        stream.count += 1
        clock = merged([self._host, *(o.end for o in before)])
        operation = Operation(name, run, uses, stream.handle, stream.count, clock, [o for o in before if not o.done])
        self._pending[operation] = None
        stream.tail = operation
        if stream.eager:
            self._run(operation)
        return operation

    def launch(self, executable: Executable, stream: StreamState) -> None:
        """Queue a graph: behind what is on the stream, and behind the graph's last launch."""
        for node in executable.nodes:
            if any(use.allocation.freed for use in node.uses):
                raise MockError(f"a graph was launched after memory that its {node.name!r} uses was freed")
        after = [executable.last] if executable.last else []
        for node in executable.nodes:
            executable.last = self.put(stream, node.name, node.run, node.uses, after)
            after = []

    def wait(self, target: Operation | None) -> None:
        """The host waits for an operation, and knows then that it has run."""
        if target is not None:
            self._run(target)
            self._host = merged([self._host, target.end])

    def turn(self, streams: Iterable[StreamState]) -> None:
        """Draw anew which streams are eager."""
        for stream in streams:
            stream.eager = self._random.random() < self._eagerness

    def check_unused(self, allocation: Allocation) -> None:
        """Memory is freed: everything queued on it must have run, and the host must know that."""
        for operation in self._pending:
            if any(use.allocation is allocation for use in operation.uses):
                raise MockError(
                    f"{allocation.kind} of {allocation.size_bytes} bytes was freed while {operation.name!r}, queued on stream"
                    f" {operation.stream:#x}, still uses it"
                )
        for access in allocation.accesses if self._races else ():
            operation = access.operation
            if self._host.get(operation.stream, 0) < operation.number:
                raise MockError(
                    f"{allocation.kind} of {allocation.size_bytes} bytes was freed, but nobody waited for {operation.name!r},"
                    f" which was queued on it on stream {operation.stream:#x}"
                )

    def look(self, address: int, memory: NDArray[np.uint8]) -> None:
        """A kernel that is running gets a view."""
        if self._seen is not None and memory.size:
            self._seen.append((address, memory, memory.copy()))

    def _run(self, target: Operation) -> None:
        """Run an operation and what it waits for, in a random order that respects the waits."""
        needed: dict[Operation, int] = {}
        followers: dict[Operation, list[Operation]] = {}
        stack = [] if target.done else [target]
        while stack:
            operation = stack.pop()
            if operation in needed:
                continue
            before = [o for o in operation.after if not o.done]
            needed[operation] = len(before)
            for o in before:
                followers.setdefault(o, []).append(operation)
                stack.append(o)
        ready = [o for o, count in needed.items() if count == 0]
        while ready:
            operation = ready.pop(self._random.randrange(len(ready)))
            self._run_one(operation)
            for o in followers.get(operation, ()):
                needed[o] -= 1
                if needed[o] == 0:
                    ready.append(o)

    def _run_one(self, operation: Operation) -> None:
        # Out of the queue first: an operation that raises doesn't block the end of the test.
        del self._pending[operation]
        operation.done = True
        operation.after = []
        for use in operation.uses:
            if use.allocation.freed:
                raise MockError(f"{operation.name!r} ran on memory that was freed after it was queued")
        self.clock_ms += 1
        self.ran.append(operation.name)
        known = [use for use in operation.uses if use.writes is not None]
        for use in known:
            self._access(use.allocation, Access(use.start, use.stop, bool(use.writes), operation))
        if len(known) == len(operation.uses):
            operation.run()
            return
        self._seen = []
        try:
            operation.run()
            seen = self._seen
        finally:
            self._seen = None
        allocations = {use.allocation for use in operation.uses}
        for address, memory, before in seen:
            allocation = next((a for a in allocations if a.address <= address < a.address + a.size_bytes), None)
            if allocation is None:
                raise MockError(f"{operation.name!r} looked at {address:#x}, to which it has no pointer")
            written = not np.array_equal(memory, before)
            self._access(allocation, Access(address, address + memory.size, written, operation))

    def _access(self, allocation: Allocation, new: Access) -> None:
        """Note an access, and check that it is ordered behind those that it collides with."""
        if not self._races:
            return
        kept: list[Access] = []
        for old in allocation.accesses:
            ordered = old.operation is new.operation or _ordered(old.operation, new.operation)
            overlap = old.start < new.stop and new.start < old.stop
            if overlap and not ordered and (old.writes or new.writes):
                raise MockError(
                    f"{new.operation.name!r} on stream {new.operation.stream:#x} {'writes' if new.writes else 'reads'} what"
                    f" {old.operation.name!r} on stream {old.operation.stream:#x} {'writes' if old.writes else 'reads'}, and"
                    " nothing orders them"
                )
            # What is ordered behind the new one is then behind the old one too.
            inside = new.start <= old.start and old.stop <= new.stop
            if not (inside and ordered and (new.writes or not old.writes)):
                kept.append(old)
        allocation.accesses = [*kept, new]


def _ordered(old: Operation, new: Operation) -> bool:
    """Is the one sure to have run before the other begins?"""
    return new.clock.get(old.stream, 0) >= old.number
