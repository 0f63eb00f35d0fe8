"""Whether a request costs the same on large queues and with many regions of memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pyvirtio_bench.backends import C_PEER, c_peer, each_engine
from pyvirtio_bench.page import Table
from pyvirtio_bench.ring import RingLoop, interleaved, ways
from pyvirtio_bench.runs import Bench, Runnable, cell
from pyvirtio_bench.statistics import ratio
from pyvirtio_bench.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvirtio_bench.workload import Sample

SIZES = (128, 1024)  # the largest is the most that `pyvirtio serve` takes
RING_SIZES = (128, 1024, 8192, 32768)  # the largest is the most that a split virtqueue has
REGIONS = (1, 2, 8, 32, 256)
IN_FLIGHT = 64
PEER_REGIONS = 32  # the most that libvhost-user takes


def measure(bench: Bench) -> list[Table]:
    """Measure both for every engine and for the peer, and the ring alone for sizes that cannot be served."""
    base = Workload(in_flight=IN_FLIGHT, seconds=bench.schedule.seconds, sustained=True)
    sizes = [replace(base, queue_size=size) for size in SIZES]
    regions = [replace(base, regions=number) for number in REGIONS]
    return [
        _table(bench, "queue-size", "queue size", sizes, [str(size) for size in SIZES]),
        _ring_table(bench),
        _table(bench, "regions", "regions of memory", regions, [str(number) for number in REGIONS]),
    ]


def _table(bench: Bench, name: str, what: str, workloads: Sequence[Workload], columns: Sequence[str]) -> Table:
    peer = [c_peer(bench.peer)] if bench.peer else []
    backends: list[Runnable] = [*peer, *each_engine()]

    def applicable(backend: Runnable, workload: Workload) -> bool:
        return backend.name != C_PEER or workload.regions <= PEER_REGIONS

    results = bench.interleaved(what, backends, workloads, applicable=applicable)

    def wall(sample: Sample) -> float | None:
        return sample.wall

    def cpu(sample: Sample) -> float | None:
        return sample.cpu

    rows = []
    for backend in backends:
        for measured, metric in (("clock", wall), ("processor", cpu)):
            base, *others = ((backend.name, workload) for workload in workloads)
            rows.append([backend.name, measured, *(cell(results.ratio(other, base, metric)) for other in others)])
    title = f"Time per request by {what}, as a ratio to {columns[0]}, {IN_FLIGHT} in flight: median (quartiles)"
    return Table(name, title, [f"engine, device / {what}", "time", *columns[1:]], rows, results.as_data())


def _ring_table(bench: Bench) -> Table:
    chosen = [way for way in ways() if not way.by_chains]
    loops = {(way.title, size): RingLoop(way, IN_FLIGHT, size=size) for way in chosen for size in RING_SIZES}
    times = interleaved("queue size, the ring alone", loops, bench)
    smallest, *others = RING_SIZES
    rows = [
        [way.title, *(str(ratio(times[way.title, size], times[way.title, smallest])) for size in others)]
        for way in chosen
    ]
    title = (
        f"Processor time per request by queue size, as a ratio to {smallest}, {IN_FLIGHT} that wait, the device's side "
        "of the ring alone: median (quartiles)"
    )
    data = [{"way": way, "queue_size": size, "ns": values} for (way, size), values in times.items()]
    return Table("ring-size", title, ["engine, device / queue size", *map(str, others)], rows, data)
