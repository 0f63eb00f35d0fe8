"""The three areas of a split virtqueue, found in guest memory and seen as numbers."""

from __future__ import annotations

from pyvirtio.errors import LocalError, NotMapped, RingError
from pyvirtio.memory import words
from pyvirtio.spec import split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.memory import MemoryTable
    from pyvirtio.ring.queue import RingSetup


class SplitLayout:
    """Descriptor table, available ring and used ring of one queue: its descriptor, driver and device area.

    The areas (VIRTIO 1.4, 2.7) are guest addresses in bytes; ``size`` is the number of entries.

    Raises:
        LocalError: the size is not one that a split virtqueue may have.
        RingError: an area is misaligned or does not lie wholly in one region.
    """

    __slots__ = ("available", "size", "table", "used", "used_pairs")

    def __init__(
        self, memory: MemoryTable, size: int, descriptor_area: int, driver_area: int, device_area: int
    ) -> None:
        if not split.is_valid_size(size):
            raise LocalError(f"a queue of {size} entries: use a power of two from 1 to 32768", section="2.7")
        self.size = size
        self.table = _area(memory, "descriptor table", descriptor_area, split.table_size(size), split.TABLE_ALIGN)
        self.available = words(
            _area(memory, "available ring", driver_area, split.available_size(size), split.AVAILABLE_ALIGN), "H"
        )
        used_view = _area(memory, "used ring", device_area, split.used_size(size), split.USED_ALIGN)
        self.used = words(used_view, "H")
        # Used elements are pairs of 32-bit words; they begin at the second one.
        self.used_pairs = words(used_view[4 : 4 + 8 * size], "I")

    @classmethod
    def of(cls, setup: RingSetup, memory: MemoryTable) -> SplitLayout:
        """Return the areas that a queue's set-up names."""
        return cls(memory, setup.size, setup.descriptor_area, setup.driver_area, setup.device_area)


def _area(memory: MemoryTable, name: str, address: int, length: int, align: int) -> memoryview:
    if address % align:
        raise RingError(f"the {name} at {address:#x} is not aligned to {align} bytes", section="2.7")
    try:
        return memory.view(address, length)
    except NotMapped as error:
        raise RingError(f"the {name} is outside memory: {error}", section="2.7") from error
