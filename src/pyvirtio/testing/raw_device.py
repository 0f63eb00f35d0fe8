"""The device's end of a split virtqueue, without rules: for tests of a driver.

>>> from pyvirtio.memory import MemoryTable, Region
>>> from pyvirtio.testing.raw_driver import RawDriver
>>> memory = MemoryTable([Region(0, bytearray(8192))])
>>> driver = RawDriver(memory, size=8)
>>> device = RawDevice(memory, driver.layout)
>>> driver.make_available(driver.request(b"hello", room=4))
>>> for head in device.heads():
...     device.read(head)
...     device.answer(head, b"ok")
b'hello'
>>> driver.reap()
[UsedElement(id=0, len=2)]

From here on a test returns what it likes:

>>> device.add_used((7, 1 << 31))
>>> device.used_idx += 1000
"""

from __future__ import annotations

from pyvirtio.spec import split
from pyvirtio.testing.raw_driver import walk
from pyvirtio.testing.raw_ring import Descriptor, RawRing, RingLayout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.memory import MemoryTable
    from pyvirtio.transport import QueueSetup


class RawDevice(RawRing):
    """A device that answers from a ring which somebody else laid out."""

    def __init__(self, memory: MemoryTable, layout: RingLayout) -> None:
        super().__init__(memory, layout)
        self._taken = self.used_idx

    @classmethod
    def of(cls, memory: MemoryTable, setup: QueueSetup) -> RawDevice:
        """Return the device's end of the queue that a driver's transport made known."""
        return cls(memory, RingLayout(setup.size, setup.descriptor_area, setup.driver_area, setup.device_area, 0))

    def heads(self) -> list[int]:
        """Take the heads that became available since the last time."""
        number = (self.avail_idx - self._taken) & 0xFFFF
        heads = [self.avail_ring(self._taken + place) for place in range(number)]
        self._taken = (self._taken + number) & 0xFFFF
        return heads

    def buffers(self, head: int) -> list[Descriptor]:
        """Read a chain, an indirect table included."""
        return walk(self, head)

    def read(self, head: int) -> bytes:
        """Read the readable buffers of a chain."""
        return b"".join(self.peek(b.address, b.length) for b in self.buffers(head) if not b.flags & split.F_WRITE)

    def write(self, head: int, data: bytes) -> int:
        """Write ``data`` into the writable buffers of a chain; return how much of it found room."""
        at = 0
        for address, length, flags, _ in self.buffers(head):
            if flags & split.F_WRITE:
                self.poke(address, data[at : at + length])
                at = min(len(data), at + length)
        return at

    def add_used(self, *elements: tuple[int, int]) -> None:
        """Put pairs of head and length into the used ring, then move its index."""
        for slot, (head, length) in enumerate(elements, start=self.used_idx):
            self.set_used_ring(slot, head, length)
        self.used_idx += len(elements)

    def answer(self, head: int, data: bytes = b"") -> None:
        """Do as a device does: write ``data``, and return the chain."""
        self.add_used((head, self.write(head, data)))
