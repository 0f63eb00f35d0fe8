"""What a client sends that no honest one would: it gets an error, nothing else happens, and memory is bounded."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio.errors import ProtocolError
from pyvirtio.files import Folder, fids
from pyvirtio.files.structures import Changes, FileSystem, Qid
from pyvirtio.ninep.messages import FORMATS, pack, unpack
from pyvirtio.ninep.structures import NO_TAG, VERSION, Header
from tests.support.ninep import CONTENT, ROOT, Talk, folder_of_one, talking
from tests.support.ninep_hostile import BEGINNING, HUGE, MESSAGES, OPEN, ORDINARY

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of_one(tmp_path)


@pytest.fixture
def talk(folder: Path) -> Iterator[Talk]:
    with talking(Folder(folder), begins=False) as talk:
        for request in BEGINNING:
            assert unpack(talk.raw(request)).kind != "Rlerror"
        yield talk


def error_of(reply: bytes) -> int:
    answer = unpack(reply)
    assert answer.kind == "Rlerror"
    number: int = answer.ecode
    return number


@pytest.mark.parametrize("what", MESSAGES)
def test_a_hostile_message_gets_an_error_and_changes_nothing(talk, folder, what):
    request, expected = MESSAGES[what]
    reply = talk.raw(request)
    assert error_of(reply) == expected
    assert Header.unpack(reply).tag == Header.unpack(request).tag
    assert talk.raw(ORDINARY)[11:] == CONTENT
    assert os.listdir(folder) == ["file"]
    assert len(talk.server._session.fids) == 4


@pytest.mark.parametrize("length", range(7))
def test_less_than_a_head_cannot_be_answered(talk, length):
    with pytest.raises(ProtocolError):
        talk.raw(ORDINARY[:length])
    assert talk.raw(ORDINARY)[11:] == CONTENT


@pytest.mark.parametrize("room", range(11))
def test_without_room_for_a_reply_nothing_is_done(talk, folder, room):
    with pytest.raises(ProtocolError):
        talk.raw(pack("Tunlinkat", 1, fid=ROOT, name=b"file", flags=0), room)
    assert os.listdir(folder) == ["file"]


@pytest.mark.parametrize("room", range(11, 21))
def test_without_room_for_the_whole_reply_it_is_an_error_and_no_fault_of_the_tree(talk, room, caplog):
    """Each such request left a traceback in the log, which said that a file had failed."""
    reply = talk.raw(pack("Tversion", NO_TAG, msize=8192, version=VERSION), room)
    assert error_of(reply) == errno.EMSGSIZE
    assert not caplog.records


def test_a_read_of_2_gib_takes_no_memory(talk):
    talk.raw(HUGE)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        assert talk.raw(HUGE, room=4096)[11:] == CONTENT
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most - before < 100_000


def test_a_read_gets_no_more_than_the_message_size_that_was_agreed_on(talk, folder):
    (folder / "file").write_bytes(bytes(100_000))
    assert len(talk.raw(HUGE, room=65536)) == 8192
    assert len(talk.raw(HUGE, room=100)) == 100


def test_a_message_longer_than_agreed_on_is_refused(talk):
    data = bytes(8192)
    head = pack("Twrite", 1, fid=OPEN, offset=0, count=len(data), data_length=len(data))
    assert error_of(talk.raw(head + data)) == errno.EMSGSIZE
    assert talk.raw(ORDINARY)[11:] == CONTENT


def test_before_a_version_nothing_is_served(folder):
    with talking(Folder(folder), begins=False) as talk:
        for request in BEGINNING[1:]:
            assert error_of(talk.raw(request)) == errno.EPROTO
        talk.begin()


# Bounds.


def repeated_until(number: int, action: Callable[[int], object]) -> int:
    """Call ``action`` with 0, 1 and so on until it fails with this errno; return how often it went well."""
    for count in range(5000):
        try:
            action(count)
        except OSError as error:
            found = error.errno
            break
    assert found == number
    return count


def test_fids_are_bounded(talk, monkeypatch):
    monkeypatch.setattr(fids, "MOST_FIDS", 20)
    assert repeated_until(errno.ENFILE, lambda count: talk.walk("file", 100 + count)) == 16
    assert len(talk.server._session.fids) == 20
    assert talk.raw(ORDINARY)[11:] == CONTENT
    talk.clunk(100)
    talk.walk("file", 100)


def test_open_files_are_bounded(talk, monkeypatch):
    monkeypatch.setattr(talk.server._session.fids, "_most_open", 20)
    assert repeated_until(errno.EMFILE, lambda count: talk.open("file", 100 + count)) == 18
    xattrs = (
        ("Txattrwalk", {"newfid": 300, "name": b""}),
        ("Txattrcreate", {"name": b"user.x", "size": 9, "flags": 0}),
    )
    for kind, fields in xattrs:
        with pytest.raises(OSError, match=rf"\[Errno {errno.EMFILE}\]"):
            talk.ask(kind, fid=118, **fields)
    talk.clunk(100)
    talk.ask("Tlopen", fid=118, flags=0)


def test_a_process_has_descriptors_left_for_other_things():
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert fids.Fids()._most_open <= max(16, soft // 2)


def test_paths_are_bounded(talk):
    def deeper(depth: int) -> None:
        fid = 99 + depth if depth else ROOT
        talk.ask("Tmkdir", fid=fid, name=b"d" * 250, mode=0o755, gid=0)
        talk.walk("d" * 250, 100 + depth, fid=fid)

    assert repeated_until(errno.ENAMETOOLONG, deeper) == 4095 // 251


def test_a_rename_cannot_make_paths_longer_than_there_is_room_for(talk, folder, monkeypatch):
    talk.ask("Tmkdir", fid=ROOT, name=b"x", mode=0o755, gid=0)
    fid = talk.walk("x", 100)
    for number in range(101, 121):
        talk.ask("Tmkdir", fid=fid, name=b"d" * 200, mode=0o755, gid=0)
        fid = talk.walk("d" * 200, number, fid=fid)
    with pytest.raises(OSError, match=rf"\[Errno {errno.ENAMETOOLONG}\]"):
        talk.ask("Trenameat", fid=ROOT, name=b"x", dirfid=ROOT, newname=b"y" * 255)
    monkeypatch.setattr(fids, "MOST_TEXT", talk.server._session.fids._text + 10)
    with pytest.raises(OSError, match=rf"\[Errno {errno.ENFILE}\]"):
        talk.ask("Trenameat", fid=ROOT, name=b"x", dirfid=ROOT, newname=b"yyy")
    assert "x" in os.listdir(folder)


def test_locks_are_bounded(talk):
    fields = {"type": 0, "flags": 0, "start": 0, "length": 0, "client_id": b"x"}
    count = repeated_until(errno.ENOLCK, lambda process: talk.ask("Tlock", fid=OPEN, proc_id=process, **fields))
    assert 50 < count < 500


def test_everything_that_a_client_makes_is_given_back(talk, folder):
    before = len(os.listdir("/proc/self/fd"))
    for number in range(100, 150):
        talk.open("file", number)
    talk.raw(BEGINNING[0])
    assert len(os.listdir("/proc/self/fd")) < before


# Any bytes.


def filled(rng: random.Random, kind: str) -> bytes:
    """Return a message whose fields are what a fuzzer thinks of."""
    numbers = [0, 1, 2, 3, 4, 100, 0xFFFF, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1]
    names = [b"", b"..", b".", b"file", b"new", b"a/b", b"\0", b"n" * 300, b"user.x", rng.randbytes(3)]
    fields: dict[str, Any] = {}
    for name, size in FORMATS[kind].fields:
        structures = {"changes": Changes(valid=rng.getrandbits(9), size=rng.choice(numbers)), "qid": Qid()}
        fields[name] = (
            rng.choice(numbers) & ((1 << 8 * int(size)) - 1)
            if size.isdigit()
            else [rng.choice(names) for _ in range(rng.randrange(20))]
            if size == "*s"
            else rng.choice(names)
            if size == "s"
            else structures.get(size, FileSystem())
        )
    return pack(kind, rng.choice((1, 2, NO_TAG)), **fields)


def test_no_message_harms_the_server(tmp_path, rng):
    requests = [kind for kind in FORMATS if kind[0] == "T" and kind != "Tversion"]
    (tmp_path / "outside").write_bytes(b"outside")
    for number in range(30):
        folder = tmp_path / f"folder-{number}"
        folder.mkdir()
        (folder / "file").write_bytes(CONTENT)
        tree = Folder(folder)
        talk = Talk(tree, begins=False)
        for request in BEGINNING:
            talk.raw(request)
        for _ in range(200):
            data = bytearray(filled(rng, rng.choice(requests)))
            if rng.random() < 0.3:
                data[rng.randrange(len(data))] = rng.getrandbits(8)
            if rng.random() < 0.1:
                data = data[: rng.randrange(len(data))]
            with contextlib.suppress(ProtocolError):
                reply = talk.raw(bytes(data), rng.choice((11, 30, 200, 8192)))
                assert Header.unpack(reply).size == len(reply)
        assert unpack(talk.raw(BEGINNING[0])).version == VERSION
        talk.server.close()
        tree.close()
    assert (tmp_path / "outside").read_bytes() == b"outside"
    assert len(os.listdir(tmp_path)) == 31
