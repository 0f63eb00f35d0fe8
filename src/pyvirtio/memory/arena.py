"""An allocator for a driver's buffers in memory that it shares with the device."""

from __future__ import annotations

from pyvirtio.errors import LocalError

SMALLEST = 64
"""The bytes of the smallest block, and what every block is aligned to."""


class Arena:
    """Hands out blocks of ``size`` bytes of address space that starts at ``base``.

    Blocks come in powers of two from 64 bytes on. A freed block is kept for the next request of its size, because a
    driver asks for the same few sizes again and again. When no block is large enough, free neighbours are joined
    (two halves of one larger block, as in a buddy allocator): what was freed can be allocated in any other size.

    >>> arena = Arena(base=0x1000, size=256)
    >>> first, second = arena.allocate(100), arena.allocate(100)
    >>> hex(first), hex(second)
    ('0x1000', '0x1080')
    >>> arena.free(second, 100)
    >>> arena.free(first, 100)
    >>> hex(arena.allocate(256))
    '0x1000'
    """

    def __init__(self, base: int, size: int) -> None:
        self._base = base
        self._size = size
        # The offsets of free blocks by the blocks' size. At first these are as large as alignment allows.
        self._free: dict[int, list[int]] = {}
        offset = 0
        while (left := size - offset) >= SMALLEST:
            block = 1 << (left.bit_length() - 1)
            self._free[block] = [offset]
            offset += block

    def allocate(self, length: int) -> int:
        """Return the address of ``length`` bytes, aligned to 64.

        Raises:
            LocalError: no free block is that large.
        """
        block = _block(length)
        if free := self._free.get(block):
            return self._base + free.pop()
        offset = self._split(block)
        if offset is None:
            self._join_free_neighbours()
            offset = self._split(block)
        if offset is None:
            raise LocalError(
                f"no {length} bytes are free in the driver's shared memory of {self._size} bytes: await answers before "
                "you submit more, ask for shorter answers, or open the driver with open_driver(..., memory=BYTES)"
            )
        return self._base + offset

    def free(self, address: int, length: int) -> None:
        """Take back what `allocate` returned for the same ``length``."""
        self._free.setdefault(_block(length), []).append(address - self._base)

    def _split(self, block: int) -> int | None:
        """Take a block out of the smallest free one that holds it, and keep the rest in halves."""
        larger = min((size for size, free in self._free.items() if free and size >= block), default=None)
        if larger is None:
            return None
        offset = self._free[larger].pop()
        while larger > block:
            larger >>= 1
            self._free.setdefault(larger, []).append(offset + larger)
        return offset

    def _join_free_neighbours(self) -> None:
        """Join each two free halves of a block, from the smallest blocks on."""
        block = SMALLEST
        while block < self._size:
            free = set(self._free.get(block, ()))
            joined = [offset for offset in free if not offset & block and offset + block in free]
            if joined:
                halves = {half for offset in joined for half in (offset, offset + block)}
                self._free[block] = sorted(free - halves, reverse=True)
                self._free.setdefault(2 * block, []).extend(joined)
            block *= 2


def _block(length: int) -> int:
    return max(SMALLEST, 1 << (length - 1).bit_length())
