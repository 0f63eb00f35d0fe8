"""A folder of this machine as a tree.

Nothing outside of it is ever touched; `pyvirtio.files.beneath` says how. Symbolic links are shown and made as they are,
and only the guest follows them, on its side.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from pyvirtio.errors import LocalError
from pyvirtio.files.beneath import check_name, create, own_path, reached, reopen
from pyvirtio.files.folder_file import FolderFile, attributes_of, change_through
from pyvirtio.files.locks import LockFiles
from pyvirtio.files.structures import XATTR_CREATE, XATTR_REPLACE, FileSystem, Open, Set
from pyvirtio.files.tree import Tree, refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvirtio.files.structures import Attributes, Changes
    from pyvirtio.files.tree import File, Path

_PASSED_ON = Open.TRUNCATE | Open.SYNC | Open.DSYNC
_XATTRS = b"user."
"""The namespace of extended attributes that a guest has; the others mean something to this machine's kernel."""


def local_flags(flags: int) -> int:
    """Return flags of Tlopen as this machine's `os.open` takes them, without those that are not for the server.

    Raises:
        OSError: they say neither reading nor writing.
    """
    access = flags & (Open.WRITE_ONLY | Open.READ_WRITE)
    if access == Open.WRITE_ONLY | Open.READ_WRITE:
        refuse(errno.EINVAL)
    passed = {Open.TRUNCATE: os.O_TRUNC, Open.SYNC: os.O_SYNC, Open.DSYNC: os.O_DSYNC}
    wanted = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)[access]
    for flag, local in passed.items():
        wanted |= local if flags & flag == flag else 0
    return wanted


