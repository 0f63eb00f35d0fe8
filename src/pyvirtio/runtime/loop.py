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
    from collections.abc import Callable, Sequence, Sized
    from typing import Protocol

    from pyvirtio.runtime.runner import DeviceRunner

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


class RunnerLoop(asyncio.SelectorEventLoop):
    """An event loop for the process of one runner, which `serve` runs; it serves kicks while it waits.

    A kick that wakes asyncio costs several times what it costs to wait for it in `DeviceRunner.step`. So the selector
    of this loop waits there, and returns to asyncio only for what is asyncio's: a descriptor, a timer, a callback.
    ``heartbeat`` says since when it is busy, for whoever watches that nothing lasts for ever; 0 while it waits.
    """

    def __init__(self, heartbeat: memoryview, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._steps = _SteppingSelector(heartbeat, clock)
        super().__init__(self._steps)
        self._steps.look_at(self)

    def stop(self) -> None:
        """Stop, also from within a step."""
        super().stop()
        self._steps.is_over = True

    def serve(self, runner: DeviceRunner) -> None:
        """Run, and step ``runner`` whenever it has something to do, until the loop is stopped."""
        self._steps.step_also(runner)
        try:
            self.run_forever()
        finally:
            self._steps.runner = None


class _SteppingSelector(selectors.EpollSelector):
    """Waits in the step of ``runner``, once there is one, among whose descriptors its own are as one."""

    def __init__(self, heartbeat: memoryview, clock: Callable[[], int]) -> None:
        super().__init__()
        self._heartbeat = heartbeat
        self._clock = clock
        self._is_readable = False
        self.is_over = False
        self._ready: Sized = ()
        self._timers: Sequence[object] = ()
        self.runner: DeviceRunner | None = None

    def look_at(self, loop: asyncio.AbstractEventLoop) -> None:
        """Return for callbacks and timers that a step gives to ``loop``; always, where it does not show them."""
        self._ready, self._timers = getattr(loop, "_ready", (None,)), getattr(loop, "_scheduled", ())

    def step_also(self, runner: DeviceRunner) -> None:
        """Step ``runner`` while waiting."""
        self.runner = runner
        runner.watch(self.fileno(), self._can_be_read)

    def _can_be_read(self) -> None:
        self._is_readable = True

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for what is registered; serve the runner's queues meanwhile."""
        self._heartbeat[0] = 0
        try:
            if self.runner is None:
                return super().select(timeout)
            self._step(self.runner, timeout)
            return super().select(0) if self._is_readable else []
        finally:
            self._heartbeat[0] = self._clock()

    def _step(self, runner: DeviceRunner, timeout: float | None) -> None:
        """Step until asyncio has something to do."""
        self._is_readable = False
        timers = self._timers
        first = timers[0] if timers else None
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            runner.step(timeout)
            if self._is_readable or self._ready or self.is_over or (timers[0] if timers else None) is not first:
                self.is_over = False
                return
            if end is not None and (timeout := end - time.monotonic()) <= 0:
                return
