"""Objects of Python whose slices are their bytes: a `bytearray`, an `mmap.mmap`, or anything that behaves like one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pyvirtio.errors import LocalError

if TYPE_CHECKING:
    from pyvirtio.device import Reader, Writer

CHUNK = 1 << 20
"""The most bytes that an object is asked for at once."""


class ByteObject(Protocol):
    """What stands for a disk: its length, and slices that are bytes.

    An object without ``__setitem__`` is read-only. One with a ``flush`` method is told when data has to last.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, where: slice, /) -> bytes | bytearray | memoryview: ...


class ObjectStorage:
    """An object as a `pyvirtio.storage.Storage`.

    Raises:
        LocalError: the object cannot be written, and is not opened ``readonly``.
    """

    block_size = 512

    def __init__(self, content: ByteObject, *, readonly: bool) -> None:
        if not readonly and (not hasattr(content, "__setitem__") or getattr(content, "readonly", False)):
            raise LocalError(f"a {type(content).__name__} cannot be written; give a bytearray, or readonly=True")
        self._content: ByteObject = content

    def size(self) -> int:
        """Return how many bytes there are now."""
        return len(self._content)

    async def read_into(self, writer: Writer, length: int, offset: int, /) -> int:
        """Read ``length`` bytes into the request's next room; return the number that came."""
        done = 0
        for start, end in _chunks(offset, length):
            data = bytes(self._content[start:end])
            writer.write(data)
            done += len(data)
            if len(data) < end - start:
                break
        return done

    async def write_from(self, reader: Reader, length: int, offset: int, /) -> int:
        """Write the request's next ``length`` bytes, all of them."""
        for start, end in _chunks(offset, length):
            self._set(start, reader.read(end - start))
        return length

    async def sync(self) -> None:
        """Have the object flush, where it can."""
        if flush := getattr(self._content, "flush", None):
            flush()

    async def discard(self, offset: int, length: int) -> None:
        """Do nothing: an object keeps what it has."""

    async def zero(self, offset: int, length: int, *, may_unmap: bool) -> None:  # noqa: ARG002  # it has no holes
        """Write zeros."""
        for start, end in _chunks(offset, length):
            self._set(start, bytes(end - start))

    def close(self) -> None:
        """Leave the object to its owner."""

    def _set(self, start: int, data: bytes) -> None:
        if start + len(data) > len(self._content):  # a bytearray would grow
            raise OSError(f"the object has {len(self._content)} bytes; {len(data)} at {start} do not fit")
        self._content[start : start + len(data)] = data  # type: ignore[index]  # the constructor has looked


def _chunks(offset: int, length: int) -> list[tuple[int, int]]:
    end = offset + length
    return [(start, min(start + CHUNK, end)) for start in range(offset, end, CHUNK)]
