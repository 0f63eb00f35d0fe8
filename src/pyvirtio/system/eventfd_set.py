"""The eventfds of a driver's queues, one for each queue."""

from __future__ import annotations

import contextlib
import os


class EventfdSet(dict[int, int]):
    """Eventfds by the number of their queue; none of them ever blocks.

    >>> interrupts = EventfdSet()
    >>> fd = interrupts.add(0)
    >>> interrupts.signal(0)
    >>> interrupts.take(0), interrupts.take(0)
    (True, False)
    >>> interrupts.close()
    """

    def add(self, index: int) -> int:
        """Make the eventfd of queue ``index`` and return it."""
        self[index] = fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return fd

    def signal(self, index: int) -> None:
        """Signal it once."""
        os.eventfd_write(self[index], 1)

    def take(self, *indexes: int) -> bool:
        """Return whether one of these queues' was signalled since the last call."""
        taken = False
        for index in indexes:
            with contextlib.suppress(BlockingIOError):
                taken |= bool(os.eventfd_read(self[index]))
        return taken

    def close(self) -> None:
        """Close them all; may be called twice."""
        while self:
            os.close(self.popitem()[1])
