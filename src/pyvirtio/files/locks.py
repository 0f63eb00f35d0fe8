"""Locks on a folder's files, so that programs of this machine and other guests respect them.

A guest's kernel keeps the locks among its own processes by itself and tells the server of those that it granted. Each
process of the guest that has a lock on a file gets a descriptor of its own for it here, and the lock is that of the
descriptor (Linux's F_OFD_SETLK): so the processes of one guest are told apart, and the end of another descriptor of the
same file takes nothing away.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct

from pyvirtio.files.beneath import own_path
from pyvirtio.files.structures import Lock, LockStatus
from pyvirtio.files.tree import refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.files.tree import Owner

_FLOCK = struct.Struct("@hhqqi4x")  # struct flock: l_type, l_whence, l_start, l_len, l_pid

MOST = 100
"""The most files that a client's processes may have locks on at once."""


class LockFiles:
    """The descriptors that hold locks, one for each file and owner."""

    def __init__(self) -> None:
        self._fds: dict[tuple[int, int, Owner], int] = {}

    def lock(self, fd: int, kind: int, start: int, length: int, owner: Owner) -> LockStatus:
        """Take or give back a lock on the file behind ``fd``."""
        import fcntl

        key = self._key(fd, owner)
        if kind == Lock.UNLOCK:
            if key not in self._fds:
                return LockStatus.SUCCESS
            fcntl.fcntl(self._fds[key], fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, start, length))
            if not start and not length:  # of the whole file: so it is when a process closes it
                os.close(self._fds.pop(key))
            return LockStatus.SUCCESS
        wanted, holder = _flock(_local_kind(kind), start, length), self._own(key, fd)
        try:
            fcntl.fcntl(holder, fcntl.F_OFD_SETLK, wanted)
        except BlockingIOError:
            return LockStatus.BLOCKED
        except OSError:
            return LockStatus.ERROR
        return LockStatus.SUCCESS

    def holder(self, fd: int, kind: int, start: int, length: int, owner: Owner) -> tuple[int, int, int, int] | None:
        """Return kind, start, length and process of a lock that is in the way; a guest's process has the number 0."""
        import fcntl

        asked = _flock(_local_kind(kind), start, length)
        found = fcntl.fcntl(self._fds.get(self._key(fd, owner), fd), fcntl.F_OFD_GETLK, asked)
        local, _, start, length, pid = _FLOCK.unpack(found)
        if local == fcntl.F_UNLCK:
            return None
        return (Lock.READ if local == fcntl.F_RDLCK else Lock.WRITE), start, length, max(0, pid)

    @staticmethod
    def _key(fd: int, owner: Owner) -> tuple[int, int, Owner]:
        status = os.fstat(fd)
        return status.st_dev, status.st_ino, owner

    def _own(self, key: tuple[int, int, Owner], fd: int) -> int:
        if key not in self._fds:
            if len(self._fds) >= MOST:
                refuse(errno.ENOLCK)
            try:
                self._fds[key] = os.open(own_path(fd), os.O_RDWR | os.O_CLOEXEC)
            except OSError:  # read locks are possible all the same
                self._fds[key] = os.open(own_path(fd), os.O_RDONLY | os.O_CLOEXEC)
        return self._fds[key]

    def close(self) -> None:
        """Let go of all locks."""
        while self._fds:
            with contextlib.suppress(OSError):
                os.close(self._fds.popitem()[1])


def _local_kind(kind: int) -> int:
    import fcntl

    if kind not in {Lock.READ, Lock.WRITE}:
        refuse(errno.EINVAL)
    return fcntl.F_RDLCK if kind == Lock.READ else fcntl.F_WRLCK


def _flock(kind: int, start: int, length: int) -> bytes:
    if start + length >= 1 << 63:
        refuse(errno.EINVAL)
    return _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
