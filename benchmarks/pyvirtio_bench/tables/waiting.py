"""What it costs to be able to wait: a coroutine over a plain method, and a kick in an event loop over one without.

Both are measured in this process alone, in nanoseconds of processor time: nothing sleeps, and no other process answers.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvirtio.device import Device, Queue, Reader, Writer
from pyvirtio.device.files import File
from pyvirtio.errors import ProvisionError
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.memory.files import map_file, shared_file
from pyvirtio.ring.engine import obstacle
from pyvirtio.runtime import DeviceRunner
from pyvirtio.runtime.loop import Attachment, RunnerLoop
from pyvirtio.spec.features import RING_FEATURES
from pyvirtio.testing import RawDriver
from pyvirtio.transport import FileRegion
from pyvirtio_bench.page import Table
from pyvirtio_bench.processes import pinned, split_cpus
from pyvirtio_bench.ring import forced
from pyvirtio_bench.statistics import Quartiles, ratio

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio_bench.bench import Bench

IN_FLIGHT = (1, 32, 128)
SIZE = 256
LENGTH = 8  # of a request and of its answer
KICKS = 500  # between two looks at the clock


class Plain(Device):
    """A plain method."""

    queue = Queue(size=SIZE)

    @queue.stream
    def answer(self, reader: Reader, writer: Writer) -> None:
        """Answer one request."""
        writer.write(reader.read())


class Quick(Device):
    """A coroutine that does not wait."""

    queue = Queue(size=SIZE)

    @queue.stream
    async def answer(self, reader: Reader, writer: Writer) -> None:
        """Answer one request."""
        writer.write(reader.read())


class WithFile(Device):
    """Has a file whose content is the answer: zeros, which the system has at once wherever this is measured."""

    def __init__(self) -> None:
        self.fd = os.open("/dev/zero", os.O_RDONLY | os.O_CLOEXEC)
        self.file = File(self.fd)

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)


class PlainFile(WithFile):
    """A plain method that reads from a file."""

    queue = Queue(size=SIZE)

    @queue.stream
    def answer(self, reader: Reader, writer: Writer) -> None:
        """Answer one request."""
        reader.read()
        writer.read_from(self.fd, LENGTH, 0)


class CachedFile(WithFile):
    """A coroutine that reads from a file, which is there."""

    queue = Queue(size=SIZE)

    @queue.stream
    async def answer(self, reader: Reader, writer: Writer) -> None:
        """Answer one request."""
        reader.read()
        await self.file.read_into(writer, LENGTH, 0)


class WaitingFile(WithFile):
    """A coroutine that reads from a file by an operation that it waits for."""

    queue = Queue(size=SIZE)

    def __init__(self) -> None:
        super().__init__()
        from pyvirtio.device import files
        from pyvirtio.ring import _native

        # As if nothing were ever in the system's cache.
        ways = self.file._read, self.file._write, self.file._sync
        self._read = _native.File(self.fd, False, files._open_uring, *ways).read_into

    @queue.stream
    async def answer(self, reader: Reader, writer: Writer) -> None:
        """Answer one request."""
        reader.read()
        await self._read(writer, LENGTH, 0)


class Future(Device):
    """A coroutine that waits for a future of asyncio."""

    queue = Queue(size=SIZE)

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []
        self.new_future = asyncio.get_running_loop().create_future

    @queue.stream
    async def answer(self, reader: Reader, writer: Writer) -> None:
        """Answer one request."""
        future = self.new_future()
        self.waiting.append(future)
        await future
        writer.write(reader.read())

    def go_on(self) -> None:
        """Let all go on."""
        waiting, self.waiting = self.waiting, []
        for future in waiting:
            future.set_result(None)


@dataclass(frozen=True)
class Row:
    """A kind of method, and the plain one that it is compared with."""

    title: str
    device: type[Device]
    plain: type[Device]


ROWS = (
    Row("does not wait", Quick, Plain),
    Row("reads a file: from the cache", CachedFile, PlainFile),
    Row("reads a file: waits for the operation", WaitingFile, PlainFile),
    Row("waits for a future of asyncio", Future, Plain),
)


class Bed:
    """A device of this process whose queue is driven by hand."""

    def __init__(self, kind: type[Device], in_flight: int, loop: asyncio.AbstractEventLoop | None) -> None:
        size = 1 << 20
        fd = shared_file("pyvirtio-bench-memory", size)
        memory = MemoryTable([Region(0, map_file(fd, 0, size))])
        self.raw = RawDriver(memory, SIZE)
        self.device = kind()
        self.runner = DeviceRunner(self.device, _fail, loop=loop if self.device.is_async else None)
        self.runner.set_memory([FileRegion(0, size, fd, 0)])
        os.close(fd)
        flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
        self.kick_fd, self.interrupt_fd = os.eventfd(0, flags), os.eventfd(0, flags)
        heads = [self.raw.request(bytes(LENGTH), room=LENGTH) for _ in range(SIZE // 2)]
        for slot in range(SIZE):
            self.raw.set_avail_ring(slot, heads[slot % len(heads)])
        self.raw.avail_flags, self.raw.used_event = 1, 0xFFFF  # no interrupts
        self._in_flight = in_flight
        self._index = 0
        fds = {"kick_fd": self.kick_fd, "interrupt_fd": self.interrupt_fd}
        self.runner.start_queue(self.raw.setup(0, RING_FEATURES, position=0, **fds))

    async def run(self, seconds: float) -> float:
        """Have requests answered, so many at once; return the nanoseconds of processor time for one."""
        step, raw, done = self.runner.step, self.raw, 0
        started, end = time.process_time_ns(), time.monotonic() + seconds
        while time.monotonic() < end:
            self._index = (self._index + self._in_flight) & 0xFFFF
            raw.available_words[1] = self._index
            self.runner.kick(0)
            step()
            while raw.used_idx != self._index:
                if isinstance(self.device, Future):
                    self.device.go_on()
                step()
                if raw.used_idx != self._index:
                    await asyncio.sleep(0)
            done += self._in_flight
        return (time.process_time_ns() - started) / done

    async def close(self) -> None:
        """End the device."""
        await asyncio.gather(*self.runner.close(), return_exceptions=True)
        for fd in (self.kick_fd, self.interrupt_fd):
            os.close(fd)


def _fail(event: str, message: str, error: BaseException | None) -> None:
    raise AssertionError(f"{event}: {message}") from error


def measure(bench: Bench) -> list[Table]:
    """Measure all kinds by turns.

    Raises:
        ProvisionError: the engine in C is not there, without which nothing is parked.
    """
    if reason := obstacle():
        raise ProvisionError(f"it is about the engine in C, and that is not there: {reason}")
    one_processor, _ = split_cpus()
    with pinned(one_processor), forced("native"):
        return [asyncio.run(_waiting(bench)), _kicks(bench)]


async def _waiting(bench: Bench) -> Table:
    loop = asyncio.get_running_loop()
    kinds = {kind for row in ROWS for kind in (row.device, row.plain)}
    beds = {(kind, number): Bed(kind, number, loop) for kind in kinds for number in IN_FLIGHT}
    for bed in beds.values():
        await bed.run(0.01)  # what is made for the first request is made
    times: dict[tuple[type[Device], int], list[float]] = {key: [] for key in beds}
    with bench.runner.progress.step("waiting") as update:
        for repetition in range(bench.runner.schedule.repetitions):
            for key, bed in beds.items():
                times[key].append(await bed.run(bench.runner.schedule.seconds / 4))
            update((repetition + 1) / bench.runner.schedule.repetitions)
    for bed in beds.values():
        await bed.close()
    rows = []
    for row in ROWS:
        cells = []
        for number in IN_FLIGHT:
            ours, plain = times[row.device, number], times[row.plain, number]
            cells.append(f"{Quartiles.of(a - b for a, b in zip(ours, plain, strict=True)).median:+.0f}")
            cells.append(f"{Quartiles.of(plain).median:.0f}")
        rows.append([row.title, *cells])
    title = "Nanoseconds of processor time that a request takes longer than with a plain method, and that method's"
    header = ["async def method / in flight", *(t for number in IN_FLIGHT for t in (str(number), "plain"))]
    data = [{"device": kind.__name__, "in_flight": n, "ns": values} for (kind, n), values in times.items()]
    return Table("waiting", title, header, rows, data)


# Kicks: each is sent by the turn of the one before it, so nothing ever sleeps.


def _kicks(bench: Bench) -> Table:
    ways: dict[str, Callable[[], float]] = {
        "stepped without an event loop": _without_loop,
        "the event loop of a worker": lambda: _in_loop(RunnerLoop(memoryview(bytearray(8)).cast("Q"))),
        "any event loop of asyncio": lambda: _in_loop(asyncio.new_event_loop()),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    with bench.runner.progress.step("kick") as update:
        for repetition in range(3 * bench.runner.schedule.repetitions):
            for name, way in ways.items():
                times[name].append(way())
            update((repetition + 1) / (3 * bench.runner.schedule.repetitions))
    first = next(iter(times.values()))
    rows = [[name, str(Quartiles.of(taken)), str(ratio(taken, first))] for name, taken in times.items()]
    title = "Nanoseconds of processor time for a kick of a queue that is empty: median (quartiles)"
    data = [{"way": name, "ns": taken} for name, taken in times.items()]
    return Table("kick", title, ["served in", "ns", "ratio"], rows, data)


def _chain_kicks(bed: Bed, done: Callable[[], object]) -> None:
    """Have each turn send the next kick; call ``done`` in the last one."""
    service = bed.runner._services[0]
    turn, left = service.turn, KICKS

    def kicked(now: int, *, keep_disabled: bool = False) -> bool:
        nonlocal left
        left -= 1
        if left:
            os.eventfd_write(bed.kick_fd, 1)
        else:
            done()
        return turn(now, keep_disabled=keep_disabled)

    service.turn = kicked  # type: ignore[method-assign]
    os.eventfd_write(bed.kick_fd, 1)


def _without_loop() -> float:
    async def main() -> float:
        bed, ends = Bed(Quick, 1, asyncio.get_running_loop()), []
        await bed.run(0.001)
        _chain_kicks(bed, lambda: ends.append(True))
        started = time.process_time_ns()
        while not ends:
            bed.runner.step(None)
        taken = (time.process_time_ns() - started) / KICKS
        await bed.close()
        return taken

    return asyncio.run(main())


def _in_loop(loop: asyncio.AbstractEventLoop) -> float:
    async def start() -> Bed:
        bed = Bed(Quick, 1, loop)
        await bed.run(0.001)
        return bed

    bed = loop.run_until_complete(start())
    _chain_kicks(bed, loop.stop)
    attachment = None if isinstance(loop, RunnerLoop) else Attachment(loop, bed.runner)
    started = time.process_time_ns()
    if isinstance(loop, RunnerLoop):
        loop.serve(bed.runner)
    else:
        loop.run_forever()
    taken = (time.process_time_ns() - started) / KICKS
    if attachment is not None:
        attachment.detach()
    loop.run_until_complete(bed.close())
    loop.close()
    return taken
