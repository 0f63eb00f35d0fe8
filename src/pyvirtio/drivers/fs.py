"""The driver of a shared folder (VIRTIO 1.4, 5.11), such as virtiofsd serves: FUSE's requests on virtqueues."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import deque

from pyvirtio.drivers.fuse import FuseDriver
from pyvirtio.errors import DeviceError, LocalError
from pyvirtio.spec import fuse
from pyvirtio.spec.fuse import Opcode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvirtio.driver import Ticket
    from pyvirtio.spec.struct import Struct

WINDOW = 16
"""How many pieces of a file are on their way at once."""

FOLDER_PIECE = 16 << 10
LONGEST_TARGET = 4096
"""The most bytes of a symbolic link (PATH_MAX)."""


class FsDriver(FuseDriver):
    """Works on a shared folder's files. A path begins at that folder; a symbolic link in it is not followed.

    Errors of the file system are those of the operating system, as from `os`: FileNotFoundError, PermissionError and
    so on. Files are made and looked for as the user of this process.

    ::

        with open_driver(FsDriver, "vhost-user:/run/fs.sock") as folder:
            folder.write_bytes("greeting", b"hello")
            for name, attributes in folder.scan("/"):
                print(name, attributes.size)
    """

    @contextlib.contextmanager
    def node(self, path: str) -> Iterator[int]:
        """Look a file up and yield its node, which is forgotten in the end."""
        found: list[int] = []
        with _about(path):
            try:
                for name in _names(path):
                    entry = self.ask(Opcode.LOOKUP, (found or [fuse.ROOT])[-1], _name(name), answer=fuse.EntryOut)
                    if not entry.nodeid:  # which says for how long the name will not be there
                        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
                    found.append(entry.nodeid)
                yield (found or [fuse.ROOT])[-1]
            finally:
                self.forget(found)

    @contextlib.contextmanager
    def _place(self, path: str) -> Iterator[tuple[int, bytes]]:
        """Yield the folder in which ``path`` is, and its last name."""
        names = _names(path)
        if not names:
            raise LocalError(f"{path!r} is the shared folder itself; name something in it")
        with _about(path), self.node("/".join(names[:-1])) as folder:
            yield folder, _name(names[-1])

    # What is there.

    def stat(self, path: str) -> fuse.Attr:
        """Return a file's attributes; ``mode`` says what it is, see the module `stat`."""
        with self.node(path) as node:
            attributes: fuse.Attr = self.ask(Opcode.GETATTR, node, fuse.GetattrIn(), answer=fuse.AttrOut).attr
            return attributes

    def statfs(self) -> fuse.Kstatfs:
        """Return how large the file system is, and how full."""
        found: fuse.Kstatfs = self.ask(Opcode.STATFS, fuse.ROOT, answer=fuse.Kstatfs)
        return found

    def names(self, path: str = "/") -> list[str]:
        """Return the names in a folder, sorted, without ``.`` and ``..``."""
        with self.node(path) as node:
            handle = self.ask(Opcode.OPENDIR, node, fuse.OpenIn(os.O_RDONLY), answer=fuse.OpenOut).fh
            names, offset = [], 0
            try:
                while entries := self._entries(node, handle, offset):
                    names += [name for name, _ in entries]
                    offset = entries[-1][1]
            finally:
                self.tell(Opcode.RELEASEDIR, node, fuse.ReleaseIn(handle))
        return sorted(os.fsdecode(name) for name in names if name not in (b".", b".."))

    def _entries(self, node: int, handle: int, offset: int) -> list[tuple[bytes, int]]:
        """Return the next names in a folder, and for each where to read on behind it."""
        question = fuse.ReadIn(handle, offset, FOLDER_PIECE)
        data = self.take(self.submit(Opcode.READDIR, node, question, room=FOLDER_PIECE))
        entries, at = [], 0
        while at + fuse.Dirent.nbytes <= len(data):
            entry = fuse.Dirent.unpack(data[at:])
            start = at + fuse.Dirent.nbytes
            name = data[start : start + entry.namelen]
            if not name or len(name) < entry.namelen or b"/" in name or b"\0" in name:
                raise DeviceError(f"the device lists a file whose name is none: {name!r}, of {entry.namelen} bytes")
            entries.append((name, entry.off))
            at = -(-(start + entry.namelen) // fuse.DIRENT_ALIGNMENT) * fuse.DIRENT_ALIGNMENT
        return entries

    def scan(self, path: str = "/") -> Iterator[tuple[str, fuse.Attr]]:
        """Yield the path and the attributes of everything below a folder, a folder before what is in it."""
        for name in self.names(path):
            below = f"{path.rstrip('/')}/{name}"
            attributes = self.stat(below)
            yield below, attributes
            if stat.S_ISDIR(attributes.mode):
                yield from self.scan(below)

    def readlink(self, path: str) -> str:
        """Return where a symbolic link leads."""
        with self.node(path) as node:
            return os.fsdecode(self.take(self.submit(Opcode.READLINK, node, room=LONGEST_TARGET)))

    # Content.

    @contextlib.contextmanager
    def open(self, path: str, flags: int = os.O_RDONLY, mode: int = 0o644) -> Iterator[FsFile]:
        """Open a file, with the flags of `os.open`, while the block runs; with O_CREAT it need not be there."""
        with self._opened(path, flags, mode) as (node, handle):
            yield FsFile(self, node, handle)
            self.tell(Opcode.FLUSH, node, fuse.FlushIn(handle))  # errors of writing that show late

    @contextlib.contextmanager
    def _opened(self, path: str, flags: int, mode: int) -> Iterator[tuple[int, int]]:
        """Open or make a file; yield its node and its handle."""
        with self._found_or_made(path, flags, mode) as (node, made):
            handle = self._handle_of(node, flags) if made is None else made
            try:
                if flags & os.O_TRUNC:
                    self._change(node, fuse.SetattrIn(fuse.Valid.SIZE))
                yield node, handle
            finally:
                self.tell(Opcode.RELEASE, node, fuse.ReleaseIn(handle, flags))

    def _handle_of(self, node: int, flags: int) -> int:
        how = fuse.OpenIn(flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC))
        handle: int = self.ask(Opcode.OPEN, node, how, answer=fuse.OpenOut).fh
        return handle

    @contextlib.contextmanager
    def _found_or_made(self, path: str, flags: int, mode: int) -> Iterator[tuple[int, int | None]]:
        """Yield a file's node, and its handle if it was just made.

        One that is there is not made, although that might open it: Linux does not do it, so daemons fail there.
        """
        with contextlib.ExitStack() as stack:
            try:
                node = stack.enter_context(self.node(path))
            except FileNotFoundError:
                if not flags & os.O_CREAT:
                    raise
            else:
                if flags & os.O_CREAT and flags & os.O_EXCL:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
                yield node, None
                return
            folder, name = stack.enter_context(self._place(path))
            room = fuse.EntryOut.nbytes + fuse.OpenOut.nbytes
            data = self.take(self.submit(Opcode.CREATE, folder, fuse.CreateIn(flags, mode), name, room=room))
            node, handle = fuse.EntryOut.unpack(data).nodeid, fuse.OpenOut.unpack(data[fuse.EntryOut.nbytes :]).fh
            stack.callback(self.forget, [node])
            yield node, handle

    def read_bytes(self, path: str) -> bytes:
        """Return a file's content."""
        with self.open(path) as file:
            return b"".join(file.pieces())

    def write_bytes(self, path: str, data: bytes) -> None:
        """Make ``data`` a file's content; the file is made where there is none."""
        with self.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
            file.write(0, data)

    # Changes.

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        """Make a folder."""
        self._make(Opcode.MKDIR, path, fuse.MkdirIn(mode))

    def symlink(self, target: str, path: str) -> None:
        """Make a symbolic link that leads to ``target``."""
        with self._place(path) as (folder, name):
            self.forget([self.ask(Opcode.SYMLINK, folder, name, _name(target), answer=fuse.EntryOut).nodeid])

    def link(self, existing: str, path: str) -> None:
        """Give an existing file another name."""
        with self.node(existing) as node:
            self._make(Opcode.LINK, path, fuse.LinkIn(node))

    def _make(self, opcode: Opcode, path: str, how: Struct) -> None:
        with self._place(path) as (folder, name):
            self.forget([self.ask(opcode, folder, how, name, answer=fuse.EntryOut).nodeid])

    def unlink(self, path: str) -> None:
        """Remove a file."""
        with self._existing(path) as (folder, name):
            self.tell(Opcode.UNLINK, folder, name)

    def rmdir(self, path: str) -> None:
        """Remove an empty folder."""
        with self._existing(path) as (folder, name):
            self.tell(Opcode.RMDIR, folder, name)

    def rename(self, path: str, to: str) -> None:
        """Move a file; one that is at its new place is replaced."""
        with self._existing(path) as (old, name), self._place(to) as (new, new_name):
            self.tell(Opcode.RENAME, old, fuse.RenameIn(new), name, new_name)

    @contextlib.contextmanager
    def _existing(self, path: str) -> Iterator[tuple[int, bytes]]:
        """Yield the folder in which a file is and its name; some daemons know only what was looked up."""
        with self._place(path) as place, self.node(path):
            yield place

    def truncate(self, path: str, size: int) -> None:
        """Change a file's length."""
        with self.node(path) as node:
            self._change(node, fuse.SetattrIn(fuse.Valid.SIZE, size=size))

    def chmod(self, path: str, mode: int) -> None:
        """Change a file's permissions."""
        with self.node(path) as node:
            self._change(node, fuse.SetattrIn(fuse.Valid.MODE, mode=mode))

    def _change(self, node: int, how: fuse.SetattrIn) -> None:
        self.ask(Opcode.SETATTR, node, how, answer=fuse.AttrOut)


