"""Files as memory: made, checked and mapped."""

from __future__ import annotations

import mmap
import os
import stat

from pyvirtio.errors import LocalError, ProtocolError
from pyvirtio.system import memory_file

PAGE = mmap.PAGESIZE


def check_file(fd: int, offset: int, size: int) -> None:
    """Refuse to map what the file does not hold: touching such memory kills the process (SIGBUS).

    Raises:
        ProtocolError: ``offset + size`` lies beyond the end of the file, or it cannot be mapped.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise ProtocolError("memory was sent as something other than a file; use a memfd or a file that is shared")
    if size <= 0 or offset < 0 or offset + size > status.st_size:
        raise ProtocolError(f"memory of {size} bytes at offset {offset} was sent with a file of {status.st_size} bytes")


def check_sealed(fd: int) -> None:
    """Refuse a file that could shrink under a process that must not die of it.

    Raises:
        ProtocolError: it is not a memory file, or its size is not sealed.
    """
    if not memory_file.is_size_sealed(fd):
        raise ProtocolError("a region was sent with a file that can shrink; use a memfd with F_SEAL_SHRINK")


def map_file(fd: int, offset: int, size: int) -> memoryview:
    """Map ``size`` bytes at ``offset`` of a file, shared, readable and writable.

    The offset need not be a multiple of the page size. The mapping lives as long as the view.

    Raises:
        ProtocolError: the file is too short, or cannot be mapped for writing.
    """
    check_file(fd, offset, size)
    slack = offset % PAGE
    try:
        mapping = mmap.mmap(fd, size + slack, offset=offset - slack)
    except (OSError, ValueError, OverflowError) as error:
        raise ProtocolError(f"memory of {size} bytes at offset {offset} cannot be mapped: {error}") from error
    return memoryview(mapping)[slack : slack + size]


def shared_file(name: str, size: int) -> int:
    """Create a file of ``size`` zero bytes that exists in memory only, and return its descriptor.

    ``name`` is what ``/proc`` shows. The file cannot shrink, so whoever maps it is safe.

    Raises:
        LocalError: the system has no more memory or descriptors.
    """
    try:
        fd = memory_file.create(name)
    except OSError as error:
        raise LocalError(
            f"shared memory cannot be created: {error}; free memory or descriptors, and try again"
        ) from error
    try:
        os.ftruncate(fd, size)
        memory_file.seal_size(fd)
    except OSError as error:
        os.close(fd)
        raise LocalError(f"shared memory of {size} bytes cannot be created: {error}; ask for less") from error
    return fd
