"""A queue of a running driver: submit requests, wait for their answers, blocking or in an event loop."""

from __future__ import annotations

import os
import time
from collections import deque
from contextlib import suppress

from pyvirtio.driver.incoming import Incoming
from pyvirtio.driver.ticket import TIMEOUT, Ticket
from pyvirtio.driver.waiting import Waiters, running_loop
from pyvirtio.errors import DeviceError, LocalError, NoAnswer, VirtioError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from pyvirtio.driver.request_queue import RequestQueue
    from pyvirtio.driver.waiting import Loop, Reader, Watch
    from pyvirtio.ring import SplitDriverQueue
    from pyvirtio.spec.struct import Struct
    from pyvirtio.transport import DriverTransport

    Data = bytes | bytearray | memoryview


class BoundQueue:
    """A queue of a running driver; it belongs to the thread that opened the driver.

    Outside an event loop, `submit` waits while the queue is full. Inside one it never waits: a request that finds the
    queue full goes on the ring as soon as there is room, in the order of submission; await its ticket.

    A request and its answer in parts, here those of a disk (VIRTIO 1.4, 5.2.6):

    >>> from pyvirtio import Device, Driver, Queue, RequestQueue, Struct, le32, le64, open_driver, u8
    >>> class Header(Struct):
    ...     kind: int = le32()
    ...     reserved: int = le32()
    ...     sector: int = le64()
    >>> class Status(Struct):
    ...     code: int = u8()
    >>> class Disk(Device):
    ...     device_id = 2
    ...     requests = Queue(size=8)
    ...     content = bytearray(1024)
    ...     @requests.stream
    ...     def serve(self, reader, writer):
    ...         header = reader.take(Header)
    ...         start = 512 * header.sector
    ...         if header.kind == 1:
    ...             self.content[start : start + reader.left] = reader.read(reader.left)
    ...         else:
    ...             writer.write(bytes(self.content[start : start + writer.room - 1]))
    ...         writer.put(Status(0))
    >>> class DiskDriver(Driver):
    ...     device_id = 2
    ...     requests = RequestQueue(Header, tail=Status)
    >>> with open_driver(DiskDriver, Disk()) as disk:
    ...     disk.requests.call(Header(kind=1, sector=1), b"hello".ljust(512, b"."))
    ...     answer = disk.requests.call(Header(kind=0, sector=1), room=512 + Status.nbytes)
    Answer(head=None, data=b'', tail=Status(code=0))
    >>> answer.data[:7], answer.tail
    (b'hello..', Status(code=0))
    """

    def __init__(
        self, declared: RequestQueue, index: int, ring: SplitDriverQueue, transport: DriverTransport, watch: Watch
    ) -> None:
        self.declared = declared
        self.index = index
        self.ring = ring
        self.transport = transport
        self.waiters = Waiters()
        self._watch = watch
        self._late: deque[Ticket] = deque()
        """The requests that wait for room on the ring."""
        self._late_readers: list[Reader] = []
        self._incoming = Incoming(self)
        self._over: VirtioError | None = None
        """Why the queue can no longer be used."""

    # Submitting.

    def submit(self, request: Struct | Data = b"", *data: Data, room: int | None = None) -> Ticket:
        """Submit a request to the device: a structure or bytes, and perhaps ``data``, each part in a buffer of its own.

        ``room`` is how many bytes the device may write, by default what the declared structures take.

        Raises:
            LocalError: the driver's shared memory is used up, the length of the answer is neither declared nor
                given as ``room``, or the driver is closed.
            DeviceError: the device broke a rule, or is gone.
        """
        ticket = self._enter(request, data, room)
        self.publish()
        return ticket

    def submit_all(self, requests: Iterable[Struct | Data], *, room: int | None = None) -> list[Ticket]:
        """Submit several requests with one kick; see `submit`."""
        tickets = [self._enter(request, (), room) for request in requests]
        self.publish()
        return tickets

    def call(
        self, request: Struct | Data = b"", *data: Data, room: int | None = None, timeout: float | None = TIMEOUT
    ) -> Any:
        """Submit one request and wait for its answer."""
        ticket = self._enter(request, data, room)
        self.publish()
        return ticket.result(timeout)

    def incoming(self, *, room: int | None = None, buffers: int = 16, timeout: float | None = None) -> Incoming:
        """Iterate, with ``for`` or ``async for``, over what the device sends by itself.

        The device has up to ``buffers`` buffers of ``room`` bytes from the call on. It gets another one for each that
        is taken, so a slow reader holds the device up and loses nothing. Whoever breaks off and calls `incoming` again
        goes on where the last one was. A blocking wait takes at most ``timeout`` seconds, by default any time.
        A queue that receives does nothing else: do not submit requests on it.

        >>> from pyvirtio import Device, Driver, Queue, RequestQueue, open_driver
        >>> class Clock(Device):
        ...     device_id = 63
        ...     ticks = Queue(size=8)
        ...     count = 0
        ...     @ticks.stream
        ...     def tick(self, reader, writer):
        ...         self.count += 1
        ...         writer.write(b"tick %d" % self.count)
        >>> class ClockDriver(Driver):
        ...     device_id = 63
        ...     ticks = RequestQueue()
        >>> with open_driver(ClockDriver, Clock()) as driver:
        ...     for data in driver.ticks.incoming(room=32, buffers=2):
        ...         print(data)
        ...         if data == b"tick 3":
        ...             break
        b'tick 1'
        b'tick 2'
        b'tick 3'
        """
        return self._incoming.post(buffers, self._room(room), timeout)

    def _enter(self, request: Struct | Data, data: tuple[Data, ...], room: int | None) -> Ticket:
        self._check()
        ticket = Ticket(self, _parts(request, data), self._room(room))
        needed = self._descriptors(ticket)
        if self._late or self.ring.free < needed:
            self.reap()
            if self._late or self.ring.free < needed:
                if loop := running_loop():
                    self._put_off(ticket, loop)
                    return ticket
                self._wait_for_room(needed)
        ticket.place()
        return ticket

    def _room(self, room: int | None) -> int:
        room = self.declared.answer.default_room if room is None else room
        if room is None:
            raise LocalError(f"say how long the answer may be: {self.declared.name}.submit(request, room=…)")
        return room

    def _descriptors(self, ticket: Ticket) -> int:
        """Return the free descriptors that a request takes; one that the ring can never hold is refused by the ring."""
        if self.ring.may_indirect:
            return 1
        buffers = len(ticket.parts) + len(self.declared.answer.buffers(ticket.room))
        return min(buffers, self.ring.size)

    def _put_off(self, ticket: Ticket, loop: Loop) -> None:
        """Keep a request until there is room on the ring, and have ``loop`` look for it."""
        ticket.parts = [bytes(part) for part in ticket.parts]  # the caller may change them meanwhile
        self._late.append(ticket)
        if not self._late_readers or self._late_readers[0][0] is not loop:
            self._watch.leave(self._late_readers)
            self._late_readers = self._watch.enter(loop, self)
            loop.call_soon(self.on_interrupt)  # which asks for interrupts

    def _wait_for_room(self, descriptors: int) -> None:
        self.publish()
        while self._late or self.ring.free < descriptors:
            self.wait_for_used(TIMEOUT)

    def _start_late(self) -> None:
        """Put requests on the ring that waited for room."""
        while self._late and self.ring.free >= self._descriptors(self._late[0]):
            ticket = self._late.popleft()
            try:
                ticket.place()
            except VirtioError as error:
                ticket.fail(error)
        self.publish()
        if not self._late:
            self._watch.leave(self._late_readers)
            self._late_readers = []

    def publish(self) -> None:
        """Let the device see what was put on the ring, and kick it if it wants that."""
        self.ring.publish()
        if self.ring.needs_kick():
            self.transport.kick(self.index)

    # Reaping.

    def reap(self) -> int:
        """Take what the device has returned; return how many answers came.

        Raises:
            DeviceError: the device broke a rule, or is gone.
            LocalError: the driver was closed.
        """
        self._check()
        try:
            number = self._take_used()
        except DeviceError as error:
            self.end(error)
            raise
        if number and self._late:
            self._start_late()
        return number

    def _take_used(self) -> int:
        done: list[tuple[Any, int]] = self.ring.reap()
        for ticket, written in done:
            ticket.complete(written)
        return len(done)

    def wait_for(self, ticket: Ticket, timeout: float | None) -> None:
        """Reap until the answer of ``ticket`` is there; raises as `Ticket.data` does."""
        deadline = None if timeout is None else time.monotonic() + timeout
        self.reap()
        while not ticket.done:
            self.wait_for_used(None if deadline is None else deadline - time.monotonic())

    def wait_for_used(self, timeout: float | None) -> None:
        """Wait until the device has returned something, and reap it.

        Raises:
            NoAnswer: ``timeout`` seconds are over.
            DeviceError: the device broke a rule, or is gone.
        """
        wait_for_any((self,), timeout)

    def offer_again(self) -> None:
        """Reap what a device that is gone has returned, and offer the rest to its successor."""
        try:
            self._take_used()
            self.ring.offer_again()
        except DeviceError as error:
            self.end(error)

    # Awaiting.

    async def arrival(self, key: object, is_there: Callable[[], bool]) -> None:
        """Return once ``is_there()``, which ``waiters.wake(key)`` announces.

        Raises:
            DeviceError: the device broke a rule, or is gone.
            LocalError: the driver was closed.
        """
        import asyncio

        readers = self._watch.enter(asyncio.get_running_loop(), self)
        try:
            self._settle()
            while not is_there():
                self._check()
                await self.waiters.wait(key)
        finally:
            self._watch.leave(readers)

    def on_interrupt(self) -> None:
        """Reap in an event loop."""
        with suppress(BlockingIOError):  # it may have been called without an interrupt
            os.eventfd_read(self.transport.interrupt_fd(self.index))
        with suppress(VirtioError):  # the queue is over, and whoever waits has been told
            self._settle()

    def _settle(self) -> None:
        """Reap until nothing is left and an interrupt will come for what comes next."""
        self.reap()
        while self.ring.enable_interrupts():
            self.reap()

    # The end.

    def end(self, error: VirtioError) -> None:
        """End every wait with ``error``, but for answers that are there; nothing can be submitted any more."""
        if self._over is not None:
            return
        with suppress(DeviceError):
            self._take_used()
        self._over = error
        self._late.clear()
        self._watch.leave(self._late_readers)
        self._late_readers = []
        self.waiters.wake_all()

    def _check(self) -> None:
        if self._over is not None:
            raise self._over.again()


