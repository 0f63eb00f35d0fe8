r"""Commands for a guest and what they print, over a serial line of their own.

The guest's init reads a command a line; a line break in a command travels as a byte of 1. What the command writes to
its standard output comes back byte for byte, followed by a *mark*: a zero byte, a word that nobody can guess, and the
exit status. So the kernel's messages, which go to the console, are never in between.

>>> ours, guests = socket.socketpair()
>>> commands = Commands(ours, "8d3f")
>>> commands.send("echo hello")
>>> guests.recv(100)
b'echo hello\n'
>>> guests.sendall(b"hello\n\x008d3f 0\n")
>>> commands.result(timeout=1)
(b'hello\n', '0')
>>> guests.close(), commands.close()
(None, None)
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from typing import TYPE_CHECKING

from pyvirtio.errors import LocalError

if TYPE_CHECKING:
    from typing import BinaryIO

LONGEST_COMMAND = 4000  # bytes; the buffer of the guest's terminal has 4096
LINE_BREAK = b"\1"
LONGEST_WORD = 20  # of a mark


class Commands:
    """The host's end of the line.

    Args:
        connection: the line, a connected stream socket, which is closed with this object.
        end: the word of the marks.
    """

    def __init__(self, connection: socket.socket, end: str) -> None:
        self._connection = connection
        self._mark = re.compile(b"\0" + end.encode() + rb" (\w+)\n")
        self._longest_mark = len(end) + LONGEST_WORD
        self._output = bytearray()
        self._looked_at = 0

    def close(self) -> None:
        """Close the line."""
        self._connection.close()

    def give_up(self) -> None:
        """Let whoever waits, now or later, get an EOFError. Any thread may do this."""
        with contextlib.suppress(OSError):  # nobody is at the other end any more
            self._connection.shutdown(socket.SHUT_RD)

    def send(self, command: str) -> None:
        """Start a command.

        Raises:
            LocalError: it is longer than the guest's terminal takes, or has bytes of 0 or 1.
            OSError: nobody is at the other end.
        """
        line = command.encode()
        if len(line) > LONGEST_COMMAND:
            raise LocalError(
                f"a command for the guest has at most {LONGEST_COMMAND} bytes; put a longer one into a file there"
            )
        if b"\0" in line or LINE_BREAK in line:
            raise LocalError("a command for the guest has no bytes of 0 or 1; put such data into a file there")
        self._connection.sendall(line.replace(b"\n", LINE_BREAK) + b"\n")

    def result(self, timeout: float, into: BinaryIO | None = None) -> tuple[bytes, str]:
        """Wait for a mark; return what came before it, and its word.

        Args:
            timeout: in seconds.
            into: where the output goes as it comes, instead of being returned.

        Raises:
            TimeoutError: no mark came in time.
            EOFError: the other end is gone.
        """
        deadline, start = time.monotonic() + timeout, 0
        while not (mark := self._mark.search(self._output, start)):
            if into is not None:
                self._pass_on(into, self._complete())
            start = max(0, len(self._output) - self._longest_mark)
            self._receive(deadline)
        word, output = mark[1].decode(), bytes(self._output[: mark.start()])
        del self._output[: mark.end()]
        self._looked_at = 0
        if into is None:
            return output, word
        into.write(output)
        into.flush()
        return b"", word

    def wait_for(self, text: str, timeout: float) -> bool:
        """Wait until the command prints ``text``; return whether it did so before it ended.

        Each byte is looked at once: the next call goes on behind the text. What was printed stays part of the result.

        Raises:
            TimeoutError: neither happened in time.
            EOFError: the other end is gone.
        """
        deadline, wanted = time.monotonic() + timeout, text.encode()
        while True:
            mark = self._mark.search(self._output)
            found = self._output.find(wanted, self._looked_at, mark.start() if mark else len(self._output))
            if found >= 0:
                self._looked_at = found + len(wanted)
                return True
            if mark:
                return False
            self._receive(deadline)

    def _complete(self) -> int:
        """Return how many bytes of the output cannot be the beginning of a mark."""
        zero = self._output.find(b"\0", max(0, len(self._output) - self._longest_mark))
        return zero if zero >= 0 else len(self._output)

    def _pass_on(self, into: BinaryIO, count: int) -> None:
        into.write(self._output[:count])
        into.flush()
        del self._output[:count]
        self._looked_at = 0

    def _receive(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        try:
            data = self._connection.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            raise EOFError
        self._output += data
