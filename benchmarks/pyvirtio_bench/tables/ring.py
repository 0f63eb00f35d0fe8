"""What a request costs on the device's side of a ring, by engine and by the number of requests that wait."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from pyvirtio_bench.page import Table
from pyvirtio_bench.ring import RingLoop, interleaved, ways
from pyvirtio_bench.statistics import format3

if TYPE_CHECKING:
    from pyvirtio_bench.runs import Bench

BATCHES = (1, 8, 32, 128, 1024)
SIZE = 2048


def measure(bench: Bench) -> list[Table]:
    """Serve batches of requests in this process, in every way by turns."""
    loops = {(way.title, batch): RingLoop(way, batch, size=SIZE) for way in ways() for batch in BATCHES}
    times = interleaved("ring", loops, bench)
    rows = [[way.title, *(format3(median(times[way.title, batch])) for batch in BATCHES)] for way in ways()]
    title = f"Nanoseconds of processor time per request on the device's side of a ring of {SIZE} entries: medians"
    data = [{"way": way, "batch": batch, "ns": values} for (way, batch), values in times.items()]
    return [Table("ring", title, ["engine, device / requests that wait", *map(str, BATCHES)], rows, data)]
