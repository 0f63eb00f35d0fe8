"""What is counted on the queues, in memory that processes share: the worker that serves a queue writes its part.

A number is a word of 64 bits and stored at once, so nobody waits and nobody sends anything. The part of a queue
outlives the worker, and the next one counts on. Times are nanoseconds of the machine's monotonic clock.
"""

from __future__ import annotations

import mmap
import struct

from pyvirtio.trace.requests import Matching

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvirtio.trace.events import Event
    from pyvirtio.trace.requests import Request

COUNTERS = ("asked", "answered", "read", "written", "kicks", "interrupts", "available", "used", "oldest", "kept")
"""The words of a queue: requests asked and answered, bytes that the device could read and wrote, notifications, the
indexes of both rings, when the oldest request without an answer was asked (0: there is none), and how many were kept.

A worker may be killed between an answer and the word that counts it; the next index that is seen makes up for it.
"""

LATENCIES = 256
"""The words behind `COUNTERS`: how many requests took how long; see `latency_class`."""

_AT = {name: place for place, name in enumerate(COUNTERS)}
_FIRST_LATENCY = 16
_WORDS = _FIRST_LATENCY + LATENCIES
KEPT = 32
"""The last requests that a queue keeps."""

SHOWN = 32
"""The bytes of a request, and of its answer, that are kept."""

_RECORD = struct.Struct(f"<7Q2B{SHOWN}s{SHOWN}s6x")
_NUMBERS = ("at", "latency", "head", "length", "room", "written")
_QUEUE_BYTES = 8 * _WORDS + KEPT * _RECORD.size
MOST_QUEUES = 256
MOST_IN_FLIGHT = 4096
"""So many requests of a queue are followed; a driver that breaks its ring may make any number available."""


def latency_class(nanoseconds: int) -> int:
    """Return the class of a latency: eight for each doubling, so that a class is at most an eighth wide.

    >>> latency_class(0), latency_class(1_000_000), latency_class(1 << 62)
    (0, 87, 255)
    """
    units = max(0, nanoseconds) >> 7
    if units < 8:
        return units
    exponent = units.bit_length() - 4
    return min(LATENCIES - 1, 8 * exponent + (units >> exponent))


def latency_of(number: int) -> int:
    """Return the nanoseconds in the middle of a class.

    >>> latency_of(latency_class(1_000_000))
    1015808
    """

    def low(number: int) -> int:
        exponent = max(0, number // 8 - 1)
        return (number - 8 * exponent) << exponent << 7

    return (low(number) + low(number + 1)) // 2


class Figures:
    """The memory; processes that are forked later share it."""

    def __init__(self) -> None:
        self._memory = memoryview(mmap.mmap(-1, MOST_QUEUES * _QUEUE_BYTES))

    def of_queue(self, index: int) -> QueueFigures:
        """Return the part of a queue."""
        return QueueFigures(self._memory[index * _QUEUE_BYTES : (index + 1) * _QUEUE_BYTES])


class QueueFigures:
    """The part of one queue, to write (`take`) or to read."""

    def __init__(self, memory: memoryview) -> None:
        self._words = memory[: 8 * _WORDS].cast("Q")
        self._records = memory[8 * _WORDS :]
        self._matching = Matching()
        self._asked: dict[int, Request] = {}  # by identity, the oldest first
        self._answered = 0  # since the used index was stored last

    # What the worker writes.

    def take(self, event: Event) -> None:
        """Count an event of this queue."""
        if event.what in _NOTIFICATIONS:
            self._words[_NOTIFICATIONS[event.what]] += 1
            return
        for stage, request in self._matching.take(event):
            if stage == "ask":
                self._ask(request)
            elif stage == "answer":
                self._answer(request)
        if event.what == "queue" or (event.what == "resumed" and not self._words[_AT["asked"]]):
            self._begin(event["position"])
        elif event.what == "available":
            self._words[_AT["available"]] = event["index"] & 0xFFFF
        elif event.what == "used":
            self._answered += 1
            self._words[_AT["written"]] += event["written"] & 0xFFFF_FFFF
        elif event.what == "used_index":
            self._publish(event["index"] & 0xFFFF)

    def _begin(self, position: int) -> None:
        self._asked.clear()
        self._words[_AT["oldest"]] = 0
        self._words[_AT["available"]] = self._words[_AT["used"]] = position & 0xFFFF

    def _publish(self, index: int) -> None:
        words = self._words
        passed = (index - words[_AT["used"]]) & 0xFFFF
        # Where a queue begins with requests of an earlier back-end, its used index is behind the position.
        words[_AT["answered"]] += passed if passed < 0x8000 else self._answered
        words[_AT["used"]] = index
        self._answered = 0
        words[_AT["oldest"]] = next((one.asked for one in self._asked.values()), 0)

    def _ask(self, request: Request) -> None:
        if len(self._asked) >= MOST_IN_FLIGHT:
            self._asked.clear()
            self._matching.forget(request.queue)
        self._asked[id(request)] = request
        words = self._words
        words[_AT["asked"]] += 1
        words[_AT["read"]] += min(request.length, 1 << 32)
        words[_AT["oldest"]] = words[_AT["oldest"]] or request.asked

    def _answer(self, request: Request) -> None:
        self._asked.pop(id(request), None)
        latency = max(0, (request.answered or 0) - request.asked)
        self._words[_FIRST_LATENCY + latency_class(latency)] += 1
        self._keep(request, latency)

    def _keep(self, request: Request, latency: int) -> None:
        number = self._words[_AT["kept"]]
        asked, answer = request.data[:SHOWN], (request.answer or b"")[:SHOWN]
        place = _RECORD.size * (number % KEPT)
        numbers = (request.asked, latency, request.head, request.length, request.room, request.written)
        self._records[place : place + 8] = bytes(8)  # nobody shows what is half written
        record = _RECORD.pack(0, *(n & 0xFFFF_FFFF_FFFF_FFFF for n in numbers), len(asked), len(answer), asked, answer)
        self._records[place + 8 : place + _RECORD.size] = record[8:]
        self._records[place : place + 8] = (number + 1).to_bytes(8, "little")
        self._words[_AT["kept"]] = number + 1

    # What others read.

    def counters(self) -> dict[str, int]:
        """Return the counters by name, and how many requests are in flight."""
        counters = {name: self._words[place] for name, place in _AT.items()}
        return counters | {"in_flight": (counters["available"] - counters["used"]) & 0xFFFF}

    def latencies(self) -> list[int]:
        """Return how many requests there were of each class of latency."""
        return self._words[_FIRST_LATENCY:_WORDS].tolist()

    def last(self) -> list[dict[str, Any]]:
        """Return the last requests, the newest first."""
        found = []
        for place in range(0, KEPT * _RECORD.size, _RECORD.size):
            record = bytes(self._records[place : place + _RECORD.size])
            number, *numbers, asked, answered, data, answer = _RECORD.unpack(record)
            if number and bytes(self._records[place : place + 8]) == record[:8]:
                named = dict(zip(("at", "latency", "head", "length", "room", "written"), numbers, strict=True))
                found.append(
                    {"number": number, **named, "asked": data[:asked].hex(), "answer": answer[:answered].hex()}
                )
        return sorted(found, key=lambda request: -int(request["number"]))


_NOTIFICATIONS = {"kick": _AT["kicks"], "interrupt": _AT["interrupts"]}

COUNTED = ("queue", "resumed", "kick", "descriptors", "available", "used", "used_index", "interrupt")
"""The events that are counted."""
