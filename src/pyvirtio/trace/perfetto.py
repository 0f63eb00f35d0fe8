"""A recording as a timeline: the JSON form of trace events that Perfetto and Chrome read."""

from __future__ import annotations

import json

from pyvirtio.trace.requests import steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pyvirtio.trace.events import Event, Recording

_PROCESSES = {"driver": 1, "device": 2, "front-end": 3, "back-end": 4, "recorder": 5}
_REQUESTS = 10
"""The process of the timeline that shows requests, one track for each queue."""

_POINTS = {"kick", "interrupt", "pop", "reap", "available", "used_index", "message", "damaged", "missed", "error"}


def perfetto(recording: Recording) -> Iterator[str]:
    """Yield the lines of a file for Perfetto: a bar for each request, from its index to its answer, and what happened.

    A counter shows how many requests are in flight on each queue.
    """
    yield '{"displayTimeUnit":"ns","traceEvents":['
    yield from _commas(_events(recording))
    yield "]}"


def _commas(items: Iterator[dict[str, Any]]) -> Iterator[str]:
    before = None
    for item in items:
        if before is not None:
            yield f"{json.dumps(before, separators=(',', ':'))},"
        before = item
    if before is not None:
        yield json.dumps(before, separators=(",", ":"))


def _events(recording: Recording) -> Iterator[dict[str, Any]]:
    for name, number in {**_PROCESSES, "requests": _REQUESTS}.items():
        yield {"ph": "M", "name": "process_name", "pid": number, "tid": 0, "args": {"name": name}}
    start = recording.start
    for event in recording.events:
        if event.what in _POINTS:
            yield _point(event, start)
    yield from _bars(recording, start)


def _point(event: Event, start: int) -> dict[str, Any]:
    name = event.get("name", event.what) if event.what == "message" else event.what
    shown = {key: value for key, value in event.fields.items() if isinstance(value, int | str)}
    return {
        "ph": "i",
        "s": "t",
        "name": name,
        "ts": (event.at - start) / 1000,
        "pid": _PROCESSES.get(event.by, 5),
        "tid": event.queue + 1,
        "args": shown,
    }


def _bars(recording: Recording, start: int) -> Iterator[dict[str, Any]]:
    in_flight: dict[int, int] = {}
    numbers: dict[int, int] = {}
    for kind, request in steps(recording.events):
        queue = request.queue
        in_flight[queue] = in_flight.get(queue, 0) + (1 if kind == "ask" else -1)
        number = numbers.setdefault(id(request), len(numbers))
        at = request.asked if kind == "ask" else request.answered or request.asked
        common = {"ts": (at - start) / 1000, "pid": _REQUESTS, "tid": queue + 1}
        size = sum(map(len, request.parts))
        yield {
            "ph": "b" if kind == "ask" else "e",
            "cat": f"queue {queue}",
            "name": f"request {number}",
            "id": number,
            "args": {"to read": size, "room": request.room} if kind == "ask" else {"written": request.written},
            **common,
        }
        yield {"ph": "C", "name": f"in flight on queue {queue}", "args": {"requests": in_flight[queue]}, **common}
