"""Nanoseconds a request takes on the device's side of a ring, engine by engine, in one process.

    .venv/bin/python benchmarks/ring.py [--json] [--quick]

Each batch goes through the whole service: look at the available index, pop, validate, translate, gather; the device's
method; scatter, used entries, journal, used index, and the question whether the driver wants a call. Descriptors are
shuffled, requests alternate between two regions of memory 4 GiB apart. The driver's side is prepared: it costs a few
stores a batch, which are counted in.

The ways that a device may answer:

    batch   its batch method takes a NumPy record array
    each    one Python call a request, with typed structures
    chain   as `each`, but through chains, the way of all engines

Runs of all rows are interleaved, because the machine is shared; the median of a row's runs is shown.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import statistics
import struct
import sys
import time
from typing import Any

from pyvirtio.bench.devices import Batch, Each
from pyvirtio.device import Device, QueueService
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.ring import Journal
from pyvirtio.ring.engine import device_queue
from pyvirtio.spec.features import RING_FEATURES
from pyvirtio.testing import RawDriver
from pyvirtio.transport import QueueSetup

BATCHES = (1, 8, 32, 128, 1024)


ROWS: dict[str, tuple[str, type[Device], bool]] = {
    "native, batch": ("native", Batch, True),
    "native, each": ("native", Each, True),
    "native, chain": ("native", Each, False),
    "reference, batch": ("reference", Batch, True),
    "reference, each": ("reference", Each, True),
    "reference, chain": ("reference", Each, False),
}


class Bench:
    """One ring with ``batch`` requests on it, served again and again."""

    def __init__(self, row: str, batch: int, *, size: int, regions: int = 2) -> None:
        engine, device, records = ROWS[row]
        os.environ["PYVIRTIO_ENGINE"] = engine
        rng = random.Random(1)
        span = max(1 << 20, 64 * size)
        each = max(4096, (128 * size // regions + 4095) & ~4095)
        table = [Region(0, mmap.mmap(-1, span))]
        table += [Region((number << 32), mmap.mmap(-1, each)) for number in range(1, regions)]
        memory = MemoryTable(table)
        raw = RawDriver(memory, size)
        free = {region.base: region.base for region in table}
        free[0] = raw.layout.end
        slots = list(range(size))
        rng.shuffle(slots)
        self.heads = []
        for number in range(size // 2):
            region = table[number % regions]
            at = free[region.base]
            if at + 64 > region.end:
                region, at = table[0], free[0]
            free[region.base] = at + 64
            memory.write(at, struct.pack("<I32s", rng.randrange(40), b"hello back end!"))
            head, tail = slots[2 * number], slots[2 * number + 1]
            raw.set_descriptor(head, at, 36, 1, tail)
            raw.set_descriptor(tail, at + 40, 4, 2)
            self.heads.append(head)
        rng.shuffle(self.heads)
        self.batch = min(batch, len(self.heads))
        self.raw = raw
        kind = device()
        kind.negotiate(RING_FEATURES)
        areas = (raw.layout.descriptors, raw.layout.available, raw.layout.used)
        queue = device_queue(QueueSetup(0, size, *areas, RING_FEATURES), memory, journal=Journal.private(size))
        answer = kind.answers()[0]
        self.service = QueueService(
            queue,
            answer if records else lambda chain: answer(chain),  # noqa: PLW0108  # a plain function is for chains
            lambda: None,
            lambda text, error: print(text, error, file=sys.stderr),
            time.monotonic_ns,
        )
        self.queue = queue
        self.at = 0
        self.words = raw.available_words
        # Heads in the available ring for good: it goes round and round over the same ones.
        for slot in range(size):
            raw.set_avail_ring(slot, self.heads[slot % len(self.heads)])

    def run(self, seconds: float) -> float:
        """Serve for a while; gives nanoseconds of CPU time a request."""
        words, turn, batch = self.words, self.service.turn, self.batch
        done, number = 0, max(1, 2000 // batch)
        started, end = time.process_time_ns(), time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(number):
                self.at = (self.at + batch) & 0xFFFF
                words[1] = self.at
                while turn():
                    pass
            done += number * batch
        return (time.process_time_ns() - started) / done


def measure(benches: dict[Any, Bench], repeats: int, seconds: float) -> dict[Any, float]:
    """Run all of them, interleaved; gives each one's median."""
    runs: dict[Any, list[float]] = {key: [] for key in benches}
    for _ in range(repeats):
        for key, bench in benches.items():
            runs[key].append(bench.run(seconds))
    return {key: statistics.median(values) for key, values in runs.items()}


def show(title: str, columns: list[str], rows: dict[str, list[float]]) -> None:
    """Print a table."""
    print(f"\n{title}")
    print(f"{'':18}" + "".join(f"{column:>10}" for column in columns))
    for name, values in rows.items():
        print(f"{name:18}" + "".join(f"{value:10.3g}" if value < 10 else f"{value:10.0f}" for value in values))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument("--quick", action="store_true", help="a tenth of the time")
    options = parser.parse_args()
    repeats, seconds = (3, 0.02) if options.quick else (7, 0.1)
    batches = {(row, batch): Bench(row, batch, size=2048) for row in ROWS for batch in BATCHES}
    by_batch = measure(batches, repeats, seconds)
    del batches
    sizes, regions = (128, 2048, 32768), (1, 2, 16, 256)
    by_size = measure({(row, size): Bench(row, 64, size=size) for row in ROWS for size in sizes}, repeats, seconds)
    by_regions = measure(
        {(row, number): Bench(row, 128, size=2048, regions=number) for row in ROWS for number in regions},
        repeats,
        seconds,
    )
    if options.json:
        tables = {"batch": by_batch, "size": by_size, "regions": by_regions}
        print(json.dumps({name: {str(key): value for key, value in table.items()} for name, table in tables.items()}))
        return
    columns = [str(batch) for batch in BATCHES]
    rows = {row: [by_batch[row, batch] for batch in BATCHES] for row in ROWS}
    show("ns of CPU time a request, by batch (queue of 2048, 2 regions)", columns, rows)
    base = rows["reference, chain"]
    ratios = {row: [value / other for value, other in zip(rows[row], base, strict=True)] for row in ROWS}
    show("the same as a ratio to the reference engine", columns, ratios)
    show("by queue size (batches of 64)", list(map(str, sizes)), {r: [by_size[r, s] for s in sizes] for r in ROWS})
    show(
        "by regions (batches of 128)",
        list(map(str, regions)),
        {row: [by_regions[row, number] for number in regions] for row in ROWS},
    )


if __name__ == "__main__":
    main()
