"""A request as a stream of bytes: for devices whose requests or answers vary in length.

`Reader` and `Writer` belong to one request. When it is over, they raise `LocalError`, and the views that they lent
are released: the memory behind them belongs to the driver again.

The native engine has the same two in C (native/stream_object.c.inc); these say what they do. One set of tests runs on
both (tests/device/test_readers_and_writers.py).
"""

from __future__ import annotations

import os

from pyvirtio.errors import ChainError, LocalError
from pyvirtio.ring.chain import OVER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Never, TypeVar

    from pyvirtio.ring import Chain
    from pyvirtio.spec.struct import Struct

    S = TypeVar("S", bound=Struct)

_ZEROS = bytes(1 << 16)

MOST_PARTS = 1024
"""The most pieces of memory that one system call takes (Linux's UIO_MAXIOV)."""


class _Over:
    """Stands for the chain of a request that is over."""

    __slots__ = ()

    def __getattr__(self, _name: str) -> Never:
        raise LocalError(OVER)


_OVER: Any = _Over()


class _Stream:
    __slots__ = ("_chain", "_lent")

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._lent: list[memoryview] | None = None

    def _lend(self, pieces: Sequence[memoryview], start: int, stop: int) -> list[memoryview]:
        """Return the bytes from ``start`` to ``stop`` of ``pieces`` as views, and remember them."""
        views = []
        for piece in pieces:
            if start < min(stop, len(piece)):
                views.append(piece[start:stop])
            start, stop = max(0, start - len(piece)), stop - len(piece)
        self._lent = [*(self._lent or ()), *views]
        return views

    def close(self) -> bool:
        """End the use of the request's memory; return False while somebody still works on a view that was lent.

        That is a system call in another thread which reads or writes there at this moment.
        """
        self._chain = _OVER
        if self._lent is None:
            return True
        try:
            for view in self._lent:
                view.release()
        except BufferError:
            return False
        self._lent = None
        return True


class Reader(_Stream):
    """Reads the device-readable bytes of a request, each byte once and in order.

    >>> from pyvirtio.ring import Chain
    >>> reader = Reader(Chain(0, 0, [memoryview(b"hello "), memoryview(b"device")]))
    >>> reader.read(5), reader.left
    (b'hello', 7)
    """

    __slots__ = ("_position",)

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._lent = None
        self._position = 0

    @property
    def left(self) -> int:
        """The bytes that were not read yet."""
        return self._chain.length - self._position

    def read(self, limit: int = -1, /) -> bytes:
        """Read at most ``limit`` bytes, by default all that are left; fewer only at the request's end."""
        data = self._chain.read(self.left if limit < 0 else limit, self._position)
        self._position += len(data)
        return data

    def take(self, kind: type[S], /) -> S:
        """Read one structure.

        Raises:
            ShortData: the request ends before it.
        """
        return kind.unpack(self.read(kind.nbytes))

    def views(self, limit: int = -1, /) -> list[memoryview]:
        """Lend the next bytes where they lie in the guest's memory.

        ``limit`` is the most bytes, by default all that are left; they count as read. The driver can change them at
        any moment, so check nothing there that is used afterwards: `read` copies.

        >>> from pyvirtio.ring import Chain
        >>> Reader(Chain(0, 0, [memoryview(b"ab"), memoryview(b"cd")])).views(3)[1].tobytes()
        b'c'
        """
        start = self._position
        self._position = self._end(limit)
        return self._lend(self._chain.readable, start, self._position)

    def write_to(self, fd: int, limit: int = -1, offset: int | None = None) -> int:
        """Write the next bytes to the file descriptor ``fd`` from where they lie; return how many it took.

        It is one system call, during which other threads run. ``limit`` is the most bytes, by default all that are
        left. ``offset`` is the place in the file, by default the descriptor's own position. The system may take fewer
        bytes than there are; what it took counts as read.

        >>> from pyvirtio.ring import Chain
        >>> reader = Reader(Chain(0, 0, [memoryview(b"ab"), memoryview(b"cd")]))
        >>> fd = os.memfd_create("disk")
        >>> reader.write_to(fd, offset=8), reader.left, os.pread(fd, 4, 8)
        (4, 0, b'abcd')
        >>> os.close(fd)

        Raises:
            OSError: the system refuses; BlockingIOError where ``fd`` would have to wait and must not. Nothing counts
                as read then.
            LocalError: ``offset`` is negative.
        """
        parts = self._lend(self._chain.readable, self._position, self._end(limit))[:MOST_PARTS]
        number = _transfer(os.writev, os.pwritev, fd, parts, offset)
        if number > self.left:  # another thread has read meanwhile
            raise LocalError("two threads read one request at a time; let one of them do it")
        self._position += number
        return number

    def _end(self, limit: int) -> int:
        return self._position + (self.left if limit < 0 else min(limit, self.left))


