"""What keeper and worker have resident, and that it does not grow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvirtio.bench.backends import C_PEER, c_peer, each_engine
from pyvirtio.bench.load import Load
from pyvirtio.bench.page import Table
from pyvirtio.bench.runs import Bench, Runnable

if TYPE_CHECKING:
    from collections.abc import Sequence

REQUESTS = 1_000_000
REQUESTS_LONG = 10_000_000
WARM_UP = 100_000
NOISE = 256  # KiB: a few pages more or less are no growth


def measure(bench: Bench, requests: int = REQUESTS, given: Sequence[Runnable] = ()) -> list[Table]:
    """Run many requests through each back-end, and look at the memory of its processes before and after."""
    load = Load(in_flight=128, seconds=0, requests=requests, warm_up=WARM_UP)
    peer = [c_peer(bench.peer)] if bench.peer else []
    backends = [*peer, *(given or each_engine())]
    once = Bench(bench.frontend, bench.peer, type(bench.pace)(bench.pace.seconds, 1), bench.progress)
    results = once.interleaved("memory", backends, [load])
    rows = []
    for backend in backends:
        [sample] = results.of(backend.name, load)
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
