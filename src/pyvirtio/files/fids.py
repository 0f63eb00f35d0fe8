"""The numbers by which a client calls files, and what it has asked for them.

9P calls them fids; for FUSE they are the nodes, and the handles of what is open.
"""

from __future__ import annotations

import errno
import resource

from pyvirtio.files.fid_log import FidLog, Kind, Record
from pyvirtio.files.structures import LONGEST_PATH, Open, Qid
from pyvirtio.files.tree import refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvirtio.files.fid_log import Item
    from pyvirtio.files.tree import File, Path, Tree

MOST_FIDS = 1 << 16
MOST_TEXT = 6 << 20
"""The most bytes that the paths of all fids may take."""

MOST_NOTES = 256
"""The answers that are noted: more than requests can be in flight on a queue."""

LOG_SIZE = 16 << 20
"""The bytes of memory for a log in which everything has room. What is not used of it takes no memory."""

_MOST_AT_ONCE = 1 << 16
"""The room that is always left in the log: more than one message can add."""

_CLOSED = 0xFFFFFFFF
_REOPENED = ~(Open.TRUNCATE | Open.CREATE | Open.EXCLUSIVE)


class XattrRead:
    """An extended attribute that is being read."""

    def __init__(self, value: bytes) -> None:
        self.value = value


class XattrWrite:
    """An extended attribute that is being written; it is set when its fid is clunked."""

    def __init__(self, name: bytes, size: int, flags: int) -> None:
        self.name = name
        self.flags = flags
        self.value = bytearray(size)
        self.written = 0


class Fid:
    """What a fid stands for.

    Attributes:
        path: where it is in the tree.
        qid: what was found there when the client walked to it.
        flags: with which flags it was opened; None where it was not.
        file: the file that is open, None also where a process before this one opened it.
        xattr: the extended attribute that it stands for instead; it ends with this process.
    """

    __slots__ = ("file", "flags", "path", "qid", "xattr")

    def __init__(
        self,
        path: Path,
        qid: Qid,
        flags: int | None = None,
        file: File | None = None,
        xattr: XattrRead | XattrWrite | None = None,
    ) -> None:
        self.path = path
        self.qid = qid
        self.flags = flags
        self.file = file
        self.xattr = xattr

    @property
    def is_plain(self) -> bool:
        """Whether it only names something: it can be walked from, and be opened."""
        return self.flags is None and self.xattr is None

    def record(self, number: int) -> Item:
        """Return what has to be known to have it again."""
        flags = _CLOSED if self.flags is None else self.flags
        kind = Kind.SET if self.xattr is None else Kind.DROP
        return Record(0, kind, number, flags, self.qid.type, self.qid.path), b"/".join(self.path)


