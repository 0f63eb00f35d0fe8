"""A person at a terminal: what is shown there, and what is typed."""

from __future__ import annotations

import contextlib
import os
import select
import termios
import threading
import time
from typing import TYPE_CHECKING

from tests.support.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE = 60.0


class Terminal:
    """Looks at the pseudo-terminal ``fd`` and types on it."""

    def __init__(self, fd: int, columns: int, rows: int) -> None:
        self.screen = Screen(columns, rows)
        self._fd = fd
        self._news = threading.Condition()
        self._ended = False
        self._wake, self._woken = os.pipe()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while not self._ended:
            ready, _, _ = select.select([self._fd, self._wake], [], [])
            if self._fd not in ready:
                continue
            try:
                data = os.read(self._fd, 65536)
            except OSError:  # its other side is gone
                data = b""
            with self._news:
                self._ended |= not data
                self.screen.feed(data)
                self._news.notify_all()

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self._fd, text.encode())

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the window."""
        with self._news:
            self.screen.resize(columns, rows)
        termios.tcsetwinsize(self._fd, (rows, columns))

    def wait_for(self, wanted: Callable[[list[str]], object]) -> list[str]:
        """Wait until the rows on the screen are what is wanted; return them."""
        deadline = time.monotonic() + PATIENCE
        with self._news:
            while not wanted(self.screen.rows):
                left = deadline - time.monotonic()
                assert left > 0, "\n".join(self.screen.rows)
                assert not self._ended, "the terminal was closed"
                self._news.wait(left)
            return self.screen.rows

    def close(self) -> None:
        """Leave."""
        self._ended = True
        os.write(self._woken, b"x")
        self._reader.join()
        os.close(self._wake)
        os.close(self._woken)


@contextlib.contextmanager
def terminal_at(path: Path, columns: int = 80, rows: int = 24) -> Iterator[Terminal]:
    """Sit down at the pseudo-terminal ``path``."""
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
    terminal = Terminal(fd, columns, rows)
    try:
        terminal.resize(columns, rows)
        yield terminal
    finally:
        terminal.close()
        os.close(fd)
