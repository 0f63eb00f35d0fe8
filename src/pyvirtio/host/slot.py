"""One worker's place: the process that serves it now, and the one that follows when it dies or its code changes."""

from __future__ import annotations

import time
from enum import Enum

from pyvirtio.host.worker_process import ProcessState, WorkerProcess
from pyvirtio.system import log
from pyvirtio.transport import MAXIMUM_STRIKES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    class SlotEvents(Protocol):
        """What happens to a slot's worker; the supervisor deals with it."""

        def is_ready(self, fields: dict[str, Any]) -> bool:
            """Take a worker that is loaded; return False to refuse it."""
            ...

        def serves_again(self, slot: WorkerSlot) -> None:
            """Hand everything to the slot's new worker."""
            ...

        def died(self, slot: WorkerSlot, how: str) -> None:
            """Find out who is to blame for a death."""
            ...

        def reported(self, slot: WorkerSlot, kind: str, fields: dict[str, Any]) -> None:
            """Deal with what the worker said."""
            ...


START_TIME = 30.0
"""The seconds that loading a device may take."""

LEAVE_TIME = 1.0
"""The seconds that a worker has to end by itself when the keeper ends."""

LONGEST_PAUSE = 1.0
"""The seconds between two starts of a worker that dies at once, at most."""

FREE_DEATHS = 4
"""The deaths without progress that are followed by a start at once; after them, the pauses grow."""

MESSAGES_AT_ONCE = 64
"""The most messages of one worker that are read before others get their turn."""


class SlotState(Enum):
    """Where a slot stands."""

    STARTING = "starting"  # its worker loads the device
    SERVING = "serving"
    CHANGING = "changing"  # its worker finishes what it has begun; the one with the new code waits for that
    PAUSING = "pausing"  # its worker died; the next one starts when the pause is over


TRANSITIONS = {
    SlotState.STARTING: {SlotState.SERVING, SlotState.PAUSING},
    SlotState.SERVING: {SlotState.CHANGING, SlotState.PAUSING},
    SlotState.CHANGING: {SlotState.PAUSING},
    SlotState.PAUSING: {SlotState.STARTING, SlotState.SERVING},  # the second where a replacement is ready
}
"""The states that may follow each state."""


