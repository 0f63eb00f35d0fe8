"""Holes and zeros in files, block devices and mapped memory: what Python's ``os`` does not have.

Where the file system or the disk cannot do it, a function says so, and nothing has changed.
"""

from __future__ import annotations

import errno
import os

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10  # linux/falloc.h
_CANNOT = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)


def punch_hole(fd: int, offset: int, length: int) -> bool:
    r"""Give the space of ``length`` bytes back to the file system; they read as zeros then.

    Return False where the file cannot have holes.

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
    """Let ``length`` bytes read as zeros and keep their space; returns and raises as `punch_hole` does."""
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


def give_back(view: memoryview) -> int:
    """Give memory that is mapped from a file back to the system, in the file, too; it reads as zeros then.

    Only whole pages of this machine can go. Return how many bytes went; 0 also where no file holds the memory, or one
    that cannot have holes.

    >>> import mmap
    >>> fd = os.memfd_create("memory")
    >>> os.ftruncate(fd, 4 * mmap.PAGESIZE)
    >>> memory = memoryview(mmap.mmap(fd, 0))
    >>> memory[:] = b"x" * len(memory)
    >>> before = os.fstat(fd).st_blocks
    >>> give_back(memory[1 : 3 * mmap.PAGESIZE]) // mmap.PAGESIZE, os.fstat(fd).st_blocks / before
    (2, 0.5)
    >>> memory[0], memory[mmap.PAGESIZE]
    (120, 0)
    >>> os.close(fd)

    Raises:
        OSError: the system refuses.
    """
    import ctypes
    import mmap

    first = ctypes.c_char.from_buffer(view)
    address = ctypes.addressof(first)
    start = address + -address % mmap.PAGESIZE
    length = (address + len(view) - start) // mmap.PAGESIZE * mmap.PAGESIZE
    if length <= 0:
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    if not libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_REMOVE):
        return length
    if (number := ctypes.get_errno()) in (*_CANNOT, errno.EACCES, errno.EPERM):  # private memory, or a sealed file
        return 0
    raise OSError(number, os.strerror(number))
