"""Whether a request costs the same on large queues and with many regions of memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pyvirtio_bench.backends import C_PEER
from pyvirtio_bench.page import Table
from pyvirtio_bench.ring import RingLoop, interleaved, ways
from pyvirtio_bench.runs import cell, processor
from pyvirtio_bench.statistics import ratio
from pyvirtio_bench.workload import Workload

if TYPE_CHECKING:
    from pyvirtio_bench.bench import Bench
    from pyvirtio_bench.runs import Runnable

SIZES = (128, 1024, 8192, 32768)  # the largest is the most that a split virtqueue has
REGIONS = (1, 2, 8, 32, 256)
IN_FLIGHT = 64
PEER_REGIONS = 32  # the most that libvhost-user takes


def measure(bench: Bench) -> list[Table]:
    """Measure both: queues of all sizes in this process, for `pyvirtio serve` takes 1024 entries at most."""
    return [_sizes(bench), _regions(bench)]


def _sizes(bench: Bench) -> Table:
    loops = {(way.title, size): RingLoop(way, IN_FLIGHT, size=size) for way in ways() for size in SIZES}
    times = interleaved("queue sizes", loops, bench.runner)
    smallest, *others = SIZES
    rows = [
        [way.title, *(str(ratio(times[way.title, size], times[way.title, smallest])) for size in others)]
        for way in ways()
    ]
    title = f"Processor time per request by entries of the queue, as a ratio to {smallest}, {IN_FLIGHT} in flight"
    data = [{"way": way, "queue_size": size, "ns": values} for (way, size), values in times.items()]
    return Table("queue-size", title, ["device", *map(str, others)], rows, data)


def _regions(bench: Bench) -> Table:
    base = Workload(IN_FLIGHT, sustained=True, seconds=bench.runner.schedule.seconds)
    loads = [replace(base, regions=number) for number in REGIONS]
    backends: list[Runnable] = [
        *bench.peer("factorial"),
        *bench.pyvirtio("pyvirtio", "factorial"),
        *bench.pyvirtio("without the engine in C", "factorial", engine="reference"),
    ]

    def applicable(backend: Runnable, load: Workload) -> bool:
        return backend.name != C_PEER or load.regions <= PEER_REGIONS

    results = bench.runner.interleaved("regions", backends, loads, applicable=applicable)
    one, *others = loads
    rows = [
        [backend.name, *(cell(results.ratio((backend.name, load), (backend.name, one), processor)) for load in others)]
        for backend in backends
    ]
    title = f"Processor time per request by regions of memory, as a ratio to one region, {IN_FLIGHT} in flight"
    return Table("regions", title, ["factorial", *(str(load.regions) for load in others)], rows, results.as_data())
