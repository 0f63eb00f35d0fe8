r"""A terminal's screen, as far as full-screen programs such as busybox's vi use one.

>>> screen = Screen(10, 2)
>>> screen.feed(b"hello\r\nworld\x1b[1;1HJ\x1b[K")
>>> screen.rows
['J', 'world']
"""

from __future__ import annotations

import re

CONTROL = re.compile(rb"\x1b\[([?0-9;]*)([A-Za-z])|\x1b[()][0AB]|\x1b[=>78]|([\x00-\x1f])|([\x20-\xff]+)")
UNFINISHED = re.compile(rb"\x1b(\[[?0-9;]*|[()])?$")


class Screen:
    """A screen of so many columns and rows, which shows what it is fed."""

    def __init__(self, columns: int, rows: int) -> None:
        self.resize(columns, rows)
        self._partial = b""

    def resize(self, columns: int, rows: int) -> None:
        """Begin anew, in another size."""
        self.columns, self.height = columns, rows
        self._cells = [[" "] * columns for _ in range(rows)]
        self._x = self._y = 0

    @property
    def rows(self) -> list[str]:
        """The rows, without the blanks at their ends."""
        return ["".join(row).rstrip() for row in self._cells]

    def feed(self, data: bytes) -> None:
        """Show what a program wrote."""
        data = self._partial + data
        cut = UNFINISHED.search(data)
        self._partial = data[cut.start() :] if cut else b""
        for match in CONTROL.finditer(data[: cut.start()] if cut else data):
            arguments, command, control, text = match.groups()
            if text:
                self._write(text.decode(errors="replace"))
            elif control:
                self._control(control)
            elif command and not arguments.startswith(b"?"):
                self._command(command, [int(number or 0) for number in arguments.split(b";")])

    def _write(self, text: str) -> None:
        for character in text:
            if self._x == self.columns:
                self._x = 0
                self._line_feed()
            self._cells[self._y][self._x] = character
            self._x += 1

    def _control(self, control: bytes) -> None:
        if control == b"\r":
            self._x = 0
        elif control == b"\n":
            self._line_feed()
        elif control == b"\b":
            self._x = max(0, self._x - 1)

    def _line_feed(self) -> None:
        if self._y + 1 < self.height:
            self._y += 1
        else:
            self._cells = [*self._cells[1:], [" "] * self.columns]

    def _command(self, command: bytes, arguments: list[int]) -> None:
        if command in b"Hf":
            row, column = (*arguments, 0)[:2]
            self._y = min(max(row, 1), self.height) - 1
            self._x = min(max(column, 1), self.columns) - 1
        elif command == b"K":
            self._cells[self._y][self._x :] = [" "] * (self.columns - self._x)
        elif command == b"J":
            below = self._y if arguments == [0] else -1
            if below == self._y:
                self._cells[self._y][self._x :] = [" "] * (self.columns - self._x)
            for row in range(below + 1, self.height):
                self._cells[row] = [" "] * self.columns
