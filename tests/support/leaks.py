"""What a test left behind: processes, file descriptors, sockets and files.

A device that is served is two processes, shared memory, sockets and eventfds, and most bugs in ending
them show only as something left over. So every test is looked at before and after (tests/conftest.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import stat
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What ends by itself, such as a process that was sent SIGTERM, gets this long to do so.
GRACE_SECONDS = 2.0

_PR_SET_CHILD_SUBREAPER = 36
_forked: set[int] = set()


def adopt_orphans() -> None:
    """Make this process the parent of every process that a test starts, at any depth.

    A worker whose keeper was killed would otherwise become a child of init, where no test finds it.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def watch_forks() -> None:
    """Remember who was forked here: those must be waited for, while adopted orphans cannot have been."""
    fork = os.fork

    def remembering_fork() -> int:
        pid = fork()
        if pid:
            _forked.add(pid)
        else:
            _forked.clear()
        return pid

    os.fork = remembering_fork


def forget_forks() -> None:
    """Forget who was forked here so far: after some thousands of tests, process ids are used again."""
    _forked.clear()


@dataclass(frozen=True)
class Snapshot:
    """What this process has open and running, and what lies in the folders under watch.

    Each is a mapping from what a thing is known by to how it is told.
    """

    things: dict[str, dict[object, str]]

    @classmethod
    def take(cls, temporary: Path, *more_folders: Path) -> Snapshot:
        """Look now. Files count in `temporary` only, socket files there and in `more_folders`."""
        return cls(
            {
                "process": dict(_processes()),
                "fd": dict(_fds()),
                "socket": {path: path for path in _socket_files(temporary, *more_folders)},
                "file": {path: str(path) for path in temporary.iterdir() if not path.is_socket()},
            }
        )

    def new_since(self, before: Snapshot) -> dict[str, list[str]]:
        """What is here now and was not before, by kind; kinds without anything new are left out."""
        new = {
            kind: sorted(told for key, told in now.items() if key not in before.things[kind])
            for kind, now in self.things.items()
        }
        return {kind: told for kind, told in new.items() if told}


def left_behind(before: Snapshot, look: Callable[[], Snapshot]) -> dict[str, list[str]]:
    """Compare with `before`, giving garbage and processes that are ending the time to go."""
    new = look().new_since(before)
    deadline = time.monotonic() + GRACE_SECONDS
    while new and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.02)
        new = look().new_since(before)
    return new


def _processes() -> Iterator[tuple[int, str]]:
    for thread in Path("/proc/self/task").iterdir():
        try:
            children = (thread / "children").read_text().split()
        except OSError:  # the thread has just ended
            continue
        for pid in map(int, children):
            # multiprocessing keeps one helper process, and the pipe to it, until the end.
            if (told := _describe(pid)) and "multiprocessing.resource_tracker" not in told:
                yield pid, told


def _describe(pid: int) -> str:
    """Say what a child is, or nothing if it was an adopted orphan that has ended (and is now reaped)."""
    try:
        # The second field, the name, is in parentheses and may hold anything.
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""
    if state != "Z":
        return f"{pid}: {command or 'no command line'}"
    if pid in _forked:
        return f"{pid}: ended, and nobody waited for it"
    if pid in _unfinished_popens():
        return ""  # subprocess itself complains, with a ResourceWarning
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return ""


def _unfinished_popens() -> set[int]:
    if "subprocess" not in sys.modules:
        return set()
    popen = sys.modules["subprocess"].Popen
    return {found.pid for found in gc.get_objects() if isinstance(found, popen) and found.returncode is None}


def _fds() -> Iterator[tuple[tuple[int, int, int], str]]:
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    for name in os.listdir("/proc/self/fd"):
        try:
            status, target = os.fstat(int(name)), os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the one that listed the folder
            continue
        if tracker is None or int(name) != tracker._fd:
            # By number and by file: a number that was closed and opened again is another file.
            yield (int(name), status.st_dev, status.st_ino), f"{name} -> {target}"


def _socket_files(*folders: Path) -> Iterator[str]:
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(parent, name)
                try:
                    if stat.S_ISSOCK(os.lstat(path).st_mode):
                        yield path
                except OSError:  # removed in the meantime
                    continue
