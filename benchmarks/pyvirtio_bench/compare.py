"""Tables that compare back-ends: ratios beside the goals, and the times behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvirtio_bench.page import GOAL, Table
from pyvirtio_bench.runs import cell, clock, processor
from pyvirtio_bench.statistics import Quartiles, format3

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyvirtio_bench.runs import Metric, Results
    from pyvirtio_bench.workload import Workload


@dataclass(frozen=True)
class Comparison:
    """A back-end's time as a ratio to another's.

    Attributes:
        one: the back-end's name.
        other: the name of what it is compared with.
        goals: what the ratio is to be at most, by the title of the column.
        processor: compare the processor's time as well.
        processor_goals: the same for that.
    """

    one: str
    other: str
    goals: Mapping[str, float] | None = None
    processor: bool = False
    processor_goals: Mapping[str, float] | None = None


def ratios(
    name: str, title: str, columns: Mapping[str, Workload], comparisons: Sequence[Comparison], results: Results
) -> Table:
    """Return the table of ratios, each computed within its repetition; a row with goals follows where there are any."""
    rows = []

    def add(comparison: Comparison, what: str, metric: Metric, goals: Mapping[str, float] | None) -> None:
        one, other = comparison.one, comparison.other
        found = [results.ratio((one, load), (other, load), metric) for load in columns.values()]
        if not any(found):
            return
        rows.append([f"{one} ÷ {other}", what, *map(cell, found)])
        if goals:
            rows.append(["", GOAL, *(f"≤ {goals[column]:g}" if column in goals else "" for column in columns)])

    for comparison in comparisons:
        add(comparison, "clock", clock, comparison.goals)
        if comparison.processor or comparison.processor_goals:
            add(comparison, "processor", processor, comparison.processor_goals)
    return Table(name, title, ["back-ends", "time", *columns], rows)


def times(name: str, title: str, columns: Mapping[str, Workload], names: Sequence[str], results: Results) -> Table:
    """Return the table of microseconds per request."""
    rows = []
    for backend in names:
        cells = []
        for load in columns.values():
            pair = (results.quartiles((backend, load), metric) for metric in (clock, processor))
            cells.append(" / ".join(map(_microseconds, pair)))
        rows.append([backend, *cells])
    heading = f"{title}: microseconds per request by the clock / of the processor, medians"
    return Table(name, heading, ["back-end", *columns], rows, results.as_data())


def _microseconds(nanoseconds: Quartiles | None) -> str:
    return format3(nanoseconds.median / 1000) if nanoseconds else "-"
