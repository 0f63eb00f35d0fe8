"""Runs things that have a descriptor and a step in an asyncio event loop.

`DeviceRunner`, `Server` and `Supervisor` are all of that shape: ``fileno()`` is readable when ``step()`` has something
to do, ``step()`` returns whether there is more to do at once, and ``timeout()`` is when it has something to do by
itself.
"""

from __future__ import annotations

import asyncio
import selectors
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Steppable(Protocol):
        """What can be run by a loop."""

        def fileno(self) -> int:
            """Return a descriptor that is readable when `step` has something to do."""
            ...

        def step(self) -> bool:
            """Do what there is to do; return whether there is more."""
            ...

        def timeout(self) -> float | None:
            """Return the seconds until `step` has something to do by itself, None for never."""
            ...


class Attachment:
    """Steps ``what`` in ``loop`` whenever it has something to do, until it is detached."""

    def __init__(self, loop: asyncio.AbstractEventLoop, what: Steppable) -> None:
        self._loop = loop
        self._what = what
        self._soon: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._attached = True
        loop.add_reader(what.fileno(), self._step)
        self.wake()

    def wake(self) -> None:
        """Step at the loop's next turn, although no descriptor says so."""
        if self._soon is None and self._attached:
            self._soon = self._loop.call_soon(self._step_soon)

    def _step_soon(self) -> None:
        self._soon = None
        self._step()

    def _step(self) -> None:
        if not self._attached:
            return
        if self._what.step():
            self.wake()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        seconds = self._what.timeout() if self._attached else None
        if seconds is not None:
            self._timer = self._loop.call_later(seconds, self._step_soon)

    def detach(self) -> None:
        """Step no more."""
        self._attached = False
        self._loop.remove_reader(self._what.fileno())
        for handle in (self._soon, self._timer):
            if handle is not None:
                handle.cancel()


def new_loop(heartbeat: memoryview, clock: Callable[[], int] = time.monotonic_ns) -> asyncio.AbstractEventLoop:
    """Make an event loop that notes in ``heartbeat`` since when it runs callbacks; 0 while it waits.

    So somebody outside can see that a callback never ends, whoever's it is.
    """

    class WatchedSelector(selectors.EpollSelector):
        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            heartbeat[0] = 0
            try:
                return super().select(timeout)
            finally:
                heartbeat[0] = clock()

    return asyncio.SelectorEventLoop(WatchedSelector())
