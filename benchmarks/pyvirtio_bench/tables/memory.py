"""What keeper and worker have resident, and that it does not grow."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pyvirtio_bench.backends import C_PEER, c_peer, each_engine
from pyvirtio_bench.page import Table
from pyvirtio_bench.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvirtio_bench.runs import Bench, Runnable

REQUESTS = 1_000_000
REQUESTS_LONG = 10_000_000
WARM_UP = 100_000
NOISE = 256  # KiB; less is not growth


def measure(bench: Bench, requests: int = REQUESTS, given: Sequence[Runnable] = ()) -> list[Table]:
    """Run many requests through each back-end, and look at the memory of its processes before and after."""
    workload = Workload(in_flight=128, seconds=0, requests=requests, warm_up=WARM_UP)
    peer = [c_peer(bench.peer)] if bench.peer else []
    backends = [*peer, *(given or each_engine())]
    once = replace(bench, schedule=replace(bench.schedule, repetitions=1))
    results = once.interleaved("memory", backends, [workload])
    rows = []
    for backend in backends:
        [sample] = results.of(backend.name, workload)
        for number, process in enumerate(sample.memory):
            growth = process.after - process.before
            rows.append(
                [
                    backend.name,
                    "back-end" if backend.name == C_PEER else ("worker" if number else "keeper"),
                    _mebibytes(process.before),
                    _mebibytes(process.after),
                    f"{growth} KiB" if growth > NOISE else "none",
                ]
            )
    title = (
        f"Resident memory without what is shared with the driver, MiB, after {WARM_UP:,} requests "
        f"and {requests:,} later"
    )
    return [Table("memory", title, ["engine, device", "process", "before", "after", "growth"], rows, results.as_data())]


def _mebibytes(kibibytes: int) -> str:
    return f"{kibibytes / 1024:.1f}"
