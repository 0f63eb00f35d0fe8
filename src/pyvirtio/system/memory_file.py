"""Files that exist in memory alone, and whose size can be sealed, for whatever C library Python was built.

``os.memfd_create`` and the seals of ``fcntl`` are missing in a Python that was built for a glibc older than 2.27, as
those that uv and conda install may be, although the system that it runs on has them.
"""

from __future__ import annotations

import os

# linux/memfd.h and linux/fcntl.h; they are the same on every architecture.
_CLOEXEC, _ALLOW_SEALING = 0x1, 0x2
_ADD_SEALS, _GET_SEALS = 1033, 1034
_SEAL_SHRINK = 0x2


def create(name: str) -> int:
    """Return the descriptor of a new, empty file; ``name`` is what ``/proc`` shows.

    Raises:
        OSError: the system has no more memory or descriptors.
    """
    flags = _CLOEXEC | _ALLOW_SEALING
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name, flags)
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    fd: int = library.memfd_create(name.encode(), flags)
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return fd


def seal_size(fd: int) -> None:
    """Let the file never shrink again, so that whoever maps it is safe.

    Raises:
        OSError: it is not a memory file, or its seals can no longer change.
    """
    import fcntl

    fcntl.fcntl(fd, _ADD_SEALS, _SEAL_SHRINK)


def is_size_sealed(fd: int) -> bool:
    """Return whether the file can never shrink.

    >>> fd = create("example")
    >>> before = is_size_sealed(fd)
    >>> seal_size(fd)
    >>> before, is_size_sealed(fd)
    (False, True)
    >>> os.close(fd)
    """
    import fcntl

    try:
        return bool(fcntl.fcntl(fd, _GET_SEALS) & _SEAL_SHRINK)
    except OSError:  # not a memory file
        return False
