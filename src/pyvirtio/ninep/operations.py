"""What each message does that asks for a small answer: a function of the session and the message for each.

A function returns the fields of the reply, and raises `OSError` where the reply is an Rlerror.
"""

from __future__ import annotations

import errno

from pyvirtio.files.beneath import check_name
from pyvirtio.files.fids import Fid, XattrRead, XattrWrite
from pyvirtio.files.structures import LONGEST_PATH, Lock, Open, Qid, QidType
from pyvirtio.files.tree import refuse, unless_done
from pyvirtio.ninep.structures import MOST_NAMES, NO_FID, REMOVE_DIRECTORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvirtio.files.fids import Fids
    from pyvirtio.files.tree import Path, Tree
    from pyvirtio.ninep.messages import Message

    Operation = Callable[["Session", Message], dict[str, Any]]

ANY_SIZE = 0
"""What Rlopen says of the most bytes of a read or write: as many as fit into a message."""

LONGEST_XATTR = 1 << 16
"""The most bytes of an extended attribute (Linux's XATTR_SIZE_MAX)."""


class Session:
    """What operations work on: a tree and the fids of its client.

    ``repeats`` says that the message may have been carried out before, by a process that died before it could answer.
    """

    def __init__(self, tree: Tree, fids: Fids) -> None:
        self.tree = tree
        self.fids = fids
        self.repeats = False


# Fids.


def attach(session: Session, m: Message) -> dict[str, Any]:
    """Let a fid stand for the root. Who the client's user is makes no difference: the client checks permissions."""
    if m.afid != NO_FID:
        refuse(errno.EINVAL)
    if m.aname not in {b"", b"/"}:
        refuse(errno.ENOENT)
    return {"qid": _new(session, m.fid, ())}


def _new(session: Session, number: int, path: Path, qid: Qid | None = None) -> Qid:
    fids = session.fids
    if number == NO_FID or (number in fids and not session.repeats):
        refuse(errno.EBADF)
    fids.check_room(path)
    found = session.tree.attributes(path).qid if qid is None else qid
    fids.set(number, Fid(path, found))
    return found


def walk(session: Session, m: Message) -> dict[str, Any]:
    """Let ``newfid`` stand for what the names lead to; where they end halfway, say how far they led."""
    fid = session.fids.plain(m.fid) if m.names else session.fids.get(m.fid)
    if len(m.names) > MOST_NAMES:
        refuse(errno.EINVAL)
    path, qids = fid.path, list[Qid]()
    for name in m.names:
        try:
            path = path[:-1] if name == b".." else (*path, check_name(name))
            qids.append(session.tree.attributes(path).qid)
        except OSError:
            if not qids:  # the first name is not there
                raise
            return {"qids": qids}
    if m.newfid == m.fid and not fid.is_plain:
        refuse(errno.EBADF)
    found = qids[-1] if qids else fid.qid
    if m.newfid == m.fid:
        session.fids.check_room(path)
        session.fids.set(m.fid, Fid(path, found))
    else:
        _new(session, m.newfid, path, found)
    return {"qids": qids}


def clunk(session: Session, m: Message) -> dict[str, Any]:
    """Forget a fid, and set the extended attribute that was written through it."""
    fid = session.fids.get(m.fid)
    if fid.file is not None:
        fid.file.close()
    session.fids.drop(m.fid)
    if isinstance(fid.xattr, XattrWrite):
        if fid.xattr.written != len(fid.xattr.value):
            refuse(errno.EIO)
        session.tree.set_xattr(fid.path, fid.xattr.name, bytes(fid.xattr.value), fid.xattr.flags)
    return {}


# Files.


def lopen(session: Session, m: Message) -> dict[str, Any]:
    """Open what a fid names."""
    fid = session.fids.plain(m.fid)
    session.fids.check_open()
    file = session.tree.open(fid.path, m.flags)
    try:
        qid = file.attributes().qid
        _check_same(fid, qid)
        session.fids.set(m.fid, Fid(fid.path, qid, m.flags, file))
    except BaseException:
        file.close()
        raise
    return {"qid": qid, "iounit": ANY_SIZE}


def _check_same(fid: Fid, qid: Qid) -> None:
    """Refuse to go on with what has taken the place of what the client walked to."""
    if fid.qid.path != qid.path:
        refuse(errno.ESTALE)


