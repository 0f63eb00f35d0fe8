"""One worker process, as the keeper sees it."""

from __future__ import annotations

import mmap
import os
import select
import signal
import time
from enum import Enum

from pyvirtio.host.channel import Channel
from pyvirtio.host.spawn import LifeLine, fork_worker
from pyvirtio.runtime.service import TIME_SLICE_NS
from pyvirtio.transport import Completion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

CRASHES = (signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT)


class ProcessState(Enum):
    """Where a worker process stands."""

    STARTING = "starting"  # it loads the device
    READY = "ready"  # it takes commands
    LEAVING = "leaving"  # it finishes what it has begun
    GONE = "gone"  # its channel is closed; it may still have to be reaped
    REAPED = "reaped"


TRANSITIONS = {
    ProcessState.STARTING: {ProcessState.READY, ProcessState.GONE},
    ProcessState.READY: {ProcessState.LEAVING, ProcessState.GONE},
    ProcessState.LEAVING: {ProcessState.GONE},
    ProcessState.GONE: {ProcessState.REAPED},
    ProcessState.REAPED: set(),
}
"""The states that may follow each state."""


class WorkerProcess:
    """A worker from its start until it is reaped.

    ``run(channel, heartbeat)`` is what the forked process does. ``heartbeat`` is a word of memory that both share:
    since when, in nanoseconds, the worker has been busy with one thing, and 0 while it waits.

    Raises:
        OSError: there are no processes or descriptors left.
    """

    def __init__(self, run: Callable[[Channel, memoryview], None], life_line: LifeLine) -> None:
        self.state = ProcessState.STARTING
        self.heartbeat = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        self.crashed = False
        """Whether it ended by itself in a way that its requests or its memory may be to blame for."""
        self._number = 0
        self._asked: dict[int, Completion[Any]] = {}
        self._channel, theirs = Channel.pair()
        try:
            self.pid = fork_worker(lambda channel: run(channel, self.heartbeat), theirs, life_line)
        except OSError:
            self._channel.close()
            raise
        finally:
            theirs.close()

    def go(self, state: ProcessState) -> None:
        """Enter another state."""
        assert state in TRANSITIONS[self.state], (self.state, state)
        self.state = state

    @property
    def serves(self) -> bool:
        """Whether it takes commands about queues."""
        return self.state is ProcessState.READY

    @property
    def runs_device(self) -> bool:
        """Whether the device's code may run in it beyond being loaded."""
        return self.state in (ProcessState.READY, ProcessState.LEAVING)

    @property
    def is_gone(self) -> bool:
        """Whether nothing is to be expected of it any more."""
        return self.state in (ProcessState.GONE, ProcessState.REAPED)

    def until_it_hangs(self, patience: float | None) -> float | None:
        """Return the seconds until it hangs if it goes on with what it is doing now; None where it never does.

        ``patience`` is how many seconds one thing may take; None is any time. One that waits may begin something at
        any moment, so it has to be looked at again after that time.
        """
        if patience is None or not self.runs_device:
            return None
        began = self.heartbeat[0]
        busy_ns = time.monotonic_ns() - began if began else 0
        return max(0.0, patience + (TIME_SLICE_NS - busy_ns) / 1e9)

    def fileno(self) -> int:
        """Return the channel's descriptor, for polling."""
        return self._channel.fileno()

    # Talking.

    def ask(self, kind: str, fds: list[int] | None = None, **fields: Any) -> Completion[Any]:
        """Send a command; a worker that does not listen is killed.

        The completion has the result, or None where the worker died before it was done.
        """
        self._number += 1
        asked: Completion[Any] = Completion()
        self._asked[self._number] = asked
        try:
            self._channel.send(kind, fds or (), number=self._number, **fields)
        except OSError:
            self.kill()
        return asked

    def reports(self, limit: int) -> list[tuple[str, dict[str, Any]]]:
        """Return what it has said, ``limit`` messages at most; what acknowledges a command completes that."""
        found = []
        for _ in range(limit):
            if self.is_gone or not self._is_readable():
                break
            received = self._channel.receive()
            if received is None:
                self.go(ProcessState.GONE)
                break
            kind, fields, fds = received
            fields["files"] = [_content(fd) for fd in fds]
            if kind == "done":
                self._complete(fields["number"], fields["result"])
            else:
                found.append((kind, fields))
        return found

    def wait(self, timeout: float) -> bool:
        """Wait for it to say something; return False when ``timeout`` seconds are over."""
        return self._is_readable(timeout)

    def _is_readable(self, timeout: float = 0.0) -> bool:
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        return bool(poll.poll(1000 * timeout))

    def _complete(self, number: object, result: object) -> None:
        if isinstance(number, int) and (asked := self._asked.pop(number, None)) is not None:
            asked.complete(result)

    # The end.

    def kill(self) -> None:
        """End it and what it started at once; its death is noticed like any other."""
        if self.state is not ProcessState.REAPED:
            os.killpg(self.pid, signal.SIGKILL)

    def reap(self) -> str:
        """Wait for its end, after killing it if it still lives; return how it ended."""
        os.killpg(self.pid, signal.SIGKILL)  # it may live on without its channel, or what it started without it
        _, status = os.waitpid(self.pid, 0)
        if self.state is not ProcessState.GONE:
            self.go(ProcessState.GONE)
        self.go(ProcessState.REAPED)
        self._channel.close()
        self._complete_all()
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            self.crashed = number in CRASHES
            return f"was ended by {signal.Signals(number).name}"
        self.crashed = bool(os.WEXITSTATUS(status))
        return f"exited with status {os.WEXITSTATUS(status)}"

    def _complete_all(self) -> None:
        """A dead worker has forgotten what it was told; whoever waited for it goes on."""
        asked, self._asked = self._asked, {}
        for completion in asked.values():
            completion.complete(None)


def _content(fd: int) -> bytes:
    """Return the content of a file that came with a message, and close it."""
    try:
        return os.pread(fd, os.fstat(fd).st_size, 0)
    except OSError:
        return b""
    finally:
        os.close(fd)
