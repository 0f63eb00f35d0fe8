"""A tree of Python objects."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio.files import Objects
from pyvirtio.files.structures import BASIC, Changes, Open, QidType, Set
from pyvirtio.ninep.messages import pack, unpack
from tests.support.ninep import ROOT, Talk, exchange

if TYPE_CHECKING:
    from collections.abc import Iterator


class Lamp:
    """Something with a state, which files show and change."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.reads = 0

    def read(self) -> str:
        self.reads += 1
        return f"read {self.reads}\n"

    def write(self, data: bytes) -> None:
        if data == b"no":
            raise OSError(errno.ERANGE, "out of range")
        self.written.append(data)


@pytest.fixture
def lamp() -> Lamp:
    return Lamp()


@pytest.fixture
def talk(lamp: Lamp) -> Iterator[Talk]:
    def broken() -> str:
        raise ValueError("a bug")

    root: dict[str, Any] = {
        "text": "some text",
        "bytes": b"\0\1\2",
        "function": lamp.read,
        "both": (lamp.read, lamp.write),
        "input": (None, lamp.write),
        "broken": broken,
        "deep": {"deeper": {"file": "at the bottom"}},
        "nothing": {},
    }
    session = Talk(Objects(root))
    session.root = root  # type: ignore[attr-defined]  # for the tests that change it
    yield session
    session.server.close()


def read(talk: Talk, path: str, fid: int = 50) -> bytes:
    talk.open(path, fid)
    try:
        return talk.data("Tread", fid)
    finally:
        talk.clunk(fid)


def test_reading(talk, lamp):
    assert read(talk, "text") == b"some text"
    assert read(talk, "bytes") == b"\0\1\2"
    assert read(talk, "deep/deeper/file") == b"at the bottom"
    assert lamp.reads == 0, "nobody has read what a function returns"
    assert read(talk, "function") == b"read 1\n"
    talk.open("function", 1)
    assert (talk.data("Tread", 1, 4), talk.data("Tread", 1, 4, 4), talk.data("Tread", 1, 4, 7)) == (
        b"read",
        b" 2\n",
        b"",
    )
    assert talk.data("Tread", 1) == b"read 3\n", "from the beginning it is called again"


def test_writing(talk, lamp):
    for path in ("input", "both"):
        talk.open(path, 1, Open.WRITE_ONLY | Open.TRUNCATE)
        talk.ask("Tsetattr", fid=1, changes=Changes(valid=Set.SIZE))  # as Linux does for `>`
        assert talk.write(1, b"on") == 2
        with pytest.raises(OSError, match=rf"\[Errno {errno.ERANGE}\]"):
            talk.write(1, b"no")
        talk.clunk(1)
    assert lamp.written == [b"on", b"on"]


def test_creating_opens_what_is_there(talk, lamp):
    fields = {"mode": 0o644, "gid": 0}
    talk.walk("", 1)
    for name, flags, number in ((b"new", 0, errno.EROFS), (b"input", Open.EXCLUSIVE, errno.EEXIST)):
        with pytest.raises(OSError, match=rf"\[Errno {number}\]"):
            talk.ask("Tlcreate", fid=1, name=name, flags=Open.WRITE_ONLY | flags, **fields)
    talk.ask("Tlcreate", fid=1, name=b"input", flags=Open.WRITE_ONLY, **fields)
    talk.write(1, b"on")
    assert lamp.written == [b"on"]


@pytest.mark.parametrize(
    ("path", "flags", "number"),
    [
        ("text", Open.WRITE_ONLY, errno.EACCES),
        ("function", Open.READ_WRITE, errno.EACCES),
        ("input", 0, errno.EACCES),
        ("deep", Open.WRITE_ONLY, errno.EISDIR),
        ("missing", 0, errno.ENOENT),
        ("text/x", 0, errno.ENOENT),
    ],
)
def test_what_cannot_be_opened(talk, path, flags, number):
    with pytest.raises(OSError, match=rf"\[Errno {number}\]"):
        talk.open(path, 1, flags)


def test_modes_and_names(talk):
    modes = {"text": 0o100444, "function": 0o100444, "both": 0o100666, "input": 0o100222, "deep": 0o40555}
    for number, (path, mode) in enumerate(modes.items(), start=1):
        found = talk.ask("Tgetattr", fid=talk.walk(path, number), mask=BASIC).body
        assert found.mode == mode
        assert found.qid.type == (QidType.DIRECTORY if path == "deep" else QidType.FILE)
    talk.open("", 20, Open.DIRECTORY)
    expected = sorted([b".", b"..", *(name.encode() for name in talk.root)])
    assert sorted(talk.names(20)) == sorted(talk.names(20, 40)) == expected
    talk.open("nothing", 21, Open.DIRECTORY)
    assert sorted(talk.names(21)) == [b".", b".."]


def test_the_tree_may_change_at_any_time(talk):
    talk.walk("text", 1)
    talk.root["text"] = "another"
    assert read(talk, "text") == b"another"
    del talk.root["text"]
    with pytest.raises(OSError, match=rf"\[Errno {errno.ENOENT}\]"):
        talk.ask("Tgetattr", fid=1, mask=BASIC)
    talk.root["new"] = {"file": "x"}
    assert read(talk, "new/file") == b"x"


