"""A request as a stream of bytes: for devices whose requests or answers vary in length."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from pyvirtio.ring import Chain
    from pyvirtio.spec.struct import ByteOrder, Struct

    S = TypeVar("S", bound=Struct)


class Reader:
    """Reads the device-readable bytes of a request, each byte once and in order."""

    __slots__ = ("_chain", "_order", "_position")

    def __init__(self, chain: Chain, order: ByteOrder = "little") -> None:
        self._chain = chain
        self._order = order
        self._position = 0

    @property
    def left(self) -> int:
        """The bytes that were not read yet."""
        return self._chain.length - self._position

    def read(self, limit: int) -> bytes:
        """Read at most ``limit`` bytes; fewer only at the request's end."""
        data = self._chain.read(limit, self._position)
        self._position += len(data)
        return data

    def take(self, kind: type[S]) -> S:
        """Read one structure.

        Raises:
            ShortData: the request ends before it.
        """
        return kind.unpack(self.read(kind.nbytes), self._order)


class Writer:
    """Writes the device-writable bytes of a request, in order."""

    __slots__ = ("_chain", "_order")

    def __init__(self, chain: Chain, order: ByteOrder = "little") -> None:
        self._chain = chain
        self._order = order

    @property
    def room(self) -> int:
        """The bytes that can still be written."""
        return self._chain.room - self._chain.written

    def write(self, data: bytes) -> None:
        """Write ``data``.

        Raises:
            ChainError: the driver left less room; nothing is written then.
        """
        self._chain.write(data)

    def put(self, answer: Struct) -> None:
        """Write one structure; raises `ChainError` as `write` does."""
        if not isinstance(answer, tuple):
            raise TypeError(f"an answer of type {type(answer).__name__}; give a structure")
        self._chain.write(answer.pack(self._order))
