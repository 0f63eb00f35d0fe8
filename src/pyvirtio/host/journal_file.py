"""A queue's journal in a memory file, which the keeper makes and a worker maps."""

from __future__ import annotations

import os

from pyvirtio.memory.files import map_file, shared_file
from pyvirtio.ring.journal import Journal, ledger_size, region_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.transport import QueueSetup


def map_journal(size: int, ledger_fd: int, region: tuple[int, int, int]) -> Journal:
    """Map the journal of a queue with ``size`` entries; ``region`` is ``(fd, offset, bytes)``."""
    fd, offset, length = region
    return Journal(size, map_file(fd, offset, length), map_file(ledger_fd, 0, ledger_size(size)))


class JournalFile:
    """The keeper's view of a queue's journal; owns its descriptors.

    Raises:
        PeerError: the front-end's region cannot be this queue's.
    """

    def __init__(self, setup: QueueSetup) -> None:
        self.size = setup.size
        self.ledger_fd = shared_file("pyvirtio-ledger", ledger_size(setup.size))
        self._own_fd = -1
        self.fronts_region = setup.inflight is not None
        if setup.inflight is None:
            length = region_size(setup.size)
            self._own_fd = shared_file("pyvirtio-inflight", length)
            self.region = (self._own_fd, 0, length)
        else:
            fd, offset, length = setup.inflight
            self._own_fd = os.dup(fd)
            self.region = (self._own_fd, offset, length)
        try:
            self.journal = map_journal(setup.size, self.ledger_fd, self.region)
        except BaseException:
            self.close()
            raise

    def base(self, start: int) -> int:
        """Give the available index at which the queue goes on, having started at ``start``.

        With a region of the front-end's, what is in flight there is not made available again.
        """
        if not self.journal.started:
            return start
        unanswered = 0 if self.fronts_region else len(self.journal.in_flight())
        return (self.journal.position() - unanswered) & 0xFFFF

    def close(self) -> None:
        """Close the files; the mappings go when nobody uses them."""
        os.close(self.ledger_fd)
        os.close(self._own_fd)
