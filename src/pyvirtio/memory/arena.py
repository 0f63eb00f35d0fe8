"""An allocator for a driver's buffers in memory that it shares with the device."""

from __future__ import annotations

from pyvirtio.errors import LocalError


class Arena:
    """Hands out blocks of ``size`` bytes of address space that starts at ``base``.

    Blocks come in powers of two from 64 bytes on, and a freed block is kept for the next of its
    kind: a driver asks for the same few sizes again and again.

    >>> arena = Arena(base=0x1000, size=256)
    >>> first = arena.allocate(100)
    >>> hex(first)
    '0x1000'
    >>> arena.free(first, 100)
    >>> arena.allocate(128) == first
    True
    """

    def __init__(self, base: int, size: int) -> None:
        self._next = base
        self._end = base + size
        self._free: dict[int, list[int]] = {}

    def allocate(self, length: int) -> int:
        """Return the address of ``length`` free bytes.

        Raises:
            LocalError: no block of that size is left.
        """
        block = _block(length)
        if free := self._free.get(block):
            return free.pop()
        if self._next + block > self._end:
            raise LocalError(
                f"no {length} bytes are left in the driver's shared memory; "
                "collect results, ask for shorter answers, or open the driver with more memory"
            )
        address = self._next
        self._next += block
        return address

    def free(self, address: int, length: int) -> None:
        """Take back what `allocate` returned for the same ``length``."""
        self._free.setdefault(_block(length), []).append(address)


def _block(length: int) -> int:
    return max(64, 1 << (length - 1).bit_length())
