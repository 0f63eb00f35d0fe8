"""An open file or directory of a folder, and the attributes that both its descriptor and its name have."""

from __future__ import annotations

import errno
import os
import stat
import zlib

from pyvirtio.files.beneath import own_path
from pyvirtio.files.directory_entries import read_entries
from pyvirtio.files.structures import Attributes, Qid, QidType, Set
from pyvirtio.files.tree import File, refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvirtio.files.locks import LockFiles
    from pyvirtio.files.structures import Changes, LockStatus
    from pyvirtio.files.tree import Entry, Owner, Sink, Source

_TYPES = {stat.S_IFDIR: QidType.DIRECTORY, stat.S_IFLNK: QidType.LINK}
_U32, _U64 = 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF


def _number(device: int, inode: int) -> int:
    """Return one number for a file: inode numbers are unique on one file system only, and a folder may hold several."""
    return inode ^ (zlib.crc32(device.to_bytes(8, "little")) << 32)


def attributes_of(status: os.stat_result) -> Attributes:
    """Return what a client is told of a file."""
    kind = _TYPES.get(stat.S_IFMT(status.st_mode), QidType.FILE)
    version = (status.st_mtime_ns ^ status.st_size << 8) & _U32
    times = [divmod(ns, 10**9) for ns in (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)]
    (atime, atime_ns), (mtime, mtime_ns), (ctime, ctime_ns) = times
    return Attributes(
        qid=Qid(kind, version, _number(status.st_dev, status.st_ino)),
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        nlink=status.st_nlink,
        rdev=status.st_rdev,
        size=status.st_size,
        blksize=status.st_blksize,
        blocks=status.st_blocks,
        atime_sec=atime & _U64,  # before 1970 is negative
        atime_nsec=atime_ns,
        mtime_sec=mtime & _U64,
        mtime_nsec=mtime_ns,
        ctime_sec=ctime & _U64,
        ctime_nsec=ctime_ns,
    )


def change_through(path: str | bytes, changes: Changes, *, is_file: bool, directory: int | None = None) -> None:
    """Set attributes of what ``path`` stands for.

    That is the entry in ``/proc`` of a descriptor of ours, or, with a ``directory``, the symbolic link of that name.
    """
    valid, follow = changes.valid, directory is None
    if valid & Set.SIZE:
        if not is_file:
            refuse(errno.EINVAL)
        if changes.size >= 1 << 63:
            refuse(errno.EFBIG)
        os.truncate(path, changes.size)
    if valid & (Set.UID | Set.GID):
        uid = changes.uid if valid & Set.UID else -1
        gid = changes.gid if valid & Set.GID else -1
        os.chown(path, uid, gid, dir_fd=directory, follow_symlinks=follow)
    if valid & Set.MODE:
        if is_file and changes.mode & (stat.S_ISUID | stat.S_ISGID):
            refuse(errno.EPERM)  # it would run as somebody of this machine
        os.chmod(path, changes.mode & 0o7777)
    if valid & (Set.ATIME | Set.MTIME):
        os.utime(path, ns=_times(path, changes, directory), dir_fd=directory, follow_symlinks=follow)


def _times(path: str | bytes, changes: Changes, directory: int | None) -> tuple[int, int]:
    import time  # only where somebody sets times

    before = os.stat(path, dir_fd=directory, follow_symlinks=directory is None)
    given = (changes.atime_sec * 10**9 + changes.atime_nsec, changes.mtime_sec * 10**9 + changes.mtime_nsec)
    kept = (before.st_atime_ns, before.st_mtime_ns)
    bits = ((Set.ATIME, Set.ATIME_SET), (Set.MTIME, Set.MTIME_SET))
    now = time.time_ns()
    chosen = [
        old if not changes.valid & bit else new if changes.valid & is_set else now
        for old, new, (bit, is_set) in zip(kept, given, bits, strict=True)
    ]
    if max(chosen) >= 1 << 63:
        refuse(errno.EINVAL)
    return chosen[0], chosen[1]


class FolderFile(File):
    """A descriptor that is open."""

    def __init__(self, fd: int, locks: LockFiles, *, readonly: bool, is_root: bool = False) -> None:
        self._fd = fd
        self._locks = locks
        self._readonly = readonly
        self._is_root = is_root

    def attributes(self) -> Attributes:
        """Return what ``fstat`` says."""
        return attributes_of(os.fstat(self._fd))

    def change(self, changes: Changes) -> None:
        """Set attributes, also where the name is gone."""
        if self._readonly:
            refuse(errno.EROFS)
        change_through(own_path(self._fd), changes, is_file=stat.S_ISREG(os.fstat(self._fd).st_mode))

    def read(self, sink: Sink, count: int, offset: int) -> int:
        """Read straight into where the reply goes; a file that ends within that is read to its end."""
        _check_offset(offset)
        done = 0
        while done < count and (number := sink.read_from(self._fd, count - done, offset + done)):
            done += number
        return done

    def write(self, source: Source, count: int, offset: int) -> int:
        """Write straight from where the message is."""
        _check_offset(offset + count)
        done = 0
        while done < count and (number := source.write_to(self._fd, count - done, offset + done)):
            done += number
        return done

    def entries(self, offset: int) -> Iterator[Entry]:
        """Return entries with the places that the file system gives them."""
        status = os.fstat(self._fd)
        if not stat.S_ISDIR(status.st_mode):
            refuse(errno.ENOTDIR)
        _check_offset(offset)
        for inode, behind, kind, name in read_entries(self._fd, offset):
            # What is above the folder has no number here.
            shown = status.st_ino if self._is_root and name == b".." else inode
            qid = Qid(_TYPES.get(kind << 12, QidType.FILE), 0, _number(status.st_dev, shown))
            yield qid, behind, kind, name

    def sync(self, *, data_only: bool) -> None:
        """Have the file system keep what was written."""
        (os.fdatasync if data_only else os.fsync)(self._fd)

    def lock(self, kind: int, start: int, length: int, owner: Owner) -> LockStatus:
        """Lock against programs of this machine and other guests."""
        return self._locks.lock(self._fd, kind, start, length, owner)

    def holder(self, kind: int, start: int, length: int, owner: Owner) -> tuple[int, int, int, int] | None:
        """Return the lock that is in the way."""
        return self._locks.holder(self._fd, kind, start, length, owner)

    def close(self) -> None:
        """Close the descriptor."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _check_offset(offset: int) -> None:
    if offset >= 1 << 63:  # the system knows no further
        refuse(errno.EINVAL)
