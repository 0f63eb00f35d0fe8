"""What each request does that asks for a small answer: a function of the session, the node and what follows, for each.

A function returns what the answer holds behind its header, and raises `OSError` where that says what went wrong.
"""

from __future__ import annotations

import errno

from pyvirtio.files.beneath import check_name
from pyvirtio.files.structures import LONGEST_PATH, XATTR_REPLACE, Attributes, Changes, Open, Set
from pyvirtio.files.tree import refuse, unless_done
from pyvirtio.spec import fuse
from pyvirtio.spec.fuse import Opcode, Valid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from pyvirtio.files import File, Tree
    from pyvirtio.files.tree import Path
    from pyvirtio.fuse.nodes import Nodes
    from pyvirtio.spec.struct import Struct

    S = TypeVar("S", bound=Struct)
    Operation = Callable[["Session", int, bytes], bytes]


class Session:
    """What operations work on: a tree and the nodes of its client.

    ``repeats`` says that the request may have been carried out before, by a process that died before it could answer.
    """

    def __init__(self, tree: Tree, nodes: Nodes) -> None:
        self.tree = tree
        self.nodes = nodes
        self.repeats = False


def take(body: bytes, kind: type[S], names: int = 0) -> tuple[S, list[bytes]]:
    """Return the structure that a request begins with, and the names behind it, each of which ends with a NUL.

    Raises:
        OSError: EINVAL where it is not like that.
    """
    head, rest = body[: kind.nbytes], body[kind.nbytes :]
    if len(head) < kind.nbytes:
        refuse(errno.EINVAL)
    return kind.unpack(head), take_names(rest, names)


def take_names(data: bytes, number: int) -> list[bytes]:
    """Return so many names; raises as `take` does."""
    *names, behind = data.split(b"\0")
    if len(names) != number or behind:
        refuse(errno.EINVAL)
    return names


def attr(found: Attributes) -> fuse.Attr:
    """Return a file's attributes as FUSE has them."""
    return fuse.Attr(
        ino=found.qid.path,
        size=found.size,
        blocks=found.blocks,
        atime=found.atime_sec,
        mtime=found.mtime_sec,
        ctime=found.ctime_sec,
        atimensec=found.atime_nsec,
        mtimensec=found.mtime_nsec,
        ctimensec=found.ctime_nsec,
        mode=found.mode,
        nlink=found.nlink,
        uid=found.uid,
        gid=found.gid,
        rdev=found.rdev & 0xFFFFFFFF,
        blksize=found.blksize,
    )


def _entry(session: Session, path: Path, found: Attributes | None = None) -> bytes:
    """Return a node for a path; nothing of it may be remembered, for others change the tree, too."""
    found = session.tree.attributes(path) if found is None else found
    return fuse.EntryOut(session.nodes.enter(path, found), attr=attr(found)).pack()


# Names.


def lookup(session: Session, node: int, body: bytes) -> bytes:
    """Find a name in a directory; the client asks for ``..`` only where a tree is exported by NFS."""
    [name] = take_names(body, 1)
    return _entry(session, (*session.nodes.path(node), check_name(name)))


def _make(session: Session, node: int, name: bytes, make: Callable[[Path], None]) -> bytes:
    parent = session.nodes.path(node)
    check_name(name)
    unless_done(lambda: make(parent), FileExistsError, repeats=session.repeats)
    return _entry(session, (*parent, name))


def mkdir(session: Session, node: int, body: bytes) -> bytes:
    """Make a directory."""
    how, [name] = take(body, fuse.MkdirIn, 1)
    return _make(session, node, name, lambda parent: session.tree.mkdir(parent, name, how.mode))


def mknod(session: Session, node: int, body: bytes) -> bytes:
    """Make a file, a FIFO or a socket."""
    how, [name] = take(body, fuse.MknodIn, 1)
    return _make(session, node, name, lambda parent: session.tree.mknod(parent, name, how.mode))


def symlink(session: Session, node: int, body: bytes) -> bytes:
    """Make a symbolic link."""
    name, target = take_names(body, 2)
    if not target or len(target) > LONGEST_PATH:
        refuse(errno.EINVAL if not target else errno.ENAMETOOLONG)
    return _make(session, node, name, lambda parent: session.tree.symlink(parent, name, target))


def link(session: Session, node: int, body: bytes) -> bytes:
    """Give a file another name."""
    how, [name] = take(body, fuse.LinkIn, 1)
    existing = session.nodes.path(how.oldnodeid)
    return _make(session, node, name, lambda parent: session.tree.link(existing, parent, name))


def unlink(session: Session, node: int, body: bytes) -> bytes:
    """Remove a file."""
    return _remove(session, node, body, directory=False)


