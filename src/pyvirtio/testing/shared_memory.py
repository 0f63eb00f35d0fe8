"""Memory that a front-end shares with a back-end: a file, mapped here too."""

from __future__ import annotations

import mmap
import os

from pyvirtio.memory import MemoryTable, Region
from pyvirtio.memory.arena import Arena
from pyvirtio.system import memory_file
from pyvirtio.system.closing import Closing
from pyvirtio.vhost_user import messages as m


class SharedMemory(Closing):
    """Memory that a front-end shares: a file, mapped here too; by default one that may shrink under its users.

    ``guest`` and ``user`` are the region's two addresses, ``offset`` is where it starts in the file.
    """

    def __init__(
        self, size: int = 1 << 20, *, guest: int = 0x4000_0000, user: int = 0x7F00_0000_0000, offset: int = 0
    ) -> None:
        self.size = size
        self.guest = guest
        self.user = user
        self.offset = offset
        self.fd = memory_file.create("pyvirtio-front-end")
        os.ftruncate(self.fd, offset + size)
        slack = offset % mmap.PAGESIZE
        mapping = mmap.mmap(self.fd, size + slack, offset=offset - slack)
        self.table = MemoryTable([Region(guest, memoryview(mapping)[slack:])])
        self.arena = Arena(guest, size)

    def region(self, **changes: int) -> m.MemoryRegion:
        """Return the region as SET_MEM_TABLE wants it, with some fields changed."""
        return m.MemoryRegion(self.guest, self.size, self.user, self.offset).replace(**changes)

    def single(self, **changes: int) -> m.SingleRegion:
        """Return the region as ADD_MEM_REG and REM_MEM_REG want it, with some fields changed."""
        return m.SingleRegion(0, self.guest, self.size, self.user, self.offset).replace(**changes)

    def to_user(self, address: int) -> int:
        """Translate a guest address to the front-end's own."""
        return address - self.guest + self.user

    def close(self) -> None:
        """Close the file and let go of the mapping, which goes when no queue uses it either."""
        self.table = MemoryTable()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
