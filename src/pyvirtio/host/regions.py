"""The guest's memory as the keeper hands it to workers: regions by number, so that only changes are told."""

from __future__ import annotations

from pyvirtio.host.channel import MAX_FDS
from pyvirtio.transport import Completion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvirtio.host.worker_process import WorkerProcess
    from pyvirtio.transport import FileRegion


class SharedRegions:
    """The regions of the guest's memory; each has the same number for all workers."""

    def __init__(self) -> None:
        self._regions: dict[int, FileRegion] = {}
        self._next = 0

    def replace(self, regions: Sequence[FileRegion]) -> tuple[list[int], dict[int, FileRegion]]:
        """Take the new memory; return the numbers of the regions that went, and the regions that came."""
        wanted = {id(region) for region in regions}
        known = {id(region) for region in self._regions.values()}
        gone = [number for number, region in self._regions.items() if id(region) not in wanted]
        for number in gone:
            del self._regions[number]
        came = {}
        for region in regions:
            if id(region) not in known:
                came[self._next] = region
                self._next += 1
        self._regions |= came
        return gone, came

    def give(self, worker: WorkerProcess, gone: list[int], came: dict[int, FileRegion]) -> Completion[None]:
        """Send a worker the changes, in as many packets as their descriptors need."""
        rows = list(came.items())
        told = []
        for start in range(0, max(1, len(rows)), MAX_FDS):
            part = rows[start : start + MAX_FDS]
            add = [(number, region.base, region.size, region.offset) for number, region in part]
            fds = [region.fd for _, region in part]
            told.append(worker.ask("memory", fds, drop=gone if not start else [], add=add))
        return Completion.all(told)

    def give_all(self, worker: WorkerProcess) -> None:
        """Send a new worker all regions."""
        self.give(worker, [], self._regions)
