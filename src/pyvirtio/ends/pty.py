"""An end that is a pseudo-terminal, for a terminal program or a person.

Linux tells the owner of a pseudo-terminal neither that somebody opens it nor that its window has another size, so both
are looked at five times a second. Nothing is lost by that: what is written meanwhile looks first.
"""

from __future__ import annotations

import contextlib
import os
import select
import termios
import tty

from pyvirtio.ends.end import End
from pyvirtio.ends.stream import Stream
from pyvirtio.system import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

INTERVAL = 0.2
"""The seconds between two looks."""


class PtyEnd(End):
    """A pseudo-terminal; ``link`` becomes a symbolic link to it. Its size is the console's, once somebody sets it.

    Attributes:
        path: its name, such as ``/dev/pts/3``, once it is open.
    """

    def __init__(self, link: Path | None = None) -> None:
        self._link = link
        self._stream: Stream | None = None
        self.path = ""
        self.is_open = False

    def open(self, *, take_over: bool = False) -> None:
        """Make the pseudo-terminal, and the link: over one that leads nowhere, or over any with ``take_over``."""
        if self._stream is None:
            owner, terminal = os.openpty()
            try:
                tty.setraw(terminal)
                self.path = os.ttyname(terminal)
            finally:
                os.close(terminal)
            self._stream = Stream(owner)
            log.info("end-opened", f"a pseudo-terminal is {self.path}{f', {self._link}' if self._link else ''}")
        if self._link is None or self._has_link():
            return
        if self._link.exists() and not self._link.is_symlink():
            raise FileExistsError(f"{self._link} exists and is no symbolic link; choose another path, or remove it")
        if take_over or not self._link.exists():
            beside = self._link.with_name(f".{self._link.name}.{os.getpid()}")
            beside.symlink_to(self.path)
            beside.replace(self._link)

    def _has_link(self) -> bool:
        with contextlib.suppress(OSError):
            return self._link is not None and os.readlink(self._link) == self.path
        return False

    def _look(self) -> bool:
        """See whether somebody has it open, and how large its window is; return the former."""
        if self._stream is None:
            return False
        poll = select.poll()
        poll.register(self._stream.fd, 0)
        is_open = not poll.poll(0)  # nothing is asked for but POLLHUP, which always comes
        rows, columns = termios.tcgetwinsize(self._stream.fd)
        size = (columns, rows) if columns and rows else None
        if (is_open, size) != (self.is_open, self.size):
            self.is_open, self.size = is_open, size
            self.changed()
        return is_open

    async def read(self) -> bytes:
        """Return what is typed next."""
        import asyncio

        while True:
            if (stream := self._stream) is None:
                await super().read()
                return b""
            if not self._look():
                await asyncio.sleep(INTERVAL)
            elif data := stream.read_now():
                return data
            else:
                await stream.readable(INTERVAL)

    def put(self, data: bytes | memoryview) -> int:
        """Show what there is room for; without anybody who looks, everything is lost."""
        if self._stream is None or not (self.is_open or self._look()):
            return len(data)
        return self._stream.put(data)

    async def room(self) -> None:
        """Return when it takes something, or nobody has it open any more."""
        if self._stream is not None and self._look():
            await self._stream.writable()

    def close(self) -> None:
        """Close it: whoever has it open is hung up on."""
        if self._stream is None:
            return
        if self._link is not None and self._has_link():
            self._link.unlink()
        self._stream.close()
        self._stream = None
        self.is_open = False
