"""A coroutine method for streams that does anything, and the file that its operations wait for."""

from __future__ import annotations

import contextvars
import os
from typing import TYPE_CHECKING, Any

from tests.support.stream_calls import Calls, Failed

if TYPE_CHECKING:
    from collections.abc import Generator
    from random import Random

    from pyvirtio.ring import Chain


class Source:
    """A file whose reads wait until a packet comes: a pipe, of which an io_uring does not mind that it has no places.

    ``native`` is the module of the engine in C.

    Raises:
        OSError: there is no io_uring here.
    """

    def __init__(self, native: Any) -> None:
        self.uring = native.Uring(None, lambda: None)
        self._come, self._go = os.pipe2(os.O_DIRECT | os.O_CLOEXEC)
        self.file = native.File(self._come, False, lambda: self.uring, None, None, None)

    def give(self, *packets: bytes) -> None:
        """Give a packet to each of the reads that wait, the oldest first."""
        for packet in packets:
            os.write(self._go, packet)
        self.uring.flush()
        self.uring.reap()

    def close(self) -> None:
        """Close everything; nothing may wait."""
        self.uring.close()
        os.close(self._come)
        os.close(self._go)


class Pause:
    """Something to be awaited that is no operation."""

    def __await__(self) -> Generator[Any, None, None]:
        """Yield once."""
        yield self


class Coroutines(Calls):
    """Notes what its coroutines do, one event after the other: who, what, and with which bytes."""

    def __init__(self, rng: Random, source: Source | None) -> None:
        super().__init__(rng)
        self.source = source
        self.events: list[tuple[int, str, bytes]] = []
        self.rooms: list[int] = []
        self.ended: list[int] = []
        self.waiting: list[tuple[int, int]] = []
        """Which of them wait for a packet, the oldest first, and of how many bytes."""
        self.task, self.bell, self.context = Thing(), Thing(), contextvars.Context()
        self._kept: list[object] = []
        self._variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")

    def arguments(self) -> tuple[object, object, contextvars.Context]:
        """Return a task, a bell and a context that nobody has used yet."""
        self._kept.clear()
        self.task, self.bell, self.context = Thing(), Thing(), contextvars.Context()
        return self.task, self.bell, self.context

    async def answer(self, reader: Any, writer: Any) -> None:
        """Answer one request."""
        rng, number = self.rng, len(self.rooms)
        self.rooms.append(writer.room)
        self.events.append((number, "read", self._read(reader)))
        if rng.random() < 0.05:
            self._leave_a_trace()
        for _ in range(rng.randrange(3)):
            way = rng.randrange(5)
            if way == 0 and self.source and writer.room:
                length = min(writer.room, rng.randrange(1, 6))
                self.waiting.append((number, length))
                assert await self.source.file.read_into(writer, length, 0) == length
            elif way == 1:
                await Pause()
            else:
                self.events.append((number, "write", self._write(writer, min(writer.room, rng.randrange(6)))))
        self.ended.append(number)
        if rng.random() < 0.05:
            raise Failed

    def _leave_a_trace(self) -> None:
        way = self.rng.randrange(3)
        if way == 2:
            self.context.run(self._variable.set, 1)
        else:
            self._kept.append((self.task, self.bell)[way])

    def give(self) -> None:
        """Give a packet to each that waits."""
        assert self.source is not None
        packets = [self.rng.randbytes(length) for _, length in self.waiting]
        self.source.give(*packets)  # all at once: then the kernel takes the reads in order
        self.events += [(number, "write", packet) for (number, _), packet in zip(self.waiting, packets, strict=True)]
        self.waiting.clear()

    def finish(self, work: Any, awaited: object) -> None:
        """Go on with a coroutine that was handed over, until it ends."""
        while True:
            if not isinstance(awaited, Pause):
                self.give()
            try:
                awaited = work.send(None)
            except (StopIteration, Failed):
                return


class Thing:
    """Stands for a task or a bell: weak references to it are possible."""


class Mirror:
    """Does with chains of the reference engine what coroutines did, event by event."""

    def __init__(self, queue: Any, calls: Coroutines) -> None:
        self._queue = queue
        self._calls = calls
        self._done = 0
        self.chains: dict[int, Chain] = {}
        """Those that are not answered, by the number of the coroutine."""

    def catch_up(self) -> None:
        """Do what was done since the last time."""
        for number, what, data in self._calls.events[self._done :]:
            if what == "read":
                (chain,) = self._queue.pop(1)
                self._queue.journal.begin(chain.head, 1)
                assert chain.error is None
                assert (chain.read(1 << 40), chain.room) == (data, self._calls.rooms[number])
                self.chains[number] = chain
            else:
                self.chains[number].write(data)
        self._done = len(self._calls.events)

    def take_ended(self) -> list[Chain]:
        """Return the chains of the coroutines that have ended, in that order, and forget them."""
        ended, self._calls.ended = self._calls.ended, []
        return [self.chains.pop(number) for number in ended]
