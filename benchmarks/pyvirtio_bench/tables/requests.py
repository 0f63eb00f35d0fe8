"""Time per request: our back-end with every engine, against the C peer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvirtio_bench.backends import C_PEER, c_peer, each_engine, polling_backends
from pyvirtio_bench.page import Table
from pyvirtio_bench.runs import Bench, Results, Runnable, cell
from pyvirtio_bench.statistics import Quartiles, format3
from pyvirtio_bench.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pyvirtio_bench.workload import Sample

IN_FLIGHT = (32, 128, 512)  # the last one fills a queue of 1024 entries, the most that `pyvirtio serve` takes


def workloads(seconds: float, *, sustained: bool) -> dict[str, Workload]:
    """Return the workloads of a table by the titles of their columns."""
    direct = {str(number): Workload(in_flight=number, seconds=seconds, sustained=sustained) for number in IN_FLIGHT}
    return direct | {"128, indirect": Workload(in_flight=128, seconds=seconds, indirect=True, sustained=sustained)}


def measure(bench: Bench, given: Sequence[Runnable] = ()) -> list[Table]:
    """Measure our back-ends, or those that are given, by turns with the peer."""
    single = {"1, p50": Workload(in_flight=1, seconds=bench.schedule.seconds)}
    rounds = workloads(bench.schedule.seconds, sustained=False)
    sustained = workloads(bench.schedule.seconds, sustained=True) if bench.frontend.can_sustain else {}
    measured = list(given or [*each_engine(), *polling_backends()])
    peer = [c_peer(bench.peer)] if bench.peer else []
    every_workload = [*single.values(), *sustained.values(), *rounds.values()]
    results = bench.interleaved("requests", [*peer, *measured], every_workload)
    names = [backend.name for backend in measured]

    def tables(name: str, how: str, columns: Mapping[str, Workload]) -> list[Table]:
        absolute = _absolute(f"{name}-absolute", how, [*(one.name for one in peer), *names], columns, results)
        if not peer:
            return [absolute]
        ratios = _ratios(name, f"Time per request, {how}", wall, names, columns, results)
        work = _ratios(f"{name}-cpu", f"Processor time per request, {how}", cpu, names, columns, results)
        return [ratios, work, absolute]

    if not sustained:
        return tables("rounds", "rounds", single | rounds)
    return tables("requests", "kept in flight", single | sustained) + tables("rounds", "rounds", rounds)


def wall(sample: Sample, workload: Workload) -> float | None:
    """Return the time per request; with one in flight, the median latency."""
    return sample.p50 if workload.in_flight == 1 else sample.wall


def cpu(sample: Sample, _workload: Workload) -> float | None:
    """Return the processor time per request in the back-end."""
    return sample.cpu


def _ratios(
    name: str,
    title: str,
    metric: Callable[[Sample, Workload], float | None],
    names: Sequence[str],
    columns: Mapping[str, Workload],
    results: Results,
) -> Table:
    rows = []
    for backend in names:
        cells = []
        for workload in columns.values():

            def value(sample: Sample, workload: Workload = workload) -> float | None:
                return metric(sample, workload)

            cells.append(cell(results.ratio((backend, workload), (C_PEER, workload), value)))
        rows.append([backend, *cells])
    heading = f"{title}, as a ratio to {C_PEER} in the same repetition: median (quartiles)"
    return Table(name, heading, ["engine, device / in flight", *columns], rows)


def _absolute(name: str, how: str, names: Sequence[str], columns: Mapping[str, Workload], results: Results) -> Table:
    rows = []
    for backend in names:
        cells = []
        for workload in columns.values():
            time = results.quartiles(backend, workload, lambda sample, workload=workload: wall(sample, workload))  # type: ignore[misc]
            work = results.quartiles(backend, workload, lambda sample: sample.cpu)
            cells.append(f"{_microseconds(time)} / {_microseconds(work)}")
        rows.append([backend, *cells])
    spent = [results.quartiles(names[0], workload, lambda sample: sample.frontend) for workload in columns.values()]
    rows.append([f"the front-end, driving {names[0]}", *(f"- / {_microseconds(one)}" for one in spent)])
    title = f"Microseconds per request, {how}, by the clock / of the processor, medians"
    return Table(name, title, ["engine, device / in flight", *columns], rows, results.as_data(list(columns.values())))


def _microseconds(nanoseconds: Quartiles | None) -> str:
    return format3(nanoseconds.median / 1000) if nanoseconds else "-"
