"""Draws a state of a ring: its three areas, the buffers, and how far each side is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pictures.style import arrow, box, picture
from pictures.svg import text
from pyvirtio.spec import split

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pictures.ring_run import State

    Row = tuple[str, tuple[str, ...]]
    """What stands before a row, and its cells."""

WIDTH, HEIGHT, ROW = 880, 330, 22
SIDE, TOP = 118, 116  # the width of a side's box; where the tables begin
TABLES = ((140, (66, 34, 58, 38)), (394, (58,)), (560, (44, 44)))  # where each begins, and its columns
LABEL = 36  # the width of what stands before a row
BUFFERS = 270
DRIVER, DEVICE = "driver", "device"


def draw(state: State, before: State | None) -> str:
    """Return the picture of a state; what differs from the state ``before`` is marked."""
    body = [
        text(16, 28, state.title, "title"),
        *_sides(state),
        *_signal(state),
        *_descriptors(state, before),
        *_available(state, before),
        *_used(state, before),
        text(TABLES[1][0], 250, "arrows: where each side goes on in a ring", "faint"),
        *_buffers(state, before),
    ]
    return picture((WIDTH, HEIGHT), state.title, _told(state), body)


def _told(state: State) -> str:
    """Return the state in words."""
    filled = [
        f"descriptor {index} says {d.length} bytes at {d.address:#x}, {_flags(d.flags)}"
        for index, d in enumerate(state.descriptors)
        if d.length
    ]
    ends = [
        f"the available index is {state.available_idx}, the used index {state.used_idx}",
        f"the driver has looked up to used index {state.reaped}, the device up to available index {state.position}",
        *(f"{what} {_hex(data)}" for what, _, data in state.buffers),
    ]
    return "A queue of 4 entries: " + "; ".join([*filled, *ends]) + "."


def _sides(state: State) -> Iterator[str]:
    far = WIDTH - SIDE - 12
    told = ((12, DRIVER, "takes answers", "from", state.reaped), (far, DEVICE, "pops requests", "from", state.position))
    for x, who, what, how, place in told:
        yield box(x, 48, SIDE, 206, who if state.who == who else "cell", 6)
        yield text(x + SIDE / 2, 72, who, f"title {who}", "middle")
        yield text(x + SIDE / 2, 150, what, "", "middle")
        yield text(x + SIDE / 2, 168, f"{how} index {place}", "", "middle")
        yield text(x + SIDE / 2, 240, "its own note", "faint", "middle")


def _signal(state: State) -> list[str]:
    if not state.signal:
        return []
    near, far = SIDE + 16, WIDTH - SIDE - 16
    ends = ((near, 56), (far, 56)) if state.signal == "kick" else ((far, 56), (near, 56))
    return [text(WIDTH / 2, 50, state.signal, f"head {state.who}", "middle"), *arrow(*ends, state.who)]


def _flags(flags: int) -> str:
    names = [name for bit, name in ((split.F_NEXT, "NEXT"), (split.F_WRITE, "WRITE")) if flags & bit]
    return " ".join(names) or "0"


def _hex(data: bytes) -> str:
    return data.hex(" ")


def _descriptors(state: State, before: State | None) -> Iterator[str]:
    def rows(of: State) -> list[Row]:
        return [
            (f"[{index}]", (f"{d.address:#x}", str(d.length), _flags(d.flags), str(d.next)))
            for index, d in enumerate(of.descriptors)
        ]

    words = ("descriptor table", ("addr", "len", "flags", "next"), DRIVER)
    yield from _table(0, words, state.addresses[0], rows(state), rows(before) if before else None)


def _available(state: State, before: State | None) -> Iterator[str]:
    def rows(of: State) -> list[Row]:
        return [("idx", (str(of.available_idx),)), *((f"[{n}]", (str(head),)) for n, head in enumerate(of.available))]

    words = ("available ring", ("head",), DRIVER)
    yield from _table(1, words, state.addresses[1], rows(state), rows(before) if before else None)
    yield from _pointers(1, ((state.available_idx, DRIVER), (state.position, DEVICE)))


def _used(state: State, before: State | None) -> Iterator[str]:
    def rows(of: State) -> list[Row]:
        slots = [(f"[{n}]", (str(element.id), str(element.len))) for n, element in enumerate(of.used)]
        return [("idx", (str(of.used_idx), "")), *slots]

    words = ("used ring", ("id", "len"), DEVICE)
    yield from _table(2, words, state.addresses[2], rows(state), rows(before) if before else None)
    yield from _pointers(2, ((state.used_idx, DEVICE), (state.reaped, DRIVER)))


def _table(
    number: int,
    words: tuple[str, Sequence[str], str],
    address: int,
    rows: Sequence[Row],
    before: Sequence[Row] | None,
) -> Iterator[str]:
    """Yield a table: its name, by whom it is written, where it lies, and its rows; what is new is marked."""
    (name, columns, writer), (x, widths) = words, TABLES[number]
    yield text(x, 84, name, f"head {writer}")
    yield text(x, 102, f"{address:#x}, {writer} writes", "faint")
    for line, (label, cells) in enumerate(rows):
        y = TOP + ROW * (line + len(widths) // 4)
        yield text(x + LABEL - 8, y + 15, label, "mono faint", "end")
        left = x + LABEL
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            kind = "changed" if before and before[line][1][place] != cell else "cell"
            if cell or kind == "changed":
                yield box(left, y, width, ROW, kind)
                yield text(left + width / 2, y + 15, cell, "mono changed" if kind == "changed" else "mono", "middle")
            left += width
    left = x + LABEL
    for column, width in zip(columns, widths, strict=True) if len(widths) == 4 else ():
        yield text(left + width / 2, TOP + 15, column, "faint", "middle")
        left += width


def _pointers(number: int, places: Sequence[tuple[int, str]]) -> Iterator[str]:
    """Yield where each side goes on in a ring: an index counts on, and its place is the rest by the ring's size."""
    x, widths = TABLES[number]
    edge = x + LABEL + sum(widths)
    for shift, (index, who) in enumerate(places):
        y = TOP + ROW * (1 + index % 4) + ROW / 2
        yield from arrow((edge + 30 + 12 * shift, y - 4 + 8 * shift), (edge + 4, y - 4 + 8 * shift), who)


def _buffers(state: State, before: State | None) -> Iterator[str]:
    known = {what: data for what, _, data in before.buffers} if before else {}
    for place, (what, address, data) in enumerate(state.buffers):
        x = 140 + 300 * (place % 2)
        y = BUFFERS + 26 * (place // 2)
        kind = "changed" if before and known.get(what) != data else "cell"
        yield text(x, y + 15, what, "head")
        yield text(x + 92, y + 15, f"{address:#x}", "mono faint")
        yield box(x + 146, y, 108, ROW, kind)
        yield text(x + 200, y + 15, _hex(data), "mono changed" if kind == "changed" else "mono", "middle")
