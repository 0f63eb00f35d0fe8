"""Time per request: our back-end with every engine, against the C peer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvirtio.bench.backends import C_PEER, c_peer, each_engine, polling
from pyvirtio.bench.figures import Spread, brief
from pyvirtio.bench.load import Load
from pyvirtio.bench.page import Table
from pyvirtio.bench.runs import Bench, Results, Runnable, cell

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvirtio.bench.load import Sample

IN_FLIGHT = (1, 32, 128, 1024)
COLUMNS = ("1, p50", "32", "128", "1024", "128, indirect")


def loads(seconds: float) -> list[Load]:
    """Give the loads, a column each."""
    direct = [Load(in_flight=number, seconds=seconds) for number in IN_FLIGHT]
    return [*direct, Load(in_flight=128, seconds=seconds, indirect=True)]


def measure(bench: Bench, given: Sequence[Runnable] = ()) -> list[Table]:
    """Measure our back-ends, or those that are given, by turns with the peer."""
    columns = loads(bench.pace.seconds)
    measured = list(given or [*each_engine(), polling()])
    peer = [c_peer(bench.peer)] if bench.peer else []
    results = bench.interleaved("requests", [*peer, *measured], columns)
    names = [back_end.name for back_end in measured]
    tables = [_absolute([*(one.name for one in peer), *names], columns, results)]
    if peer:
        tables = [
            _ratios("requests", "Time per request", wall, names, columns, results),
            _ratios("requests-cpu", "Processor time per request", cpu, names, columns, results),
            *tables,
        ]
    return tables


def wall(sample: Sample, load: Load) -> float | None:
    """Give the time of a request; with one in flight, the median latency."""
    return sample.p50 if load.in_flight == 1 else sample.wall


def cpu(sample: Sample, _load: Load) -> float | None:
    """Give the processor time of a request in the back-end."""
    return sample.cpu


def _ratios(
    name: str,
    title: str,
    figure: Callable[[Sample, Load], float | None],
    names: Sequence[str],
    columns: Sequence[Load],
    results: Results,
) -> Table:
    rows = []
    for back_end in names:
        cells = []
        for load in columns:

            def value(sample: Sample, load: Load = load) -> float | None:
                return figure(sample, load)

            cells.append(cell(results.ratio((back_end, load), (C_PEER, load), value)))
        rows.append([back_end, *cells])
    heading = f"{title}, as a ratio to {C_PEER} in the same repetition: median (quartiles)"
    return Table(name, heading, ["engine, device / in flight", *COLUMNS], rows)


def _absolute(names: Sequence[str], columns: Sequence[Load], results: Results) -> Table:
    rows = []
    for back_end in names:
        cells = []
        for load in columns:
            time = results.spread(back_end, load, lambda sample, load=load: wall(sample, load))  # type: ignore[misc]
            work = results.spread(back_end, load, lambda sample: sample.cpu)
            cells.append(f"{_microseconds(time)} / {_microseconds(work)}")
        rows.append([back_end, *cells])
    spent = [results.spread(names[0], load, lambda sample: sample.front_end) for load in columns]
    rows.append([f"the front-end, driving {names[0]}", *(f"- / {_microseconds(one)}" for one in spent)])
    title = "Microseconds per request, by the clock / of the processor, medians"
    return Table("requests-absolute", title, ["engine, device / in flight", *COLUMNS], rows, results.as_data())


def _microseconds(nanoseconds: Spread | None) -> str:
    return brief(nanoseconds.median / 1000) if nanoseconds else "-"
