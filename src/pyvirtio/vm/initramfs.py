r"""An initramfs, written in the one format that every Linux kernel unpacks: a newc cpio archive.

The same entries always give the same bytes: no clock, no user and no inode of this machine enters the
archive, so its hash can name it in a cache. Archives may be concatenated: the kernel unpacks one after
the other, and a later entry replaces an earlier one of the same name.

>>> archive = Initramfs()
>>> archive.file("init", b"#!/bin/sh\n", mode=0o755)
>>> archive.symlink("bin/sh", "busybox")
>>> [name for name, _ in archive.entries()]
['bin', 'bin/sh', 'init']
>>> len(archive.to_bytes()) % 512
0
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pyvirtio.errors import ProvisionError
from pyvirtio.system import memory_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAGIC = b"070701"
TRAILER = "TRAILER!!!"
BLOCK = 512
LARGEST_FILE = 0xFFFF_FFFF  # the size field has eight hexadecimal digits


@dataclass(frozen=True)
class Entry:
    """One member of the archive: its type and permissions, its contents, its device number."""

    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


class Initramfs:
    """A tree of files for a guest's root. The parents of a path are added with it.

    Paths are relative to the guest's root and separated by ``/``. Adding a path twice replaces it.
    """

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory."""
        self._add(path, Entry(stat.S_IFDIR | mode))

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file.

        Raises:
            ProvisionError: the file is 4 GiB or larger, which the format cannot express.
        """
        if len(data) > LARGEST_FILE:
            raise ProvisionError(
                f"{path} has {len(data)} bytes; an initramfs takes {LARGEST_FILE} at most, so put it on a disk"
            )
        self._add(path, Entry(stat.S_IFREG | mode, data))

    def symlink(self, path: str, target: str) -> None:
        """Add a symbolic link that points to `target`."""
        self._add(path, Entry(stat.S_IFLNK | 0o777, os.fsencode(target)))

    def character_device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add the node of a character device."""
        self._add(path, Entry(stat.S_IFCHR | mode, device=(major, minor)))

    def tree(self, root: Path, at: str = "", *, wanted: Callable[[str], bool] = lambda _: True) -> None:
        """Add what lies under `root`, below the guest's path `at`.

        Only files and links whose path relative to `root` is `wanted` are added; sockets, pipes and
        devices are left out.
        """
        for folder, folders, names in os.walk(root):
            linked = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            for name in names + linked:
                source = Path(folder, name)
                relative = source.relative_to(root).as_posix()
                if wanted(relative):
                    self.copy(source, f"{at}/{relative}")

    def copy(self, source: Path, path: str) -> None:
        """Add the file or link `source` under the guest's path `path`."""
        status = source.lstat()
        if stat.S_ISLNK(status.st_mode):
            self.symlink(path, os.readlink(source))
        elif stat.S_ISREG(status.st_mode):
            self.file(path, source.read_bytes(), 0o755 if status.st_mode & 0o111 else 0o644)

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """Return the members in the order of the archive: sorted, so that a folder comes before its contents."""
        yield from sorted(self._entries.items())

    def size(self) -> int:
        """Return how many bytes the files have."""
        return sum(len(entry.data) for entry in self._entries.values())

    def to_bytes(self) -> bytes:
        """Return the archive, padded to a multiple of 512 bytes."""
        parts: list[bytes] = []
        for inode, (path, entry) in enumerate(self.entries(), start=1):
            parts += _member(path, entry, inode)
        parts += _member(TRAILER, Entry(0), 0)
        archive = b"".join(parts)
        return archive + bytes(-len(archive) % BLOCK)

    def _add(self, path: str, entry: Entry) -> None:
        clean = PurePosixPath("/", path).relative_to("/")
        if ".." in clean.parts or not clean.parts:
            raise ProvisionError(f"{path!r} is not a path inside the guest's root; give one without ..")
        for parent in clean.parents:
            if parent.parts:
                self._entries.setdefault(parent.as_posix(), Entry(stat.S_IFDIR | 0o755))
        self._entries[clean.as_posix()] = entry


def _member(path: str, entry: Entry, inode: int) -> tuple[bytes, ...]:
    """Return one member: header of 110 bytes, name and data, the latter two padded to four bytes."""
    name = os.fsencode(path) + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        inode,
        entry.mode,
        0,  # owner: root
        0,  # group: root
        links,
        0,  # modified: at the beginning of time
        len(entry.data),
        0,  # major and minor of the disk it was on
        0,
        *entry.device,
        len(name),
        0,  # check sum, which this variant of the format does not use
    )
    header = MAGIC + b"".join(b"%08X" % field for field in fields)
    return header, name, bytes(-(len(header) + len(name)) % 4), entry.data, bytes(-len(entry.data) % 4)


@contextlib.contextmanager
def in_memory(path: Path, overlay: Initramfs | None = None) -> Iterator[int]:
    """Return a file descriptor of the archive at `path` and the overlay, one after the other, in memory only."""
    descriptor = memory_file.create("initramfs")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(path.read_bytes())
            if overlay:
                file.write(overlay.to_bytes())
        yield descriptor
    finally:
        os.close(descriptor)