def wait_for_any(queues: tuple[BoundQueue, ...], timeout: float | None) -> None:
    """Wait until the device has returned something on one of ``queues``, which are one driver's, and reap them.

    Raises:
        NoAnswer: ``timeout`` seconds are over.
        DeviceError: the device broke a rule, or is gone.
    """
    first = queues[0]
    for queue in queues:
        queue._check()
    if True not in [queue.ring.enable_interrupts() for queue in queues]:
        try:
            interrupted = first.transport.wait(tuple(queue.index for queue in queues), timeout)
        except DeviceError as error:
            first._watch.end(error)
            return  # what came before the end has been reaped; whoever still waits meets the error
        if not interrupted:
            raise NoAnswer(
                "the device has not answered in time; look at its log, or wait longer. "
                f"The ring:\n{first.ring.describe()}"
            )
    for queue in queues:
        queue.reap()


def _parts(request: Struct | Data, data: tuple[Data, ...]) -> list[bytes | memoryview]:
    """Return what the device reads, buffer by buffer, without empty ones."""
    first = request.pack() if isinstance(request, tuple) else request
    if not data and isinstance(first, bytes):
        return [first] if first else []
    parts = [part if isinstance(part, bytes) else memoryview(part).cast("B") for part in (first, *data)]
    return [part for part in parts if part]
