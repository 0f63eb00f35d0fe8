"""The keeper: the process that owns the socket and must not fail. A loop around a server and a supervisor."""

from __future__ import annotations

import os
import select
import signal
import socket

from pyvirtio.system import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from pyvirtio.host.supervisor import Supervisor
    from pyvirtio.server import Server

MAX_FAILURES = 100
"""So many failures without anything that worked in between end the keeper."""

RELOAD_INTERVAL = 0.2
"""The seconds between two looks at the device's source files."""


class Keeper:
    """Serves the device of ``supervisor`` through ``server`` until SIGTERM or SIGINT, or until the server has ended.

    With ``reload`` the device's source files are watched.
    """

    def __init__(self, supervisor: Supervisor, server: Server, *, reload: bool = False) -> None:
        self._supervisor = supervisor
        self._server = server
        self._ending = False
        self._failures = 0
        self._reload = reload
        self._seen = self._source_times()

    def run(self, ready: Callable[[], object] = lambda: None) -> None:
        """Serve; ``ready`` is called once the signals are heeded."""
        ours, theirs = socket.socketpair()
        # If SIGINT was ignored at start-up, our parent will stop us some other way; leave it ignored.
        numbers = [n for n in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(n) is not signal.SIG_IGN]
        handlers = {number: signal.signal(number, self._end) for number in numbers}
        theirs.setblocking(False)
        old_fd = signal.set_wakeup_fd(theirs.fileno())
        try:
            ready()
            with ours, theirs:
                self._loop(ours)
        finally:
            signal.set_wakeup_fd(old_fd)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            self._server.close()
            self._supervisor.close()

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        self._ending = True

    def _loop(self, wake_up: socket.socket) -> None:
        poll = select.poll()
        for fd in (wake_up.fileno(), self._server.fileno(), self._supervisor.fileno()):
            poll.register(fd, select.POLLIN)
        self._supervisor.step()
        while not self._ending and not self._server.ended:
            waits = [self._supervisor.timeout(), self._server.timeout(), RELOAD_INTERVAL if self._reload else None]
            times = [seconds for seconds in waits if seconds is not None]
            poll.poll(1000 * min(times) + 1 if times else None)
            for part in self._parts():
                self._guard(part)

    def _parts(self) -> Iterator[Callable[[], object]]:
        if self._reload:
            yield self._look_at_sources
        yield self._supervisor.step
        yield self._server.step
        yield self._supervisor.step  # the session may have told the supervisor something

    def _guard(self, part: Callable[[], object]) -> None:
        """Do one part of a round. What fails, for want of descriptors for example, is tried again in the next.

        Raises:
            Exception: it has failed in `MAX_FAILURES` rounds one after the other.
        """
        try:
            part()
        except Exception as error:
            self._failures += 1
            if self._failures > MAX_FAILURES:
                raise
            log.warning("keeper-short", f"the keeper goes on in spite of an error: {error}", error)
        else:
            self._failures = 0

    def _look_at_sources(self) -> None:
        times = self._source_times()
        if times != self._seen:
            self._seen = times
            self._supervisor.reload()

    def _source_times(self) -> dict[str, int]:
        times = {}
        for path in self._supervisor.watched if self._reload else ():
            try:
                times[path] = os.stat(path).st_mtime_ns
            except OSError:
                times[path] = 0
        return times
