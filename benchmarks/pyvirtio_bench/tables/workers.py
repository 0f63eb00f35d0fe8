"""How throughput grows with workers that share a device's queues."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvirtio_bench.backends import C_PEER, c_peer, device_spec, pyvirtio_backend
from pyvirtio_bench.engines import TITLES, engines
from pyvirtio_bench.page import Table
from pyvirtio_bench.runs import Bench, cell
from pyvirtio_bench.statistics import format3
from pyvirtio_bench.workload import Workload

if TYPE_CHECKING:
    from pyvirtio_bench.workload import Sample

WORKERS = (1, 2)
QUEUES = 4
IN_FLIGHT = 64  # on each queue


def measure(bench: Bench) -> list[Table]:
    """Measure one and two workers by turns; the C peer has one thread."""
    workload = Workload(in_flight=IN_FLIGHT, queues=QUEUES, seconds=bench.schedule.seconds)
    names = {(name, count): f"{TITLES[name]}, {count} workers" for name in engines() for count in WORKERS}
    backends = [
        pyvirtio_backend(title, device_spec("Many"), engine_name=name, workers=count)
        for (name, count), title in names.items()
    ]
    peer = [c_peer(bench.peer, QUEUES)] if bench.peer else []
    results = bench.interleaved("workers", [*peer, *backends], [workload], share_cpus=True)

    def rate(sample: Sample) -> float:
        return sample.rate

    def rates(name: str) -> str:
        found = results.quartiles(name, workload, rate)
        return format3(found.median / 1000) if found else "-"

    rows = [
        [
            f"{TITLES[name]}, one call a request",
            *(rates(names[name, count]) for count in WORKERS),
            cell(results.ratio((names[name, WORKERS[-1]], workload), (names[name, WORKERS[0]], workload), rate)),
        ]
        for name in engines()
    ]
    if peer:
        rows.append([C_PEER, rates(C_PEER), "-", "-"])
    title = f"Thousands of requests per second, {QUEUES} queues with {IN_FLIGHT} in flight on each"
    header = ["engine, device", *(f"{count} worker{'s' * (count > 1)}" for count in WORKERS), "growth"]
    return [Table("workers", title, header, rows, results.as_data())]