class Fids:
    """The fids of a client, at most so many, and at most half of the process's descriptors for those that are open.

    With a ``memory`` of `LOG_SIZE` bytes they are found again by the next process that is given it.
    """

    def __init__(self, memory: memoryview | None = None) -> None:
        self._fids: dict[int, Fid] = {}
        self._notes: dict[int, tuple[bytes, bytes]] = {}
        self._text = 0
        self._open = 0
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most_open = max(16, soft // 2 if soft > 0 else 1 << 16)
        self.msize = 0
        """The msize of the session, 0 before there is one."""
        self._log = FidLog(memory) if memory is not None else None
        if self._log is not None:
            for record, text in self._log.records():
                self._replay(record, text)

    # Finding.

    def get(self, number: int) -> Fid:
        """Return a fid.

        Raises:
            OSError: EBADF where there is none.
        """
        fid = self._fids.get(number)
        if fid is None:
            refuse(errno.EBADF)
        return fid

    def plain(self, number: int) -> Fid:
        """Return a fid that only names something; raises EBADF as `get` does."""
        fid = self.get(number)
        if not fid.is_plain:
            refuse(errno.EBADF)
        return fid

    def opened(self, number: int, tree: Tree) -> File:
        """Return the file of a fid that is open; one that was opened in a process before this one is opened again.

        Raises:
            OSError: EBADF where it was never opened; ESTALE where what was opened has this name no more.
        """
        fid = self.get(number)
        if fid.flags is None:
            refuse(errno.EBADF)
        if fid.file is None:
            try:
                file = tree.open(fid.path, fid.flags & _REOPENED)
            except FileNotFoundError:
                refuse(errno.ESTALE)
            if file.attributes().qid.path != fid.qid.path:
                file.close()
                refuse(errno.ESTALE)
            fid.file = file
        return fid.file

    def __contains__(self, number: int) -> bool:
        return number in self._fids

    def items(self) -> list[tuple[int, Fid]]:
        """Return every number and what it stands for, in the order in which they began to."""
        return list(self._fids.items())

    def __len__(self) -> int:
        return len(self._fids)

    # Changing. What is done between two commits survives as a whole.

    def check_room(self, path: Path) -> None:
        """Refuse what would be one fid, or one long path, too many."""
        length = sum(map(len, path)) + len(path)
        if length > LONGEST_PATH:
            refuse(errno.ENAMETOOLONG)
        if len(self._fids) >= MOST_FIDS or self._text + length + Record.nbytes > MOST_TEXT:
            refuse(errno.ENFILE)

    def check_move(self, old: Path, new: Path) -> None:
        """Refuse a rename that would make paths too long."""
        growth = sum(map(len, new)) + len(new) - sum(map(len, old)) - len(old)
        sizes = [_size(fid) - Record.nbytes for fid in self._fids.values() if fid.path[: len(old)] == old]
        if max(sizes, default=0) + growth > LONGEST_PATH:
            refuse(errno.ENAMETOOLONG)
        if self._text + growth * len(sizes) > MOST_TEXT:
            refuse(errno.ENFILE)

    def check_open(self) -> None:
        """Refuse one open file too many."""
        if self._open >= self._most_open:
            refuse(errno.EMFILE)

    def set(self, number: int, fid: Fid) -> None:
        """Let a number stand for something, or for the same thing in another state."""
        self._forget(number)
        self._fids[number] = fid
        self._text += _size(fid)
        self._open += not fid.is_plain
        self._append(*fid.record(number))

    def drop(self, number: int) -> Fid | None:
        """Let a number stand for nothing; return what it stood for, without closing that."""
        fid = self._forget(number)
        if fid is not None:
            self._append(Record(0, Kind.DROP, number), b"")
        return fid

    def _forget(self, number: int) -> Fid | None:
        fid = self._fids.pop(number, None)
        if fid is not None:
            self._text -= _size(fid)
            self._open -= not fid.is_plain
        return fid

    def move(self, old: Path, new: Path) -> None:
        """Follow a rename: what was reached through the old path is reached through the new one."""
        depth = len(old)
        for fid in self._fids.values():
            if fid.path[:depth] == old:
                self._text -= _size(fid)
                fid.path = (*new, *fid.path[depth:])
                self._text += _size(fid)
        self._append(Record(0, Kind.MOVE), b"/".join(old) + b"\0" + b"/".join(new))

    def begin(self, msize: int) -> list[Fid]:
        """Begin a session; return what the last one had."""
        before = list(self._fids.values())
        self._fids.clear()
        self._notes.clear()
        self._text = self._open = 0
        self.msize = msize
        if self._log is not None:
            self._log.rewrite(self._snapshot())
        return before

    # Notes: what was answered, for requests that come again because a process died before the client heard of it.

    @property
    def takes_notes(self) -> bool:
        """Whether there is a log."""
        return self._log is not None

    def note(self, tag: int, digest: bytes, reply: bytes) -> None:
        """Note the answer to a message."""
        self._notes.pop(tag, None)
        self._notes[tag] = digest, reply
        if len(self._notes) > MOST_NOTES:
            del self._notes[next(iter(self._notes))]
        self._append(Record(0, Kind.NOTE, tag), digest + reply)

    def noted(self, tag: int, digest: bytes) -> bytes | None:
        """Return the answer to a message that was answered before, if it was."""
        found, reply = self._notes.get(tag, (b"", b""))
        return reply if found == digest else None

    def commit(self) -> None:
        """Let what was changed survive."""
        if self._log is None:
            return
        if self._log.room < _MOST_AT_ONCE:
            self._log.rewrite(self._snapshot())
        else:
            self._log.commit()

    # The log.

    def _append(self, record: Record, text: bytes) -> None:
        if self._log is not None:
            self._log.append(record, text)

    def _snapshot(self) -> Iterator[Item]:
        yield Record(0, Kind.VERSION, self.msize), b""
        for number, fid in self._fids.items():
            yield fid.record(number)
        for tag, (digest, reply) in self._notes.items():
            yield Record(0, Kind.NOTE, tag), digest + reply

    def _replay(self, record: Record, text: bytes) -> None:
        number = record.number
        if record.kind == Kind.VERSION:
            self.msize = number
        elif record.kind == Kind.SET:
            self._forget(number)
            flags = None if record.flags == _CLOSED else record.flags
            fid = self._fids[number] = Fid(_split(text), Qid(record.type, 0, record.identity), flags)
            self._text += _size(fid)
            self._open += not fid.is_plain
        elif record.kind == Kind.DROP:
            self._forget(number)
        elif record.kind == Kind.NOTE:
            self._notes[number] = text[:DIGEST], text[DIGEST:]
        elif record.kind == Kind.MOVE:
            old, new = map(_split, text.split(b"\0"))
            for fid in self._fids.values():
                if fid.path[: len(old)] == old:
                    fid.path = (*new, *fid.path[len(old) :])

    def close(self) -> None:
        """Close what is open, and let go of the memory; its content stays."""
        for fid in self._fids.values():
            if fid.file is not None:
                fid.file.close()
        self._fids.clear()
        if self._log is not None:
            self._log.close()
            self._log = None


DIGEST = 8
"""The bytes of a message's digest."""


def _size(fid: Fid) -> int:
    return sum(map(len, fid.path)) + len(fid.path) + Record.nbytes


def _split(text: bytes) -> Path:
    return tuple(text.split(b"/")) if text else ()
