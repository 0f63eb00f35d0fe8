"""A request that was submitted, and its answer."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from typing import Any

    from pyvirtio.driver.bound_queue import BoundQueue
    from pyvirtio.errors import VirtioError

TIMEOUT = 30.0
"""The seconds that a driver waits for an answer unless told otherwise."""


class Ticket:
    """A request that was submitted: ask it for the answer, or await it.

    Any number of tasks may await it. One that is cancelled, or stops waiting for another reason, disturbs neither the
    request nor the other tasks.

    Attributes:
        parts: what the device reads, until it is in shared memory.
        room: how many bytes the device may write.
    """

    __slots__ = ("_answer", "_block", "_data", "_error", "_queue", "_tail", "parts", "room")

    def __init__(self, queue: BoundQueue, parts: Sequence[bytes | memoryview], room: int) -> None:
        self.parts = parts
        self.room = room
        self._queue = queue
        self._block = (0, 0)
        self._answer = 0
        self._data: bytes | None = None
        self._tail = b""
        self._error: VirtioError | None = None

    @property
    def done(self) -> bool:
        """Whether the answer is there, as far as the driver has looked."""
        return self._data is not None or self._error is not None

    def data(self, timeout: float | None = TIMEOUT) -> bytes:
        """Wait for the answer and return the bytes that the device wrote.

        Raises:
            NoAnswer: ``timeout`` seconds are over. The request stays on the ring, and a later call can still succeed.
            DeviceError: the device broke a rule, or is gone.
            LocalError: the driver was closed.
        """
        if not self.done:
            self._queue.wait_for(self, timeout)
        if self._error is not None:
            raise self._error.again()
        assert self._data is not None
        return self._data

    def result(self, timeout: float | None = TIMEOUT) -> Any:
        """Wait for the answer and return it as the queue declares it: a structure, bytes, or an `Answer`.

        Raises:
            DeviceError: the answer is shorter than the structure; see also `data`.
            NoAnswer: see `data`.
        """
        return self._queue.declared.answer.read(self.data(timeout), self._tail, self.room)

    def __await__(self) -> Generator[Any, None, Any]:
        if not self.done:
            yield from self._queue.arrival(self, lambda: self.done).__await__()
        return self.result()

    # What the queue calls.

    def place(self) -> None:
        """Put the request into shared memory and on the ring; the device sees it after the next `publish`.

        Raises:
            LocalError: the shared memory is used up, or the ring can never hold the request.
            DeviceError: the device broke the queue earlier.
        """
        ring, answer = self._queue.ring, self._queue.declared.answer
        arena, memory = self._queue.transport.arena, self._queue.transport.memory
        buffers = answer.buffers(self.room)
        number = len(self.parts) + len(buffers)
        # One descriptor each, so that the queue holds as many requests as it has entries.
        table = 16 * number if number > 1 and ring.may_indirect else 0
        length = table + sum(map(len, self.parts)) + self.room
        base = arena.allocate(length)
        try:
            readable, writable = [], []
            at = base + table
            for part in self.parts:
                memory.write(at, part)  # type: ignore[arg-type]  # any buffer of bytes
                readable.append((at, len(part)))
                at += len(part)
            self._answer = at
            for size in buffers:
                writable.append((at, size))
                at += size
            if answer.tail_size:
                # The device may fail to write it, and zeros would say that all is well.
                memory.write(at - answer.tail_size, b"\xff" * answer.tail_size)
            ring.add(readable, writable, self, indirect=base if table else None)
        except BaseException:
            arena.free(base, length)
            raise
        self._block = (base, length)
        self.parts = ()

    def complete(self, written: int) -> None:
        """Take the answer out of shared memory, give the memory back, and tell who waits."""
        queue = self._queue
        if tail := queue.declared.answer.tail_size:
            self._tail = queue.transport.memory.read(self._answer + self.room - tail, tail)
        self._data = queue.transport.memory.read(self._answer, written)
        queue.transport.arena.free(*self._block)
        queue.waiters.wake(self)

    def fail(self, error: VirtioError) -> None:
        """Take note that the request could not be put on the ring, and tell who waits."""
        self._error = error
        self._queue.waiters.wake(self)