def rmdir(session: Session, node: int, body: bytes) -> bytes:
    """Remove a directory."""
    return _remove(session, node, body, directory=True)


def _remove(session: Session, node: int, body: bytes, *, directory: bool) -> bytes:
    [name] = take_names(body, 1)
    parent, remove = session.nodes.path(node), session.tree.remove
    check_name(name)
    unless_done(lambda: remove(parent, name, directory=directory), FileNotFoundError, repeats=session.repeats)
    session.nodes.gone((*parent, name))
    return b""


def rename(session: Session, node: int, body: bytes) -> bytes:
    """Move a name."""
    how, names = take(body, fuse.RenameIn, 2)
    return _move(session, node, how.newdir, *names)


def rename2(session: Session, node: int, body: bytes) -> bytes:
    """Move a name, without any of the special ways that flags ask for."""
    how, names = take(body, fuse.Rename2In, 2)
    if how.flags:
        refuse(errno.EINVAL)
    return _move(session, node, how.newdir, *names)


def _move(session: Session, node: int, new_node: int, name: bytes, new_name: bytes) -> bytes:
    parent, new_parent, move = session.nodes.path(node), session.nodes.path(new_node), session.tree.rename
    old, new = (*parent, check_name(name)), (*new_parent, check_name(new_name))
    session.nodes.fids.check_move(old, new)
    unless_done(lambda: move(parent, name, new_parent, new_name), FileNotFoundError, repeats=session.repeats)
    session.nodes.move(old, new)
    return b""


def readlink(session: Session, node: int, body: bytes) -> bytes:
    """Return what a symbolic link points to."""
    take_names(body, 0)
    return session.tree.readlink(session.nodes.path(node))


# Attributes.


def getattr_(session: Session, node: int, body: bytes) -> bytes:
    """Return attributes."""
    take(body, fuse.GetattrIn)
    return _attributes(session, node)


def _attributes(session: Session, node: int) -> bytes:
    return fuse.AttrOut(attr=attr(session.nodes.attributes(node))).pack()


SETS = {
    Valid.MODE: Set.MODE,
    Valid.UID: Set.UID,
    Valid.GID: Set.GID,
    Valid.SIZE: Set.SIZE,
    Valid.ATIME: Set.ATIME | Set.ATIME_SET,
    Valid.MTIME: Set.MTIME | Set.MTIME_SET,
}
"""What a client sets, by the bit that says so; the others say how, or are for servers that keep more than files do."""


def setattr_(session: Session, node: int, body: bytes) -> bytes:
    """Set attributes; of an open file also where its name is gone."""
    how, _ = take(body, fuse.SetattrIn)
    valid = 0
    for bit, wanted in SETS.items():
        valid |= wanted if how.valid & bit else 0
    valid &= ~(Set.ATIME_SET if how.valid & Valid.ATIME_NOW else 0)
    valid &= ~(Set.MTIME_SET if how.valid & Valid.MTIME_NOW else 0)
    changes = Changes(
        *(valid, how.mode, how.uid, how.gid, how.size), how.atime, how.atimensec, how.mtime, how.mtimensec
    )
    file = session.nodes.opened(how.fh) if how.valid & Valid.FH else session.nodes.file(node)
    if file is not None:
        file.change(changes)
    else:
        session.tree.change(session.nodes.path(node), changes)
    return _attributes(session, node)


def statfs(session: Session, node: int, body: bytes) -> bytes:
    """Return how much there is, and how much is free."""
    take_names(body, 0)
    found = session.tree.file_system(session.nodes.path(node))
    sizes = (found.blocks, found.bfree, found.bavail, found.files, found.ffree)
    return fuse.Kstatfs(*sizes, bsize=found.bsize, namelen=found.namelen, frsize=found.bsize).pack()


# Extended attributes.


def setxattr(session: Session, node: int, body: bytes) -> bytes:
    """Set an extended attribute."""
    how, rest = _take_with_value(body)
    name, _, value = rest.partition(b"\0")
    if not name or len(value) != how.size:
        refuse(errno.EINVAL)
    path, flags = session.nodes.path(node), how.flags
    if not value and flags & XATTR_REPLACE:  # a tree takes that for its removal, as 9P says it
        session.tree.xattr(path, name)
        flags = 0
    session.tree.set_xattr(path, name, value, flags)
    return b""


def _take_with_value(body: bytes) -> tuple[fuse.SetxattrIn, bytes]:
    size = fuse.SetxattrIn.nbytes
    return take(body[:size], fuse.SetxattrIn)[0], body[size:]