def test_a_function_that_fails_is_an_io_error_and_in_the_log(talk, caplog):
    with pytest.raises(OSError, match=rf"\[Errno {errno.EIO}\]"):
        read(talk, "broken")
    assert [record.event for record in caplog.records] == ["method-failed"]
    assert read(talk, "text") == b"some text"


def test_a_client_cannot_fill_the_log_with_a_function_that_fails(talk, caplog):
    for _ in range(20):
        with pytest.raises(OSError, match=rf"\[Errno {errno.EIO}\]"):
            read(talk, "broken")
    assert [record.event for record in caplog.records] == ["method-failed"]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("Tmkdir", {"name": b"new", "mode": 0o755, "gid": 0}),
        ("Tsymlink", {"name": b"new", "target": b"x", "gid": 0}),
        ("Tunlinkat", {"name": b"text", "flags": 0}),
        ("Trenameat", {"name": b"text", "dirfid": ROOT, "newname": b"new"}),
        ("Tsetattr", {"changes": Changes(valid=Set.MODE, mode=0o777)}),
        ("Txattrwalk", {"newfid": 9, "name": b""}),
    ],
)
def test_the_tree_is_its_owners(talk, kind, fields):
    with pytest.raises(OSError, match=rf"\[Errno ({errno.EROFS}|{errno.EPERM}|{errno.EOPNOTSUPP})\]"):
        talk.ask(kind, fid=ROOT, **fields)
    assert read(talk, "text") == b"some text"


# Functions that wait.


async def ask(talk: Talk, request: bytes) -> bytes:
    reader, writer, memory = exchange(request)
    await talk.server.answer(reader, writer)
    return bytes(memory[: len(memory) - writer.room])


def waiting() -> tuple[Talk, asyncio.Event, asyncio.Event, list[str]]:
    """Return a session with a file ``slow`` that is open by fid 1: its event to begin, to go on, and what happened."""
    begun, go_on, happened = asyncio.Event(), asyncio.Event(), list[str]()

    async def slow() -> str:
        begun.set()
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            happened.append("cancelled")
            raise
        return "at last"

    async def take(data: bytes) -> None:
        await go_on.wait()
        happened.append(data.decode())

    talk = Talk(Objects({"slow": (slow, take), "fast": "fast"}))
    talk.open("slow", 1, Open.READ_WRITE)
    return talk, begun, go_on, happened


READ = pack("Tread", 5, fid=1, offset=0, count=100)


def test_others_are_answered_while_a_function_waits():
    async def main() -> None:
        talk, begun, go_on, happened = waiting()
        reading = asyncio.ensure_future(ask(talk, READ))
        writing = asyncio.ensure_future(ask(talk, pack("Twrite", 6, fid=1, offset=0, count=2, data_length=2) + b"on"))
        await begun.wait()
        assert read(talk, "fast") == b"fast"
        assert not reading.done()
        go_on.set()
        assert (await reading)[11:] == b"at last"
        assert unpack(await writing).count == 2
        assert happened == ["on"]

    asyncio.run(main())


def test_a_flush_cancels_what_waits_which_is_answered_first():
    async def main() -> None:
        talk, begun, _, happened = waiting()
        order = []

        async def noted(request: bytes) -> None:
            order.append(unpack(await ask(talk, request)))

        reading = asyncio.ensure_future(noted(READ))
        await begun.wait()
        await noted(pack("Tflush", 6, oldtag=4))  # another one
        assert not reading.done()
        await noted(pack("Tflush", 7, oldtag=5))
        await reading
        assert [(one.kind, one.message_tag) for one in order] == [("Rflush", 6), ("Rlerror", 5), ("Rflush", 7)]
        assert order[1].ecode == errno.EINTR
        assert happened == ["cancelled"]
        assert read(talk, "fast") == b"fast"

    asyncio.run(main())


def test_a_new_session_ends_what_waits():
    async def main() -> None:
        talk, begun, _, happened = waiting()
        reading = asyncio.ensure_future(ask(talk, READ))
        await begun.wait()
        talk.begin()
        assert unpack(await reading).ecode == errno.EINTR
        assert happened == ["cancelled"]

    asyncio.run(main())


def test_a_tag_that_is_in_use_is_refused():
    async def main() -> None:
        talk, begun, go_on, _ = waiting()
        reading = asyncio.ensure_future(ask(talk, READ))
        await begun.wait()
        assert unpack(await ask(talk, READ)).ecode == errno.EINVAL
        go_on.set()
        assert (await reading)[11:] == b"at last"

    asyncio.run(main())


def test_whoever_serves_may_cancel_a_request():
    async def main() -> None:
        talk, begun, _, happened = waiting()
        reading = asyncio.ensure_future(ask(talk, READ))
        await begun.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await asyncio.sleep(0)
        assert happened == ["cancelled"]

    asyncio.run(main())
