"""One worker process, as the keeper sees it."""

from __future__ import annotations

import os
import select
import signal
import time

from pyvirtio.host.channel import MOST_FDS, Channel
from pyvirtio.host.spawn import LifeLine, fork_worker
from pyvirtio.host.worker import run_worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pyvirtio.host.journal_file import JournalFile
    from pyvirtio.transport import FileRegion, QueueSetup


class WorkerProcess:
    """A worker from its start until it is buried.

    ``ready`` says that it has introduced itself, ``gone`` that its channel is closed, ``buried`` that it was reaped.
    """

    def __init__(self, device: str, device_id: int | None, life_line: LifeLine, poll_us: int = 0) -> None:
        self._channel, theirs = Channel.pair()
        self.pid = fork_worker(lambda channel: run_worker(channel, device, device_id, poll_us), theirs, life_line)
        theirs.close()
        self.ready = False
        self.gone = False
        self.buried = False
        self.broke_down = False
        self._killed = False

    def fileno(self) -> int:
        """Give the channel's descriptor, for polling."""
        return self._channel.fileno()

    # Talking.

    def send(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        """Tell the worker something; one that does not listen is killed."""
        try:
            self._channel.send(message, fds or [])
        except OSError:
            self.kill()

    def read(self) -> dict[str, Any] | None:
        """Give the next message that is there, or None; sets ``gone`` where no further one can come."""
        return self._receive(0)

    def wait(self, *kinds: str, timeout: float) -> dict[str, Any] | None:
        """Wait for the next message, of ``kinds`` if any are given; None when time is over or the worker gone."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0 and not self.gone:
            message = self._receive(left)
            if message and (not kinds or message["is"] in kinds):
                return message
        return None

    def _receive(self, timeout: float) -> dict[str, Any] | None:
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        if self.gone or not poll.poll(timeout * 1000):
            return None
        received = self._channel.receive()
        if received is None:
            self.gone = True
            return None
        message, fds = received
        for fd in fds:
            os.close(fd)
        return message

    def give_memory(self, drop: list[int], add: dict[int, FileRegion], change: int = 0) -> None:
        """Tell of regions that went and came, in as many packets as their descriptors need.

        It answers that change number ``change`` is `mapped`.
        """
        rows = list(add.items())
        for start in range(0, max(1, len(rows)), MOST_FDS):
            part = rows[start : start + MOST_FDS]
            last = start + MOST_FDS >= len(rows)
            add_rows = [(number, region.base, region.size, region.offset) for number, region in part]
            message = {
                "do": "memory",
                "drop": drop if not start else [],
                "add": add_rows,
                "last": last,
                "change": change,
            }
            self.send(message, [region.fd for _, region in part])

    def give_queue(self, setup: QueueSetup, journal: JournalFile) -> None:
        """Hand over a queue with its journal."""
        region_fd, offset, length = journal.region
        fds = {"ledger": journal.ledger_fd, "region": region_fd}
        signals = {"kick": setup.kick_fd, "interrupt": setup.interrupt_fd}
        fds |= {name: fd for name, fd in signals.items() if fd >= 0}
        message = {
            "do": "start",
            "queue": setup.index,
            "size": setup.size,
            "descriptor_area": setup.descriptor_area,
            "driver_area": setup.driver_area,
            "device_area": setup.device_area,
            "features": setup.features,
            "position": setup.position,
            "region": [offset, length],
            "fds": list(fds),
        }
        self.send(message, list(fds.values()))

    def give_config(self, changes: list[tuple[int, int]], *, by_driver: bool, change: int = 0) -> None:
        """Give bytes of the configuration space, each with its place.

        Where a driver wrote them, it answers that change number ``change`` is `configured`.
        """
        if changes:
            self.send({"do": "config", "changes": changes, "by_driver": by_driver, "change": change})

    # The end.

    def kill(self) -> None:
        """End it at once; its death is noticed like any other."""
        if not self.buried:
            self._killed = True
            os.kill(self.pid, signal.SIGKILL)

    def bury(self) -> str:
        """Reap it, after killing it if it still lives; says how it ended."""
        if self.buried:
            return "is gone"
        os.kill(self.pid, signal.SIGKILL)  # it may live on without its channel; a zombie does not mind
        _, status = os.waitpid(self.pid, 0)
        self.gone = self.buried = True
        self.ready = False
        self._channel.close()
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            self.broke_down = number in (signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT)
            return f"was ended by {signal.Signals(number).name}"
        self.broke_down = bool(os.WEXITSTATUS(status))
        return f"exited with status {os.WEXITSTATUS(status)}"

    def dismiss(self, patience: float) -> Iterator[dict[str, Any]]:
        """Let it answer what it has taken, for at most ``patience`` seconds, then bury it; gives its last messages."""
        if not self.buried:
            self.send({"do": "leave"})
            deadline = time.monotonic() + patience
            while message := self.wait(timeout=deadline - time.monotonic()):
                yield message
            self.bury()
