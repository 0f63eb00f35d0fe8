"""What an ``async def`` method costs: one that never waits, and one that waits for the next round of the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvirtio_bench import async_devices
from pyvirtio_bench.backends import device_spec, pyvirtio_backend
from pyvirtio_bench.engines import engines
from pyvirtio_bench.page import Table
from pyvirtio_bench.runs import cell
from pyvirtio_bench.statistics import format3
from pyvirtio_bench.workload import Workload

if TYPE_CHECKING:
    from pyvirtio_bench.runs import Bench
    from pyvirtio_bench.workload import Sample

IN_FLIGHT = (1, 32, 128)
METHODS = {"Plain": "def", "Async": "async def, without waiting", "Yielding": "async def, after asyncio.sleep(0)"}
"""The forms of the device, and what the table calls their methods; the first is what the others are compared with."""


def measure(bench: Bench) -> list[Table]:
    """Measure all forms by turns, with the fastest engine; all of them answer chains."""
    workloads = [Workload(in_flight=number, seconds=bench.schedule.seconds) for number in IN_FLIGHT]
    backends = [
        pyvirtio_backend(title, device_spec(form, async_devices), engine_name=engines()[0])
        for form, title in METHODS.items()
    ]
    plain, *_ = METHODS.values()
    results = bench.interleaved("async", backends, workloads)

    def time(sample: Sample) -> float | None:
        return sample.p50

    def microseconds(name: str, workload: Workload) -> str:
        found = results.quartiles(name, workload, time)
        return format3(found.median / workload.in_flight / 1000) if found else "-"

    rows = []
    for name in METHODS.values():
        cells = []
        for workload in workloads:
            ratio = results.ratio((name, workload), (plain, workload), time) if name != plain else None
            cells += [microseconds(name, workload), cell(ratio)]
        rows.append([name, *cells])
    title = "Microseconds per request in rounds, the median one's, and as a ratio to the plain method's"
    header = ["method / in flight", *(text for number in IN_FLIGHT for text in (str(number), "ratio"))]
    return [Table("async", title, header, rows, results.as_data())]
