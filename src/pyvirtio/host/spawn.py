"""Starts worker processes: forks of the keeper that own nothing of it."""

from __future__ import annotations

import fcntl
import gc
import os
import select
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.host.channel import Channel


class LifeLine:
    """A pipe by which children end when this process does, however it ends and whatever they are doing."""

    def __init__(self) -> None:
        self.read_fd, self._write_fd = os.pipe()

    def close(self) -> None:
        """Let all children end."""
        os.close(self.read_fd)
        os.close(self._write_fd)


def fork_worker(run: Callable[[Channel], None], channel: Channel, life_line: LifeLine) -> int:
    """Fork a process that calls ``run(channel)``; return its process id.

    It holds no descriptor of this process but the channel, the life line and the standard ones.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    # Python swallows what a signal's handler raises while it forks, and so the wish to end.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return pid
    status = 1
    try:
        gc.freeze()  # what was there before lives as long as this process; looking at it would copy its pages
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the keeper, which then ends us
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        own_end = os.open(f"/proc/self/fd/{life_line.read_fd}", os.O_RDONLY | os.O_NONBLOCK)
        _close_all_but({channel.fileno(), own_end})
        _hold(own_end)
        run(channel)
        status = 0
    except BaseException as error:  # noqa: BLE001  # nothing of this process may run the parent's code
        from pyvirtio.system import log

        log.warning("worker-failed", "the worker failed", error)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _close_all_but(kept: set[int]) -> None:
    start = 3
    for fd in sorted(kept):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def _hold(fd: int) -> None:
    """Die of SIGIO once the pipe's other end is closed.

    The pipe has to be opened once more here: an inherited descriptor has one owner for all processes that share it.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(fd, 0)
    if poll.poll(0):  # it was closed before we listened
        os._exit(1)
