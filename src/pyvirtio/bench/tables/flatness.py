"""Whether a request costs the same on large queues and with many regions of memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pyvirtio.bench.backends import C_PEER, c_peer, each_engine
from pyvirtio.bench.load import Load
from pyvirtio.bench.page import Table
from pyvirtio.bench.runs import Bench, Runnable, cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvirtio.bench.load import Sample

SIZES = (128, 1024, 8192, 32768)
REGIONS = (1, 2, 8, 32, 256)
IN_FLIGHT = 64
PEER_REGIONS = 32  # the most that libvhost-user takes


def measure(bench: Bench) -> list[Table]:
    """Measure both, for every engine and for the peer."""
    base = Load(in_flight=IN_FLIGHT, seconds=bench.pace.seconds, stream=True)
    sizes = [replace(base, queue_size=size) for size in SIZES]
    regions = [replace(base, regions=number) for number in REGIONS]
    return [
        _table(bench, "queue-size", "queue size", sizes, [str(size) for size in SIZES]),
        _table(bench, "regions", "regions of memory", regions, [str(number) for number in REGIONS]),
    ]


def _table(bench: Bench, name: str, what: str, loads: Sequence[Load], columns: Sequence[str]) -> Table:
    peer = [c_peer(bench.peer)] if bench.peer else []
    backends: list[Runnable] = [*peer, *each_engine()]

    def suits(backend: Runnable, load: Load) -> bool:
        return backend.name != C_PEER or load.regions <= PEER_REGIONS

    results = bench.interleaved(what, backends, loads, suits=suits)

    def wall(sample: Sample) -> float | None:
        return sample.wall

    def cpu(sample: Sample) -> float | None:
        return sample.cpu

    rows = [
        [
            backend.name,
            measured,
            *(cell(results.ratio((backend.name, load), (backend.name, loads[0]), figure)) for load in loads[1:]),
        ]
        for backend in backends
        for measured, figure in (("clock", wall), ("processor", cpu))
    ]
    title = f"Time per request by {what}, as a ratio to {columns[0]}, {IN_FLIGHT} in flight: median (quartiles)"
    return Table(name, title, [f"engine, device / {what}", "time", *columns[1:]], rows, results.as_data())
