"""The server's side of FUSE: takes a request, carries it out on a tree, and writes the answer.

**Again.** Where the server has a memory that outlives its process, its successor knows the nodes, opens files again
when they are used, and has notes of the last answers. A request that comes again since a process died (``repeats``) is
answered from the notes if it was carried out. If the process died in the very system call, it is carried out once more;
that something is there already, or not there any more, then means that it had been done.
"""

from __future__ import annotations

import errno
import hashlib

from pyvirtio.errors import ProtocolError
from pyvirtio.files.fids import DIGEST, Fids
from pyvirtio.files.tree import refuse
from pyvirtio.fuse.nodes import Nodes
from pyvirtio.fuse.operations import NOTED, OPERATIONS, Session, take
from pyvirtio.spec import fuse
from pyvirtio.spec.fuse import InitFlags, Opcode
from pyvirtio.system import log
from pyvirtio.system.pieces import fill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.files import Tree
    from pyvirtio.files.tree import Sink, Source

OLDEST = 23
"""The oldest minor version of a client: since then an `InitOut` has the length that it has now."""

KNOWN = (
    InitFlags.ASYNC_READ
    | InitFlags.ATOMIC_O_TRUNC
    | InitFlags.BIG_WRITES
    | InitFlags.AUTO_INVAL_DATA
    | InitFlags.PARALLEL_DIROPS
    | InitFlags.MAX_PAGES
)
MOST_DATA = 1 << 20
"""The most bytes of one write."""

MOST_SMALL = 1 << 16
"""The most bytes of a request without data."""

BACKGROUND = 64
"""How many requests a client's kernel makes ahead."""

FORGETTING = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET})