class Folder(Tree):
    """The folder ``path``, which a client may write unless it is ``readonly``.

    Raises:
        LocalError: there is no such folder.
    """

    def __init__(self, path: str | os.PathLike[str], *, readonly: bool = False) -> None:
        self._root = -1
        try:
            self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise LocalError(
                f"the folder {os.fspath(path)} cannot be served: {error.strerror}; give one that you may read"
            ) from error
        self._readonly = readonly
        self._locks = LockFiles()

    def close(self) -> None:
        """Close the folder, and let go of locks."""
        self._locks.close()
        root, self._root = self._root, -1
        if root >= 0:
            os.close(root)

    @contextlib.contextmanager
    def _writable(self, path: Path) -> Iterator[int]:
        """Yield a descriptor for what is about to be changed."""
        if self._readonly:
            refuse(errno.EROFS)
        with reached(self._root, path) as fd:
            yield fd

    # What is there.

    def attributes(self, path: Path) -> Attributes:
        """Return what ``fstat`` says."""
        with reached(self._root, path) as fd:
            return attributes_of(os.fstat(fd))

    def readlink(self, path: Path) -> bytes:
        """Return what a symbolic link points to, whatever that is: it is the guest's to follow."""
        with reached(self._root, path) as fd:
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                refuse(errno.EINVAL)
            return os.readlink(b"", dir_fd=fd)

    def file_system(self, path: Path) -> FileSystem:
        """Return what ``fstatvfs`` says."""
        with reached(self._root, path) as fd:
            found = os.fstatvfs(fd)
        return FileSystem(
            bsize=found.f_frsize,
            blocks=found.f_blocks,
            bfree=found.f_bfree,
            bavail=found.f_bavail,
            files=found.f_files,
            ffree=found.f_ffree,
            fsid=found.f_fsid & 0xFFFF_FFFF_FFFF_FFFF,
            namelen=found.f_namemax,
        )

    # Opening.

    def open(self, path: Path, flags: int) -> File:
        """Open a regular file or a directory; everything else is the guest's to open."""
        wanted = local_flags(flags)
        if self._readonly and wanted & (os.O_ACCMODE | os.O_TRUNC):
            refuse(errno.EROFS)
        with reached(self._root, path) as fd:
            return self._file(reopen(fd, wanted), is_root=not path)

    def create(self, parent: Path, name: bytes, flags: int, mode: int) -> File:
        """Make a regular file, with just the permissions that the guest asks for."""
        wanted = local_flags(flags) | (os.O_EXCL if flags & Open.EXCLUSIVE else 0)
        permissions = _permissions(mode)
        with self._writable(parent) as directory:
            fd, is_new = create(directory, check_name(name), wanted, permissions)
        if is_new:
            os.fchmod(fd, permissions)  # whatever the umask of this process is: the guest has applied its own
        return self._file(fd)

    def _file(self, fd: int, *, is_root: bool = False) -> File:
        return FolderFile(fd, self._locks, readonly=self._readonly, is_root=is_root)

    # Names.

    def mkdir(self, parent: Path, name: bytes, mode: int) -> None:
        """Make a directory."""
        with self._writable(parent) as directory:
            os.mkdir(check_name(name), 0o700, dir_fd=directory)
            _give_mode(directory, name, mode & 0o7777)

    def symlink(self, parent: Path, name: bytes, target: bytes) -> None:
        """Make a symbolic link."""
        with self._writable(parent) as directory:
            os.symlink(target, check_name(name), dir_fd=directory)

    def mknod(self, parent: Path, name: bytes, mode: int) -> None:
        """Make a file, a FIFO or a socket. A device would be one of *this* machine for whoever opens it here."""
        if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK}:
            refuse(errno.EPERM)
        permissions = _permissions(mode)
        with self._writable(parent) as directory:
            os.mknod(check_name(name), stat.S_IFMT(mode) | permissions & 0o700, dir_fd=directory)
            _give_mode(directory, name, permissions)

    def link(self, path: Path, parent: Path, name: bytes) -> None:
        """Give a file another name."""
        if not path:
            refuse(errno.EPERM)
        with self._writable(path[:-1]) as old, self._writable(parent) as new:
            os.link(path[-1], check_name(name), src_dir_fd=old, dst_dir_fd=new, follow_symlinks=False)

    def remove(self, parent: Path, name: bytes, *, directory: bool) -> None:
        """Remove a name."""
        with self._writable(parent) as fd:
            (os.rmdir if directory else os.unlink)(check_name(name), dir_fd=fd)

    def rename(self, parent: Path, name: bytes, new_parent: Path, new_name: bytes) -> None:
        """Move a name."""
        with self._writable(parent) as old, self._writable(new_parent) as new:
            os.rename(check_name(name), check_name(new_name), src_dir_fd=old, dst_dir_fd=new)

    # Attributes.

    def change(self, path: Path, changes: Changes) -> None:
        """Set attributes of what has this path, of a symbolic link itself."""
        with self._writable(path) as fd:
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                change_through(own_path(fd), changes, is_file=stat.S_ISREG(os.fstat(fd).st_mode))
                return
        if changes.valid & (Set.MODE | Set.SIZE):
            refuse(errno.EOPNOTSUPP)
        with self._writable(path[:-1]) as directory:
            change_through(path[-1], changes, is_file=False, directory=directory)

    def xattr(self, path: Path, name: bytes) -> bytes:
        """Return an attribute of the namespace ``user``, or the names of all."""
        with reached(self._root, path) as fd:
            if not name:
                names = (os.fsencode(one) for one in os.listxattr(own_path(fd)))
                return b"".join(one + b"\0" for one in names if one.startswith(_XATTRS))
            _check_xattr(name)
            return os.getxattr(own_path(fd), name)

    def set_xattr(self, path: Path, name: bytes, value: bytes, flags: int) -> None:
        """Set or remove an attribute of the namespace ``user``."""
        _check_xattr(name)
        if flags & ~(XATTR_CREATE | XATTR_REPLACE):
            refuse(errno.EINVAL)
        with self._writable(path) as fd:
            if not value and flags & XATTR_REPLACE:
                os.removexattr(own_path(fd), name)
            else:
                os.setxattr(own_path(fd), name, value, flags)


def _give_mode(directory: int, name: bytes, mode: int) -> None:
    """Give what was just made its mode, whatever the umask of this process is: the guest has applied its own."""
    with reached(directory, (name,)) as made:
        if not stat.S_ISLNK(os.fstat(made).st_mode):
            os.chmod(own_path(made), mode)


def _check_xattr(name: bytes) -> None:
    if not name.startswith(_XATTRS) or b"\0" in name:
        refuse(errno.EOPNOTSUPP)


def _permissions(mode: int) -> int:
    """Return the permissions of a new file.

    Raises:
        OSError: it is to run as its owner or group, who is somebody of *this* machine.
    """
    if mode & (stat.S_ISUID | stat.S_ISGID):
        refuse(errno.EPERM)
    return mode & 0o1777
