"""Starts worker processes: forks of the keeper that own nothing of it."""

from __future__ import annotations

import contextlib
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

    It holds no descriptor of this process but the channel, the life line and the standard ones. It leads a process
    group of its own, so that what the device's code starts can be ended with it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    # Python swallows what a signal's handler raises while it forks, and so the wish to end.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):  # it did so itself, and may be over already
            os.setpgid(pid, pid)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return pid
    status = 1
    try:
        os.setpgid(0, 0)
        gc.freeze()  # what was there before lives as long as this process; looking at it would copy its pages
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the keeper, which then ends us
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        own_end = os.open(f"/proc/self/fd/{life_line.read_fd}", os.O_RDONLY | os.O_NONBLOCK)
        close_all_but({channel.fileno(), own_end})
        _hold(own_end)
        # A process that the device's code forks must not keep the channel open: by its end our death is noticed.
        os.register_at_fork(after_in_child=channel.close)
        run(channel)
        status = 0
    except BaseException as error:  # noqa: BLE001  # nothing of this process may run the parent's code
        from pyvirtio.system import log

        log.warning("worker-failed", "the worker failed", error)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def close_all_but(kept: set[int]) -> None:
    """Close every descriptor of this process but the standard ones and those of ``kept``, and read from nowhere."""
    start = 3
    for fd in sorted(kept):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def _hold(fd: int) -> None:
    """Let this process's group die of SIGIO once the pipe's other end is closed.

    The pipe has to be opened once more here: an inherited descriptor has one owner for all processes that share it.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(fd, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(fd, 0)
    if poll.poll(0):  # it was closed before we listened
        os._exit(1)
