"""Holes and zeros in files and block devices: `fallocate(2)`, which Python's ``os`` does not have.

Each function returns False where the file system or the disk cannot do it; nothing has changed then.
"""

from __future__ import annotations

import errno
import os

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10  # linux/falloc.h
_CANNOT = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)


def punch_hole(fd: int, offset: int, length: int) -> bool:
    r"""Give the space of ``length`` bytes back to the file system; they read as zeros then.

    Raises:
        OSError: the system refuses.

    >>> fd = os.memfd_create("disk")
    >>> _ = os.pwrite(fd, b"sector", 0)
    >>> punch_hole(fd, 0, 3), os.pread(fd, 6, 0)
    (True, b'\x00\x00\x00tor')
    >>> os.close(fd)
    """
    return _allocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length)


def zero_range(fd: int, offset: int, length: int) -> bool:
    """Let ``length`` bytes read as zeros and keep their space; raises as `punch_hole` does."""
    return _allocate(fd, _ZERO_RANGE | _KEEP_SIZE, offset, length)


def _allocate(fd: int, mode: int, offset: int, length: int) -> bool:
    import ctypes  # only those who need it wait for it

    libc = ctypes.CDLL(None, use_errno=True)
    while libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        number = ctypes.get_errno()
        if number in _CANNOT:
            return False
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
    return True
