"""A driver that fills its ring at random: often well-formed, often almost, sometimes noise.

>>> from random import Random
>>> from pyvirtio.memory import MemoryTable, Region
>>> from pyvirtio.testing.raw_driver import RawDriver
>>> driver = RawDriver(MemoryTable([Region(0, bytearray(8192))]), size=8)
>>> RingFuzzer(driver, Random(1)).scramble()
>>> driver.avail_idx > 0
True

The same seed gives the same ring, so that a failure can be repeated.
"""

from __future__ import annotations

from pyvirtio.spec import split
from pyvirtio.testing.raw_ring import Descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from random import Random

    from pyvirtio.testing.raw_driver import RawDriver

EDGES = (0, 1, 2, 15, 16, 17, 4096, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)
"""Numbers at which arithmetic goes wrong."""


class RingFuzzer:
    """Scrambles the ring of ``driver`` with the choices of ``random``."""

    def __init__(self, driver: RawDriver, random: Random) -> None:
        self.driver = driver
        self._random = random
        self._top = max(region.end for region in driver.memory.regions)

    def scramble(self) -> None:
        """Fill table and available ring again, damage some of it, and make some of it available."""
        driver, random = self.driver, self._random
        for index in range(driver.size):
            driver.set_descriptor(index, *self.descriptor(driver.size))
        for slot in range(driver.size):
            driver.set_avail_ring(slot, self._index(driver.size))
        for _ in range(random.choice((0, 0, 1, 8))):
            place = driver.layout.descriptors + random.randrange(split.table_size(driver.size))
            driver.poke(place, random.randbytes(1))
        driver.avail_flags = random.choice((0, 1, random.getrandbits(16)))
        driver.used_event = random.choice((driver.used_idx, random.getrandbits(16)))
        ahead = random.randint(1, driver.size) if random.random() < 0.9 else random.getrandbits(16)
        driver.avail_idx += ahead

    def descriptor(self, limit: int, *, inside: bool = False) -> Descriptor:
        """Make up a descriptor of a table with ``limit`` entries; ``inside`` an indirect table or not."""
        random = self._random
        flags = random.choice((0, 0, 1, 1, 2, 2, 3, 3, 3))
        if random.random() < (0.02 if inside else 0.2):
            flags |= split.F_INDIRECT
            if random.random() < 0.9:
                flags &= ~split.F_NEXT
            if not inside and random.random() < 0.8:
                return self._table()._replace(flags=flags)
        if random.random() < 0.02:
            flags = random.getrandbits(16)
        return Descriptor(self._address(), self._length(), flags, self._index(limit))

    def _table(self) -> Descriptor:
        driver, random = self.driver, self._random
        entries = random.randint(1, driver.size if random.random() < 0.9 else 2 * driver.size)
        address = self._random.randrange(driver.layout.end, self._top)
        data = b"".join(self.descriptor(entries, inside=True).pack() for _ in range(entries))
        for view in driver.memory.views(address, min(len(data), self._contiguous(address))):
            view[:] = data[: len(view)]
        return Descriptor(address, len(data) + (random.random() < 0.05))

    def _contiguous(self, address: int) -> int:
        return next((r.end - address for r in self.driver.memory.regions if r.base <= address < r.end), 0)

    def _index(self, limit: int) -> int:
        random = self._random
        return random.randrange(limit) if random.random() < 0.98 else random.choice((limit, 0xFFFF))

    def _address(self) -> int:
        random = self._random
        if random.random() < 0.95:
            return random.randrange(self._top)
        return random.choice(
            (self._top - 1, self._top, random.getrandbits(64), 2**64 - 1, 2**64 - random.choice(EDGES[1:]))
        )

    def _length(self) -> int:
        random = self._random
        return random.randrange(64) if random.random() < 0.9 else random.choice(EDGES)
