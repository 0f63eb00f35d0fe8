"""The device's side of one queue, in this process alone: no other process, no socket, no sleep.

Each batch goes through the whole service: the available index, pop, validation, translation, gathering; the device's
method; scattering, used entries, journal, used index, and the question whether the driver wants an interrupt.
Descriptors are shuffled, and requests lie by turns in regions of memory 4 GiB apart. The driver's side is prepared: it
costs a store for each batch, which is counted in.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvirtio.devices.echo import Echo
from pyvirtio.devices.factorial import Factorial
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.ring.engine import obstacle
from pyvirtio.spec import split
from pyvirtio.spec.features import RING_FEATURES
from pyvirtio.testing import LocalQueue, RawDriver
from pyvirtio.transport import QueueSetup
from pyvirtio_bench.processes import pinned, split_cpus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import TypeVar

    from pyvirtio.device import Device
    from pyvirtio_bench.runs import Runner

    Key = TypeVar("Key")

VARIABLE = "PYVIRTIO_ENGINE"
REQUEST = struct.Struct("<I32s")
ROOM = 64  # bytes for an answer
SLOT = 128  # bytes of memory for a request and its answer, two cache lines
BATCHES_AT_ONCE = 2000  # requests between two looks at the clock


@dataclass(frozen=True)
class Way:
    """A way that requests take through the service.

    Attributes:
        title: what the tables call it.
        engine: the engine of the ring.
        device: what answers.
    """

    title: str
    engine: str
    device: type[Device]


def ways() -> list[Way]:
    """Return the ways that can run here: each engine with a device of varying length, and batches of a fixed one."""
    found = []
    if obstacle() is None:
        found.append(Way("echo", "native", Echo))
        found.append(Way("factorial, with NumPy", "native", Factorial))
    return [*found, Way("echo, without the engine in C", "reference", Echo)]


@contextlib.contextmanager
def forced(name: str) -> Iterator[None]:
    """Have the queues that are made meanwhile use one engine."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


class RingLoop:
    """One queue of `size` entries whose requests are made available and served again and again.

    Args:
        way: how.
        batch: requests that are made available at once; half the size at most, for each takes two descriptors.
        size: entries of the queue.
        regions: regions of memory.
    """

    def __init__(self, way: Way, batch: int, *, size: int, regions: int = 2) -> None:
        chains = size // 2
        share = SLOT * -(-chains // regions)
        rings = 32 * size + mmap.PAGESIZE
        table = [Region(0, mmap.mmap(-1, rings + share))]
        table += [Region(number << 32, mmap.mmap(-1, share)) for number in range(1, regions)]
        memory = MemoryTable(table)
        driver = RawDriver(memory, size)
        heads = _prepare(driver, memory, random.Random(1))
        # Heads in the available ring for good: the index goes round and round over the same ones.
        for slot in range(size):
            driver.set_avail_ring(slot, heads[slot % chains])
        self._batch = min(batch, chains)
        self._words = driver.available_words
        self._index = 0
        self._queue = _queue(way, driver, memory)

    def run(self, seconds: float) -> float:
        """Serve for a while; return the nanoseconds of processor time per request."""
        words, turn, batch = self._words, self._queue.turn, self._batch
        done, number = 0, max(1, BATCHES_AT_ONCE // batch)
        started, end = time.process_time_ns(), time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(number):
                self._index = (self._index + batch) & 0xFFFF
                words[1] = self._index
                while turn():
                    pass
            done += number * batch
        return (time.process_time_ns() - started) / done


def _prepare(driver: RawDriver, memory: MemoryTable, rng: random.Random) -> list[int]:
    """Write a request into every second descriptor's slot; return the heads of the chains in random order."""
    bases = [region.base for region in memory.regions]
    bases[0] = driver.layout.end
    entries = list(range(driver.size))
    rng.shuffle(entries)
    heads = []
    for number, (head, tail) in enumerate(zip(entries[::2], entries[1::2], strict=True)):
        address = bases[number % len(bases)] + SLOT * (number // len(bases))
        memory.write(address, REQUEST.pack(rng.randrange(40), b"hello back end!"))
        driver.set_descriptor(head, address, REQUEST.size, split.F_NEXT, tail)
        driver.set_descriptor(tail, address + SLOT - ROOM, ROOM, split.F_WRITE)
        heads.append(head)
    return heads


def _queue(way: Way, driver: RawDriver, memory: MemoryTable) -> LocalQueue:
    layout = driver.layout
    setup = QueueSetup(
        0, layout.size, layout.descriptors, layout.available, layout.used, RING_FEATURES, position=driver.used_idx
    )
    with forced(way.engine):
        return LocalQueue(way.device(), setup, memory)


def interleaved(title: str, loops: Mapping[Key, RingLoop], runner: Runner) -> dict[Key, list[float]]:
    """Run all loops by turns; return the nanoseconds per request of each loop's repetitions."""
    times: dict[Key, list[float]] = {key: [] for key in loops}
    one_processor, _ = split_cpus()
    with pinned(one_processor), runner.progress.step(title) as update:
        for repetition in range(runner.schedule.repetitions):
            for key, loop in loops.items():
                times[key].append(loop.run(runner.schedule.seconds))
            update((repetition + 1) / runner.schedule.repetitions)
    return times
