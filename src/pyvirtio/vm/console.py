"""A guest's console: read as it comes, so that the guest never waits; kept in bounds; waited for.

A thread reads the pipe into lines. `Console.wait_for` sleeps until a line comes, the pipe ends or the time
is over. Only the last lines are kept.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

HISTORY = 40  # lines at the end of an error message
BACKLOG = 100_000  # lines that nobody has waited for yet
LONGEST_LINE = 65_536  # bytes; what is longer is cut, so that a guest cannot fill our memory

PANIC = "Kernel panic"
# Terminal control sequences: the firmware clears the screen, a shell colours its prompt.
CONTROL = re.compile(r"\x1b(?:\[[0-9;?=]*[A-Za-z]|[()][0AB]|c)|[\x00-\x08\x0b-\x1f\x7f]")


class Console:
    """What comes out of a pipe, line by line.

    Args:
        descriptor: the reading end of the pipe, which the console closes.
        show: called with each line, from the reading thread.
        panicked: called when the guest's kernel panics, from the reading thread.
    """

    def __init__(
        self,
        descriptor: int,
        show: Callable[[str], None] | None = None,
        panicked: Callable[[], object] = lambda: None,
    ) -> None:
        self._descriptor = descriptor
        self._show = show
        self._panicked = panicked
        self._news = threading.Condition()
        self._history: deque[str] = deque(maxlen=HISTORY)
        self._waiting: deque[str] = deque(maxlen=BACKLOG)
        self._ended = False
        self._panic = ""
        self._reader = threading.Thread(target=self._read, name="guest-console", daemon=True)
        self._reader.start()

    @property
    def ended(self) -> bool:
        """Return whether the other end of the pipe was closed."""
        return self._ended

    @property
    def panic(self) -> str:
        """Return the line in which the guest's kernel panicked; empty if it did not."""
        return self._panic

    def last_lines(self) -> list[str]:
        """Return the last lines of the console, oldest first."""
        with self._news:
            return list(self._history)

    def forget(self) -> None:
        """Let `wait_for` look at what comes from now on."""
        with self._news:
            self._waiting.clear()

    def wait_for(self, wanted: Callable[[str], bool], timeout: float) -> list[str] | None:
        """Return the lines up to and including the first that is `wanted`; None if none came in time.

        It returns None early when the console ends. Each line is looked at once: the next call goes on
        where this one stopped.
        """
        deadline = time.monotonic() + timeout
        seen: deque[str] = deque(maxlen=BACKLOG)
        with self._news:
            while True:
                while self._waiting:
                    line = self._waiting.popleft()
                    seen.append(line)
                    if wanted(line):
                        return list(seen)
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    return None
                self._news.wait(left)

    def wait_for_end(self, timeout: float) -> bool:
        """Wait until the pipe is closed, and return whether it was."""
        self._reader.join(timeout)
        return not self._reader.is_alive()

    def _read(self) -> None:
        partial = b""
        try:
            while data := os.read(self._descriptor, 65_536):
                *lines, partial = (partial + data).split(b"\n")
                self._take(lines)
                if len(partial) > LONGEST_LINE:
                    self._take([partial[:LONGEST_LINE]])
                    partial = b""
        finally:
            os.close(self._descriptor)
            self._take([partial] if partial else [], ended=True)

    def _take(self, raw: list[bytes], *, ended: bool = False) -> None:
        lines = [printable(line) for line in raw]
        had_panicked = bool(self._panic)
        with self._news:
            for line in lines:
                self._waiting.append(line)
                self._history.append(line)
                if PANIC in line and not self._panic:
                    self._panic = line
            self._ended = ended
            self._news.notify_all()
        if self._panic and not had_panicked:
            self._panicked()
        for line in lines if self._show else ():
            assert self._show is not None
            self._show(line)


def printable(line: bytes) -> str:
    r"""Return a line as text, without control characters, with which a guest could take over a terminal.

    >>> printable(b"\x1b[2J5! = 120\r")
    '5! = 120'
    """
    return CONTROL.sub("", line.decode(errors="replace"))
