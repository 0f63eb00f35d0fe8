"""A queue that the front-end runs, as the keeper knows it."""

from __future__ import annotations

import time

from pyvirtio.host.journal_file import JournalFile
from pyvirtio.host.messages import setup_to_json
from pyvirtio.transport import Completion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvirtio.host.worker_process import WorkerProcess
    from pyvirtio.transport import QueueSetup

GRACE = 0.5
"""The seconds that a worker has beyond its device's patience to stop a queue, and a successor from its start on."""

SUCCESSOR_TIME = 5.0
"""The seconds that a stop waits for a successor. Without one, what was answered out of order is not known to be."""


class HostedQueue:
    """The set-up of a queue, its journal, and how it is to stop.

    Attributes:
        broken: whether no worker serves it until it is set up again.
        stopped: completed with the position once it has stopped; None where nobody asked for that.
        stops_by: when it has to have stopped, on the monotonic clock; None where it may take any time.
        overdue: whether a worker was ended because the queue did not stop.
    """

    def __init__(self, setup: QueueSetup) -> None:
        self.setup = setup
        self.journal = JournalFile(setup)
        self.broken = False
        self.stopped: Completion[int] | None = None
        self.stops_by: float | None = None
        self.overdue = False

    def give_to(self, worker: WorkerProcess) -> Completion[Any]:
        """Have a worker run it, or stop it where that was asked for; the result is as that of the command ``stop``."""
        if self.overdue and self.stops_by is not None:
            self.stops_by = min(self.stops_by, time.monotonic() + GRACE)
        region_fd, offset, length = self.journal.region
        fds = {"ledger": self.journal.ledger_fd, "region": region_fd}
        others = (("kick", self.setup.kick_fd), ("interrupt", self.setup.interrupt_fd))
        fds |= {name: fd for name, fd in others if fd >= 0}
        return worker.ask(
            "start",
            list(fds.values()),
            setup=setup_to_json(self.setup),
            journal=[offset, length],
            names=list(fds),
            stop=self.stopped is not None,
            fail_suspects=self.overdue,
        )

    def begin_stop(self, patience: float | None) -> Completion[int]:
        """Take note that the queue is to stop, within the device's ``patience`` in seconds; None is any time."""
        self.stopped = Completion()
        self.stops_by = None if patience is None else time.monotonic() + patience + GRACE
        return self.stopped

    def hurry(self) -> None:
        """Its worker is ended: the next one tries nothing again that may end it, too."""
        self.overdue = True
        self.stops_by = time.monotonic() + SUCCESSOR_TIME
