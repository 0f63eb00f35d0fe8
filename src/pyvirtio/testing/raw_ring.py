"""The memory of a split virtqueue without any rules: each field can be read and written, by whoever holds it.

>>> from pyvirtio.memory import MemoryTable, Region
>>> ring = RawRing(MemoryTable([Region(0x1000, bytearray(4096))]), lay_out(4, base=0x1000))
>>> ring.set_descriptor(2, address=0xDEAD, length=16, flags=1, next=2)  # it continues at itself
>>> ring.set_avail_ring(0, 2)
>>> ring.avail_idx += 1
>>> ring.descriptor(2), ring.avail_idx
(Descriptor(address=57005, length=16, flags=1, next=2), 1)
"""

from __future__ import annotations

from typing import NamedTuple

from pyvirtio.memory import words
from pyvirtio.spec import split
from pyvirtio.transport import QueueSetup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvirtio.memory import MemoryTable


class Descriptor(NamedTuple):
    """A descriptor (VIRTIO 1.4, 2.7.5): any numbers that fit in its fields."""

    address: int
    length: int
    flags: int = 0
    next: int = 0

    def pack(self) -> bytes:
        """Return its 16 bytes."""
        return split.DESCRIPTOR.pack(*self)


class UsedElement(NamedTuple):
    """An element of the used ring (VIRTIO 1.4, 2.7.8): the head of a chain, the bytes written into it."""

    id: int
    len: int


class RingLayout(NamedTuple):
    """Where the parts of a ring lie: guest addresses in bytes, and the first address behind them."""

    size: int
    descriptors: int
    available: int
    used: int
    end: int


def lay_out(size: int, base: int) -> RingLayout:
    """Place a ring of ``size`` entries at ``base``, each part on a cache line of its own.

    >>> lay_out(128, base=0x1000)
    RingLayout(size=128, descriptors=4096, available=6144, used=6464, end=7552)
    """
    available = _next_line(base + split.table_size(size))
    used = _next_line(available + split.available_size(size))
    return RingLayout(size, base, available, used, _next_line(used + split.used_size(size)))


def _next_line(address: int) -> int:
    return (address + 63) & ~63


class Word:
    """An attribute that is a field of 16 bits in the ring, loaded and stored with one access each.

    What is stored is taken modulo 2**16, as indexes are.
    """

    def __init__(self, part: str, index: int | None) -> None:
        self._part = part
        self._index = index

    def _find(self, ring: RawRing) -> tuple[memoryview, int]:
        # The event fields lie behind the rings, in 16-bit words counted by the queue's size.
        if self._index is not None:
            index = self._index
        elif self._part == "available":
            index = split.used_event_word(ring.size)
        else:
            index = split.avail_event_word(ring.size)
        return getattr(ring, f"{self._part}_words"), index

    def __get__(self, ring: RawRing | None, _owner: type) -> Any:
        """Load the field; on the class, give the attribute itself."""
        if ring is None:
            return self
        view, index = self._find(ring)
        return view[index]

    def __set__(self, ring: RawRing, value: int) -> None:
        """Store the field."""
        view, index = self._find(ring)
        view[index] = value & 0xFFFF


class RawRing:
    """A split virtqueue in ``memory`` at ``layout``, both sides' parts.

    Nothing is checked but that the available and used ring lie in memory, each in one region; a layout may be
    misaligned and of a size that no virtqueue may have.
    """

    avail_flags = Word("available", split.FLAGS)
    avail_idx = Word("available", split.IDX)
    used_event = Word("available", None)
    used_flags = Word("used", split.FLAGS)
    used_idx = Word("used", split.IDX)
    avail_event = Word("used", None)

    def __init__(self, memory: MemoryTable, layout: RingLayout) -> None:
        self.memory = memory
        self.layout = layout
        self.size = layout.size
        self.available_words = words(memory.view(layout.available, split.available_size(self.size)), "H")
        self.used_words = words(memory.view(layout.used, split.used_size(self.size)), "H")

    def setup(
        self, index: int, features: int, *, position: int | None = None, kick_fd: int = -1, interrupt_fd: int = -1
    ) -> QueueSetup:
        """Return the set-up by which a transport makes it known as queue ``index``.

        ``position`` is the available index to go on from, by default the one that stands in the ring.
        """
        _, descriptors, available, used, _ = self.layout
        return QueueSetup(
            index,
            self.size,
            descriptors,
            available,
            used,
            features,
            position=self.avail_idx if position is None else position,
            kick_fd=kick_fd,
            interrupt_fd=interrupt_fd,
        )

    # Any byte.

    def peek(self, address: int, length: int) -> bytes:
        """Read guest memory."""
        return self.memory.read(address, length)

    def poke(self, address: int, data: bytes) -> None:
        """Write guest memory."""
        self.memory.write(address, data)

    # The descriptor table.

    def descriptor(self, index: int) -> Descriptor:
        """Read an entry of the descriptor table."""
        data = self.peek(self.layout.descriptors + split.DESCRIPTOR_SIZE * index, split.DESCRIPTOR_SIZE)
        return Descriptor(*split.DESCRIPTOR.unpack(data))

    def set_descriptor(self, index: int, address: int, length: int, flags: int = 0, next: int = 0) -> None:  # noqa: A002  # the field's name
        """Write an entry of the descriptor table."""
        place = self.layout.descriptors + split.DESCRIPTOR_SIZE * index
        self.poke(place, Descriptor(address, length, flags, next).pack())

    # The two rings; a slot is taken modulo the queue's size.

    def avail_ring(self, slot: int) -> int:
        """Read a slot of the available ring."""
        return int(self.available_words[split.RING + slot % self.size])

    def set_avail_ring(self, slot: int, head: int) -> None:
        """Write a slot of the available ring."""
        self.available_words[split.RING + slot % self.size] = head

    def used_ring(self, slot: int) -> UsedElement:
        """Read a slot of the used ring."""
        place = self.layout.used + 4 + 8 * (slot % self.size)
        return UsedElement(*split.USED_ELEMENT.unpack(self.peek(place, 8)))

    def set_used_ring(self, slot: int, head: int, length: int) -> None:
        """Write a slot of the used ring."""
        place = self.layout.used + 4 + 8 * (slot % self.size)
        self.poke(place, split.USED_ELEMENT.pack(head, length))
