"""Ends that are sockets: one that is connected already, and one that listens for one client after the other."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct

from pyvirtio.ends.end import End
from pyvirtio.ends.stream import Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path


class SocketEnd(End):
    """A stream socket that is connected. It belongs to the end from then on; what hangs up is gone for good.

    >>> import socket
    >>> ours, theirs = socket.socketpair()
    >>> end = SocketEnd(theirs)
    >>> end.put(b"hello")
    5
    >>> ours.recv(5)
    b'hello'
    >>> end.close(), ours.close()
    (None, None)
    """

    def __init__(self, connection: socket.socket | None = None) -> None:
        self._stream: Stream | None = None
        self.is_open = False
        if connection is not None:
            self._connect(connection)

    def _connect(self, connection: socket.socket) -> None:
        self._stream = Stream(connection.detach())
        self._say_open(is_open=True)

    def _say_open(self, *, is_open: bool) -> None:
        if self.is_open != is_open:
            self.is_open = is_open
            self.changed()

    async def read(self) -> bytes:
        """Return what the peer sends next; a peer that shuts its side down counts as gone."""
        while True:
            if (stream := self._stream) is None:
                await self.wait_for_peer()
                continue
            data = stream.read_now()
            if data:
                return data
            if data is None:
                await stream.readable()
            elif self._stream is stream:
                self._hang_up()

    async def wait_for_peer(self) -> None:
        """Return when there may be a peer; for a socket that was connected and is not any more, never."""
        await super().read()

    def _hang_up(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._say_open(is_open=False)

    def put(self, data: bytes | memoryview) -> int:
        """Send what there is room for; without a peer everything is lost."""
        return self._stream.put(data) if self._stream is not None else len(data)

    async def room(self) -> None:
        """Return when the peer takes something, or is gone."""
        if self._stream is not None:
            await self._stream.writable()

    def close(self) -> None:
        """Close the connection."""
        self._hang_up()


class UnixEnd(SocketEnd):
    """A Unix socket on ``path`` that serves one client at a time; the next may connect when the last one is gone."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._listener: socket.socket | None = None
        self._waiting: Stream | None = None
        self._file = (0, 0)

    def open(self, *, take_over: bool = False) -> None:
        """Listen. A socket on which nobody listens any more is replaced.

        One on which another process of the same server still listens is left alone without ``take_over``.

        Raises:
            OSError: somebody else uses the path.
        """
        if self._listener is not None and self._file == _identity(self._path):
            return
        if self._path.exists():
            if not stat.S_ISSOCK(self._path.stat().st_mode):
                raise FileExistsError(f"{self._path} exists and is not a socket; choose another path, or remove it")
            if listening := _listening_on(self._path):
                if not _is_relative(listening):
                    raise FileExistsError(f"the process {listening} listens on {self._path}; choose another path")
                if not take_over:
                    return
            self._path.unlink()
        self._stop_listening()
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(os.fspath(self._path))
            self._file = _identity(self._path)
            listener.listen(1)
            listener.setblocking(False)
            stack.pop_all()
        self._listener, self._waiting = listener, Stream(os.dup(listener.fileno()))

    async def wait_for_peer(self) -> None:
        """Accept the next client."""
        if self._listener is None or self._waiting is None:
            await super().wait_for_peer()
            return
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            await self._waiting.readable()
        except OSError:  # no descriptor is left, or the client is gone; later it may be otherwise
            import asyncio

            await asyncio.sleep(1.0)
        else:
            self._connect(connection)

    def _stop_listening(self) -> None:
        if self._waiting is not None:
            self._waiting.close()
        if self._listener is not None:
            self._listener.close()
        self._listener = self._waiting = None

    def close(self) -> None:
        """Hang up, and remove the socket if it is still ours."""
        super().close()
        self._stop_listening()
        if self._file != (0, 0) and _identity(self._path) == self._file:
            self._path.unlink()
        self._file = (0, 0)


def _identity(path: Path) -> tuple[int, int]:
    """Return what tells a file from another one of the same name."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def _listening_on(path: Path) -> int:
    """Return the process that listens on a socket; 0 where none does."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            return 0
        except BlockingIOError:  # it does not accept; that it listens is certain
            return os.getpid()
        process, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(process)


def _is_relative(process: int) -> bool:
    """Return whether a process is this one, or has the same parent, as the workers of one server have."""
    if process == os.getpid():
        return True
    try:
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as stat_file:
            return int(stat_file.read().rpartition(")")[2].split()[1]) == os.getppid()
    except OSError:  # it has ended meanwhile
        return True
