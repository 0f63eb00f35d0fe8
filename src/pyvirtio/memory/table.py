"""Guest memory as the device sees it: regions, and addresses checked against them.

>>> table = MemoryTable([Region(0x1000, bytearray(4096)), Region(0x2000, bytearray(4096))])
>>> [len(view) for view in table.views(0x1FFC, 8)]
[4, 4]
>>> table.views(0x2FFC, 8)
Traceback (most recent call last):
...
pyvirtio.errors.NotMapped: 8 bytes at 0x2ffc are not in guest memory: ...
"""

from __future__ import annotations

from bisect import bisect_right

from pyvirtio.errors import LocalError, NotMapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterable

MAXIMUM_REGIONS = 509
"""The most regions that QEMU and Linux's vhost ever send."""


class Region:
    """A contiguous piece of guest memory.

    ``base`` is its guest address in bytes; ``buffer`` is what holds it, and is kept alive as long
    as somebody uses the region.
    """

    __slots__ = ("base", "end", "view")

    def __init__(self, base: int, buffer: bytearray | memoryview | mmap.mmap) -> None:
        self.base = base
        self.view = memoryview(buffer).cast("B")
        self.end = base + len(self.view)

    def __repr__(self) -> str:
        return f"Region({self.base:#x}..{self.end:#x})"


class MemoryTable:
    """All regions of a guest. Immutable: a change makes a new table, and replaces the old one whole.

    Raises:
        LocalError: too many regions, an empty one, or two that overlap.
    """

    __slots__ = ("_bases", "_regions", "regions")

    def __init__(self, regions: Iterable[Region] = ()) -> None:
        self.regions = tuple(sorted(regions, key=lambda region: region.base))
        if len(self.regions) > MAXIMUM_REGIONS:
            raise LocalError(f"{len(self.regions)} memory regions; give {MAXIMUM_REGIONS} at most")
        if empty := [region for region in self.regions if not len(region.view)]:
            raise LocalError(f"{empty[0]} is empty; leave it out")
        for low, high in zip(self.regions, self.regions[1:], strict=False):
            if high.base < low.end:
                raise LocalError(f"{low} and {high} overlap; give regions that do not")
        # Two flat lists, for speed: translation runs for every buffer of every request.
        self._bases = [region.base for region in self.regions]
        self._regions = [(region.base, region.end, region.view) for region in self.regions]

    def view(self, address: int, length: int) -> memoryview:
        """Return ``length`` bytes at ``address`` that lie in one region.

        Raises:
            NotMapped: they do not lie in one region.
        """
        found = self.locate(address, length)
        if found is None:
            raise NotMapped(f"{length} bytes at {address:#x} are not in one region of guest memory: {self.regions!r}")
        view, start, _ = found
        return view[start : start + length]

    def locate(self, address: int, length: int) -> tuple[memoryview, int, int] | None:
        """Return where ``length`` bytes at ``address`` lie: a region's view, their offset in it, and ``length``.

        Return None where they do not lie in one region.

        >>> view, start, length = MemoryTable([Region(0x1000, bytearray(16))]).locate(0x1004, 8)
        >>> len(view), start, length
        (16, 4, 8)
        """
        index = bisect_right(self._bases, address) - 1
        if index >= 0:
            base, end, view = self._regions[index]
            if address + length <= end:
                return view, address - base, length
        return None

    def views(self, address: int, length: int) -> list[memoryview]:
        """Return ``length`` bytes at ``address``, in pieces where they cross from region to region.

        Raises:
            NotMapped: a part of them lies in no region. Python's integers do not overflow, so an
                address near 2**64 is just outside.
        """
        index = bisect_right(self._bases, address) - 1
        if index >= 0:
            base, end, view = self._regions[index]
            if address + length <= end:
                start = address - base
                return [view[start : start + length]]
        pieces = []
        at, stop = address, address + length
        while at < stop:
            index = bisect_right(self._bases, at) - 1
            base, end, view = self._regions[index] if index >= 0 else (0, 0, memoryview(b""))
            if at >= end:
                raise NotMapped(f"{length} bytes at {address:#x} are not in guest memory: {self.regions!r}")
            upto = min(stop, end)
            pieces.append(view[at - base : upto - base])
            at = upto
        return pieces

    def read(self, address: int, length: int) -> bytes:
        """Return a copy of ``length`` bytes of guest memory.

        Raises:
            NotMapped: as `views`.
        """
        return b"".join(self.views(address, length))

    def write(self, address: int, data: bytes) -> None:
        """Copy ``data`` into guest memory.

        Raises:
            NotMapped: as `views`; then nothing is written.
        """
        at = 0
        for view in self.views(address, len(data)):
            view[:] = data[at : at + len(view)]
            at += len(view)


def words(view: memoryview, width: str) -> memoryview:
    """Return a view of aligned memory as numbers of one width, in the host's byte order.

    ``width`` is ``"H"`` for 16 bits, ``"I"`` for 32, ``"Q"`` for 64. Each load and each store through the view is
    one access of that width.
    """
    return view.cast(width)  # type: ignore[call-overload,no-any-return]  # the stub wants a literal