def lcreate(session: Session, m: Message) -> dict[str, Any]:
    """Make a file in the directory that a fid names, and let the fid stand for that file, open."""
    fid = session.fids.plain(m.fid)
    path = (*fid.path, check_name(m.name))
    session.fids.check_open()
    session.fids.check_room(path)
    flags = m.flags & ~Open.EXCLUSIVE if session.repeats else m.flags
    file = session.tree.create(fid.path, m.name, flags, m.mode)
    qid = file.attributes().qid
    session.fids.set(m.fid, Fid(path, qid, m.flags, file))
    return {"qid": qid, "iounit": ANY_SIZE}


def getattr_(session: Session, m: Message) -> dict[str, Any]:
    """Return attributes; of an open file also where its name is gone."""
    fid = session.fids.get(m.fid)
    if fid.flags is not None:
        return {"body": session.fids.opened(m.fid, session.tree).attributes()}
    found = session.tree.attributes(fid.path)
    _check_same(fid, found.qid)
    return {"body": found}


def setattr_(session: Session, m: Message) -> dict[str, Any]:
    """Set attributes; of an open file also where its name is gone."""
    fid = session.fids.get(m.fid)
    if fid.flags is not None:
        session.fids.opened(m.fid, session.tree).change(m.changes)
    else:
        session.tree.change(fid.path, m.changes)
    return {}


def statfs(session: Session, m: Message) -> dict[str, Any]:
    """Return how much there is, and how much is free."""
    return {"body": session.tree.file_system(session.fids.get(m.fid).path)}


def readlink(session: Session, m: Message) -> dict[str, Any]:
    """Return what a symbolic link points to."""
    return {"target": session.tree.readlink(session.fids.get(m.fid).path)}


def fsync(session: Session, m: Message) -> dict[str, Any]:
    """Have what was written survive the machine's end."""
    session.fids.opened(m.fid, session.tree).sync(data_only=bool(m.datasync))
    return {}


# Names.


def _directory(session: Session, number: int) -> Path:
    return session.fids.get(number).path


def mkdir(session: Session, m: Message) -> dict[str, Any]:
    """Make a directory."""
    parent = _directory(session, m.fid)
    return _made(session, parent, m.name, lambda: session.tree.mkdir(parent, m.name, m.mode))


def symlink(session: Session, m: Message) -> dict[str, Any]:
    """Make a symbolic link."""
    if not m.target or b"\0" in m.target:
        refuse(errno.EINVAL)
    if len(m.target) > LONGEST_PATH:
        refuse(errno.ENAMETOOLONG)
    parent = _directory(session, m.fid)
    return _made(session, parent, m.name, lambda: session.tree.symlink(parent, m.name, m.target))


def mknod(session: Session, m: Message) -> dict[str, Any]:
    """Make a file, a FIFO or a socket."""
    parent = _directory(session, m.fid)
    return _made(session, parent, m.name, lambda: session.tree.mknod(parent, m.name, m.mode))


def _made(session: Session, parent: Path, name: bytes, make: Callable[[], None]) -> dict[str, Any]:
    check_name(name)
    unless_done(make, FileExistsError, repeats=session.repeats)
    return {"qid": session.tree.attributes((*parent, name)).qid}


def link(session: Session, m: Message) -> dict[str, Any]:
    """Give a file another name."""
    fid, parent = session.fids.get(m.fid), _directory(session, m.dirfid)
    check_name(m.name)
    unless_done(lambda: session.tree.link(fid.path, parent, m.name), FileExistsError, repeats=session.repeats)
    return {}


def rename(session: Session, m: Message) -> dict[str, Any]:
    """Move what a fid names into another directory, or to another name."""
    fid = session.fids.get(m.fid)
    if not fid.path:
        refuse(errno.EBUSY)
    _move(session, fid.path, (*_directory(session, m.dirfid), check_name(m.name)))
    return {}


def renameat(session: Session, m: Message) -> dict[str, Any]:
    """Move a name into another directory, or to another name."""
    old = (*_directory(session, m.fid), check_name(m.name))
    _move(session, old, (*_directory(session, m.dirfid), check_name(m.newname)))
    return {}


def _move(session: Session, old: Path, new: Path) -> None:
    session.fids.check_move(old, new)
    move = session.tree.rename
    unless_done(lambda: move(old[:-1], old[-1], new[:-1], new[-1]), FileNotFoundError, repeats=session.repeats)
    session.fids.move(old, new)


