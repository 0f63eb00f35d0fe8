"""Writes a recording: one line for each event, appended with one system call, from any number of processes."""

from __future__ import annotations

import os
import time

from pyvirtio.errors import LocalError
from pyvirtio.system.closing import Closing
from pyvirtio.trace.events import SNAP, Event, Recording, beginning, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

LIMIT = 256 << 20
"""The bytes that a recording has at most, unless told otherwise: a guest decides how much there is to record."""


class Sink:
    """Takes events; a subclass does something with them.

    Attributes:
        snap: how much of a buffer's content it wants.
    """

    snap: int

    @staticmethod
    def now() -> int:
        """Return the time of an event that happens now."""
        return time.monotonic_ns()

    def note(self, by: str, what: str, queue: int = -1, **fields: Any) -> None:
        """Take one event, now."""
        self.record([Event(time.monotonic_ns(), by, what, queue, **fields)])

    def record(self, events: Iterable[Event]) -> None:
        """Take events, and never fail."""
        raise NotImplementedError


class Both(Sink):
    """Two sinks as one."""

    def __init__(self, one: Sink, other: Sink) -> None:
        self._sinks = (one, other)
        self.snap = max(one.snap, other.snap)

    def record(self, events: Iterable[Event]) -> None:
        """Have both take events."""
        events = list(events)
        for sink in self._sinks:
            sink.record(events)


class Recorder(Sink, Closing):
    """Appends events to the file ``path``, which is made anew.

    Processes that are forked later write to the same file. Each write is appended as a whole, so no line is torn, and
    what was written survives the process. At ``limit`` bytes the recording ends, and what is recorded goes on.

    Raises:
        LocalError: the file cannot be made.
    """

    def __init__(self, path: str, *, snap: int = SNAP, limit: int = LIMIT) -> None:
        self.path = path
        self.snap = snap
        self.limit = limit
        self._fd = -1
        self._pid = 0
        self._full = False
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise LocalError(f"the recording {path} cannot be written: {error.strerror}; name another file") from error
        self.record([beginning(time.monotonic_ns(), time.time_ns(), snap)])

    def record(self, events: Iterable[Event]) -> None:
        """Append events. Where that fails, for want of room for example, the recording ends there."""
        data = b"".join(map(encode, events))
        if not data or self._full:
            return
        try:
            if self._pid != os.getpid():  # a fork has our descriptor no more, or shares it with us
                self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
                self._pid = os.getpid()
            if os.fstat(self._fd).st_size + len(data) > self.limit:
                self._full = True
                data = encode(Event(time.monotonic_ns(), "recorder", "full", limit=self.limit))
            os.write(self._fd, data)
        except OSError as error:
            self._full = True
            from pyvirtio.system import log

            log.warning("recording-failed", f"the recording {self.path} ends here: {error.strerror}")

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._fd >= 0 and self._pid == os.getpid():
            os.close(self._fd)
        self._fd, self._pid, self._full = -1, 0, True


def load(path: str) -> Recording:
    """Return the recording in a file.

    Raises:
        LocalError: there is none.
    """
    try:
        with open(path, "rb") as file:
            return Recording(file)
    except OSError as error:
        raise LocalError(
            f"the recording {path} cannot be read: {error.strerror}; name one that `pyvirtio tap` or --trace has made"
        ) from error
