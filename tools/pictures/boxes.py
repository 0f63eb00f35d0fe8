"""Draws boxes and arrows from a text.

Each line of the text is one of these; places and sizes are in columns and rows::

    title   What the picture is called
    desc    What it shows, for somebody who does not see it; may be repeated
    columns 120 200 120
    rows    60 60
    box     NAME COLUMN ROW COLUMNS ROWS KIND | a line | another line
    arrow   FROM TO KIND [both] [at FRACTION] | a word or two
    note    COLUMN ROW | words

An arrow is straight. It leaves from where the two boxes lie beside each other or one above the other, in the middle of
what they share, or at that fraction of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from pictures.style import arrow, box, picture
from pictures.svg import text

if TYPE_CHECKING:
    from collections.abc import Iterator

MARGIN, GAP, LINE, HEADING = 16, 12, 18, 34


@dataclass
class Place:
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Its right edge."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """Its lower edge."""
        return self.y + self.height


@dataclass
class Drawing:
    """What a text says, and what was drawn of it so far."""

    title: str = ""
    desc: list[str] = field(default_factory=list)
    columns: list[float] = field(default_factory=list)
    rows: list[float] = field(default_factory=list)
    boxes: dict[str, Place] = field(default_factory=dict)
    body: list[str] = field(default_factory=list)

    def place(self, column: int, row: int, columns: int, rows: int) -> Place:
        """Return where a box is that spans these columns and rows."""
        xs = [MARGIN + before for before in accumulate((width + GAP for width in self.columns), initial=0)]
        ys = [HEADING + MARGIN + before for before in accumulate((height + GAP for height in self.rows), initial=0)]
        right, bottom = xs[column + columns] - GAP, ys[row + rows] - GAP
        return Place(xs[column], ys[row], right - xs[column], bottom - ys[row])

    @property
    def size(self) -> tuple[int, int]:
        """The whole picture's width and height."""
        whole = self.place(0, 0, len(self.columns), len(self.rows))
        return int(whole.right + MARGIN), int(whole.bottom + MARGIN)


def draw(description: str) -> str:
    """Return the picture that a text describes.

    Raises:
        ValueError: a line is none of those that there are, or names a box that comes later or never.
    """
    drawing = Drawing()
    for number, line in enumerate(description.splitlines(), start=1):
        if not line.strip():
            continue
        word, _, rest = line.strip().partition(" ")
        try:
            WORDS[word](drawing, rest.strip())
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"line {number} cannot be drawn: {line.strip()} ({error!r})") from error
    heading = text(MARGIN, 30, drawing.title, "title")
    return picture(drawing.size, drawing.title, " ".join(drawing.desc), [heading, *drawing.body])


def _title(drawing: Drawing, rest: str) -> None:
    drawing.title = rest


def _desc(drawing: Drawing, rest: str) -> None:
    drawing.desc.append(rest)


def _columns(drawing: Drawing, rest: str) -> None:
    drawing.columns = [float(width) for width in rest.split()]


def _rows(drawing: Drawing, rest: str) -> None:
    drawing.rows = [float(height) for height in rest.split()]


def _box(drawing: Drawing, rest: str) -> None:
    first, *lines = (part.strip() for part in rest.split("|"))
    name, column, row, columns, rows, kind = first.split()
    place = drawing.boxes[name] = drawing.place(int(column), int(row), int(columns), int(rows))
    holds_others = "holds" in kind
    kind = kind.removesuffix("-holds")
    drawing.body.append(box(place.x, place.y, place.width, place.height, kind, 6))
    middle = place.x + place.width / 2
    y = place.y + 20 if holds_others else place.y + (place.height - LINE * len(lines)) / 2 + 13
    for count, line in enumerate(lines):
        drawing.body.append(text(middle, y + LINE * count, line, "head" if not count else "", "middle"))


def _arrow(drawing: Drawing, rest: str) -> None:
    first, _, label = (part.strip() for part in rest.partition("|"))
    origin, target, kind, *options = first.split()
    fraction = float(options[options.index("at") + 1]) if "at" in options else 0.5
    start, end, upright = _between(drawing.boxes[origin], drawing.boxes[target], fraction)
    drawing.body += arrow(start, end, kind, both="both" in options)
    drawing.body += _label(label, start, end, upright=upright)


def _between(a: Place, b: Place, fraction: float) -> tuple[tuple[float, float], tuple[float, float], bool]:
    """Return both ends of an arrow from ``a`` to ``b``, and whether it is upright."""
    if a.right <= b.x or b.right <= a.x:
        top, bottom = max(a.y, b.y), min(a.bottom, b.bottom)
        y = top + (bottom - top) * fraction
        return ((a.right + 3, y), (b.x - 3, y), False) if a.right <= b.x else ((a.x - 3, y), (b.right + 3, y), False)
    left, right = max(a.x, b.x), min(a.right, b.right)
    x = left + (right - left) * fraction
    return ((x, a.bottom + 3), (x, b.y - 3), True) if a.bottom <= b.y else ((x, a.y - 3), (x, b.bottom + 3), True)


def _label(label: str, start: tuple[float, float], end: tuple[float, float], *, upright: bool) -> Iterator[str]:
    if not label:
        return
    lines = label.split(" / ")
    if upright:
        y = (start[1] + end[1]) / 2 + 4 - LINE * (len(lines) - 1) / 2
        for count, line in enumerate(lines):
            yield text(start[0] + 9, y + LINE * count, line, "faint")
        return
    for count, line in enumerate(reversed(lines)):
        yield text((start[0] + end[0]) / 2, start[1] - 7 - LINE * count, line, "faint", "middle")


def _note(drawing: Drawing, rest: str) -> None:
    first, _, words = (part.strip() for part in rest.partition("|"))
    column, row = first.split()
    place = drawing.place(int(column), int(row), 1, 1)
    for count, line in enumerate(words.split(" / ")):
        drawing.body.append(text(place.x, place.y + 14 + LINE * count, line, "faint"))


WORDS = {
    "title": _title,
    "desc": _desc,
    "columns": _columns,
    "rows": _rows,
    "box": _box,
    "arrow": _arrow,
    "note": _note,
}
"""What a line may begin with, and what is done then."""
