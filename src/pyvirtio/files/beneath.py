"""Reaches what lies beneath a folder, and nothing else, whatever is renamed or replaced meanwhile.

**How.** The kernel is never given a path to interpret. Each name is opened in the directory whose descriptor the last
step returned, with O_NOFOLLOW: so a step leads to a child of a directory that lies beneath the folder, or nowhere. A
symbolic link is an end, never a way. There are no ``..`` and no ``/`` in names (`check_name`). Who swaps a directory
for a link between two steps changes where the next step ends, an error, and not where it leads.

The descriptors are O_PATH ones: they stand for a file without opening it, so a FIFO does not block and a device's
driver does not notice. To open it for reading or writing, `reopen` opens that very file once more, after a look at what
it is, through the process's own entry in ``/proc``: no name is looked up, so nothing can come between.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from pyvirtio.files.structures import LONGEST_NAME
from pyvirtio.files.tree import refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvirtio.files.tree import Path

_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_ALWAYS = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


def check_name(name: bytes) -> bytes:
    """Return ``name`` if it can be that of a file.

    >>> check_name(b"notes")
    b'notes'

    Raises:
        OSError: it is empty, too long, ``.`` or ``..``, or has a ``/`` or NUL in it.
    """
    if len(name) > LONGEST_NAME:
        refuse(errno.ENAMETOOLONG)
    if not name or b"/" in name or b"\0" in name or name in {b".", b".."}:
        refuse(errno.EINVAL)
    return name


@contextlib.contextmanager
def reached(root: int, path: Path) -> Iterator[int]:
    """Yield a descriptor that stands for what ``path`` names beneath the directory ``root``.

    Raises:
        OSError: there is no such thing; ENOTDIR or ELOOP where the way leads through something else than directories.
    """
    fd = os.open(".", _STEP | os.O_DIRECTORY, dir_fd=root)
    try:
        for position, name in enumerate(path, start=1):
            is_last = position == len(path)
            following = os.open(check_name(name), _STEP | (0 if is_last else os.O_DIRECTORY), dir_fd=fd)
            os.close(fd)
            fd = following
        yield fd
    finally:
        os.close(fd)


def own_path(fd: int) -> str:
    """Return a path by which this process names the file behind a descriptor."""
    return f"/proc/self/fd/{fd}"


def reopen(fd: int, flags: int) -> int:
    """Open the regular file or the directory behind a descriptor, and return the new descriptor.

    Raises:
        OSError: it is something else, ELOOP for a symbolic link and EACCES for devices, FIFOs and sockets: a client
            opens those itself, on its own machine.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            refuse(errno.EISDIR)
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    if stat.S_ISLNK(mode):
        refuse(errno.ELOOP)
    if not stat.S_ISREG(mode):
        refuse(errno.EACCES)
    return os.open(own_path(fd), flags | _ALWAYS)


def create(directory: int, name: bytes, flags: int, mode: int) -> tuple[int, bool]:
    """Open a regular file for which there may be no name yet; return its descriptor and whether it is new.

    Raises:
        OSError: EEXIST where O_EXCL is among ``flags`` and the name is taken.
    """
    with contextlib.suppress(FileExistsError) if not flags & os.O_EXCL else contextlib.nullcontext():
        made = os.open(name, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | _ALWAYS, mode, dir_fd=directory)
        return made, True
    with reached(directory, (name,)) as fd:
        return reopen(fd, flags), False
