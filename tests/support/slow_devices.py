"""Devices that take their time, for tests of stops, deaths and reloads while requests are under way.

An answer is the double of its request, and FAILED for a request that failed. Each device notes what its method was
given in the file that SLOW_RECORD names. Subclasses only differ in how they answer.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyvirtio.device import Device, OutgoingQueue, Queue
from pyvirtio.device.files import File
from pyvirtio.spec.struct import Struct, le32

if TYPE_CHECKING:
    from pyvirtio.device.streams import Reader, Writer

FAILED = 0xFFFF_FFFF
HANG = 1_000_000
"""A request, or a value of the configuration space, at which the device hangs."""

RAISE = 1_000_001
PATIENCE = 1.0
"""The patience of the devices that hang, in seconds."""

FOR_EVER = 3600.0
LATE = 1.2


class Number(Struct):
    value: int = le32()


class Config(Struct):
    knob: int = le32(writable=True)


def note(value: object) -> None:
    """Append a line to the record; what one write appends stays together, whoever else appends."""
    fd = os.open(os.environ["SLOW_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{value}\n".encode())
    os.close(fd)


class Slow(Device):
    """A plain method that takes 50 ms for each request."""

    requests = Queue(Number, Number, size=64)

    @requests.each
    def answer(self, request: Number) -> Any:
        note(request.value)
        time.sleep(0.05)
        return 2 * request.value

    @requests.failed
    def failed(self, writer: Writer) -> None:
        writer.put(Number(FAILED))


class SlowOnce(Slow):
    repeatable = False


class Blocking(Slow):
    """A plain method that does not return from HANG."""

    patience = PATIENCE

    def answer(self, request: Number) -> Any:
        note(request.value)
        if request.value == HANG:
            time.sleep(FOR_EVER)
        return 2 * request.value


class Later(Slow):
    """Some requests are answered at once and others later, so that they overtake one another."""

    async def answer(self, request: Number) -> int:
        note(request.value)
        if request.value % 3:
            await asyncio.sleep(request.value % 7 / 2000)
        return 2 * request.value


class LaterOnce(Later):
    repeatable = False


class Stored(Device):
    """Finds each answer in a file, whose reads the system does not do at once: it is in no cache."""

    requests = Queue(size=64)

    def __init__(self) -> None:
        self._fd = os.memfd_create("stored")
        os.pwrite(self._fd, b"".join(Number(2 * value).pack() for value in range(1 << 15)), 0)
        self._file = File(self._fd)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    @requests.stream
    async def answer(self, reader: Reader, writer: Writer) -> None:
        """Answer one request."""
        value = reader.take(Number).value
        note(value)
        await self._file.read_into(writer, Number.nbytes, Number.nbytes * value)

    @requests.failed
    def failed(self, writer: Writer) -> None:
        """Show that it failed."""
        writer.put(Number(FAILED))


class StoredOnce(Stored):
    repeatable = False


class Together(Slow):
    """All requests take 0.3 s, at the same time."""

    async def answer(self, request: Number) -> int:
        note(request.value)
        await asyncio.sleep(0.3)
        return 2 * request.value


class TogetherOnce(Together):
    repeatable = False


class Stubborn(Slow):
    """A method that ignores that it is cancelled."""

    patience = PATIENCE

    async def answer(self, request: Number) -> int:
        note(request.value)
        while request.value == HANG:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(FOR_EVER)
        return 2 * request.value


class LateToCome(Stubborn):
    """Takes long to be made after a death, as on a machine that has much else to do."""

    def __init__(self) -> None:
        if f"{HANG}\n" in Path(os.environ["SLOW_RECORD"]).read_text():
            time.sleep(LATE)


class Four(Later):
    """Four queues, whose answers are the worker's process id."""

    queues = ()
    four = Queue(Number, Number, size=64, count=4)

    @four.each
    async def answer_with_process(self, request: Number) -> int:
        await asyncio.sleep(request.value / 1000)
        return os.getpid()


class Counting(Slow):
    """A queue declared for 4 requests, whose answers are how many were in progress at most."""

    queues = ()
    few = Queue(Number, Number, size=4)
    in_progress = most = 0

    @few.each
    async def count(self, request: Number) -> int:
        self.in_progress += 1
        self.most = max(self.most, self.in_progress)
        await asyncio.sleep(0.01)
        self.in_progress -= 1
        return self.most


class Configured(Slow):
    """Hangs, or raises, when the driver writes that into the configuration space; the answer is what it wrote."""

    patience = PATIENCE
    config = Config()

    def config_written(self) -> None:
        note(self.config.knob)
        if self.config.knob == HANG:
            time.sleep(FOR_EVER)
        if self.config.knob == RAISE:
            raise ValueError("as it was told to")

    def answer(self, request: Number) -> Any:
        return self.config.knob


class ConfiguredLater(Configured):
    async def answer(self, request: Number) -> int:
        return self.config.knob


class Running(Slow):
    """Its `run` stops the event loop, but only the first time."""

    patience = PATIENCE

    async def run(self) -> None:
        await asyncio.sleep(0)
        with open(os.environ["SLOW_RECORD"], "a+b") as record:
            record.seek(0)
            first = not record.read()
        note("run")
        if first:
            time.sleep(FOR_EVER)

    async def answer(self, request: Number) -> int:
        return 2 * request.value


class Speaking(Slow):
    """It has a queue on which it could speak."""

    events = OutgoingQueue(size=16)
