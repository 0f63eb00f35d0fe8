"""A queue's journal in a memory file, which the keeper makes and a worker maps."""

from __future__ import annotations

import os

from pyvirtio.errors import LocalError
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
        LocalError: the system gives no more memory or descriptors.
    """

    def __init__(self, setup: QueueSetup) -> None:
        self._start = setup.position
        self._fronts_region = setup.inflight is not None
        self._fds: list[int] = []
        try:
            self.ledger_fd = self._own(shared_file("pyvirtio-ledger", ledger_size(setup.size)))
            self.region = self._region(setup)
            self.journal = map_journal(setup.size, self.ledger_fd, self.region)
        except OSError as error:
            self._close_fds()
            raise LocalError(
                f"the journal of queue {setup.index} cannot be made: {error.strerror}; "
                "free memory or descriptors, and try again"
            ) from error
        except BaseException:
            self._close_fds()
            raise

    def _own(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def _region(self, setup: QueueSetup) -> tuple[int, int, int]:
        if setup.inflight is None:
            length = region_size(setup.size)
            return self._own(shared_file("pyvirtio-inflight", length)), 0, length
        fd, offset, length = setup.inflight
        return self._own(os.dup(fd)), offset, length

    @property
    def position(self) -> int:
        """The available index to go on from where no worker is left to say: what is in flight comes again.

        With a region of the front-end's, what is in flight there is not made available again. It is right only where
        what is in flight was popped last; a worker that stops a queue knows it in every case.
        """
        if not self.journal.started:
            return self._start
        unanswered = 0 if self._fronts_region else len(self.journal.in_flight())
        return (self.journal.position() - unanswered) & 0xFFFF

    def close(self) -> None:
        """Close the files and unmap them."""
        self._close_fds()
        del self.journal  # its mappings have descriptors of their own

    def _close_fds(self) -> None:
        while self._fds:
            os.close(self._fds.pop())
