"""The device's side of one queue, in this process alone: no other process, no socket, no sleep.

Each batch goes through the whole service: the available index, pop, validation, translation, gathering; the device's
method; scattering, used entries, journal, used index, and the question whether the driver wants an interrupt.
Descriptors are shuffled, and requests lie by turns in regions of memory 4 GiB apart. The driver's side is prepared: it
costs a store for each batch, which is counted in.
"""

from __future__ import annotations

import mmap
import random
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvirtio.memory import MemoryTable, Region
from pyvirtio.spec import split
from pyvirtio.spec.features import RING_FEATURES
from pyvirtio.testing import LocalQueue, RawDriver
from pyvirtio.transport import QueueSetup
from pyvirtio_bench.devices import Batch, Each
from pyvirtio_bench.engines import BATCHING, TITLES, engines, forced
from pyvirtio_bench.processes import pinned, split_cpus

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeVar

    from pyvirtio.device import Device
    from pyvirtio_bench.runs import Bench

    Key = TypeVar("Key")

REQUEST = struct.Struct("<I32s")
RESPONSE_SIZE = 4
SLOT = 64  # bytes of memory for a request and its response, a cache line
BATCHES_AT_ONCE = 2000  # requests between two looks at the clock


@dataclass(frozen=True)
class Way:
    """A way that requests take through the service.

    Attributes:
        title: what the tables call it.
        engine: the engine of the ring.
        device: the form of the device.
        by_chains: each request goes through its chain, the way of requests that have no fixed shape.
    """

    title: str
    engine: str
    device: type[Device]
    by_chains: bool = False


def ways() -> list[Way]:
    """Return the ways that can run here, the fastest first."""
    found = []
    for engine in engines():
        if engine in BATCHING:
            found.append(Way(f"{TITLES[engine]}, batch device", engine, Batch))
        found.append(Way(f"{TITLES[engine]}, one call a request", engine, Each))
        found.append(Way(f"{TITLES[engine]}, one call, by chains", engine, Each, by_chains=True))
    return found


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
        driver.set_descriptor(tail, address + REQUEST.size, RESPONSE_SIZE, split.F_WRITE)
        heads.append(head)
    return heads


def _queue(way: Way, driver: RawDriver, memory: MemoryTable) -> LocalQueue:
    layout = driver.layout
    setup = QueueSetup(
        0, layout.size, layout.descriptors, layout.available, layout.used, RING_FEATURES, position=driver.used_idx
    )
    with forced(way.engine):
        queue = LocalQueue(way.device(), setup, memory)
    if way.by_chains:
        queue.service._records = None  # what a ring without records would do
    return queue


def interleaved(title: str, loops: Mapping[Key, RingLoop], bench: Bench) -> dict[Key, list[float]]:
    """Run all loops by turns; return the nanoseconds per request of each loop's repetitions."""
    times: dict[Key, list[float]] = {key: [] for key in loops}
    one_processor, _ = split_cpus()
    with pinned(one_processor), bench.progress.step(title) as update:
        for repetition in range(bench.schedule.repetitions):
            for key, loop in loops.items():
                times[key].append(loop.run(bench.schedule.seconds))
            update((repetition + 1) / bench.schedule.repetitions)
    return times
