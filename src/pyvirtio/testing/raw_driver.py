"""The driver's end of a split virtqueue, without rules: for tests of a device.

>>> from pyvirtio.memory import MemoryTable, Region
>>> driver = RawDriver(MemoryTable([Region(0, bytearray(8192))]), size=8)
>>> head = driver.request(b"hello", room=4)
>>> driver.make_available(head)
>>> [driver.descriptor(index).length for index in (0, 1)], driver.avail_idx
([5, 4], 1)

From here on a test changes what it likes:

>>> driver.set_descriptor(1, address=1 << 63, length=4, flags=2)
>>> driver.avail_idx += 1000
"""

from __future__ import annotations

from pyvirtio.errors import LocalError
from pyvirtio.memory.arena import Arena
from pyvirtio.spec import split
from pyvirtio.testing.raw_ring import Descriptor, RawRing, RingLayout, UsedElement, lay_out

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pyvirtio.memory import MemoryTable

FILL = 0xEE
"""What the bytes of a writable buffer are before the device writes them."""


class RawDriver(RawRing):
    """A driver that owns a ring and buffers in ``memory``.

    By default the ring lies at the start of the first region and buffers in the rest of it; ``layout`` places the
    ring elsewhere, ``arena`` the buffers. ``index`` is where both indexes start.
    """

    def __init__(
        self,
        memory: MemoryTable,
        size: int = 16,
        *,
        layout: RingLayout | None = None,
        arena: Arena | None = None,
        index: int = 0,
    ) -> None:
        first = memory.regions[0]
        layout = layout or lay_out(size, first.base)
        super().__init__(memory, layout)
        self.arena = arena or Arena(layout.end, max(0, first.end - layout.end))
        self.avail_idx = self.used_idx = self.used_event = self.avail_event = index
        self._reaped = index
        self._free = list(range(self.size))
        self._chains: dict[int, list[int]] = {}

    # Well-formed buffers.

    def readable(self, data: bytes) -> Descriptor:
        """Put ``data`` into memory; return a descriptor of it."""
        address = self.arena.allocate(max(1, len(data)))
        self.poke(address, data)
        return Descriptor(address, len(data))

    def writable(self, length: int) -> Descriptor:
        """Return a descriptor of a buffer that the device may write; it holds `FILL`."""
        address = self.arena.allocate(max(1, length))
        self.poke(address, bytes([FILL]) * length)
        return Descriptor(address, length, split.F_WRITE)

    def table(self, buffers: Iterable[Descriptor]) -> Descriptor:
        """Put an indirect table of ``buffers`` into memory; return the descriptor that refers to it."""
        data = b"".join(descriptor.pack() for descriptor in link(buffers))
        return self.readable(data)._replace(flags=split.F_INDIRECT)

    # Well-formed chains.

    def chain(self, buffers: Sequence[Descriptor], *, at: Sequence[int] | None = None) -> int:
        """Write a chain into free entries of the descriptor table, or into the entries ``at``; return its head.

        Raises:
            LocalError: not enough entries are free.
        """
        if at is None:
            if len(buffers) > len(self._free):
                raise LocalError(
                    f"{len(buffers)} entries of the descriptor table are wanted, and free are {self._free}; "
                    "give `at` to use others again"
                )
            at = self._free[: len(buffers)]
        self._free = [index for index in self._free if index not in at]
        for index, descriptor in zip(at, link(buffers, at), strict=True):
            self.set_descriptor(index, *descriptor)
        self._chains[at[0]] = list(at)
        return at[0]

    def request(self, data: bytes = b"", room: int = 0, *, indirect: bool = False) -> int:
        """Write a chain of a readable buffer, if there is data, and a writable one, if there is room."""
        buffers = [self.readable(data)] if data else []
        if room:
            buffers.append(self.writable(room))
        return self.chain([self.table(buffers)] if indirect else buffers)

    def make_available(self, *heads: int) -> None:
        """Put heads into the available ring, then move its index: what a driver does."""
        for slot, head in enumerate(heads, start=self.avail_idx):
            self.set_avail_ring(slot, head)
        self.avail_idx += len(heads)

    # What came back.

    def reap(self) -> list[UsedElement]:
        """Read what the device returned since the last time, and count those entries free again."""
        number = (self.used_idx - self._reaped) & 0xFFFF
        elements = [self.used_ring(self._reaped + place) for place in range(number)]
        self._reaped = (self._reaped + number) & 0xFFFF
        for element in elements:
            self._free.extend(self._chains.pop(element.id, ()))
        return elements

    def buffers(self, head: int) -> list[Descriptor]:
        """Read the chain at ``head`` back from memory, an indirect table included, at most once round the queue."""
        return walk(self, head)

    def answer(self, head: int) -> bytes:
        """Read the writable buffers of the chain at ``head``."""
        return b"".join(self.peek(b.address, b.length) for b in self.buffers(head) if b.flags & split.F_WRITE)


def link(buffers: Iterable[Descriptor], at: Sequence[int] | None = None) -> list[Descriptor]:
    """Return the descriptors with NEXT set so that each but the last continues at the following place of ``at``.

    >>> [(d.flags, d.next) for d in link([Descriptor(0, 1), Descriptor(4, 1), Descriptor(8, 1)], at=[5, 3, 7])]
    [(1, 3), (1, 7), (0, 0)]
    """
    linked = list(buffers)
    places = range(len(linked)) if at is None else at
    for place in range(len(linked) - 1):
        flags = linked[place].flags | split.F_NEXT
        linked[place] = linked[place]._replace(flags=flags, next=places[place + 1])
    return linked


def walk(ring: RawRing, head: int) -> list[Descriptor]:
    """Follow a chain without judging it, for at most as many descriptors as the queue has; return its buffers."""
    found: list[Descriptor] = []
    table: list[Descriptor] = []
    index = head
    for _ in range(ring.size + 1):  # one more for the descriptor that refers to a table
        descriptor = table[index] if table else ring.descriptor(index)
        if descriptor.flags & split.F_INDIRECT:
            data = ring.peek(descriptor.address, descriptor.length)
            table = [Descriptor(*fields) for fields in split.DESCRIPTOR.iter_unpack(data)]
            index = 0
            continue
        found.append(descriptor)
        if not descriptor.flags & split.F_NEXT:
            break
        index = descriptor.next
    return found
