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

IN_FLIGHT = (32, 128, 1024)
STREAM = ("1, p50", "32", "128", "1024", "128, indirect")
ROUNDS = ("32", "128", "1024", "128, indirect")


def loads(seconds: float, *, stream: bool) -> list[Load]:
    """Give the loads of a table, a column each but for the first of `STREAM`."""
    direct = [Load(in_flight=number, seconds=seconds, stream=stream) for number in IN_FLIGHT]
    return [*direct, Load(in_flight=128, seconds=seconds, indirect=True, stream=stream)]


def measure(bench: Bench, given: Sequence[Runnable] = ()) -> list[Table]:
    """Measure our back-ends, or those that are given, by turns with the peer."""
    streams = bench.front_end.streams
    single = Load(in_flight=1, seconds=bench.pace.seconds)
    rounds = loads(bench.pace.seconds, stream=False)
    stream = loads(bench.pace.seconds, stream=True) if streams else rounds
    measured = list(given or [*each_engine(), *polling()])
    peer = [c_peer(bench.peer)] if bench.peer else []
    results = bench.interleaved("requests", [*peer, *measured], [single, *stream, *(rounds if streams else [])])
    names = [back_end.name for back_end in measured]

    def both(name: str, how: str, columns: Sequence[Load], titles: Sequence[str]) -> list[Table]:
        tables = [_absolute(f"{name}-absolute", how, [*(one.name for one in peer), *names], columns, titles, results)]
        if peer:
            ratios = _ratios(name, f"Time per request, {how}", wall, names, columns, titles, results)
            work = _ratios(f"{name}-cpu", f"Processor time per request, {how}", cpu, names, columns, titles, results)
            tables = [ratios, work, *tables]
        return tables

    if not streams:
        return both("rounds", "rounds", [single, *rounds], STREAM)
    return both("requests", "kept in flight", [single, *stream], STREAM) + both("rounds", "rounds", rounds, ROUNDS)


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
    titles: Sequence[str],
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
    return Table(name, heading, ["engine, device / in flight", *titles], rows)


def _absolute(
    name: str, how: str, names: Sequence[str], columns: Sequence[Load], titles: Sequence[str], results: Results
) -> Table:
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
    title = f"Microseconds per request, {how}, by the clock / of the processor, medians"
    return Table(name, title, ["engine, device / in flight", *titles], rows, results.as_data(columns))


def _microseconds(nanoseconds: Spread | None) -> str:
    return brief(nanoseconds.median / 1000) if nanoseconds else "-"
