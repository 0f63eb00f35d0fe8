"""The server's side of 9P2000.L: takes a message, carries it out on a tree, and writes the reply.

**Order.** Messages are carried out one after the other, but for what a tree's file makes wait (an ``async def``
function): others are answered meanwhile. A Tflush cancels what waits; that is answered with EINTR first, and the Tflush
then, as flush(5) demands.

**Again.** Where the server has a memory that outlives its process, its successor knows the fids, opens files again when
they are used, and has notes of the last answers. A message that comes again since a process died (``repeats``) is
answered from the notes if it was carried out. If the process died in the very system call, it is carried out once more;
that something is there already, or not there any more, then means that it had been done.
"""

from __future__ import annotations

import errno
import hashlib

from pyvirtio.errors import ChainError, ProtocolError
from pyvirtio.files.fids import DIGEST, Fids, XattrRead, XattrWrite
from pyvirtio.files.tree import refuse
from pyvirtio.ninep.messages import FORMATS, pack, unpack
from pyvirtio.ninep.operations import NOTED, OPERATIONS, Session
from pyvirtio.ninep.structures import NO_TAG, VERSION, EntryHead, Header
from pyvirtio.system import log
from pyvirtio.system.pieces import fill

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable

    from pyvirtio.files.tree import File, Sink, Source, Tree
    from pyvirtio.ninep.messages import Message

LEAST_MSIZE, MOST_MSIZE = 4096, 1 << 20
"""The sizes of messages that are agreed on, in bytes. Linux's client asks for at most 500 KiB over virtio."""

_DATA_HEAD = Header.nbytes + 4
"""The bytes before the data of Rread and Rreaddir; an Rlerror has as many."""

_WRITE_FIELDS = 16