def unlinkat(session: Session, m: Message) -> dict[str, Any]:
    """Remove a name."""
    parent, directory = _directory(session, m.fid), bool(m.flags & REMOVE_DIRECTORY)
    check_name(m.name)
    remove = session.tree.remove
    unless_done(lambda: remove(parent, m.name, directory=directory), FileNotFoundError, repeats=session.repeats)
    return {}


def remove(session: Session, m: Message) -> dict[str, Any]:
    """Remove what a fid names, and forget the fid in any case."""
    fid = session.fids.get(m.fid)
    if fid.file is not None:
        fid.file.close()
    session.fids.drop(m.fid)
    if not fid.path:
        refuse(errno.EBUSY)
    *parent, name = fid.path
    is_directory, tree = bool(fid.qid.type & QidType.DIRECTORY), session.tree
    unless_done(
        lambda: tree.remove(tuple(parent), name, directory=is_directory), FileNotFoundError, repeats=session.repeats
    )
    return {}


# Extended attributes.


def xattrwalk(session: Session, m: Message) -> dict[str, Any]:
    """Let ``newfid`` stand for the value of an attribute, or for the list of them."""
    fid = session.fids.get(m.fid)
    if m.newfid == NO_FID or (m.newfid in session.fids and not session.repeats):
        refuse(errno.EBADF)
    session.fids.check_open()
    session.fids.check_room(fid.path)
    value = session.tree.xattr(fid.path, m.name)
    session.fids.set(m.newfid, Fid(fid.path, fid.qid, xattr=XattrRead(value)))
    return {"size": len(value)}


def xattrcreate(session: Session, m: Message) -> dict[str, Any]:
    """Let a fid stand for an attribute that is about to be written."""
    fid = session.fids.plain(m.fid)
    if m.size > LONGEST_XATTR:
        refuse(errno.E2BIG)
    session.fids.check_open()
    session.fids.set(m.fid, Fid(fid.path, fid.qid, xattr=XattrWrite(m.name, m.size, m.flags)))
    return {}


# Locks.


def lock(session: Session, m: Message) -> dict[str, Any]:
    """Take or give back a lock; a client that wants to wait asks again and again."""
    file = session.fids.opened(m.fid, session.tree)
    return {"status": file.lock(m.type, m.start, m.length, (m.client_id, m.proc_id))}


def getlock(session: Session, m: Message) -> dict[str, Any]:
    """Return the lock that is in the way, if there is one."""
    file = session.fids.opened(m.fid, session.tree)
    kind, start, length, process = m.type, m.start, m.length, m.proc_id
    if found := file.holder(kind, start, length, (m.client_id, m.proc_id)):
        kind, start, length, process = found
    else:
        kind = Lock.UNLOCK
    return {"type": kind, "start": start, "length": length, "proc_id": process, "client_id": m.client_id}


def auth(_session: Session, _m: Message) -> dict[str, Any]:
    """Refuse: nobody has to say who he is."""
    refuse(errno.EOPNOTSUPP)


OPERATIONS: dict[str, Operation] = {
    "Tauth": auth,
    "Tattach": attach,
    "Twalk": walk,
    "Tclunk": clunk,
    "Tlopen": lopen,
    "Tlcreate": lcreate,
    "Tgetattr": getattr_,
    "Tsetattr": setattr_,
    "Tstatfs": statfs,
    "Treadlink": readlink,
    "Tfsync": fsync,
    "Tmkdir": mkdir,
    "Tsymlink": symlink,
    "Tmknod": mknod,
    "Tlink": link,
    "Trename": rename,
    "Trenameat": renameat,
    "Tunlinkat": unlinkat,
    "Tremove": remove,
    "Txattrwalk": xattrwalk,
    "Txattrcreate": xattrcreate,
    "Tlock": lock,
    "Tgetlock": getlock,
}
"""What is done for each message, but for those that begin or end something and those that carry data."""

NOTED = frozenset(OPERATIONS) - {
    "Tauth",
    "Tgetattr",
    "Tsetattr",
    "Tstatfs",
    "Treadlink",
    "Tfsync",
    "Tlock",
    "Tgetlock",
}
"""The messages whose answer is noted: carried out twice, they would do something else than once."""