def getxattr(session: Session, node: int, body: bytes) -> bytes:
    """Return an extended attribute, or how long it is."""
    how, [name] = take(body, fuse.GetxattrIn, 1)
    return _xattr(session, node, how.size, name or refuse(errno.EINVAL))


def listxattr(session: Session, node: int, body: bytes) -> bytes:
    """Return the names of all, each with a NUL behind it, or how long they are."""
    return _xattr(session, node, take(body, fuse.GetxattrIn)[0].size, b"")


def _xattr(session: Session, node: int, size: int, name: bytes) -> bytes:
    value = session.tree.xattr(session.nodes.path(node), name)
    if not size:
        return fuse.GetxattrOut(len(value)).pack()
    if len(value) > size:
        refuse(errno.ERANGE)
    return value


def removexattr(session: Session, node: int, body: bytes) -> bytes:
    """Remove an extended attribute."""
    [name] = take_names(body, 1)
    session.tree.set_xattr(session.nodes.path(node), name, b"", XATTR_REPLACE)
    return b""


# Files.


def open_(session: Session, node: int, body: bytes) -> bytes:
    """Open a file or a directory."""
    how, _ = take(body, fuse.OpenIn)
    session.nodes.check_open(node)
    path = session.nodes.path(node)
    return _handle(session, node, session.tree.open(path, how.flags), how.flags)


def _handle(session: Session, node: int, file: File, flags: int) -> bytes:
    try:
        if file.attributes().qid.path != session.nodes.fids.get(node).qid.path:
            refuse(errno.ESTALE)
        handle = session.nodes.open(node, file, flags)
    except BaseException:
        file.close()
        raise
    return fuse.OpenOut(handle, 0 if session.tree.knows_sizes else fuse.DIRECT_IO).pack()


def create(session: Session, node: int, body: bytes) -> bytes:
    """Make a file and open it."""
    how, [name] = take(body, fuse.CreateIn, 1)
    session.nodes.check_open(node)
    parent, flags = session.nodes.path(node), how.flags & ~(Open.EXCLUSIVE if session.repeats else 0)
    file = session.tree.create(parent, check_name(name), flags, how.mode)
    try:
        entry = _entry(session, (*parent, name), file.attributes())
    except BaseException:
        file.close()
        raise
    return entry + _handle(session, fuse.EntryOut.unpack(entry).nodeid, file, flags & ~Open.CREATE)


def release(session: Session, _node: int, body: bytes) -> bytes:
    """Close a handle."""
    how, _ = take(body, fuse.ReleaseIn)
    session.nodes.close(how.fh)
    return b""


def flush(session: Session, _node: int, body: bytes) -> bytes:
    """Say that all is well: nothing that was written waits here."""
    how, _ = take(body, fuse.FlushIn)
    session.nodes.opened(how.fh)
    return b""


def fsync(session: Session, _node: int, body: bytes) -> bytes:
    """Have what was written survive the machine's end."""
    how, _ = take(body, fuse.FsyncIn)
    session.nodes.opened(how.fh).sync(data_only=bool(how.fsync_flags & 1))
    return b""


OPERATIONS: dict[int, Operation] = {
    Opcode.LOOKUP: lookup,
    Opcode.GETATTR: getattr_,
    Opcode.SETATTR: setattr_,
    Opcode.READLINK: readlink,
    Opcode.SYMLINK: symlink,
    Opcode.MKNOD: mknod,
    Opcode.MKDIR: mkdir,
    Opcode.UNLINK: unlink,
    Opcode.RMDIR: rmdir,
    Opcode.RENAME: rename,
    Opcode.RENAME2: rename2,
    Opcode.LINK: link,
    Opcode.OPEN: open_,
    Opcode.OPENDIR: open_,
    Opcode.STATFS: statfs,
    Opcode.RELEASE: release,
    Opcode.RELEASEDIR: release,
    Opcode.FSYNC: fsync,
    Opcode.FSYNCDIR: fsync,
    Opcode.SETXATTR: setxattr,
    Opcode.GETXATTR: getxattr,
    Opcode.LISTXATTR: listxattr,
    Opcode.REMOVEXATTR: removexattr,
    Opcode.FLUSH: flush,
    Opcode.CREATE: create,
}
"""What is done for each request, but for those that begin or end something and those that carry data."""

NOTED = frozenset(OPERATIONS) - {
    Opcode.GETATTR,
    Opcode.SETATTR,
    Opcode.READLINK,
    Opcode.STATFS,
    Opcode.GETXATTR,
    Opcode.LISTXATTR,
    Opcode.FSYNC,
    Opcode.FSYNCDIR,
    Opcode.FLUSH,
}
"""The requests whose answer is noted: carried out twice, they would do something else than once."""
