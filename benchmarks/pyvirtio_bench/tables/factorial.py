"""How long a small request takes: the tutorial's device, as the README's install serves it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvirtio_bench.backends import C_PEER
from pyvirtio_bench.compare import Comparison, ratios, times
from pyvirtio_bench.workload import Workload

if TYPE_CHECKING:
    from pyvirtio_bench.bench import Bench
    from pyvirtio_bench.page import Table

OURS, NUMPY, PLAIN, POLLING = "pyvirtio", "with NumPy", "without the engine in C", "with --poll-us 50"
GOALS = {"one": 1.15, "32 kept": 3.0, "128 kept": 2.6, "1024 kept": 2.6, "rounds of 128": 1.6}
NUMPY_GOALS = {"32 kept": 1.15, "128 kept": 0.65, "1024 kept": 0.4}


def columns(seconds: float) -> dict[str, Workload]:
    """Return the workloads by the titles of their columns.

    A queue of `pyvirtio serve` has 1024 entries at most. 1024 requests fit with indirect descriptors, which is how
    Linux's drivers make each request of more than one buffer.
    """
    return {
        "one": Workload(seconds=seconds),
        "32 kept": Workload(32, sustained=True, seconds=seconds),
        "128 kept": Workload(128, sustained=True, seconds=seconds),
        "1024 kept": Workload(1024, sustained=True, seconds=seconds, indirect=True),
        "rounds of 128": Workload(128, seconds=seconds),
    }


def measure(bench: Bench) -> list[Table]:
    """Measure the shipped device in all the ways to run it, by turns with the peer."""
    loads = columns(bench.runner.schedule.seconds)
    ours = bench.measured(
        bench.pyvirtio(OURS, "factorial"),
        bench.pyvirtio(NUMPY, "factorial", extra="fast"),
        bench.pyvirtio(POLLING, "factorial", "--poll-us", "50"),
        bench.pyvirtio(PLAIN, "factorial", engine="reference"),
    )
    backends = [*bench.peer("factorial"), *ours]
    results = bench.runner.interleaved("factorial", backends, list(loads.values()))
    goals = {OURS: GOALS, NUMPY: NUMPY_GOALS}
    comparisons = [
        Comparison(one.name, C_PEER, goals.get(one.name), processor=number == 0) for number, one in enumerate(ours)
    ]
    return [
        ratios("factorial", "The factorial, time per request", loads, comparisons, results),
        times("factorial-times", "The factorial", loads, [one.name for one in backends], results),
    ]