class FsFile:
    """A file that is open; see `FsDriver.open`. Offsets and lengths are in bytes."""

    def __init__(self, driver: FsDriver, node: int, handle: int) -> None:
        self._driver = driver
        self._node = node
        self._handle = handle

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset`` on, or fewer at the end of the file."""
        return b"".join(self.pieces(offset, length))

    def pieces(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield the content piece by piece, several of them being on their way at once."""
        end = None if length is None else offset + length
        tickets: deque[tuple[Ticket, int]] = deque()
        try:
            while True:
                while len(tickets) < WINDOW and (end is None or offset < end):
                    size = self._driver.piece if end is None else min(self._driver.piece, end - offset)
                    question = fuse.ReadIn(self._handle, offset, size)
                    tickets.append((self._driver.submit(Opcode.READ, self._node, question, room=size), size))
                    offset += size
                if not tickets:
                    return
                ticket, size = tickets.popleft()
                yield (data := self._driver.take(ticket))
                if len(data) < size:
                    return
        finally:
            for ticket, _ in tickets:  # beyond the end; they come back before the file is closed
                ticket.data()

    def write(self, offset: int, data: bytes) -> None:
        """Write ``data`` at ``offset``."""
        tickets: deque[tuple[Ticket, int]] = deque()
        for start in range(0, len(data), self._driver.piece):
            piece = data[start : start + self._driver.piece]
            question = fuse.WriteIn(self._handle, offset + start, len(piece))
            room = fuse.WriteOut.nbytes
            tickets.append((self._driver.submit(Opcode.WRITE, self._node, question, piece, room=room), len(piece)))
            if len(tickets) == WINDOW:
                self._settle(*tickets.popleft())
        for ticket, length in tickets:
            self._settle(ticket, length)

    def _settle(self, ticket: Ticket, length: int) -> None:
        written = fuse.WriteOut.unpack(self._driver.take(ticket)).size
        if written != length:
            raise DeviceError(f"the device wrote {written} of {length} bytes, and gave no reason")

    def sync(self) -> None:
        """Return when everything that was written is on the medium."""
        self._driver.tell(Opcode.FSYNC, self._node, fuse.FsyncIn(self._handle))


@contextlib.contextmanager
def _about(path: str) -> Iterator[None]:
    """Have errors of the file system say which file they are about; the innermost place knows best."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = path
        raise


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def _name(name: str) -> bytes:
    if "\0" in name:
        raise LocalError(f"{name!r} is no name of a file: it holds a NUL; leave that out")
    return os.fsencode(name) + b"\0"
