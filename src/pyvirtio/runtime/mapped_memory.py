"""The guest's memory as a process maps it: from the regions that a transport names to a table of mapped ones."""

from __future__ import annotations

from pyvirtio.errors import PeerError
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.memory.files import map_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvirtio.transport import FileRegion


class MappedMemory:
    """Maps what comes and lets go of what went; a region that stays keeps its mapping.

    A region is known by its object, so whoever names it again has to name the same one.
    """

    def __init__(self) -> None:
        self.table = MemoryTable()
        self._mapped: list[tuple[FileRegion, Region]] = []

    def replace(self, regions: Sequence[FileRegion], refused: Callable[[str], object]) -> MemoryTable:
        """Map ``regions``; one that cannot be mapped, such as of a file that was cut, is left out and reported."""
        known = {id(region): mapped for region, mapped in self._mapped}
        kept: list[tuple[FileRegion, Region]] = []
        for region in regions:
            try:
                mapped = known.get(id(region)) or Region(region.base, map_file(region.fd, region.offset, region.size))
            except PeerError as error:
                refused(f"a region of the guest's memory is left out: {error}")
            else:
                kept.append((region, mapped))
        self._mapped = kept
        self.table = MemoryTable([mapped for _, mapped in kept])
        return self.table
