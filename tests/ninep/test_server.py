"""The server on a folder, message by message."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio.files import Folder
from pyvirtio.files.structures import BASIC, XATTR_REPLACE, Changes, Lock, LockStatus, Open, QidType, Set
from pyvirtio.ninep.messages import pack, unpack
from pyvirtio.ninep.structures import NO_FID, NO_TAG, NO_UID, REMOVE_DIRECTORY, VERSION, EntryHead
from tests.support.ninep import MSIZE, ROOT, Talk, talking

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    (made / "file").write_bytes(b"0123456789")
    (made / "sub").mkdir()
    (made / "sub/inner").write_bytes(b"inner")
    (made / "link").symlink_to("sub/inner")
    return made


@pytest.fixture
def talk(folder: Path) -> Iterator[Talk]:
    with talking(Folder(folder)) as talk:
        yield talk


@pytest.fixture
def read_only(folder: Path) -> Iterator[Talk]:
    with talking(Folder(folder, readonly=True)) as talk:
        yield talk


def refused(number: int):
    """Return a context in which an error of this number has to come."""
    return pytest.raises(OSError, match=rf"\[Errno {number}\]")


# Sessions.


def test_versions(talk):
    answer = talk.ask("Tversion", NO_TAG, msize=8192, version=VERSION)
    assert (answer.msize, answer.version) == (8192, VERSION)
    answer = talk.ask("Tversion", NO_TAG, msize=1 << 31, version=VERSION)
    assert answer.msize == 1 << 20
    for other in (b"9P2000", b"9P2000.u", b"", b"9P2000.L "):
        assert talk.ask("Tversion", NO_TAG, msize=8192, version=other).version == b"unknown"
        with refused(errno.EPROTO):  # nothing was agreed on
            talk.ask("Tattach", fid=ROOT, afid=NO_FID, uname=b"", aname=b"", n_uname=NO_UID)


@pytest.mark.parametrize("msize", [0, 1, 7, 4095])
def test_a_message_size_that_is_too_small_is_refused_and_changes_nothing(talk, msize):
    with refused(errno.EMSGSIZE):
        talk.ask("Tversion", NO_TAG, msize=msize, version=VERSION)
    assert talk.open("file", 1) == 1


def test_a_new_session_forgets_the_fids_of_the_last_one(talk):
    talk.open("file", 1)
    talk.begin()
    with refused(errno.EBADF):
        talk.data("Tread", 1)
    assert talk.open("file", 1) == 1


def test_attaching(talk):
    qid = talk.ask("Tattach", fid=1, afid=NO_FID, uname=b"somebody", aname=b"/", n_uname=1000).qid
    assert qid.type == QidType.DIRECTORY
    assert qid == talk.ask("Tgetattr", fid=ROOT, mask=BASIC).body.qid
    with refused(errno.EBADF):
        talk.ask("Tattach", fid=1, afid=NO_FID, uname=b"", aname=b"", n_uname=0)
    with refused(errno.ENOENT):
        talk.ask("Tattach", fid=2, afid=NO_FID, uname=b"", aname=b"sub", n_uname=0)
    with refused(errno.EINVAL):
        talk.ask("Tattach", fid=2, afid=1, uname=b"", aname=b"", n_uname=0)
    with refused(errno.EOPNOTSUPP):
        talk.ask("Tauth", afid=2, uname=b"", aname=b"", n_uname=0)


def test_a_flush_of_what_is_answered_already_is_answered(talk):
    talk.ask("Tflush", 2, oldtag=1)
    talk.ask("Tflush", 2, oldtag=2)


# Walking.


def test_walking(talk):
    assert talk.ask("Twalk", fid=ROOT, newfid=1, names=[]).qids == []
    qids = talk.ask("Twalk", fid=1, newfid=2, names=[b"sub", b"inner"]).qids
    assert [qid.type for qid in qids] == [QidType.DIRECTORY, QidType.FILE]
    assert talk.ask("Twalk", fid=1, newfid=1, names=[b"sub"]).qids == qids[:1]  # in its own place
    assert talk.ask("Twalk", fid=1, newfid=3, names=[b"inner"]).qids == qids[1:]
    assert talk.ask("Twalk", fid=1, newfid=4, names=[b"..", b"sub", b"inner"]).qids[-1] == qids[1]
    assert talk.ask("Twalk", fid=ROOT, newfid=5, names=[b"link"]).qids[0].type == QidType.LINK


def test_a_walk_that_ends_halfway_says_how_far_it_led_and_makes_no_fid(talk):
    assert len(talk.ask("Twalk", fid=ROOT, newfid=1, names=[b"sub", b"nothing"]).qids) == 1
    with refused(errno.ENOENT):
        talk.ask("Twalk", fid=ROOT, newfid=1, names=[b"nothing"])
    with refused(errno.EBADF):
        talk.ask("Tgetattr", fid=1, mask=BASIC)


def test_a_walk_stops_at_a_link_which_is_the_clients_to_follow(talk):
    (first,) = talk.ask("Twalk", fid=ROOT, newfid=1, names=[b"link", b"x"]).qids
    assert first.type == QidType.LINK


# Files.


def test_reading_and_writing(talk, folder):
    talk.open("file", 1, Open.READ_WRITE)
    assert talk.data("Tread", 1) == b"0123456789"
    assert talk.data("Tread", 1, 3, 2) == b"234"
    assert talk.data("Tread", 1, 100, 10) == b""
    assert talk.write(1, b"abc", 8) == 3
    assert (folder / "file").read_bytes() == b"01234567abc"
    assert talk.ask("Tgetattr", fid=1, mask=BASIC).body.size == 11
    talk.ask("Tfsync", fid=1, datasync=0)
    talk.ask("Tfsync", fid=1, datasync=1)
    talk.clunk(1)
    with refused(errno.EBADF):
        talk.data("Tread", 1)


def test_what_is_open_allows_what_it_was_opened_for(talk):
    talk.open("file", 1)
    with refused(errno.EBADF):
        talk.write(1, b"x")
    talk.open("file", 2, Open.WRITE_ONLY)
    with refused(errno.EBADF):
        talk.data("Tread", 2)
    talk.walk("file", 3)
    for wrong in ("Tread", "Treaddir"):
        with refused(errno.EBADF):
            talk.data(wrong, 3)
    with refused(errno.EBADF):
        talk.write(3, b"x")
    with refused(errno.EBADF):
        talk.ask("Tlopen", fid=1, flags=0)  # it is open
    with refused(errno.EBADF):
        talk.walk("x", 9, fid=1)
    with refused(errno.EINVAL):
        talk.ask("Tlopen", fid=3, flags=3)
    with refused(errno.ENOTDIR):
        talk.data("Treaddir", 1)
    talk.walk("sub", 4)
    with refused(errno.EISDIR):
        talk.ask("Tlopen", fid=4, flags=Open.WRITE_ONLY)


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_creating(talk, folder, mask):
    before = os.umask(mask)
    try:
        talk.walk("sub", 1)
        answer = talk.ask("Tlcreate", fid=1, name=b"new", flags=Open.READ_WRITE, mode=0o100666, gid=0)
        assert answer.qid.type == QidType.FILE
        assert talk.write(1, b"content") == 7
        assert talk.data("Tread", 1) == b"content"
        assert stat.S_IMODE((folder / "sub/new").stat().st_mode) == 0o666, (
            "the umask of this process is not the guest's"
        )
        talk.ask("Tmkdir", fid=ROOT, name=b"made", mode=0o40775, gid=0)
        talk.ask("Tmknod", fid=ROOT, name=b"fifo", mode=stat.S_IFIFO | 0o666, major=0, minor=0, gid=0)
        assert [stat.S_IMODE((folder / name).stat().st_mode) for name in ("made", "fifo")] == [0o775, 0o666]
    finally:
        os.umask(before)


def test_creating_what_is_there(talk, folder):
    talk.walk("", 1)
    with refused(errno.EEXIST):
        talk.ask("Tlcreate", fid=1, name=b"file", flags=Open.EXCLUSIVE | Open.READ_WRITE, mode=0o600, gid=0)
    talk.ask("Tlcreate", fid=1, name=b"file", flags=Open.TRUNCATE | Open.READ_WRITE, mode=0o600, gid=0)
    assert (folder / "file").read_bytes() == b""
    assert stat.S_IMODE((folder / "file").stat().st_mode) != 0o600
    for kind, wrong in (("Tmkdir", b"file"), ("Tmkdir", b"sub")):
        with refused(errno.EEXIST):
            talk.ask(kind, fid=ROOT, name=wrong, mode=0o755, gid=0)


def test_attributes(talk, folder):
    talk.walk("file", 1)
    found = talk.ask("Tgetattr", fid=1, mask=BASIC).body
    status = (folder / "file").stat()
    assert (found.mode, found.uid, found.size) == (status.st_mode, status.st_uid, 10)
    assert found.mtime_sec * 10**9 + found.mtime_nsec == status.st_mtime_ns
    version = found.qid.version

    changes = Changes(valid=Set.MODE | Set.SIZE, mode=0o100600, size=4)
    talk.ask("Tsetattr", fid=1, changes=changes)
    assert (folder / "file").read_bytes() == b"0123"
    assert stat.S_IMODE((folder / "file").stat().st_mode) == 0o600
    changes = Changes(
        valid=Set.ATIME | Set.ATIME_SET | Set.MTIME | Set.MTIME_SET, atime_sec=1, mtime_sec=2, mtime_nsec=5
    )
    talk.ask("Tsetattr", fid=1, changes=changes)
    status = (folder / "file").stat()
    assert (status.st_atime_ns, status.st_mtime_ns) == (10**9, 2 * 10**9 + 5)
    talk.ask("Tsetattr", fid=1, changes=Changes(valid=Set.MTIME))
    later = (folder / "file").stat()
    assert later.st_mtime_ns > status.st_mtime_ns
    assert later.st_atime_ns == status.st_atime_ns
    talk.ask("Tsetattr", fid=1, changes=Changes(valid=Set.CTIME))
    assert talk.ask("Tgetattr", fid=1, mask=BASIC).body.qid.version != version
    status = (folder / "file").stat()
    talk.ask("Tsetattr", fid=1, changes=Changes(valid=Set.UID | Set.GID, uid=status.st_uid, gid=status.st_gid))


def test_what_runs_as_somebody_of_this_machine_cannot_be_made(talk, folder):
    talk.walk("file", 1)
    for bit in (stat.S_ISUID, stat.S_ISGID):
        with refused(errno.EPERM):
            talk.ask("Tsetattr", fid=1, changes=Changes(valid=Set.MODE, mode=bit | 0o755))
        with refused(errno.EPERM):
            talk.ask("Tmknod", fid=ROOT, name=b"n", mode=stat.S_IFREG | bit | 0o755, major=0, minor=0, gid=0)
        talk.walk("", 2)
        with refused(errno.EPERM):
            talk.ask("Tlcreate", fid=2, name=b"n", flags=1, mode=bit | 0o755, gid=0)
        talk.clunk(2)
    assert not (folder / "n").exists()


def test_an_open_file_goes_on_without_its_name(talk, folder):
    talk.open("file", 1, Open.READ_WRITE)
    (folder / "file").unlink()
    assert talk.data("Tread", 1) == b"0123456789"
    assert talk.ask("Tgetattr", fid=1, mask=BASIC).body.nlink == 0
    talk.ask("Tsetattr", fid=1, changes=Changes(valid=Set.SIZE, size=2))
    assert talk.data("Tread", 1) == b"01"


def test_what_takes_the_place_of_a_file_is_not_taken_for_it(talk, folder):
    talk.walk("file", 1)
    (folder / "kept").hardlink_to(folder / "file")  # so that its number is not given to the next one
    (folder / "file").unlink()
    with refused(errno.ENOENT):
        talk.ask("Tgetattr", fid=1, mask=BASIC)
    (folder / "file").write_bytes(b"another")
    for kind, fields in (("Tgetattr", {"mask": BASIC}), ("Tlopen", {"flags": 0})):
        with refused(errno.ESTALE):
            talk.ask(kind, fid=1, **fields)


# Names.


def test_names(talk, folder):
    talk.walk("sub", 1)
    talk.walk("file", 2)
    assert talk.ask("Tsymlink", fid=1, name=b"s", target=b"../anywhere", gid=0).qid.type == QidType.LINK
    talk.walk("sub/s", 3)
    assert talk.ask("Treadlink", fid=3).target == b"../anywhere"
    with refused(errno.EINVAL):
        talk.ask("Treadlink", fid=2)
    talk.ask("Tlink", dirfid=1, fid=2, name=b"hard")
    assert (folder / "sub/hard").stat().st_nlink == 2
    with refused(errno.EEXIST):
        talk.ask("Tlink", dirfid=1, fid=2, name=b"hard")
    talk.ask("Tmknod", fid=1, name=b"fifo", mode=stat.S_IFIFO | 0o600, major=0, minor=0, gid=0)
    assert stat.S_ISFIFO((folder / "sub/fifo").stat().st_mode)
    with refused(errno.ENOTEMPTY):
        talk.ask("Tunlinkat", fid=ROOT, name=b"sub", flags=REMOVE_DIRECTORY)
    with refused(errno.EISDIR):
        talk.ask("Tunlinkat", fid=ROOT, name=b"sub", flags=0)
    for name in (b"hard", b"fifo", b"s", b"inner"):
        talk.ask("Tunlinkat", fid=1, name=name, flags=0)
    talk.ask("Tunlinkat", fid=ROOT, name=b"sub", flags=REMOVE_DIRECTORY)
    assert sorted(os.listdir(folder)) == ["file", "link"]
    talk.ask("Tremove", fid=2)
    assert os.listdir(folder) == ["link"]
    with refused(errno.EBADF):
        talk.ask("Tclunk", fid=2)


def test_fids_follow_a_rename(talk):
    talk.walk("sub", 1)
    talk.walk("sub/inner", 2)
    talk.open("sub/inner", 3)
    talk.ask("Trenameat", fid=ROOT, name=b"sub", dirfid=ROOT, newname=b"moved")
    talk.ask("Tgetattr", fid=2, mask=BASIC)
    talk.ask("Trename", fid=2, dirfid=1, name=b"renamed")
    talk.ask("Tgetattr", fid=2, mask=BASIC)
    assert talk.data("Tread", 3) == b"inner"
    talk.walk("moved/renamed", 4)
    with refused(errno.ENOENT):
        talk.walk("sub", 5)
    with refused(errno.EINVAL):  # into itself
        talk.ask("Trenameat", fid=ROOT, name=b"moved", dirfid=1, newname=b"deeper")


def test_reading_a_directory(talk, folder):
    names = {b".", b"..", b"file", b"sub", b"link"} | {b"entry-%d" % n for n in range(100)}
    for n in range(100):
        (folder / f"entry-{n}").touch()
    talk.open("", 1, Open.DIRECTORY)
    for count in (64, 100, 4096):
        assert sorted(talk.names(1, count)) == sorted(names)
    with refused(errno.EINVAL):
        talk.data("Treaddir", 1, 20)
    offset, seen = 0, set[bytes]()
    while data := talk.data("Treaddir", 1, 100, offset):  # what is removed meanwhile makes no other entry be missed
        while data:
            head = EntryHead.unpack(data)
            name = data[EntryHead.nbytes :][: head.length]
            seen.add(name)
            if name.startswith(b"entry"):
                (folder / name.decode()).unlink()
            offset, data = head.offset, data[EntryHead.nbytes + head.length :]
    assert seen == names


def test_what_is_above_the_folder_has_no_number(talk, folder):
    talk.open("", 1, Open.DIRECTORY)
    data, qids = talk.data("Treaddir", 1), {}
    while data:
        head = EntryHead.unpack(data)
        qids[data[EntryHead.nbytes :][: head.length]] = head.qid.path
        data = data[EntryHead.nbytes + head.length :]
    root = talk.ask("Tgetattr", fid=ROOT, mask=BASIC).body.qid.path
    assert qids[b".."] == qids[b"."] == root
    assert talk.walk("sub", 2) == 2
    assert qids[b"sub"] == talk.ask("Tgetattr", fid=2, mask=BASIC).body.qid.path


def test_free_space(talk, folder):
    found, here = talk.ask("Tstatfs", fid=ROOT).body, os.statvfs(folder)
    assert (found.blocks, found.bsize, found.namelen) == (here.f_blocks, here.f_frsize, here.f_namemax)


# Extended attributes.


def set_xattr(talk: Talk, path: str, name: bytes, value: bytes, flags: int = 0) -> None:
    talk.walk(path, 90)
    talk.ask("Txattrcreate", fid=90, name=name, size=len(value), flags=flags)
    if value:
        talk.write(90, value[:3])
        talk.write(90, value[3:], 3)
    talk.clunk(90)


def xattr(talk: Talk, path: str, name: bytes) -> bytes:
    talk.walk(path, 91)
    try:
        size = talk.ask("Txattrwalk", fid=91, newfid=92, name=name).size
        value = talk.data("Tread", 92)
        talk.clunk(92)
    finally:
        talk.clunk(91)
    assert len(value) == size
    return value


def test_extended_attributes(talk, folder):
    set_xattr(talk, "file", b"user.colour", b"light blue")
    assert os.getxattr(folder / "file", "user.colour") == b"light blue"
    assert xattr(talk, "file", b"user.colour") == b"light blue"
    assert xattr(talk, "file", b"") == b"user.colour\0"
    set_xattr(talk, "file", b"user.colour", b"", XATTR_REPLACE)
    assert xattr(talk, "file", b"") == b""
    with refused(errno.ENODATA):
        xattr(talk, "file", b"user.colour")
    for name in (b"security.capability", b"trusted.x", b"system.posix_acl_access"):
        with refused(errno.EOPNOTSUPP):
            set_xattr(talk, "file", name, b"value")
        with refused(errno.EOPNOTSUPP):
            xattr(talk, "file", name)
        with refused(errno.EBADF):
            talk.ask("Tclunk", fid=90)


def test_an_attribute_that_was_not_written_whole_is_not_set(talk, folder):
    talk.walk("file", 1)
    talk.ask("Txattrcreate", fid=1, name=b"user.x", size=10, flags=0)
    talk.write(1, b"short")
    with refused(errno.ENOSPC):
        talk.write(1, b"too long", 5)
    with refused(errno.EIO):
        talk.ask("Tclunk", fid=1)
    assert os.listxattr(folder / "file") == []
    talk.walk("file", 1)
    with refused(errno.E2BIG):
        talk.ask("Txattrcreate", fid=1, name=b"user.x", size=1 << 40, flags=0)


# Locks.


def lock(talk: Talk, fid: int, kind: int, process: int, start: int = 0, length: int = 0) -> int:
    fields = {"flags": 0, "start": start, "length": length, "proc_id": process, "client_id": b"guest"}
    status: int = talk.ask("Tlock", fid=fid, type=kind, **fields).status
    return status


def test_locks_of_guests_and_of_this_machine(talk, folder):
    one, other = talk.open("file", 1, Open.READ_WRITE), talk.open("file", 2, Open.READ_WRITE)
    assert lock(talk, one, Lock.WRITE, 10, 0, 5) == LockStatus.SUCCESS
    assert lock(talk, other, Lock.READ, 20, 3, 4) == LockStatus.BLOCKED
    assert lock(talk, other, Lock.READ, 20, 5, 4) == LockStatus.SUCCESS
    assert lock(talk, other, Lock.WRITE, 10, 0, 5) == LockStatus.SUCCESS, "it is the same process"
    fields = {"start": 0, "length": 1, "proc_id": 20, "client_id": b"guest"}
    found = talk.ask("Tgetlock", fid=other, type=Lock.READ, **fields)
    assert (found.type, found.start, found.length) == (Lock.WRITE, 0, 5)
    with open(folder / "file", "r+b") as local:
        with pytest.raises(BlockingIOError):
            fcntl.lockf(local, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert lock(talk, one, Lock.UNLOCK, 10) == LockStatus.SUCCESS
        assert lock(talk, one, Lock.UNLOCK, 20) == LockStatus.SUCCESS
        fcntl.lockf(local, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert lock(talk, one, Lock.WRITE, 10) == LockStatus.BLOCKED
    assert talk.ask("Tgetlock", fid=other, type=Lock.WRITE, **fields).type == Lock.UNLOCK
    for wrong in (3, 255):
        with refused(errno.EINVAL):
            lock(talk, one, wrong, 10)
    with refused(errno.EINVAL):
        lock(talk, one, Lock.READ, 10, 1 << 63, 1 << 63)


# A folder that is only to be read.

REFUSED: dict[str, dict[str, Any]] = {
    "Tlcreate": {"name": b"new", "flags": Open.WRITE_ONLY, "mode": 0o644, "gid": 0},
    "Tmkdir": {"name": b"new", "mode": 0o755, "gid": 0},
    "Tsymlink": {"name": b"new", "target": b"x", "gid": 0},
    "Tmknod": {"name": b"new", "mode": stat.S_IFREG | 0o644, "major": 0, "minor": 0, "gid": 0},
    "Tunlinkat": {"name": b"file", "flags": 0},
    "Trenameat": {"name": b"file", "dirfid": ROOT, "newname": b"new"},
    "Tsetattr": {"changes": Changes(valid=Set.MODE, mode=0o777)},
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_read_only_folder_is_not_changed(read_only, folder, kind):
    read_only.walk("", 1)
    with refused(errno.EROFS):
        read_only.ask(kind, fid=1, **REFUSED[kind])
    assert sorted(os.listdir(folder)) == ["file", "link", "sub"]


def test_a_read_only_folder_can_be_read(read_only):
    for flags in (Open.WRITE_ONLY, Open.READ_WRITE, Open.TRUNCATE):
        read_only.walk("file", 1)
        with refused(errno.EROFS):
            read_only.ask("Tlopen", fid=1, flags=flags)
        read_only.clunk(1)
    read_only.open("file", 1)
    assert read_only.data("Tread", 1) == b"0123456789"
    with refused(errno.EROFS):
        read_only.ask("Tsetattr", fid=1, changes=Changes(valid=Set.SIZE))
    for fid, kind, fields in ((2, "Tremove", {}), (3, "Tlink", {"dirfid": ROOT, "name": b"n"})):
        read_only.walk("file", fid)
        with refused(errno.EROFS):
            read_only.ask(kind, fid=fid, **fields)
    with refused(errno.EROFS):
        set_xattr(read_only, "file", b"user.x", b"value")


def test_a_reply_is_no_longer_than_its_room(talk):
    request = pack("Tgetattr", 1, fid=ROOT, mask=BASIC)
    for room in (11, 50, 159):
        answer = unpack(talk.raw(request, room))
        assert (answer.kind, answer.ecode) == ("Rlerror", errno.EMSGSIZE)
    assert unpack(talk.raw(request, 160)).kind == "Rgetattr"
    talk.open("file", 1)
    assert len(talk.raw(pack("Tread", 1, fid=1, offset=0, count=MSIZE), 15)) == 15
