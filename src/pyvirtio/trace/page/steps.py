"""What the page that plays a recording shows, as plain values: a row for each step, a row for each request.

The page works out by itself what is in the rings at a step, from the rows before it. Whatever is said in words comes
from `pyvirtio.trace.text`.
"""

from __future__ import annotations

from pyvirtio.spec.ids import device_name
from pyvirtio.system.log import one_line
from pyvirtio.trace.events import KINDS, NO_QUEUE
from pyvirtio.trace.requests import STAGES, Matching
from pyvirtio.trace.text import EXPLANATIONS, said

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvirtio.trace.events import Event, Recording
    from pyvirtio.trace.requests import Request

MOST_STEPS = 200_000
"""The steps that one page plays; a browser keeps them all in memory."""

MOST_QUEUES = 256
"""The queues whose steps one page plays; whoever recorded them may have been told of any number."""

SHOWN = 256
"""The bytes of one buffer that the page has."""

MOST_DESCRIPTORS = 64
"""The descriptors of one request that the page has."""


def page_data(recording: Recording) -> dict[str, Any]:
    """Return all that the page knows of a recording.

    ``steps`` are rows of time (nanoseconds since the start), who, what, queue, the number of a text, and what the step
    changes; ``requests`` are rows of queue, head, and the number of the step at each of `STAGES`, -1 where it has none.
    """
    steps = _Steps(recording.start)
    for event in recording.events:
        if not steps.add(event):
            break
    return {
        "title": steps.title,
        "kinds": {what: [KINDS[what][0], EXPLANATIONS.get(what, "")] for what in steps.whats},
        "sides": list(steps.sides),
        "whats": list(steps.whats),
        "texts": list(steps.texts),
        "stages": list(STAGES),
        "steps": steps.rows,
        "requests": [steps.requests[key][1] for key in steps.requests],
        "total": len(recording.events),
        "is_cut": recording.cut,
    }


class _Steps:
    """Collects the rows; words that recur are kept once."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._matching = Matching()
        self._queues = {NO_QUEUE}
        self.title = ""
        self.rows: list[list[Any]] = []
        self.requests: dict[int, tuple[Request, list[int]]] = {}
        self.sides: dict[str, int] = {}
        self.whats: dict[str, int] = {}
        self.texts: dict[str, int] = {}

    def add(self, event: Event) -> bool:
        """Add the row of an event; return False where the page is full."""
        if len(self.rows) >= MOST_STEPS:
            return False
        lines = said(event)
        if not lines or not self._has_room_for(event.queue):  # nothing is said of an event of a later version
            return True
        if event.what == "device" and not self.title:
            self.title = one_line(f"{event['name']}, a {device_name(event['id'])}")
        for stage, request in self._matching.take(event):
            self._reach(stage, request)
        self.rows.append(
            [
                event.at - self._start,
                _number(self.sides, one_line(event.by)),
                _number(self.whats, event.what),
                event.queue,
                _number(self.texts, "\n".join(map(one_line, lines))),
                _changes(event),
            ]
        )
        return True

    def _has_room_for(self, queue: int) -> bool:
        if len(self._queues) < MOST_QUEUES:
            self._queues.add(queue)
        return queue in self._queues

    def _reach(self, stage: str, request: Request) -> None:
        if stage == "describe":
            self.requests[id(request)] = request, [request.queue, request.head, *[-1] * len(STAGES)]
        self.requests[id(request)][1][2 + STAGES.index(stage)] = len(self.rows)


def _number(known: dict[str, int], text: str) -> int:
    return known.setdefault(text, len(known))


def _changes(event: Event) -> dict[str, Any]:
    """Return what an event changes in the rings, and the bytes that it shows."""
    kept = _KEPT.get(event.what, ())
    changes = {name: event[name] for name in kept if name in event.fields}
    if make := _MADE.get(event.what):
        changes |= make(event)
    return changes


_KEPT = {
    **dict.fromkeys(("queue", "resumed"), ("size", "position")),
    "descriptors": ("head", "length", "room", "late"),
    "available": ("index", "heads"),
    "pop": ("head",),
    "used": ("head", "written", "late"),
    "used_index": ("index",),
    "reap": ("head", "written"),
    "suppression": ("flags", "event"),
}
"""The fields that the page takes as they are. Numbers above 53 bits are not among them, or only where all are wrong."""


def _described(event: Event) -> dict[str, Any]:
    chain = [
        [index, f"{address:#x}", length, flags, following]
        for index, address, length, flags, following in event["chain"][:MOST_DESCRIPTORS]
    ]
    return {"chain": chain, "descriptors": len(event["chain"]), **_bytes(event["data"], event["length"])}


def _bytes(data: str, length: int) -> dict[str, Any]:
    """Return the beginning of a buffer in hexadecimal, and how long it is in all."""
    return {"hex": "".join(data.split())[: 2 * SHOWN], "bytes": length}


def _areas(event: Event) -> dict[str, Any]:
    return {name: f"{event[name]:#x}" for name in ("descriptor_area", "driver_area", "device_area", "features")}


_MADE: dict[str, Callable[[Event], dict[str, Any]]] = {
    "queue": _areas,
    "resumed": _areas,
    "descriptors": _described,
    "used": lambda event: _bytes(event["data"], event["written"]),
    "message": lambda event: _bytes(event["payload"], len(event["payload"]) // 2),
    "config": lambda event: _bytes(event["config"], len(event["config"]) // 2),
    "device": lambda event: _bytes(event["config"], len(event["config"]) // 2),
}
