"""The tap as a process: ``pyvirtio tap``."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys

from pyvirtio.spec.ids import device_name
from pyvirtio.system import memory_file
from pyvirtio.system.listener import listen
from pyvirtio.trace.events import SNAP, decode
from pyvirtio.trace.recorder import LIMIT, Recorder
from pyvirtio.trace.tap import Tap
from pyvirtio.trace.text import lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any


def tap(
    front: str,
    back: str,
    output: str | None = None,
    *,
    device_id: int | None = None,
    snap: int = SNAP,
    limit: int = LIMIT,
    ready: Callable[[], object] = lambda: None,
) -> None:
    """Tap the back-end at the path ``back`` for those who connect to ``front``, until SIGTERM or SIGINT.

    The recording goes into the file ``output``, or is printed. ``ready`` is called when front-ends can connect.

    Raises:
        LocalError: the socket or the recording cannot be made.
    """
    with contextlib.ExitStack() as stack:
        printer = None if output is not None else stack.enter_context(contextlib.closing(Printer()))
        recorder = stack.enter_context(Recorder(printer.path if printer else str(output), snap=snap, limit=limit))
        if device_id is not None:
            about: dict[str, Any] = {
                "name": device_name(device_id),
                "id": device_id,
                "features": 0,
                "sizes": [],
                "config": "",
            }
            recorder.note("device", "device", **about)
        listener = stack.enter_context(listen(front))
        tap = stack.enter_context(contextlib.closing(Tap(listener, back, recorder)))
        with ended() as end:
            ready()
            run(tap, end, printer)


def run(tap: Tap, end: socket.socket, printer: Printer | None = None) -> None:
    """Run a tap until ``end`` is readable."""
    poll = select.poll()
    poll.register(tap.fileno(), select.POLLIN)
    poll.register(end, select.POLLIN)
    while True:
        timeout = tap.timeout()
        found = poll.poll(None if timeout is None else 1000 * timeout)
        if any(fd == end.fileno() for fd, _ in found):
            return
        tap.step()
        if printer:
            printer.print()


@contextlib.contextmanager
def ended() -> Iterator[socket.socket]:
    """Yield a socket that is readable once SIGTERM or SIGINT has come."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    numbers = (signal.SIGTERM, signal.SIGINT)
    handlers = {number: signal.signal(number, lambda _number, _frame: None) for number in numbers}
    before = signal.set_wakeup_fd(theirs.fileno())
    try:
        with ours, theirs:
            yield ours
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


class Printer:
    """Prints what is recorded into its file, which exists in memory alone and is emptied each time."""

    def __init__(self) -> None:
        self._fd = memory_file.create("pyvirtio-trace")
        self.path = f"/proc/{os.getpid()}/fd/{self._fd}"
        self._start: int | None = None

    def print(self) -> None:
        """Print what is new."""
        size = os.fstat(self._fd).st_size
        if not size:
            return
        events = [decode(line) for line in os.pread(self._fd, size, 0).splitlines()]
        os.ftruncate(self._fd, 0)
        if self._start is None:
            self._start = events[0].at
        sys.stdout.writelines(f"{line}\n" for line in lines(events, explain=False, start=self._start))
        sys.stdout.flush()

    def close(self) -> None:
        """Print the rest."""
        self.print()
        os.close(self._fd)