class WorkerSlot:
    """Keeps one worker alive.

    ``new_worker(changed)`` starts a process, with the code of its predecessor or with what changed; it may raise
    OSError where there are no processes or descriptors left. The worker serves from `serve` on: until then, nothing is
    asked of it.
    """

    def __init__(self, number: int, new_worker: Callable[[bool], WorkerProcess], events: SlotEvents) -> None:
        self.number = number
        self.state = SlotState.STARTING
        self._new_worker = new_worker
        self._events = events
        self.worker = new_worker(False)
        self._loaded_by = time.monotonic() + START_TIME
        self.replacement: WorkerProcess | None = None
        self._replaced_by = 0.0
        self._deaths = 0  # since the last progress
        self._crashes = 0  # of those, where the worker had something to work on
        self._restart_at = 0.0

    def _go(self, state: SlotState) -> None:
        assert state in TRANSITIONS[self.state], (self.state, state)
        self.state = state

    @property
    def serves(self) -> bool:
        """Whether commands can be given to its worker."""
        return self.state is SlotState.SERVING and self.worker.serves

    def processes(self) -> list[WorkerProcess]:
        """Return the processes that may say something."""
        both = [self.worker] if self.replacement is None else [self.worker, self.replacement]
        return [process for process in both if not process.is_gone]

    # What the loop asks.

    def step(self) -> None:
        """Read what the worker says, notice its death, start the next one."""
        self._read(self.worker)
        if self.replacement is not None:
            self._read(self.replacement)
            self._look_after_replacement(self.replacement)
        if self.worker.is_gone:
            self._replace()
        elif self.state is SlotState.STARTING and time.monotonic() > self._loaded_by:
            log.warning(
                "device-unloadable",
                f"worker {self.number}: the device was not loaded within {START_TIME} s; trying again",
            )
            self.worker.kill()

    def timeout(self) -> float | None:
        """Return the seconds until `step` has something to do by itself."""
        times = []
        if self.state is SlotState.STARTING:
            times.append(self._loaded_by)
        if self.state is SlotState.PAUSING and self.replacement is None:
            times.append(self._restart_at)
        if self.replacement is not None:
            times.append(self._replaced_by)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _read(self, process: WorkerProcess) -> None:
        for kind, fields in process.reports(MESSAGES_AT_ONCE):
            try:
                self._hear(process, kind, fields)
            except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                # The device's code shares the worker's process, and so its channel.
                log.warning("worker-failed", f"worker {self.number} says what makes no sense ({error!r}), and is ended")
                process.kill()

    def _hear(self, process: WorkerProcess, kind: str, fields: dict[str, Any]) -> None:
        if kind == "ready":
            self._loaded(process, fields)
        elif kind == "failed":
            log.warning("device-unloadable", f"the device is not loaded: {fields['why']}")
        else:
            self._events.reported(self, kind, fields)

    def _loaded(self, process: WorkerProcess, fields: dict[str, Any]) -> None:
        if process.state is not ProcessState.STARTING:
            return
        if not self._events.is_ready(fields):
            process.kill()
            return
        process.go(ProcessState.READY)
        if process is not self.replacement:
            self.serve()
        elif self.state is SlotState.SERVING:
            self._go(SlotState.CHANGING)
            self.worker.go(ProcessState.LEAVING)
            self.worker.ask("leave")
        elif self.state is SlotState.PAUSING:
            self._take_replacement(process)

    def take_first(self, fields: dict[str, Any]) -> None:
        """Take the introduction of the first worker, which somebody waited for."""
        self._loaded(self.worker, fields)

    def serve(self) -> None:
        """Hand everything to the worker, which is ready."""
        self._go(SlotState.SERVING)
        self._events.serves_again(self)

    # A replacement with new code.

    def reload(self) -> None:
        """The device's source changed: start a worker with the new code, which takes over once it is ready."""
        if self.replacement is not None:
            self.replacement.reap()
            self.replacement = None
        try:
            self.replacement = self._new_worker(True)
        except OSError as error:
            log.warning("device-unloadable", f"the changed device cannot be started: {error.strerror}")
        self._replaced_by = time.monotonic() + START_TIME

    def _look_after_replacement(self, replacement: WorkerProcess) -> None:
        if replacement.state is ProcessState.STARTING and time.monotonic() > self._replaced_by:
            log.warning(
                "device-unloadable", f"the changed device was not loaded within {START_TIME} s; the old code goes on"
            )
            replacement.kill()
        if replacement.is_gone:
            replacement.reap()
            self.replacement = None
            if self.state is SlotState.CHANGING:  # it died while its predecessor was leaving
                log.warning("worker-ended", "the worker with the changed device ended; another one is started")

    def _take_replacement(self, replacement: WorkerProcess) -> None:
        self.worker, self.replacement = replacement, None
        self._deaths = self._crashes = 0
        log.warning("device-reloaded", f"worker {self.number} runs the changed device")
        self.serve()

    # Death.

    def _replace(self) -> None:
        """Start the next worker, at once the first times, then after longer and longer pauses."""
        if self.worker.state is ProcessState.GONE:
            self._bury()
        replacement = self.replacement
        if replacement is not None:
            if replacement.serves:
                self._take_replacement(replacement)
            return
        if self.state is SlotState.PAUSING and time.monotonic() >= self._restart_at:
            self._restart()

    def _bury(self) -> None:
        # Also where it was told to leave: it may have been ended, or have died, with requests inside its methods.
        self._events.died(self, self.worker.reap())
        self._restart_at = time.monotonic() + self._pause()
        self._go(SlotState.PAUSING)

    def _restart(self) -> None:
        try:
            self.worker = self._new_worker(False)
        except OSError as error:  # no descriptors or processes are left: they may be again
            log.warning("worker-missing", f"worker {self.number} cannot be started: {error.strerror}; trying again")
            self._deaths = max(self._deaths, FREE_DEATHS) + 1
            self._restart_at = time.monotonic() + self._pause()
            return
        self._loaded_by = time.monotonic() + START_TIME
        self._go(SlotState.STARTING)

    def count_death(self, *, progressed: bool) -> None:
        """Count a death since the last progress, and a crash where it had something to work on."""
        if progressed:
            self._deaths = self._crashes = 0
        self._deaths += 1
        self._crashes += self.worker.crashed and self.state is not SlotState.STARTING

    def _pause(self) -> float:
        return 0.0 if self._deaths < FREE_DEATHS else min(LONGEST_PAUSE, 0.01 * 2.0 ** min(self._deaths, 10))

    @property
    def keeps_crashing(self) -> bool:
        """Whether its workers crash again and again without getting anything done."""
        return self.worker.crashed and self._crashes >= MAXIMUM_STRIKES

    def leave(self) -> float:
        """Tell the worker to end in good order, so that the device can close what it holds; return until when."""
        if self.serves:
            self.worker.go(ProcessState.LEAVING)
            self.worker.ask("leave")
        return time.monotonic() + LEAVE_TIME

    def close(self, deadline: float) -> None:
        """End its processes at once, but for a worker that was told to leave: that has until ``deadline``."""
        while self.worker.state is ProcessState.LEAVING and self.worker.wait(max(0.0, deadline - time.monotonic())):
            self._read(self.worker)
        for process in (self.worker, self.replacement):
            if process is not None and process.state is not ProcessState.REAPED:
                process.reap()
