"""What a server serves: a tree of files, named by paths, and files that were opened.

A path is a tuple of names from the root on, so ``()`` is the root; a name is bytes, never empty, ``.`` or ``..``, and
without ``/`` and NUL: the server sees to that. Every method raises `OSError` with the ``errno`` that the client shall
see. What a tree does not override it refuses, so a tree that can only be read overrides little.
"""

from __future__ import annotations

import errno
import os

from pyvirtio.files.structures import FileSystem, LockStatus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from typing import Never, Protocol

    from pyvirtio.files.structures import Attributes, Changes, Qid

    Path = tuple[bytes, ...]
    Entry = tuple[Qid, int, int, bytes]
    """An entry of a directory: its qid, the offset behind it, its type as in ``d_type``, its name."""

    Owner = tuple[bytes, int]
    """Who holds a lock: a client's name and the number of a process there."""

    class Source(Protocol):
        """Where the bytes of a message come from; a device's `Reader` is one."""

        @property
        def left(self) -> int:
            """The bytes that were not read yet."""

        def read(self, limit: int = -1, /) -> bytes:
            """Read at most so many bytes."""

        def write_to(self, fd: int, limit: int = -1, offset: int | None = None) -> int:
            """Write the next bytes to a file; return how many it took."""

    class Sink(Protocol):
        """Where the bytes of a reply go; a device's `Writer` is one."""

        @property
        def room(self) -> int:
            """The bytes that can still be written."""

        def write(self, data: bytes, /) -> None:
            """Write bytes."""

        def read_from(self, fd: int, limit: int = -1, offset: int | None = None) -> int:
            """Write what a file has at an offset; return how many bytes that were."""

        def views(self, limit: int = -1, /) -> list[memoryview]:
            """Lend the next room where it lies."""

        def advance(self, number: int, /) -> None:
            """Count so many bytes as written."""


def refuse(number: int) -> Never:
    """Raise the `OSError` of an errno."""
    raise OSError(number, os.strerror(number))


def unless_done(do: Callable[[], None], sign: type[OSError], *, repeats: bool) -> None:
    """Do something; where it ``repeats`` what a process that died may have done, ``sign`` means that it was done."""
    try:
        do()
    except sign:
        if not repeats:
            raise


class File:
    """A file or a directory that was opened."""

    def attributes(self) -> Attributes:
        """Return its attributes, also where its name is gone."""
        refuse(errno.EOPNOTSUPP)

    def change(self, changes: Changes) -> None:
        """Set attributes."""
        refuse(errno.EPERM)

    def read(self, sink: Sink, count: int, offset: int) -> int | Awaitable[int]:
        """Write at most ``count`` of its bytes from ``offset`` on into ``sink``; return how many.

        It may return something to be awaited; then the server answers others meanwhile, and cancels it at a Tflush.
        """
        refuse(errno.EINVAL)

    def write(self, source: Source, count: int, offset: int) -> int | Awaitable[int]:
        """Take ``count`` bytes from ``source``; return how many were taken. See `read`."""
        refuse(errno.EBADF)

    def entries(self, offset: int) -> Iterable[Entry]:
        """Return the entries of a directory from ``offset`` on, 0 or one that came with an entry."""
        refuse(errno.ENOTDIR)

    def sync(self, *, data_only: bool) -> None:
        """Have what was written survive the machine's end."""

    def lock(self, kind: int, start: int, length: int, owner: Owner) -> LockStatus:
        """Take or give back a lock on ``length`` bytes, 0 for all that follow.

        A client's kernel keeps the locks of its own processes by itself, so this is about everybody else.
        """
        return LockStatus.SUCCESS

    def holder(self, kind: int, start: int, length: int, owner: Owner) -> tuple[int, int, int, int] | None:
        """Return the kind, start, length and process of a lock that is in the way, if there is one."""
        return None

    def close(self) -> None:
        """Give back what it holds."""


class Tree:
    """A tree of files.

    Attributes:
        knows_sizes: whether a file has as many bytes as its attributes say; where not, a client must not cache.
    """

    knows_sizes = True

    def attributes(self, path: Path) -> Attributes:
        """Return the attributes of what has this path."""
        refuse(errno.ENOENT)

    def open(self, path: Path, flags: int) -> File:
        """Open a file or a directory; ``flags`` are of `structures.Open`."""
        refuse(errno.EOPNOTSUPP)

    def create(self, parent: Path, name: bytes, flags: int, mode: int) -> File:
        """Make a file, or open one that is there unless ``flags`` have EXCLUSIVE."""
        refuse(errno.EROFS)

    def mkdir(self, parent: Path, name: bytes, mode: int) -> None:
        """Make a directory."""
        refuse(errno.EROFS)

    def symlink(self, parent: Path, name: bytes, target: bytes) -> None:
        """Make a symbolic link, which only the client ever follows."""
        refuse(errno.EROFS)

    def mknod(self, parent: Path, name: bytes, mode: int) -> None:
        """Make a file, a FIFO or a socket."""
        refuse(errno.EROFS)

    def link(self, path: Path, parent: Path, name: bytes) -> None:
        """Give a file another name."""
        refuse(errno.EROFS)

    def remove(self, parent: Path, name: bytes, *, directory: bool) -> None:
        """Remove a name."""
        refuse(errno.EROFS)

    def rename(self, parent: Path, name: bytes, new_parent: Path, new_name: bytes) -> None:
        """Move a name."""
        refuse(errno.EROFS)

    def change(self, path: Path, changes: Changes) -> None:
        """Set attributes."""
        refuse(errno.EROFS)

    def readlink(self, path: Path) -> bytes:
        """Return what a symbolic link points to."""
        refuse(errno.EINVAL)

    def file_system(self, path: Path) -> FileSystem:
        """Return how much there is, and how much is free."""
        return FileSystem()

    def xattr(self, path: Path, name: bytes) -> bytes:
        """Return an extended attribute; without a name, the names of all, each with a NUL behind it."""
        refuse(errno.EOPNOTSUPP)

    def set_xattr(self, path: Path, name: bytes, value: bytes, flags: int) -> None:
        """Set an extended attribute; an empty value with REPLACE removes it, as Linux's client asks for that."""
        refuse(errno.EOPNOTSUPP)

    def close(self) -> None:
        """Give back what it holds."""
