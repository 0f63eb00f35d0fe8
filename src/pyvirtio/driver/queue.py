"""A driver's queue: submit requests, wait for their answers, blocking or in an event loop."""

from __future__ import annotations

import time

from pyvirtio.errors import DeviceError, LocalError, NoAnswer

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Generator, Iterable
    from typing import Any

    from pyvirtio.ring import SplitDriverQueue
    from pyvirtio.spec.struct import Struct
    from pyvirtio.transport import DriverTransport

TIMEOUT = 30.0
"""The seconds that a driver waits for an answer unless told otherwise."""


class Queue:
    """Declares one queue of the device that a `Driver` drives.

    ``request`` and ``response`` are structures; without ``response`` an answer is bytes. ``size`` is how many entries
    the driver asks for; the device may allow fewer. Read on an instance of the driver, it is a `BoundQueue`.
    """

    def __init__(
        self, request: type[Struct] | None = None, response: type[Struct] | None = None, *, size: int = 128
    ) -> None:
        self.request = request
        self.response = response
        self.size = size
        self.name = ""

    def __set_name__(self, _owner: type, name: str) -> None:
        self.name = name

    def __get__(self, driver: Any, _owner: type) -> BoundQueue:
        return self if driver is None else driver.bound[self.name]  # type: ignore[return-value]  # on the class


class Ticket:
    """A request that was submitted: ask it for the answer, or await it."""

    __slots__ = ("_buffers", "_data", "_queue", "_room")

    def __init__(self, queue: BoundQueue, buffers: tuple[tuple[int, int], ...], room: tuple[int, int]) -> None:
        self._queue = queue
        self._buffers = buffers
        self._room = room
        self._data: bytes | None = None

    @property
    def done(self) -> bool:
        """Whether the answer is there, as far as the driver has looked."""
        return self._data is not None

    def complete(self, written: int) -> None:
        """Take the answer out of shared memory and give the buffers back; the queue calls this."""
        self._data = self._queue.transport.memory.read(self._room[0], written)
        for address, length in self._buffers:
            self._queue.transport.arena.free(address, length)

    def data(self, timeout: float | None = TIMEOUT) -> bytes:
        """Wait for the answer and give its bytes.

        Raises:
            NoAnswer: ``timeout`` seconds are over. The request stays on the ring, and a later call can still succeed.
            DeviceError: the device broke a rule, or is gone.
        """
        self._queue.wait_for(self, timeout)
        assert self._data is not None
        return self._data

    def result(self, timeout: float | None = TIMEOUT) -> Any:
        """Wait for the answer and give it as the queue's structure, or bytes where it has none.

        Raises:
            NoAnswer: see `data`.
            DeviceError: the answer is shorter than the structure; see also `data`.
        """
        return self._queue.typed(self.data(timeout))

    def __await__(self) -> Generator[Any, None, Any]:
        while not self.done:
            yield from self._queue.arrival().__await__()
        return self.result()


