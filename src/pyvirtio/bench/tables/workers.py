"""How throughput grows with workers that share a device's queues."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvirtio.bench.backends import C_PEER, TITLES, c_peer, engines, form, ours
from pyvirtio.bench.figures import brief
from pyvirtio.bench.load import Load
from pyvirtio.bench.page import Table
from pyvirtio.bench.runs import Bench, cell

if TYPE_CHECKING:
    from pyvirtio.bench.load import Sample

WORKERS = (1, 2)
QUEUES = 4
IN_FLIGHT = 64  # on each queue


def measure(bench: Bench) -> list[Table]:
    """Measure one and two workers by turns; the C peer has one thread."""
    load = Load(in_flight=IN_FLIGHT, queues=QUEUES, seconds=bench.pace.seconds)
    chosen = [name for name in engines() if name != "numpy"]
    names = {(name, count): f"{TITLES[name]}, {count} workers" for name in chosen for count in WORKERS}
    backends = [ours(title, form("Many"), engine_name=name, workers=count) for (name, count), title in names.items()]
    peer = [c_peer(bench.peer, QUEUES)] if bench.peer else []
    results = bench.interleaved("workers", [*peer, *backends], [load], together=True)

    def rate(sample: Sample) -> float:
        return sample.rate

    def rates(name: str) -> str:
        spread = results.spread(name, load, rate)
        return f"{brief(spread.median / 1000)}" if spread else "-"

    rows = [
        [
            f"{TITLES[name]}, one call a request",
            *(rates(names[name, count]) for count in WORKERS),
            cell(results.ratio((names[name, WORKERS[-1]], load), (names[name, WORKERS[0]], load), rate)),
        ]
        for name in chosen
    ]
    if peer:
        rows.append([C_PEER, rates(C_PEER), "-", "-"])
    title = f"Thousands of requests per second, {QUEUES} queues with {IN_FLIGHT} in flight on each"
    header = ["engine, device", *(f"{count} worker{'s' * (count > 1)}" for count in WORKERS), "growth"]
    return [Table("workers", title, header, rows, results.as_data())]
