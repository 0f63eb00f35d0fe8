"""The picture of the page: every figure that has a goal, drawn from the page's own tables.

It is SVG, written by hand: text, lines and marks, in colours that can be read on a light page and on a dark one.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pictures.svg import document, text
from pyvirtio_bench.statistics import format3

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

GOAL = "goal"
"""Stands in the second column of a row of goals, which belong to the figures of the row above."""

WIDTH, LEFT, RIGHT, ROW, TOP = 860, 400, 90, 20, 56
SCALE = (0.125, 16.0)  # of the axis, which is logarithmic
TICKS = (0.25, 0.5, 1, 2, 4, 8)
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #757d86 }
.group { font-weight: 600 }
.number { font-variant-numeric: tabular-nums }
.grid { stroke: #757d86; stroke-opacity: .25 }
.one { stroke: #757d86; stroke-width: 1.5 }
.goal { stroke: #757d86; stroke-width: 3 }
.met { fill: #1f9d5c; stroke: #1f9d5c }
.missed { fill: none; stroke: #d9730d; stroke-width: 2 }
"""


@dataclass(frozen=True)
class Figure:
    """A measured ratio and what it was to be at most.

    Attributes:
        group: the two that are compared, and by which time.
        title: what was measured.
        median: the ratio.
        low: its first quartile.
        high: its third.
        goal: the most that it was to be.
    """

    group: str
    title: str
    median: float
    low: float
    high: float
    goal: float

    @property
    def met(self) -> bool:
        """Whether the goal was reached, as the page prints both."""
        return self.median <= self.goal


def figures(tables: Mapping[str, Sequence[Sequence[str]]]) -> list[Figure]:
    """Return the figures that have goals, in the order of the page.

    >>> cells = [["back-ends", "time", "32"], ["a ÷ b", "clock", "1.50 (1.40-1.60)"], ["", "goal", "≤ 2"]]
    >>> figures({"t": cells})
    [Figure(group='t: a ÷ b', title='32', median=1.5, low=1.4, high=1.6, goal=2.0)]
    """
    return [figure for name, rows in tables.items() for figure in _of_table(name, rows)]


def _of_table(name: str, rows: Sequence[Sequence[str]]) -> Iterator[Figure]:
    for measured, goals in itertools.pairwise(rows):
        if len(goals) < 2 or goals[1] != GOAL:
            continue
        time = "" if measured[1] == "clock" else f", {measured[1]}"
        for title, cell, goal in zip(rows[0][2:], measured[2:], goals[2:], strict=True):
            if goal and (numbers := re.findall(r"[\d.]+", cell)):
                median, low, high = map(float, numbers)
                yield Figure(f"{name}: {measured[0]}{time}", title, median, low, high, float(goal.split()[1]))


def draw(found: Sequence[Figure]) -> str:
    """Return the picture as SVG."""
    groups = list(dict.fromkeys(figure.group for figure in found))
    height = TOP + ROW * (len(found) + len(groups)) + 40
    lines = list(_axis(height))
    y = TOP
    for group in groups:
        lines.append(text(8, y + 14, group, "group"))
        y += ROW
        for figure in (one for one in found if one.group == group):
            lines += _row(figure, y)
            y += ROW
    legend = "dot: median; line: quartiles; bar: goal; filled and green: reached; hollow and orange: not"
    title = "Time per request as a ratio to back-ends in C, and the goals"
    return document((WIDTH, height), title, STYLE, [*lines, text(8, height - 10, legend)])


def _axis(height: int) -> Iterator[str]:
    end = height - 32
    yield text(_x(1), 18, "as fast as the back-end in C", anchor="middle")
    yield text(8, 40, "time per request, as a ratio")
    yield text(WIDTH - 8, 40, "ratio, goal", anchor="end")
    for tick in TICKS:
        x = _x(tick)
        yield f'<line class="{"one" if tick == 1 else "grid"}" x1="{x}" x2="{x}" y1="{TOP - 10}" y2="{end}"/>'
        yield text(x, 40, f"{tick:g}", "number", "middle")


def _row(figure: Figure, y: int) -> Iterator[str]:
    middle, kind = y + ROW / 2, "met" if figure.met else "missed"
    yield text(LEFT - 12, y + 14, figure.title, anchor="end")
    goal = _x(figure.goal)
    yield f'<line class="goal" x1="{goal}" x2="{goal}" y1="{y + 3}" y2="{y + ROW - 3}"/>'
    yield f'<line class="{kind}" x1="{_x(figure.low)}" x2="{_x(figure.high)}" y1="{middle}" y2="{middle}"/>'
    yield f'<circle class="{kind}" cx="{_x(figure.median)}" cy="{middle}" r="4"/>'
    yield text(WIDTH - 8, y + 14, f"{format3(figure.median)}, {figure.goal:g}", "number", "end")


def _x(ratio: float) -> float:
    """Return where a ratio is on the axis; one that lies outside is at its end."""
    low, high = map(math.log2, SCALE)
    place = (math.log2(min(max(ratio, SCALE[0]), SCALE[1])) - low) / (high - low)
    return round(LEFT + place * (WIDTH - LEFT - RIGHT), 1)
