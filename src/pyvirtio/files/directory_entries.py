"""Reads a directory from a place on, as ``getdents64`` has it: with the place behind each entry.

A place is the file system's own, so it stays right while files come and go, and for whoever opens the directory again.
"""

from __future__ import annotations

import os
import struct
from functools import cache

from pyvirtio.errors import LocalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_HEAD = struct.Struct("=QqHB")  # struct linux_dirent64: d_ino, d_off, d_reclen, d_type; the name follows
_SIZE = 32768


@cache
def _library() -> Any:
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    # glibc has had it under this name since 2.30; musl's getdents is the same.
    function = getattr(library, "getdents64", None) or getattr(library, "getdents", None)
    if function is None:
        raise LocalError("this C library has no getdents64, which folders for guests need; use glibc 2.30 or musl")
    function.restype = ctypes.c_ssize_t
    function.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
    return ctypes, function


def read_entries(fd: int, offset: int) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield inode number, the place behind it, type and name of each entry from the place ``offset`` on.

    >>> fd = os.open("/", os.O_RDONLY)
    >>> {b".", b".."} <= {name for *_, name in read_entries(fd, 0)}
    True
    >>> os.close(fd)

    Raises:
        OSError: ``fd`` is no directory, or there is no such place.
        LocalError: the C library is too old.
    """
    ctypes, function = _library()
    os.lseek(fd, offset, os.SEEK_SET)
    buffer = ctypes.create_string_buffer(_SIZE)
    while (length := function(fd, buffer, _SIZE)) != 0:
        if length < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        data, at = buffer.raw[:length], 0
        while at < length:
            inode, behind, size, kind = _HEAD.unpack_from(data, at)
            yield inode, behind, kind, data[at + _HEAD.size : at + size].split(b"\0", 1)[0]
            at += size
