"""What a traced device says to those who watch it, at a bounded cost: numbers in shared memory, and lines in a pipe.

The pipe is never waited for. What does not fit is lost, counted, and told with what fits next.
"""

from __future__ import annotations

import os
import select

from pyvirtio.trace.events import NO_QUEUE, Event, encode
from pyvirtio.trace.recorder import Sink
from pyvirtio.trace.watch.figures import COUNTED, MOST_QUEUES, SHOWN, Figures, QueueFigures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

TOLD = ("device", "config", "log", "connected", "disconnected", "message", "queue", "resumed", "damaged", "missed")
"""The events that go through the pipe: they are rare, or a guest has to ask a process for each."""

LONGEST = 1024
"""The characters of a text that are told; an even number, for they may be hexadecimal."""


class Feed(Sink):
    """Takes events in the keeper and in its workers.

    ``pipe`` is the descriptor of a pipe's writing end, which stays open in the process that makes this. Workers, which
    inherit no descriptor, find it by that process's number.
    """

    snap = SHOWN

    def __init__(self, figures: Figures, pipe: int) -> None:
        self._figures = figures
        self._path = f"/proc/{os.getpid()}/fd/{pipe}"
        self._queues: dict[int, QueueFigures] = {}
        self._fd = -1
        self._pid = 0
        self._lost = 0

    def record(self, events: Iterable[Event]) -> None:
        """Count events, and tell those that are to be told."""
        for event in events:
            if event.what in COUNTED and 0 <= event.queue < MOST_QUEUES:
                self._of(event.queue).take(event)
            if event.what in TOLD:
                self._tell(event)

    def _of(self, index: int) -> QueueFigures:
        if index not in self._queues:
            self._queues[index] = self._figures.of_queue(index)
        return self._queues[index]

    def _tell(self, event: Event) -> None:
        lost = [Event(event.at, "recorder", "missed", NO_QUEUE, count=self._lost)] if self._lost else []
        lines = b"".join(encode(_shortened(one)) for one in (*lost, event))
        if self._write(lines):
            self._lost = 0
        else:
            self._lost += 1

    def _write(self, lines: bytes) -> bool:
        if len(lines) > select.PIPE_BUF:  # only what is shorter is written as a whole, or not at all
            return False
        try:
            if self._pid != os.getpid():
                # Opened again, it has flags of our own, in a fork as here.
                self._fd, self._pid = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC), os.getpid()
            return os.write(self._fd, lines) == len(lines)
        except OSError:  # full, or nobody is there any more
            return False

    def close(self) -> None:
        """Close this process's end."""
        if self._pid == os.getpid() and self._fd >= 0:
            os.close(self._fd)
        self._fd, self._pid = -1, 0


def _shortened(event: Event) -> Event:
    fields = {name: value[:LONGEST] if isinstance(value, str) else value for name, value in event.fields.items()}
    return Event(event.at, event.by, event.what, event.queue, **fields)