class Server:
    """Serves ``tree`` to one client.

    ``memory``, of `fids.LOG_SIZE` bytes, all zero at first, is what outlives this process, if anything does.
    """

    def __init__(self, tree: Tree, memory: memoryview | None = None) -> None:
        self._fids = Fids(memory)
        self._nodes = Nodes(tree, self._fids)
        self._session = Session(tree, self._nodes)

    async def answer(self, source: Source, sink: Sink, *, repeats: bool = False) -> None:
        """Answer one request, unless it wants no answer.

        Raises:
            ProtocolError: it is too short to be answered, or there is no room for any answer; nothing was done.
        """
        if source.left < fuse.InHeader.nbytes:
            raise ProtocolError(f"a request of {source.left} bytes; FUSE's have at least {fuse.InHeader.nbytes}")
        whole = source.left
        header = fuse.InHeader.unpack(head := source.read(fuse.InHeader.nbytes))
        least = fuse.OutHeader.nbytes
        if header.opcode in FORGETTING:
            self._forget(header, source.read(MOST_SMALL))
            return
        if sink.room < fuse.OutHeader.nbytes:
            raise ProtocolError(
                f"room for {sink.room} bytes of an answer; FUSE's have at least {fuse.OutHeader.nbytes}"
            )
        place = sink.views(fuse.OutHeader.nbytes)
        sink.advance(fuse.OutHeader.nbytes)
        length, number = 0, 0
        try:
            if header.len != whole:
                refuse(errno.EINVAL)
            length = await self._carry_out(header, head, source, sink, repeats=repeats)
        except OSError as error:
            number = error.errno or errno.EIO
        except Exception as error:  # noqa: BLE001  # a tree's author may raise anything; the client goes on
            log.warning("method-failed", f"a file of the tree failed: {error!r}", error)
            number = errno.EIO
        fill(place, fuse.OutHeader(least + length, -number & 0xFFFFFFFF, header.unique).pack())

    async def _carry_out(self, header: fuse.InHeader, head: bytes, source: Source, sink: Sink, *, repeats: bool) -> int:
        """Write what the answer holds; return how many bytes that are."""
        if header.opcode == Opcode.INIT:
            return _write(sink, self._begin(source.read(MOST_SMALL)))
        if not self._fids.msize:
            refuse(errno.EPROTO)  # no session has begun
        if header.opcode == Opcode.READ:
            return await self._read(source.read(MOST_SMALL), sink)
        if header.opcode == Opcode.WRITE:
            return _write(sink, await self._write(source))
        if header.opcode == Opcode.READDIR:
            return _write(sink, self._read_directory(source.read(MOST_SMALL), sink.room))
        if source.left > MOST_SMALL:
            refuse(errno.E2BIG)
        if header.opcode == Opcode.DESTROY:
            self._nodes.begin()
            return 0
        return _write(sink, self._small(header, head, source.read(), sink.room, repeats=repeats))

    def _begin(self, body: bytes) -> bytes:
        """Begin a session: whatever there was before is over."""
        asked = fuse.InitIn.unpack(body.ljust(fuse.InitIn.nbytes, b"\0")[: fuse.InitIn.nbytes])
        if asked.major < fuse.MAJOR or (asked.major == fuse.MAJOR and asked.minor < OLDEST):
            refuse(errno.EPROTO)
        self._nodes.begin()
        return fuse.InitOut(
            fuse.MAJOR,
            fuse.MINOR,
            asked.max_readahead,
            asked.flags & KNOWN,
            max_background=BACKGROUND,
            congestion_threshold=BACKGROUND * 3 // 4,
            max_write=MOST_DATA,
            time_gran=1,
            max_pages=MOST_DATA // 4096,
        ).pack()

    def _forget(self, header: fuse.InHeader, body: bytes) -> None:
        """Take note of nodes that the client does not know any more; what makes no sense is none."""
        size = fuse.ForgetOne.nbytes
        if header.opcode == Opcode.FORGET:
            ones = [header.nodeid.to_bytes(8, "little") + body[:8]]
        else:
            ones = [body[at : at + size] for at in range(fuse.BatchForgetIn.nbytes, len(body), size)]
        for one in ones:
            if len(one) == size:
                forgotten = fuse.ForgetOne.unpack(one)
                self._nodes.forget(forgotten.nodeid, forgotten.nlookup)
                self._fids.commit()  # each by itself: the log has room for what one small request does, not for all

    # Small answers.

    def _small(self, header: fuse.InHeader, head: bytes, body: bytes, room: int, *, repeats: bool) -> bytes:
        operation = OPERATIONS.get(header.opcode)
        if operation is None:
            refuse(errno.ENOSYS)
        keeps_note = self._fids.takes_notes and header.opcode in NOTED
        tag, digest = header.unique & 0xFFFFFFFF, hashlib.blake2b(head + body, digest_size=DIGEST).digest()
        if keeps_note and repeats and (noted := self._fids.noted(tag, digest)) is not None:
            return _checked(noted)
        self._session.repeats = repeats
        try:
            answer = operation(self._session, header.nodeid, body)
            if len(answer) > room:
                refuse(errno.EINVAL)
            outcome = bytes(4) + answer
        except OSError as error:
            outcome = (error.errno or errno.EIO).to_bytes(4, "little")
        if keeps_note:
            self._fids.note(tag, digest, outcome)
        self._fids.commit()
        return _checked(outcome)

    # Data.

    async def _read(self, body: bytes, sink: Sink) -> int:
        """Read straight into the place of the answer's data."""
        how, _ = take(body, fuse.ReadIn)
        outcome = self._nodes.opened(how.fh).read(sink, min(how.size, sink.room), how.offset)
        return outcome if isinstance(outcome, int) else await outcome

    async def _write(self, source: Source) -> bytes:
        how, _ = take(source.read(fuse.WriteIn.nbytes), fuse.WriteIn)
        if how.size != source.left or how.size > MOST_DATA:
            refuse(errno.EINVAL)
        outcome = self._nodes.opened(how.fh).write(source, how.size, how.offset)
        return fuse.WriteOut(outcome if isinstance(outcome, int) else await outcome).pack()

    def _read_directory(self, body: bytes, room: int) -> bytes:
        how, _ = take(body, fuse.ReadIn)
        most, entries = min(how.size, room, MOST_DATA), bytearray()
        for qid, behind, kind, name in self._nodes.opened(how.fh).entries(how.offset):
            entry = fuse.Dirent(qid.path, behind, len(name), kind).pack() + name
            entry += bytes(-len(entry) % fuse.DIRENT_ALIGNMENT)
            if len(entries) + len(entry) > most:
                if not entries:  # it would be the end of the directory for the client
                    refuse(errno.EINVAL)
                break
            entries += entry
        return bytes(entries)

    # The end.

    def close(self) -> None:
        """Close what is open; the memory keeps what a successor needs."""
        self._fids.close()


def _write(sink: Sink, data: bytes) -> int:
    if len(data) > sink.room:
        refuse(errno.EINVAL)
    sink.write(data)
    return len(data)


def _checked(outcome: bytes) -> bytes:
    """Return an answer, as it was noted behind the number of its error; raise that, if there was one."""
    if number := int.from_bytes(outcome[:4], "little"):
        refuse(number)
    return outcome[4:]


FAILURE = fuse.OutHeader(fuse.OutHeader.nbytes, -errno.EIO & 0xFFFFFFFF).pack()
"""The answer to a request of which nothing is known."""
