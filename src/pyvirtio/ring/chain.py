"""A descriptor chain, as the device side sees it once it was popped."""

from __future__ import annotations

from pyvirtio.errors import ChainError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, ClassVar

OVER = (
    "this request is over, and its memory belongs to the driver again; "
    "copy what you need before the method returns, or make the method `async def` and await there"
)
"""What the reader and the writer of a request say once it is over."""


class Chain:
    """One request: what the device may read, and where it may write.

    ``readable`` and ``writable`` are views of guest memory, in order, already checked. What is in
    them can change at any moment, so read each byte once. ``error`` says why a chain cannot be
    used; such a chain has no buffers and is pushed back empty. ``written`` counts what was
    written, and is what the driver will be told (VIRTIO 1.4, 2.7.8.2). ``sequence`` numbers the
    requests of a queue in order of arrival. ``streams`` is None, or where an engine has a reader and a writer of its
    own, the method that returns both.

    >>> chain = Chain(0, 1, [memoryview(b"request")])
    >>> chain.read(4), chain.length
    (b'requ', 7)
    """

    __slots__ = ("error", "head", "readable", "sequence", "writable", "written")

    streams: ClassVar[Callable[..., tuple[Any, Any]] | None] = None

    def __init__(
        self,
        head: int,
        sequence: int,
        readable: Sequence[memoryview] = (),
        writable: Sequence[memoryview] = (),
        error: ChainError | None = None,
    ) -> None:
        self.head = head
        self.sequence = sequence
        self.readable = readable
        self.writable = writable
        self.error = error
        self.written = 0

    @property
    def length(self) -> int:
        """The bytes that the device may read."""
        return len(self.readable[0]) if len(self.readable) == 1 else sum(map(len, self.readable))

    @property
    def room(self) -> int:
        """The bytes that the device may write."""
        return sum(map(len, self.writable))

    def read(self, limit: int, start: int = 0) -> bytes:
        """Copy at most ``limit`` readable bytes, from offset ``start`` on.

        >>> chain = Chain(0, 0, [memoryview(b"hello "), memoryview(b"device")])
        >>> chain.read(100), chain.read(4, start=4)
        (b'hello device', b'o de')
        """
        if len(self.readable) == 1:  # most requests
            view = self.readable[0]
            return bytes(view[start : start + limit] if start or limit < len(view) else view)
        pieces, skip = [], start
        for view in self.readable:
            if limit <= 0:
                break
            piece = bytes(view[skip : skip + limit])
            skip = max(0, skip - len(view))
            limit -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def write(self, data: bytes) -> None:
        """Write ``data`` after what was written before.

        Raises:
            ChainError: there is no room for it; nothing is written then.
        """
        skip, at, size = self.written, 0, len(data)
        if not skip and len(self.writable) == 1 and size <= len(view := self.writable[0]):  # most answers
            view[:size] = data
            self.written = size
            return
        if len(data) > self.room - skip:
            raise ChainError(f"an answer of {len(data)} bytes; the driver left room for {self.room - skip}")
        for view in self.writable:
            if skip < len(view):
                part = data[at : at + len(view) - skip]
                view[skip : skip + len(part)] = part
                at += len(part)
                if at == len(data):
                    break
            skip = max(0, skip - len(view))
        self.written += len(data)

    def __repr__(self) -> str:
        return f"Chain(head={self.head}, readable={self.length}, writable={self.room}, error={self.error!r})"
