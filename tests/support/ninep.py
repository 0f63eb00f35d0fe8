"""A client of a 9P server in the same process, which sends any bytes and waits for nothing."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from pyvirtio.device import Reader, Writer
from pyvirtio.ninep import Server
from pyvirtio.ninep.messages import pack, unpack
from pyvirtio.ninep.structures import NO_FID, NO_TAG, NO_UID, VERSION, EntryHead, Header
from pyvirtio.ring import Chain

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path

    from pyvirtio.files import Tree
    from pyvirtio.ninep.messages import Message

ROOT = 0
MSIZE = 65536
DATA_HEAD = Header.nbytes + 4


CONTENT = b"content"
"""What is in the file of `folder_of_one`."""


def folder_of_one(parent: Path) -> Path:
    """Make a folder with one file; return it."""
    made = parent / "folder"
    made.mkdir()
    (made / "file").write_bytes(CONTENT)
    return made


def exchange(request: bytes, room: int = MSIZE) -> tuple[Reader, Writer, memoryview]:
    """Return a message and the room for its reply, as a device is given them."""
    memory = memoryview(bytearray(room))
    chain = Chain(0, 0, [memoryview(request)], [memory])
    return Reader(chain), Writer(chain), memory


def finish(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that has nothing to wait for."""
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()
    raise AssertionError("the server waits for something")


@contextlib.contextmanager
def talking(tree: Tree, *, begins: bool = True) -> Iterator[Talk]:
    """A session with a server of ``tree``; both are closed at the end."""
    talk = Talk(tree, begins=begins)
    try:
        yield talk
    finally:
        talk.server.close()
        tree.close()


class Talk:
    """A session with a server of its own."""

    def __init__(self, tree: Tree, memory: memoryview | None = None, *, begins: bool = True) -> None:
        self.server = Server(tree, memory)
        self.repeats = False
        if begins:
            self.begin()

    def begin(self, msize: int = MSIZE) -> None:
        """Agree on a version, and let the fid 0 be the root."""
        self.ask("Tversion", NO_TAG, msize=msize, version=VERSION)
        self.ask("Tattach", fid=ROOT, afid=NO_FID, uname=b"", aname=b"", n_uname=NO_UID)

    def raw(self, request: bytes, room: int = MSIZE) -> bytes:
        """Send bytes; return the reply."""
        reader, writer, memory = exchange(request, room)
        finish(self.server.answer(reader, writer, repeats=self.repeats))
        return bytes(memory[: room - writer.room])

    def ask(self, kind: str, tag: int = 1, /, **fields: Any) -> Message:
        """Send a message; return the answer.

        Raises:
            OSError: it is an Rlerror.
        """
        answer = unpack(self.raw(pack(kind, tag, **fields)))
        if answer.kind == "Rlerror":
            raise OSError(answer.ecode, os.strerror(answer.ecode))
        assert (answer.kind, answer.message_tag) == ("R" + kind[1:], tag)
        return answer

    def walk(self, path: str, newfid: int, fid: int = ROOT) -> int:
        """Let ``newfid`` stand for a path; return it."""
        names = [name.encode() for name in path.split("/") if name]
        if len(self.ask("Twalk", fid=fid, newfid=newfid, names=names).qids) < len(names):
            raise FileNotFoundError(2, path)
        return newfid

    def open(self, path: str, newfid: int, flags: int = 0) -> int:
        """Let ``newfid`` stand for an open file; return it."""
        self.walk(path, newfid)
        self.ask("Tlopen", fid=newfid, flags=flags)
        return newfid

    def data(self, kind: str, fid: int, count: int = 4096, offset: int = 0) -> bytes:
        """Ask for data; return it."""
        data = self.raw(pack(kind, 1, fid=fid, offset=offset, count=count))
        answer = unpack(data)
        if answer.kind == "Rlerror":
            raise OSError(answer.ecode, os.strerror(answer.ecode))
        assert answer.count == len(data) - DATA_HEAD
        return data[DATA_HEAD:]

    def write(self, fid: int, data: bytes, offset: int = 0) -> int:
        """Write; return how much was taken."""
        head = pack("Twrite", 1, fid=fid, offset=offset, count=len(data), data_length=len(data))
        answer = unpack(self.raw(head + data))
        if answer.kind == "Rlerror":
            raise OSError(answer.ecode, os.strerror(answer.ecode))
        count: int = answer.count
        return count

    def names(self, fid: int, count: int = 4096) -> list[bytes]:
        """Read a directory that is open, ``count`` bytes at a time."""
        found, offset = list[bytes](), 0
        while data := self.data("Treaddir", fid, count, offset):
            while data:
                head = EntryHead.unpack(data)
                found.append(data[EntryHead.nbytes :][: head.length])
                offset, data = head.offset, data[EntryHead.nbytes + head.length :]
        return found

    def clunk(self, *fids: int) -> None:
        """Forget fids."""
        for fid in fids:
            self.ask("Tclunk", fid=fid)
