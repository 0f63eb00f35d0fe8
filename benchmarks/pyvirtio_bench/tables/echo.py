"""What a request of varying length takes: its bytes are read, and the same bytes are written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvirtio_bench.backends import C_PEER
from pyvirtio_bench.compare import Comparison, ratios, times
from pyvirtio_bench.workload import Workload

if TYPE_CHECKING:
    from pyvirtio_bench.bench import Bench
    from pyvirtio_bench.page import Table

SMALL, FRAME = 64, 1512  # the second is an Ethernet frame of 1500 bytes behind the header of virtio's network device
GOALS = {
    "64 B, 32 kept": 2.4,
    "64 B, 128 kept": 2.0,
    "64 B, 1024 kept": 2.0,
    "1512 B, 32 kept": 1.6,
    "1512 B, 128 kept": 1.6,
}


def measure(bench: Bench) -> list[Table]:
    """Measure the shipped echo by turns with the peer's."""
    seconds = bench.runner.schedule.seconds

    def kept(size: int, number: int) -> Workload:
        return Workload(number, sustained=True, load="echo", size=size, seconds=seconds, indirect=number > 512)

    sizes = [(SMALL, 32), (SMALL, 128), (SMALL, 1024), (FRAME, 32), (FRAME, 128)]
    columns = {title: kept(*size) for title, size in zip(GOALS, sizes, strict=True)}
    ours = bench.measured(bench.pyvirtio("pyvirtio", "echo"))
    backends = [*bench.peer("echo"), *ours]
    results = bench.runner.interleaved("echo", backends, list(columns.values()))
    comparisons = [Comparison(one.name, C_PEER, GOALS, processor=True) for one in ours]
    return [
        ratios("echo", "Taking and writing bytes, time per request", columns, comparisons, results),
        times("echo-times", "Taking and writing bytes", columns, [one.name for one in backends], results),
    ]
