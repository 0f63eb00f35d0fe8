"""Two processes and shared memory, to see what a processor does with stores and loads.

A litmus test can only show that an order is broken. Each process runs on what processor it gets; with one alone,
nothing can be seen.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import sys
import time
import traceback
from typing import TYPE_CHECKING

from pyvirtio.memory import MemoryTable, Region

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 30.0
"""The seconds after which what should have come at once will never come."""

LOST = 0.5
"""The seconds of sleep after which a side looks whether it was woken too little."""


@contextlib.contextmanager
def other_process(work: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Run ``work`` in a fork; return a function that waits for its end, and fails if it failed."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001  # a fork must not come back
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    running = True

    def join() -> None:
        nonlocal running
        running = False
        assert os.waitpid(child, 0)[1] == 0, "the other process failed; what it said stands above"

    try:
        yield join
    finally:
        if running:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def shared_memory(size: int, base: int = 0) -> MemoryTable:
    """Make memory that a fork shares."""
    return MemoryTable([Region(base, mmap.mmap(-1, size))])


class Notifier:
    """An eventfd on which one side waits for the other."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self.fd, select.POLLIN)
        self.rung = 0
        self.waits = 0

    def ring(self) -> None:
        """Wake the other side."""
        self.rung += 1
        os.eventfd_write(self.fd, 1)

    def wait(self, pending: Callable[[], bool]) -> None:
        """Sleep until the other side rings.

        Raises:
            AssertionError: it did not, and there is something to do: the wake-up was lost.
        """
        self.waits += 1
        deadline = time.monotonic() + PATIENCE
        while not self._poll.poll(LOST * 1000):
            # What is there by now may have come this moment, from someone who is about to ring.
            if pending() and not self._poll.poll(10 * LOST * 1000):
                raise AssertionError("a wake-up was lost: there is something to do, and nobody rang")
            assert time.monotonic() < deadline, "the other side is gone"
        os.eventfd_read(self.fd)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)


def meet(mine: memoryview, theirs: memoryview) -> None:
    """Wait until the other process is here, too, so that both go on at the same moment."""
    mine[0] = 1
    deadline = time.monotonic() + PATIENCE
    while not theirs[0]:
        assert time.monotonic() < deadline, "the other side is gone"
