"""What runs one queue: what is common to queues that answer requests and queues that a device speaks on.

A queue is in one of the states of `QueueState`, and `TRANSITIONS` says how it leaves each of them.
"""

from __future__ import annotations

from enum import Enum

from pyvirtio.errors import PeerError, RingError
from pyvirtio.transport import Completion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from pyvirtio.ring import Chain
    from pyvirtio.ring.queue import DeviceQueue

    class Interrupter(Protocol):
        """What interrupts a driver, such as a `pyvirtio.system.eventfd.Notifier`."""

        def notify(self) -> None:
            """Interrupt."""
            ...

    class Surroundings(Protocol):
        """What a service needs of the runner around it."""

        clock: Callable[[], int]
        """Returns nanoseconds that only grow."""

        def report(self, event: str, message: str, error: BaseException | None = None) -> None:
            """Log an event of `pyvirtio.system.events`, with the exception behind it if its traceback helps."""
            ...

        def wake(self, index: int) -> None:
            """Let the queue have a turn soon."""
            ...

        def broken(self, index: int) -> None:
            """Take note that the queue is not served any more."""
            ...

        def stuck(self, reason: str) -> None:
            """Deal with a request that cannot be ended as long as this process lives."""
            ...


TIME_SLICE_NS = 10_000_000
"""The longest that a queue is served before its neighbours get their turn."""

MAX_REPORTS = 100
"""The most different faults of one queue that are reported: a guest chooses what is wrong, and so the message."""


class QueueState(Enum):
    """Where a queue that was started stands."""

    SERVING = "serving"
    DRAINING = "draining"  # nothing more is taken from the ring; what was begun is finished
    STOPPED = "stopped"
    BROKEN = "broken"  # the ring cannot be trusted; nothing is done until it is stopped and set up again


TRANSITIONS = {
    QueueState.SERVING: {QueueState.DRAINING, QueueState.BROKEN},
    QueueState.DRAINING: {QueueState.STOPPED, QueueState.BROKEN},
    QueueState.BROKEN: {QueueState.STOPPED},
    QueueState.STOPPED: set(),
}
"""The states that may follow each state."""

SERVING = QueueState.SERVING  # each turn asks, and an Enum is slow to return its members
UNBROKEN = (QueueState.SERVING, QueueState.DRAINING)
"""The states in which requests are answered."""


class QueueService:
    """Serves one queue in turns of bounded length.

    ``queue`` is the device's side of the ring, ``notifier`` interrupts the driver.
    """

    def __init__(self, index: int, queue: DeviceQueue, notifier: Interrupter, around: Surroundings) -> None:
        self.index = index
        self.queue = queue
        self.state = QueueState.SERVING
        self._notify = notifier.notify
        self._around = around
        self._clock = around.clock
        self._stopped: Completion[int] | None = None
        self._reported: set[str] = set()
        # After a start the driver is told of the first answer in any case: what it asked for before may be stale.
        self._owes_interrupt = True

    def _go(self, state: QueueState) -> None:
        assert state in TRANSITIONS[self.state], (self.state, state)
        self.state = state

    # A turn.

    def turn(self, now: int, *, keep_disabled: bool = False) -> bool:
        """Serve the queue until it is empty, or for `TIME_SLICE_NS`; return whether there is more to do.

        With ``keep_disabled`` the driver is not asked to kick: the caller goes on looking, and calls `enable_kicks`
        in the end.
        """
        if self.state not in UNBROKEN:
            return False
        deadline = now + TIME_SLICE_NS
        self.queue.disable_kicks()
        try:
            while now < deadline:
                self._serve(now, deadline)
                if not self.has_more() and (keep_disabled or not self.enable_kicks()):
                    return False
                now = self._clock()
        except RingError as error:
            self._break(error)
            return False
        finally:
            self._stop_if_drained()
        return True

    def enable_kicks(self) -> bool:
        """Ask the driver to kick from now on; return whether there is something to do already."""
        return self.state is SERVING and self.queue.enable_kicks() and self.has_more()

    def _serve(self, now: int, deadline: int) -> None:
        """Serve some of what waits; overridden."""
        raise NotImplementedError

    def has_more(self) -> bool:
        """Return whether a turn would find something to do now; overridden."""
        raise NotImplementedError

    def resume(self) -> None:
        """The device takes requests again; overridden where it may have refused to."""

    # Interrupts.

    def change_notifier(self, notifier: Interrupter) -> None:
        """Interrupt by another descriptor, and at once: the last interrupt may not have arrived by the old one."""
        self._notify = notifier.notify
        notifier.notify()

    def interrupt(self) -> None:
        """Interrupt the driver, whether it wants to know or not."""
        self._owes_interrupt = False
        self.queue.needs_interrupt()
        self._notify()

    def _push(self, chains: list[Chain]) -> None:
        """Return chains to the driver and interrupt it if it asked for that."""
        self.queue.push(chains)
        self._interrupt_if_wanted()

    def _interrupt_if_wanted(self) -> None:
        if self.queue.needs_interrupt() or self._owes_interrupt:
            self._owes_interrupt = False
            self._notify()

    # The end.

    def stop(self, *, fail_suspects: bool = False) -> Completion[int]:
        """Take nothing more from the ring, finish what was begun; the result is the index to go on from."""
        if self._stopped is None:
            self._stopped = Completion()
            if self.state is SERVING:
                self._go(QueueState.DRAINING)
                self._give_back(fail_suspects=fail_suspects)
            self._stop_if_drained()
        return self._stopped

    def stop_at_once(self) -> Completion[int]:
        """Stop without answering what was begun, which stays in flight in the journal; see `stop`."""
        if self.state in UNBROKEN:
            self._go(QueueState.BROKEN)
            self._drop()
        if self._stopped is None:
            self._stopped = Completion()
        self._stop_if_drained()
        return self._stopped

    def _drop(self) -> None:
        """Forget what was not begun, and cancel what was: the queue is broken; overridden."""
        raise NotImplementedError

    def _give_back(self, *, fail_suspects: bool) -> None:
        """Un-pop what was popped and not begun; overridden."""
        raise NotImplementedError

    def _is_drained(self) -> bool:
        """Return whether nothing is in the device's hands; overridden."""
        raise NotImplementedError

    def _stop_if_drained(self) -> None:
        if self._stopped is None or self._stopped.done:
            return
        if self._is_drained():
            self._go(QueueState.STOPPED)
            self._release()
            self._stopped.complete(self.queue.position)

    def _release(self) -> None:
        """Release what only a queue that is not stopped needs; overridden where there is something."""

    def fail(self, error: PeerError) -> None:
        """Serve the queue no more: its ring is not where it can be served."""
        if self.state in UNBROKEN:
            self._break(RingError(str(error)))

    def _break(self, error: RingError) -> None:
        self._go(QueueState.BROKEN)
        self._drop()
        self.queue.retire(error)
        self._around.report("queue-broken", f"queue {self.index} is not served until it is set up again: {error}")
        self._around.broken(self.index)
        self._stop_if_drained()

    def report_once(self, event: str, message: str, error: BaseException | None = None) -> None:
        """Report a fault the first time that it happens on this queue."""
        if message not in self._reported and len(self._reported) < MAX_REPORTS:
            self._reported.add(message)
            self._around.report(event, f"queue {self.index}: {message}", error)