class Writer(_Stream):
    r"""Writes the device-writable bytes of a request, in order.

    >>> from pyvirtio.ring import Chain
    >>> memory = bytearray(8)
    >>> writer = Writer(Chain(0, 0, [], [memoryview(memory)]))
    >>> writer.write(b"done")
    >>> writer.room, bytes(memory)
    (4, b'done\x00\x00\x00\x00')
    """

    __slots__ = ()

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._lent = None

    @property
    def room(self) -> int:
        """The bytes that can still be written."""
        return self._chain.room - self._chain.written

    def write(self, data: bytes, /) -> None:
        """Write ``data``.

        Raises:
            ChainError: the driver left less room; nothing is written then.
        """
        self._chain.write(data)

    def put(self, answer: Struct, /) -> None:
        """Write one structure; raises `ChainError` as `write` does."""
        if not isinstance(answer, tuple):
            raise TypeError(f"an answer of type {type(answer).__name__}; give a structure")
        self._chain.write(answer.pack())

    def skip(self, number: int, /) -> None:
        """Write ``number`` zero bytes: the driver is told that they were written, so they must be (2.7.8.2).

        Raises:
            ChainError: the driver left less room; nothing is written then.
        """
        if number > self.room:
            raise ChainError(f"{number} bytes to be skipped; the driver left room for {self.room}")
        while number > 0:  # piece by piece: a driver may leave room for gigabytes
            self._chain.write(_ZEROS[:number])
            number -= len(_ZEROS)

    def views(self, limit: int = -1, /) -> list[memoryview]:
        """Lend the next room where it lies in the guest's memory.

        ``limit`` is the most bytes, by default all the room. What was written there counts only once `advance` says so.

        >>> from pyvirtio.ring import Chain
        >>> memory = bytearray(4)
        >>> writer = Writer(Chain(0, 0, [], [memoryview(memory)]))
        >>> writer.views(2)[0][:] = b"ok"
        >>> writer.advance(2)
        >>> writer.room
        2
        """
        start = self._chain.written
        number = self.room if limit < 0 else min(limit, self.room)
        return self._lend(self._chain.writable, start, start + number)

    def advance(self, number: int, /) -> None:
        """Count ``number`` bytes, which were written through `views`, as written.

        Raises:
            LocalError: the driver left less room, so they cannot have been.
        """
        if not 0 <= number <= self.room:
            raise LocalError(
                f"{number} bytes cannot have been written: the driver left room for {self.room}; give that or less"
            )
        self._chain.written += number

    def read_from(self, fd: int, limit: int = -1, offset: int | None = None) -> int:
        """Read from the file descriptor ``fd`` into the next room, where it lies; return how many bytes came.

        It is one system call, during which other threads run. ``limit`` is the most bytes, by default all the room.
        ``offset`` is the place in the file, by default the descriptor's own position. Fewer bytes may come than there
        is room for, and none at the end of a file; what came counts as written.

        >>> from pyvirtio.ring import Chain
        >>> memory = bytearray(4)
        >>> writer = Writer(Chain(0, 0, [], [memoryview(memory)]))
        >>> fd = os.memfd_create("disk")
        >>> _ = os.pwrite(fd, b"sector", 0)
        >>> writer.read_from(fd, 3, offset=2), writer.room, bytes(memory[:3])
        (3, 1, b'cto')
        >>> os.close(fd)

        Raises:
            OSError: the system refuses; BlockingIOError where ``fd`` would have to wait and must not. Nothing counts
                as written then.
            LocalError: ``offset`` is negative.
        """
        parts = self.views(limit)[:MOST_PARTS]
        number = _transfer(os.readv, os.preadv, fd, parts, offset)
        self.advance(number)
        return number


def _transfer(
    here: Callable[..., int], there: Callable[..., int], fd: int, parts: Sequence[memoryview], offset: int | None
) -> int:
    """Make the system call at the descriptor's own position or at ``offset``."""
    if offset is None:
        return here(fd, parts)
    if offset < 0:  # the system takes -1 for the descriptor's own position
        raise LocalError(f"the offset {offset} is before the file's beginning; give one from 0 on")
    return there(fd, parts, offset)


def open_streams(chain: Chain) -> tuple[Reader, Writer]:
    """Return the reader and the writer of a request: those of the engine that popped it, where it has its own."""
    return chain.streams() if chain.streams else (Reader(chain), Writer(chain))
