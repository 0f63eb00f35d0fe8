"""Time per request: our back-end with every engine, against the C peer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvirtio.bench.backends import C_PEER, c_peer, each_engine, polling
from pyvirtio.bench.figures import Spread, brief
from pyvirtio.bench.load import Load
from pyvirtio.bench.page import Table
from pyvirtio.bench.runs import Bench, Results, Runnable, cell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pyvirtio.bench.load import Sample

IN_FLIGHT = (32, 128, 1024)


def loads(seconds: float, *, stream: bool) -> dict[str, Load]:
    """Give the loads of a table by the titles of their columns."""
    direct = {str(number): Load(in_flight=number, seconds=seconds, stream=stream) for number in IN_FLIGHT}
    return direct | {"128, indirect": Load(in_flight=128, seconds=seconds, indirect=True, stream=stream)}


def measure(bench: Bench, given: Sequence[Runnable] = ()) -> list[Table]:
    """Measure our back-ends, or those that are given, by turns with the peer."""
    single = {"1, p50": Load(in_flight=1, seconds=bench.pace.seconds)}
    rounds = loads(bench.pace.seconds, stream=False)
    stream = loads(bench.pace.seconds, stream=True) if bench.frontend.streams else {}
    measured = list(given or [*each_engine(), *polling()])
    peer = [c_peer(bench.peer)] if bench.peer else []
    every_load = [*single.values(), *stream.values(), *rounds.values()]
    results = bench.interleaved("requests", [*peer, *measured], every_load)
    names = [backend.name for backend in measured]

    def tables(name: str, how: str, columns: Mapping[str, Load]) -> list[Table]:
        absolute = _absolute(f"{name}-absolute", how, [*(one.name for one in peer), *names], columns, results)
        if not peer:
            return [absolute]
        ratios = _ratios(name, f"Time per request, {how}", wall, names, columns, results)
        work = _ratios(f"{name}-cpu", f"Processor time per request, {how}", cpu, names, columns, results)
        return [ratios, work, absolute]

    if not stream:
        return tables("rounds", "rounds", single | rounds)
    return tables("requests", "kept in flight", single | stream) + tables("rounds", "rounds", rounds)


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
    columns: Mapping[str, Load],
    results: Results,
) -> Table:
    rows = []
    for backend in names:
        cells = []
        for load in columns.values():

            def value(sample: Sample, load: Load = load) -> float | None:
                return figure(sample, load)

            cells.append(cell(results.ratio((backend, load), (C_PEER, load), value)))
        rows.append([backend, *cells])
    heading = f"{title}, as a ratio to {C_PEER} in the same repetition: median (quartiles)"
    return Table(name, heading, ["engine, device / in flight", *columns], rows)


def _absolute(name: str, how: str, names: Sequence[str], columns: Mapping[str, Load], results: Results) -> Table:
    rows = []
    for backend in names:
        cells = []
        for load in columns.values():
            time = results.spread(backend, load, lambda sample, load=load: wall(sample, load))  # type: ignore[misc]
            work = results.spread(backend, load, lambda sample: sample.cpu)
            cells.append(f"{_microseconds(time)} / {_microseconds(work)}")
        rows.append([backend, *cells])
    spent = [results.spread(names[0], load, lambda sample: sample.frontend) for load in columns.values()]
    rows.append([f"the front-end, driving {names[0]}", *(f"- / {_microseconds(one)}" for one in spent)])
    title = f"Microseconds per request, {how}, by the clock / of the processor, medians"
    return Table(name, title, ["engine, device / in flight", *columns], rows, results.as_data(list(columns.values())))


def _microseconds(nanoseconds: Spread | None) -> str:
    return brief(nanoseconds.median / 1000) if nanoseconds else "-"
