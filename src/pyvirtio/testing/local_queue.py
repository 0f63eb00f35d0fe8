"""One queue of a device, served here and now, on memory and a clock of the test's own."""

from __future__ import annotations

import time

from pyvirtio.device.queue import Queue
from pyvirtio.ring import Journal, device_queue
from pyvirtio.runtime.requests import RequestService
from pyvirtio.runtime.service import QueueState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.device import Device
    from pyvirtio.memory import MemoryTable
    from pyvirtio.transport import QueueSetup


class LocalQueue:
    """Serves the queue of ``device`` that ``setup`` describes, as a worker does, turn by turn.

    ``memory`` may be any, not only files; ``clock`` returns nanoseconds; ``journal`` may be one that a test keeps.

    Attributes:
        interrupts: how often the driver was interrupted.
        faults: what was reported.
        errors: the exceptions behind the reports, where there were any.
    """

    def __init__(
        self,
        device: Device,
        setup: QueueSetup,
        memory: MemoryTable,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        journal: Journal | None = None,
    ) -> None:
        self.device = device
        self.clock = clock
        self.interrupts = 0
        self.faults: list[str] = []
        self.errors: list[BaseException] = []
        device.negotiate(setup.features)
        self.queue = device_queue(setup, memory, journal=journal or Journal.private(setup.size))
        declared = device.each_queue()[setup.index]
        assert isinstance(declared, Queue)
        self.service = RequestService(setup.index, self.queue, self, self, declared, device, None)

    def turn(self) -> bool:
        """Serve for one time slice; return whether there is more to do."""
        return self.service.turn(self.clock())

    def serve(self) -> None:
        """Serve until the queue is empty or broken."""
        while self.turn():
            pass

    @property
    def is_broken(self) -> bool:
        """Whether the ring is not served any more."""
        return self.service.state is QueueState.BROKEN

    # What the service asks of its surroundings.

    def notify(self) -> None:
        """Count an interrupt."""
        self.interrupts += 1

    def report(self, message: str, error: BaseException | None = None) -> None:
        """Keep a fault."""
        self.faults.append(message)
        if error is not None:
            self.errors.append(error)

    def wake(self, index: int) -> None:
        """Do nothing: the test gives turns."""

    def broken(self, index: int) -> None:
        """Do nothing: `is_broken` says it."""

    def stuck(self, reason: str) -> None:
        """Keep a fault."""
        self.faults.append(reason)