class BoundQueue:
    """A queue of a running driver."""

    def __init__(self, declared: Queue, index: int, ring: SplitDriverQueue, transport: DriverTransport) -> None:
        self.declared = declared
        self.index = index
        self.ring = ring
        self.transport = transport
        self._future: asyncio.Future[None] | None = None

    def submit(self, request: Struct | bytes, *, room: int | None = None) -> Ticket:
        """Give a request to the device; its answer may take ``room`` bytes, by default the response's size.

        Waits while the queue is full.

        Raises:
            LocalError: the driver's shared memory is used up, or there is no telling how long the answer may be.
            DeviceError: the device broke a rule.
        """
        return self.submit_all([request], room=room)[0]

    def submit_all(self, requests: Iterable[Struct | bytes], *, room: int | None = None) -> list[Ticket]:
        """Give several requests to the device with one kick; see `submit`."""
        tickets = [self._add(request, room) for request in requests]
        self._publish()
        return tickets

    def call(self, request: Struct | bytes, *, room: int | None = None, timeout: float | None = TIMEOUT) -> Any:
        """Submit one request and wait for its answer."""
        return self.submit(request, room=room).result(timeout)

    def _add(self, request: Struct | bytes, room: int | None) -> Ticket:
        data = request if isinstance(request, bytes) else request.pack()
        if room is None:
            if self.declared.response is None:
                raise LocalError(f"say how long the answer may be: {self.declared.name}.submit(request, room=…)")
            room = self.declared.response.nbytes
        buffers = [length for length in (len(data), room) if length]
        # One descriptor each, so that the queue holds as many requests as it has entries.
        table = 16 * len(buffers) if len(buffers) > 1 and self.ring.may_indirect else 0
        self._wait_until_free(1 if table else len(buffers))
        total = len(data) + room + table + 16
        arena, memory = self.transport.arena, self.transport.memory
        base = arena.allocate(total)
        at = base + table
        ticket = Ticket(self, ((base, total),), (at + len(data), room))
        try:
            memory.write(at, data)
            self.ring.add(
                [(at, len(data))] if data else [],
                [(at + len(data), room)] if room else [],
                ticket,
                indirect=base if table else None,
            )
        except BaseException:
            arena.free(base, total)
            raise
        return ticket

    def _wait_until_free(self, descriptors: int) -> None:
        if self.ring.free < descriptors:
            self._publish()
        while self.ring.free < descriptors:
            self._wait_for_used(TIMEOUT)

    def _publish(self) -> None:
        self.ring.publish()
        if self.ring.needs_kick():
            self.transport.kick(self.index)

    def reap(self) -> int:
        """Take what the device has returned; gives how many answers came."""
        done: list[tuple[Any, int]] = self.ring.reap()
        for ticket, written in done:
            ticket.complete(written)
        return len(done)

    def wait_for(self, ticket: Ticket, timeout: float | None) -> None:
        """Reap until the answer of ``ticket`` is there; raises as `Ticket.data` does."""
        deadline = None if timeout is None else time.monotonic() + timeout
        self.reap()
        while not ticket.done:
            self._wait_for_used(None if deadline is None else deadline - time.monotonic())

    def _wait_for_used(self, timeout: float | None) -> None:
        if not self.ring.enable_interrupts() and not self.transport.wait(self.index, timeout):
            raise NoAnswer(
                "the device has not answered in time; look at its log, or wait longer. "
                f"The ring:\n{self.ring.describe()}"
            )
        self.reap()

    def typed(self, data: bytes) -> Any:
        """See an answer as the declared structure."""
        kind = self.declared.response
        if kind is None:
            return data
        if len(data) < kind.nbytes:
            raise DeviceError(
                f"the device answered with {len(data)} bytes; {kind.__name__} takes {kind.nbytes}. "
                "It does so for a request that it cannot use: look at its log"
            )
        return kind.unpack(data)

    # Awaiting.

    def arrival(self) -> asyncio.Future[None]:
        """Give a future that is done when something was reaped; all who wait share it."""
        import asyncio

        loop = asyncio.get_running_loop()
        if self._future is None or self._future.done():
            self._future = loop.create_future()
            loop.add_reader(self.transport.interrupt_fd(self.index), self._arrived)
            try:
                there = bool(self.reap()) or self.ring.enable_interrupts()
            except DeviceError:
                there = True  # `_arrived` meets it again, and tells all who wait
            if there:
                loop.call_soon(self._arrived)
        return self._future

    def _arrived(self) -> None:
        import asyncio

        future = self._future
        if future is None or future.done():
            return
        try:
            self.transport.wait(self.index, 0)
            self.reap()
        except DeviceError as error:
            future.set_exception(error)
        else:
            future.set_result(None)
        asyncio.get_running_loop().remove_reader(self.transport.interrupt_fd(self.index))