class Server:
    """Serves ``tree`` to one client.

    ``memory``, of `fids.LOG_SIZE` bytes, all zero at first, is what outlives this process, if anything does.
    """

    def __init__(self, tree: Tree, memory: memoryview | None = None) -> None:
        self._session = Session(tree, Fids(memory))
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._given_up: set[asyncio.Future[int]] = set()
        """What waits and was cancelled because the client wants no answer any more."""
        self._reported: set[object] = set()

    async def answer(self, source: Source, sink: Sink, *, repeats: bool = False) -> None:
        """Answer one message.

        Raises:
            ProtocolError: it is too short to be answered, or there is no room for any reply; nothing was done.
        """
        if source.left < Header.nbytes or sink.room < _DATA_HEAD:
            raise ProtocolError(
                f"a message of {source.left} bytes with room for {sink.room} in the reply; "
                f"9P has at least {Header.nbytes} and {_DATA_HEAD}"
            )
        header = Header.unpack(head := source.read(Header.nbytes))
        try:
            message = self._received(header, head, source)
            await self._carry_out(message, source, sink, repeats=repeats)
        except ProtocolError:
            sink.write(_error(header.tag, errno.EPROTO))
        except ChainError:  # the client left no room for the whole reply, and nothing of it was written
            sink.write(_error(header.tag, errno.EMSGSIZE))
        except OSError as error:
            sink.write(_error(header.tag, error.errno or errno.EIO))
        except Exception as error:  # noqa: BLE001  # a tree's author may raise anything; the client goes on
            self._report(error)
            sink.write(_error(header.tag, errno.EIO))

    def _report(self, error: Exception) -> None:
        """Log what a file's author raised: once for each place, for a client may ask for it again and again."""
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = (type(error), trace and (trace.tb_frame.f_code, trace.tb_lineno))
        if place in self._reported:
            return
        self._reported.add(place)
        log.warning("method-failed", f"a file of the 9P tree failed: {error!r}; this is said once", error)

    def _received(self, header: Header, head: bytes, source: Source) -> Message:
        """Return the message, whose data, if it has any, stays in ``source``."""
        if header.size != Header.nbytes + source.left:
            raise ProtocolError(f"a message says that it has {header.size} bytes")
        if header.size > (self._session.fids.msize or LEAST_MSIZE):
            refuse(errno.EMSGSIZE)
        has_data = header.type == FORMATS["Twrite"].number
        return unpack(head + source.read(_WRITE_FIELDS if has_data else header.size))

    async def _carry_out(self, m: Message, source: Source, sink: Sink, *, repeats: bool) -> None:
        if m.kind == "Tversion":
            sink.write(self._version(m))
        elif not self._session.fids.msize:
            refuse(errno.EPROTO)  # nothing was agreed on yet
        elif m.message_tag in self._waiting:
            refuse(errno.EINVAL)  # a tag names one message
        elif m.kind == "Tflush":
            await self._flush(m.oldtag)
            sink.write(pack("Rflush", m.message_tag))
        elif m.kind == "Tread":
            await self._read(m, sink)
        elif m.kind == "Twrite":
            await self._write(m, source, sink)
        elif m.kind == "Treaddir":
            self._read_directory(m, sink)
        else:
            sink.write(self._small(m, sink.room, repeats=repeats))

    # Small answers.

    def _small(self, m: Message, room: int, *, repeats: bool) -> bytes:
        session = self._session
        if m.kind not in OPERATIONS:
            refuse(errno.EOPNOTSUPP)
        keeps_note = session.fids.takes_notes and m.kind in NOTED
        digest = hashlib.blake2b(m.raw, digest_size=DIGEST).digest() if keeps_note else b""
        if keeps_note and repeats and (noted := session.fids.noted(m.message_tag, digest)) is not None:
            return noted
        session.repeats = repeats
        reply = self._reply(m)
        if len(reply) > room or len(reply) > session.fids.msize:
            reply = _error(m.message_tag, errno.EMSGSIZE)
        if keeps_note:
            session.fids.note(m.message_tag, digest, reply)
            session.fids.commit()
        return reply

    def _reply(self, m: Message) -> bytes:
        try:
            fields = OPERATIONS[m.kind](self._session, m)
        except OSError as error:
            return _error(m.message_tag, error.errno or errno.EIO)
        return pack("R" + m.kind[1:], m.message_tag, **fields)

    def _version(self, m: Message) -> bytes:
        """Begin a session: whatever there was before is over."""
        if m.msize < LEAST_MSIZE:
            refuse(errno.EMSGSIZE)
        is_known = m.version == VERSION
        msize = min(m.msize, MOST_MSIZE)
        for tag in self._waiting:
            self._give_up(tag)
        for fid in self._session.fids.begin(msize if is_known else 0):
            if fid.file is not None:
                fid.file.close()
        return pack("Rversion", m.message_tag, msize=msize, version=VERSION if is_known else b"unknown")

    # What waits.

    async def _flush(self, tag: int) -> None:
        """Return when the message with this tag is answered or was never there."""
        if tag not in self._waiting:
            return
        import asyncio

        await asyncio.wait([self._give_up(tag)])

    def _give_up(self, tag: int) -> asyncio.Future[int]:
        future = self._waiting[tag]
        self._given_up.add(future)
        future.cancel()
        return future

    async def _outcome(self, tag: int, outcome: int | Awaitable[int]) -> int:
        """Return the number of bytes that a file read or wrote, now or later."""
        if isinstance(outcome, int):
            return outcome
        import asyncio

        future = self._waiting[tag] = asyncio.ensure_future(outcome)
        try:
            return await future
        except asyncio.CancelledError:
            if future not in self._given_up:  # whoever serves has no patience
                raise
            refuse(errno.EINTR)
        finally:
            del self._waiting[tag]
            self._given_up.discard(future)

    # Data.

    def _file(self, number: int) -> File:
        return self._session.fids.opened(number, self._session.tree)

    def _most(self, m: Message, sink: Sink) -> int:
        """Return how many bytes of data a reply may have: a client may ask for any number, and gets what fits."""
        return min(int(m.count), sink.room - _DATA_HEAD, self._session.fids.msize - _DATA_HEAD)

    async def _read(self, m: Message, sink: Sink) -> None:
        """Read straight into the place of the reply's data; what precedes it is filled in at the end."""
        xattr, count = self._session.fids.get(m.fid).xattr, self._most(m, sink)
        if isinstance(xattr, XattrRead):
            data = xattr.value[m.offset : m.offset + count]
            sink.write(pack("Rread", m.message_tag, count=len(data), data_length=len(data)) + data)
            return
        file = self._file(m.fid)
        head = sink.views(_DATA_HEAD)
        sink.advance(_DATA_HEAD)
        try:
            number = await self._outcome(m.message_tag, file.read(sink, count, m.offset))
            reply = pack("Rread", m.message_tag, count=number, data_length=number)
        except OSError as error:
            reply = _error(m.message_tag, error.errno or errno.EIO)
        except Exception as error:  # noqa: BLE001  # as in `answer`
            self._report(error)
            reply = _error(m.message_tag, errno.EIO)
        fill(head, reply)

    async def _write(self, m: Message, source: Source, sink: Sink) -> None:
        if m.count != source.left:
            raise ProtocolError(f"Twrite says that it has {m.count} bytes of data; {source.left} came")
        xattr = self._session.fids.get(m.fid).xattr
        if isinstance(xattr, XattrWrite):
            if m.offset + m.count > len(xattr.value):
                refuse(errno.ENOSPC)
            xattr.value[m.offset : m.offset + m.count] = source.read(m.count)
            xattr.written += m.count
            number = m.count
        else:
            number = await self._outcome(m.message_tag, self._file(m.fid).write(source, m.count, m.offset))
        sink.write(pack("Rwrite", m.message_tag, count=number))

    def _read_directory(self, m: Message, sink: Sink) -> None:
        most, entries = self._most(m, sink), bytearray()
        for qid, offset, kind, name in self._file(m.fid).entries(m.offset):
            entry = EntryHead(qid, offset, kind, len(name)).pack() + name
            if len(entries) + len(entry) > most:
                if not entries:  # it would be the end of the directory for the client
                    refuse(errno.EINVAL)
                break
            entries += entry
        sink.write(pack("Rreaddir", m.message_tag, count=len(entries), data_length=len(entries)) + entries)

    # The end.

    def close(self) -> None:
        """Close what is open; the memory keeps what a successor needs."""
        self._session.fids.close()


def _error(tag: int, number: int) -> bytes:
    return pack("Rlerror", tag, ecode=number)


FAILURE = _error(NO_TAG, errno.EIO)
"""The reply to a message of which nothing is known."""
