"""What survives the process that serves: fids, open files, and the answers that no client has heard of."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio.files import Folder, fid_log, fids
from pyvirtio.files.fid_log import FidLog, Record
from pyvirtio.files.fids import LOG_SIZE
from pyvirtio.files.structures import BASIC, Open
from pyvirtio.ninep.messages import pack, unpack
from pyvirtio.ninep.operations import NOTED
from pyvirtio.ninep.structures import REMOVE_DIRECTORY
from tests.support.ninep import ROOT, Talk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Succession:
    """Servers one after the other, on the same memory."""

    def __init__(self, folder: Path, size: int = 1 << 20) -> None:
        self.folder = folder
        self.memory = bytearray(size)
        self._trees: list[Folder] = []
        self.talk = self._next(begins=True)

    def _next(self, *, begins: bool) -> Talk:
        self._trees.append(Folder(self.folder))
        return Talk(self._trees[-1], memoryview(self.memory), begins=begins)

    def die(self) -> Talk:
        """Let the server end without a chance to say anything, and the next one take over."""
        self.close()
        self.talk = self._next(begins=False)
        return self.talk

    def close(self) -> None:
        self.talk.server.close()
        self._trees[-1].close()

    def again(self, request: bytes) -> bytes:
        """Send a message as one that comes again."""
        self.talk.repeats = True
        try:
            return self.talk.raw(request)
        finally:
            self.talk.repeats = False


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Succession]:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "file").write_bytes(b"0123456789")
    (folder / "sub/inner").write_bytes(b"inner")
    made = Succession(folder)
    yield made
    made.close()


def test_fids_and_open_files_go_on(servers):
    talk = servers.talk
    talk.walk("sub/inner", 1)
    talk.open("file", 2, Open.READ_WRITE | Open.TRUNCATE)
    talk.write(2, b"before")
    talk.ask(
        "Tlcreate", fid=talk.walk("sub", 3), name=b"new", flags=Open.READ_WRITE | Open.EXCLUSIVE, mode=0o600, gid=0
    )
    talk.write(3, b"new")
    talk.open("sub", 4, Open.DIRECTORY)
    talk.walk("file", 5)
    talk.clunk(5)
    talk.ask("Trenameat", fid=ROOT, name=b"sub", dirfid=ROOT, newname=b"moved")

    for _ in range(3):
        talk = servers.die()
        assert talk.ask("Tgetattr", fid=1, mask=BASIC).body.size == 5
        assert talk.data("Tread", 2) == b"before"
        assert talk.data("Tread", 3) == b"new"
        assert sorted(talk.names(4)) == [b".", b"..", b"inner", b"new"]
        talk.write(2, b"before")
        with pytest.raises(OSError, match=rf"\[Errno {errno.EBADF}\]"):
            talk.ask("Tgetattr", fid=5, mask=BASIC)
        talk.walk("moved/inner", 6)
        talk.clunk(6)


def test_a_directory_is_read_on_where_it_was(servers):
    for n in range(500):
        (servers.folder / f"entry-{n}").touch()
    talk, offset, seen = servers.talk, 0, list[bytes]()
    talk.open("", 1, Open.DIRECTORY)
    while data := talk.data("Treaddir", 1, 1000, offset):
        while data:
            head = entry(data)
            name = data[24:][: head[1]]
            seen.append(name)
            if name.startswith(b"entry"):
                talk.ask("Tunlinkat", fid=ROOT, name=name, flags=0)
            offset, data = head[0], data[24 + head[1] :]
        talk = servers.die()
    assert len(seen) == len(set(seen)) == 500 + 4
    assert sorted(os.listdir(servers.folder)) == ["file", "sub"]


def entry(data: bytes) -> tuple[int, int]:
    """Return the offset behind the first entry of a directory, and the length of its name."""
    return int.from_bytes(data[13:21], "little"), int.from_bytes(data[22:24], "little")


def test_an_open_file_whose_name_is_gone_is_stale(servers):
    talk = servers.talk
    talk.open("file", 1)
    talk.open("sub/inner", 2)
    (servers.folder / "file").unlink()
    os.link(servers.folder / "sub/inner", servers.folder / "kept")
    (servers.folder / "sub/inner").unlink()
    (servers.folder / "sub/inner").write_bytes(b"another")
    talk = servers.die()
    for fid in (1, 2):
        with pytest.raises(OSError, match=rf"\[Errno {errno.ESTALE}\]"):
            talk.data("Tread", fid)
        talk.clunk(fid)


def test_a_new_session_has_nothing_of_the_old_one(servers):
    servers.talk.walk("file", 1)
    servers.talk.begin()
    talk = servers.die()
    with pytest.raises(OSError, match=rf"\[Errno {errno.EBADF}\]"):
        talk.ask("Tgetattr", fid=1, mask=BASIC)
    talk.walk("file", 1)


def test_memory_of_another_format_is_like_none(servers):
    servers.memory[:] = b"\x5a" * len(servers.memory)
    talk = servers.die()
    with pytest.raises(OSError, match=rf"\[Errno {errno.EPROTO}\]"):
        talk.walk("file", 1)
    talk.begin()
    talk.walk("file", 1)
    assert servers.die().ask("Tgetattr", fid=1, mask=BASIC).body.size == 10


# Messages that come again.

AGAIN: dict[str, dict[str, Any]] = {
    "Tattach": {"fid": 50, "afid": 0xFFFFFFFF, "uname": b"", "aname": b"", "n_uname": 0},
    "Twalk": {"fid": ROOT, "newfid": 50, "names": [b"sub"]},
    "Tlopen": {"fid": 11, "flags": 0},
    "Tlcreate": {"fid": 10, "name": b"new", "flags": Open.READ_WRITE | Open.EXCLUSIVE, "mode": 0o600, "gid": 0},
    "Tmkdir": {"fid": 10, "name": b"new", "mode": 0o755, "gid": 0},
    "Tsymlink": {"fid": 10, "name": b"new", "target": b"t", "gid": 0},
    "Tmknod": {"fid": 10, "name": b"new", "mode": 0o100600, "major": 0, "minor": 0, "gid": 0},
    "Tlink": {"dirfid": 10, "fid": 11, "name": b"new"},
    "Trename": {"fid": 11, "dirfid": 10, "name": b"new"},
    "Trenameat": {"fid": ROOT, "name": b"file", "dirfid": 10, "newname": b"new"},
    "Tunlinkat": {"fid": ROOT, "name": b"file", "flags": 0},
    "Tremove": {"fid": 11},
    "Tclunk": {"fid": 11},
    "Txattrwalk": {"fid": 11, "newfid": 50, "name": b""},
    "Txattrcreate": {"fid": 11, "name": b"user.x", "size": 0, "flags": 0},
}


def test_the_table_has_every_message_whose_answer_is_noted():
    assert AGAIN.keys() == NOTED


def prepared(servers: Succession) -> Talk:
    talk = servers.talk
    talk.walk("sub", 10)
    talk.walk("file", 11)
    return talk


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("kind", AGAIN)
def test_a_message_that_was_answered_and_comes_again_gets_the_same_answer(servers, kind):
    prepared(servers)
    request = pack(kind, 7, **AGAIN[kind])
    first = servers.talk.raw(request)
    assert unpack(first).kind == "R" + kind[1:]
    after = names(servers.folder)
    for _ in range(2):
        servers.die()
        assert servers.again(request) == first
        assert names(servers.folder) == after
    # Who sends the same again without a death meant it.
    if kind not in {"Trename", "Txattrwalk", "Twalk", "Tattach"}:
        assert unpack(servers.talk.raw(request)).kind == "Rlerror"


@pytest.mark.parametrize("kind", sorted(NOTED - {"Tclunk", "Txattrcreate", "Txattrwalk"}))
def test_a_message_in_whose_system_call_the_process_died_is_carried_out_once(servers, kind):
    """The tree was changed, and nothing was noted: the memory is as it was before."""
    prepared(servers)
    before = bytes(servers.memory)
    request = pack(kind, 7, **AGAIN[kind])
    first = servers.talk.raw(request)
    after = names(servers.folder)
    servers.memory[:] = before
    servers.die()
    assert servers.again(request) == first
    assert names(servers.folder) == after


def test_a_directory_that_was_removed_already(servers):
    (servers.folder / "sub/inner").unlink()
    before = bytes(servers.memory)
    request = pack("Tunlinkat", 3, fid=ROOT, name=b"sub", flags=REMOVE_DIRECTORY)
    servers.talk.raw(request)
    servers.memory[:] = before
    servers.die()
    assert unpack(servers.again(request)).kind == "Runlinkat"
    assert unpack(servers.talk.raw(request)).kind == "Rlerror"


def test_an_answer_is_that_of_the_same_message_only(servers):
    prepared(servers)
    servers.talk.raw(pack("Tunlinkat", 7, fid=ROOT, name=b"file", flags=0))
    servers.die()
    other = pack("Tunlinkat", 7, fid=10, name=b"inner", flags=0)
    assert unpack(servers.again(other)).kind == "Runlinkat"
    assert names(servers.folder) == ["sub"]


# The log itself.


class Cut(BaseException):
    """The process ends here."""


def scenario(talk: Talk, states: list[object], rng: random.Random) -> None:
    """Do some things; keep what is known after each."""
    for number in range(12):
        fid = talk.walk("sub/inner" if number % 2 else "file", 100 + number)
        states.append(expected(talk))
        if number % 3 == 0:
            talk.ask("Tlopen", fid=fid, flags=0)
            states.append(expected(talk))
        if number % 4 == 3:
            talk.clunk(fid - rng.randrange(2))
            states.append(expected(talk))


@contextlib.contextmanager
def mortal(monkeypatch: pytest.MonkeyPatch, last: int) -> Iterator[None]:
    """Let a log die before its store number ``last``."""
    stores = itertools.count()

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def store(*arguments: Any) -> Any:
            if next(stores) == last:
                raise Cut
            return real(*arguments)

        return store

    with monkeypatch.context() as patch:
        patch.setattr(fid_log, "_put", dying(fid_log._put))
        patch.setattr(FidLog, "commit", dying(FidLog.commit))
        yield


def test_a_death_before_any_store_leaves_the_state_before_or_after_a_message(tmp_path, servers, monkeypatch, rng):
    """Every store into the memory is made to be the last one, in a log so small that it is rewritten often."""
    monkeypatch.setattr("pyvirtio.files.fids._MOST_AT_ONCE", 400)
    seed, rewritten = rng.getrandbits(32), False
    for last in range(10_000):
        memory, tree = bytearray(16 + 2 * 1500), Folder(servers.folder)
        talk = Talk(tree, memoryview(memory))
        states: list[object] = [expected(talk)]
        is_finished = False
        with mortal(monkeypatch, last), contextlib.suppress(Cut):
            scenario(talk, states, random.Random(seed))
            is_finished = True
        successor = Talk(tree, memoryview(bytearray(memory)), begins=False)
        assert expected(successor) in (states[-1], expected(talk)), last
        rewritten |= bool(memory[15] & 0x80)
        for one in (talk, successor):
            one.server.close()
        tree.close()
        if is_finished:
            break
    assert 50 < last < 9999
    assert rewritten


def expected(talk: Talk) -> dict[int, tuple[object, ...]]:
    """Return what a server knows."""
    found = talk.server._session.fids._fids
    return {number: (fid.path, fid.flags, fid.qid.path, fid.qid.type) for number, fid in found.items()}


def test_the_log_has_room_for_all_that_there_may_be():
    longest_reply = 7 + 2 + 16 * 13
    notes = fids.MOST_NOTES * (Record.nbytes + fids.DIGEST + longest_reply)
    assert fids.MOST_TEXT + notes + Record.nbytes + fids._MOST_AT_ONCE < (LOG_SIZE - 16) // 2


def test_a_server_without_memory_takes_no_notes(tmp_path):
    tree = Folder(tmp_path)
    talk = Talk(tree)
    assert not talk.server._session.fids.takes_notes
    talk.ask("Tmkdir", fid=ROOT, name=b"new", mode=0o755, gid=0)
    talk.server.close()
    tree.close()
