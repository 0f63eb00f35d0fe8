"""The memory that a front-end shares, as vhost-user describes it."""

from __future__ import annotations

import os
from itertools import pairwise

from pyvirtio.errors import ProtocolError
from pyvirtio.memory.files import check_file, map_file
from pyvirtio.memory.table import MAXIMUM_REGIONS
from pyvirtio.transport import FileRegion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.vhost_user.messages import MemoryRegion, SingleRegion


class SharedRegion(FileRegion):
    """A region, and where the front-end itself sees it; owns its descriptor."""

    __slots__ = ("user",)

    def __init__(self, sent: MemoryRegion | SingleRegion, fd: int) -> None:
        super().__init__(sent.guest, sent.size, fd, sent.offset)
        self.user = sent.user

    def same_place(self, sent: MemoryRegion | SingleRegion) -> bool:
        """Return whether ``sent`` describes this region; the offset does not count."""
        return (self.base, self.size, self.user) == (sent.guest, sent.size, sent.user)


def check_regions(regions: list[SharedRegion], known: list[SharedRegion]) -> None:
    """Refuse an impossible table; those regions that are not ``known`` are mapped for a trial, one after the other.

    Raises:
        ProtocolError: too many regions; one that is empty, wraps round, overlaps another, outgrows its file,
            or cannot be mapped.
    """
    if len(regions) > MAXIMUM_REGIONS:
        raise ProtocolError(f"{len(regions)} memory regions; {MAXIMUM_REGIONS} is the most")
    for region in regions:
        if any(start + region.size > 1 << 64 for start in (region.base, region.user, region.offset)):
            raise ProtocolError(f"{region} goes beyond 64 bits")
        if region in known:
            check_file(region.fd, region.offset, region.size)
        else:
            map_file(region.fd, region.offset, region.size)
    for name in ("base", "user"):
        starts = sorted((getattr(region, name), region.size) for region in regions)
        for (low, size), (high, _) in pairwise(starts):
            if low + size > high:
                raise ProtocolError(f"the memory regions at {low:#x} and {high:#x} overlap")


def guest_address(regions: list[SharedRegion], user: int, length: int) -> int:
    """Translate ``length`` bytes at the front-end's address ``user`` to their guest address.

    Raises:
        ProtocolError: they do not lie wholly in one region.
    """
    for region in regions:
        if region.user <= user and user + length <= region.user + region.size:
            return region.base + user - region.user
    raise ProtocolError(f"{length} bytes at the front-end's address {user:#x} are in no memory region")


def read_memory(regions: list[SharedRegion], guest: int, length: int) -> bytes:
    """Read guest memory without mapping it; fewer bytes come back where the file has no more.

    Raises:
        ProtocolError: the bytes do not lie wholly in one region.
        OSError: the file cannot be read.
    """
    for region in regions:
        if region.base <= guest and guest + length <= region.base + region.size:
            return os.pread(region.fd, length, region.offset + guest - region.base)
    raise ProtocolError(f"{length} bytes at {guest:#x} are in no memory region")


def close_regions(regions: list[SharedRegion]) -> None:
    """Close the regions' descriptors."""
    for region in regions:
        os.close(region.fd)
