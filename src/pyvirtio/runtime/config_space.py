"""A configuration space: bytes, which of them a driver may write, and how often it changed (VIRTIO 1.4, 2.5)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Change = tuple[int, int]
    """A byte that changed: its offset and its new value."""


class ConfigSpace:
    r"""The one configuration space of a device, or one process's copy of it.

    ``content`` is how it begins, ``writable`` a byte of 255 for each byte that a driver may write.

    >>> space = ConfigSpace(b"ab", b"\x00\xff")
    >>> space.write(0, b"xy")
    [(1, 121)]
    >>> space.read(0, 2), space.generation
    (b'ay', 0)
    """

    def __init__(self, content: bytes, writable: bytes) -> None:
        self._first = content
        self._writable = writable
        self._bytes = bytearray(content)
        self.generation = 0
        """How often the device changed it."""

    def __len__(self) -> int:
        return len(self._bytes)

    @property
    def content(self) -> bytes:
        """All of it."""
        return bytes(self._bytes)

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset`` on, fewer at the end."""
        return bytes(self._bytes[offset : offset + length])

    def write(self, offset: int, data: bytes, *, by_driver: bool = True) -> list[Change]:
        """Write what a driver may write, or anything where a migration restores it; return the bytes written."""
        allowed = self._writable if by_driver else b"\xff" * len(self._bytes)
        written = [(at, byte) for at, byte in enumerate(data, start=offset) if at < len(allowed) and allowed[at]]
        self._set(written)
        return written

    def replace(self, data: bytes) -> list[Change]:
        """Take the device's new content; return the bytes that differ, for a driver may be writing others."""
        changes = [(at, byte) for at, byte in enumerate(data) if byte != self._bytes[at]]
        self.apply(changes)
        return changes

    def apply(self, changes: Iterable[Change]) -> None:
        """Make changes of the device, in this process or another."""
        self._set(changes)
        self.generation += 1

    def reset(self) -> None:
        """Go back to the first content."""
        self._bytes[:] = self._first
        self.generation += 1

    def _set(self, changes: Iterable[Change]) -> None:
        for at, byte in changes:
            self._bytes[at] = byte
