"""Attempts to leave a folder, with what lies outside in reach. None of that may be seen or changed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from pyvirtio.files import Folder, beneath
from pyvirtio.files.structures import BASIC, Changes, Lock, Open, Set
from pyvirtio.ninep.structures import NO_FID, NO_UID, REMOVE_DIRECTORY, EntryHead
from tests.support.ninep import ROOT, Talk, talking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECRET = b"what lies outside"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the one that is served, and files above both."""
    made = tmp_path / "outside"
    made.mkdir()
    (made / "secret").write_bytes(SECRET)
    (tmp_path / "secret").write_bytes(SECRET)
    return made


@pytest.fixture
def folder(tmp_path: Path, outside: Path) -> Path:
    made = tmp_path / "folder"
    (made / "a/b").mkdir(parents=True)
    (made / "file").write_bytes(b"inside")
    (made / "a/secret").write_bytes(b"inside")
    (made / "absolute").symlink_to(outside)
    (made / "relative").symlink_to("../outside")
    (made / "to-file").symlink_to("../outside/secret")
    (made / "chain").symlink_to("relative")
    (made / "a/up").symlink_to("../..")
    (made / "dangling").symlink_to("../outside/new")
    os.mkfifo(made / "fifo")
    return made


@pytest.fixture
def talk(folder: Path) -> Iterator[Talk]:
    with talking(Folder(folder)) as talk:
        yield talk


def state(*roots: Path) -> dict[str, object]:
    """Return what there is to be changed: names, contents, attributes."""
    found: dict[str, object] = {}
    for root in roots:
        for path in (root, *root.rglob("*")):
            status = path.lstat()
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
            attributes = os.listxattr(path, follow_symlinks=False)
            found[str(path)] = (status.st_mode, status.st_uid, status.st_mtime_ns, status.st_nlink, content, attributes)
    return found


def read_all(talk: Talk, path: str) -> bytes:
    return talk.data("Tread", talk.open(path, 50))


def create(talk: Talk, parent: str, name: bytes, flags: int = 0) -> None:
    talk.ask("Tlcreate", fid=talk.walk(parent, 51), name=name, flags=Open.WRITE_ONLY | flags, mode=0o644, gid=0)
    talk.write(51, b"hostile")


def change(talk: Talk, path: str, **changes: int) -> None:
    talk.ask("Tsetattr", fid=talk.walk(path, 52), changes=Changes(**changes))
    talk.clunk(52)


def set_xattr(talk: Talk, path: str) -> None:
    talk.ask("Txattrcreate", fid=talk.walk(path, 53), name=b"user.x", size=1, flags=0)
    talk.write(53, b"x")
    talk.clunk(53)


def link(talk: Talk, path: str, parent: str, name: bytes) -> None:
    talk.ask("Tlink", dirfid=talk.walk(parent, 54), fid=talk.walk(path, 55), name=name)


def linked_content(talk: Talk) -> None:
    link(talk, "to-file", "", b"hard")
    read_all(talk, "hard")


def rename(talk: Talk, parent: str, name: bytes, new_parent: str, new: bytes) -> None:
    old, dirfid = talk.walk(parent, 56), talk.walk(new_parent, 57)
    talk.ask("Trenameat", fid=old, name=name, dirfid=dirfid, newname=new)


def remove(talk: Talk, parent: str, name: bytes, flags: int = 0) -> None:
    talk.ask("Tunlinkat", fid=talk.walk(parent, 58), name=name, flags=flags)


def walk(talk: Talk, *names: bytes) -> None:
    """Walk, and open what is found."""
    assert len(talk.ask("Twalk", fid=ROOT, newfid=59, names=list(names)).qids) == len(names), os.strerror(errno.ENOENT)
    talk.ask("Tlopen", fid=59, flags=0)
    talk.data("Tread", 59)


def attach(talk: Talk, name: bytes) -> None:
    talk.ask("Tattach", fid=60, afid=NO_FID, uname=b"root", aname=name, n_uname=NO_UID)
    talk.walk("secret", 61, fid=60)


def make(talk: Talk, kind: str, parent: str, name: bytes, **fields: object) -> None:
    talk.ask(kind, fid=talk.walk(parent, 62), name=name, **fields, gid=0)


def of_the_root(talk: Talk, kind: str) -> None:
    talk.walk("", 63)
    talk.ask(kind, fid=63, **({"dirfid": talk.walk("a", 64), "name": b"root"} if kind == "Trename" else {}))


def lock(talk: Talk, path: str) -> None:
    fields = {"flags": 0, "start": 0, "length": 0, "proc_id": 1, "client_id": b"x"}
    talk.ask("Tlock", fid=talk.open(path, 65), type=Lock.WRITE, **fields)


MKDIR = {"mode": 0o755}
DEVICE = {"mode": stat.S_IFCHR | 0o666, "major": 1, "minor": 5}
DISK = {"mode": stat.S_IFBLK | 0o666, "major": 8, "minor": 0}

ATTEMPTS: dict[str, Callable[[Talk], object]] = {
    "up from the root": lambda t: walk(t, b"..", b"secret"),
    "up from the root twice": lambda t: walk(t, b"..", b"..", b"secret"),
    "down and further up": lambda t: walk(t, b"a", b"..", b"..", b"secret"),
    "far up": lambda t: walk(t, *[b".."] * 15, b"secret"),
    "a slash in a name": lambda t: walk(t, b"../secret"),
    "slashes in a name": lambda t: walk(t, b"a/../../secret"),
    "an absolute name": lambda t: walk(t, b"/etc/passwd"),
    "a NUL in a name": lambda t: walk(t, b"a\0/../../secret"),
    "an empty name": lambda t: walk(t, b"", b"secret"),
    "a dot": lambda t: walk(t, b".", b"..", b"secret"),
    "through an absolute link": lambda t: walk(t, b"absolute", b"secret"),
    "through a relative link": lambda t: walk(t, b"relative", b"secret"),
    "through a link to a link": lambda t: walk(t, b"chain", b"secret"),
    "through a link upwards": lambda t: walk(t, b"a", b"up", b"outside", b"secret"),
    "up behind a link": lambda t: walk(t, b"relative", b"..", b"secret"),
    "opening a link": lambda t: read_all(t, "to-file"),
    "opening a link to a directory": lambda t: t.names(t.open("relative", 1, Open.DIRECTORY)),
    "cutting through a link": lambda t: t.open("to-file", 1, Open.WRITE_ONLY | Open.TRUNCATE),
    "creating through a dangling link": lambda t: create(t, "", b"dangling"),
    "creating over a link": lambda t: create(t, "", b"to-file", Open.TRUNCATE),
    "creating upwards": lambda t: create(t, "", b"../new"),
    "creating the parent": lambda t: create(t, "", b".."),
    "creating in a link": lambda t: create(t, "relative", b"new"),
    "a directory upwards": lambda t: make(t, "Tmkdir", "", b"../new", **MKDIR),
    "a directory in a link": lambda t: make(t, "Tmkdir", "absolute", b"new", **MKDIR),
    "a link upwards": lambda t: make(t, "Tsymlink", "", b"../new", target=b"x"),
    "a link in a link": lambda t: make(t, "Tsymlink", "relative", b"new", target=b"x"),
    "a character device": lambda t: make(t, "Tmknod", "", b"new", **DEVICE),
    "a disk": lambda t: make(t, "Tmknod", "", b"new", **DISK),
    "a hard link upwards": lambda t: link(t, "file", "", b"../new"),
    "a hard link in a link": lambda t: link(t, "file", "relative", b"new"),
    "a hard link to what a link points to": linked_content,
    "moving upwards": lambda t: rename(t, "", b"file", "", b"../new"),
    "moving into a link": lambda t: rename(t, "", b"file", "relative", b"new"),
    "moving from above": lambda t: rename(t, "", b"../secret", "", b"new"),
    "moving out of a link": lambda t: rename(t, "relative", b"secret", "", b"new"),
    "moving the parent": lambda t: rename(t, "a", b"..", "", b"new"),
    "moving the root": lambda t: of_the_root(t, "Trename"),
    "removing the root": lambda t: of_the_root(t, "Tremove"),
    "removing above": lambda t: remove(t, "", b"../secret"),
    "removing in a link": lambda t: remove(t, "relative", b"secret"),
    "removing the parent": lambda t: remove(t, "a", b"..", REMOVE_DIRECTORY),
    "the mode behind a link": lambda t: change(t, "to-file", valid=Set.MODE, mode=0o777),
    "the size behind a link": lambda t: change(t, "to-file", valid=Set.SIZE),
    "an attribute behind a link": lambda t: set_xattr(t, "to-file"),
    "a lock behind a link": lambda t: lock(t, "to-file"),
    "attaching elsewhere": lambda t: attach(t, b".."),
    "attaching at a path": lambda t: attach(t, b"/etc"),
    "attaching at a link": lambda t: attach(t, b"relative"),
    "a FIFO that would block": lambda t: read_all(t, "fifo"),
    "creating over a FIFO": lambda t: create(t, "", b"fifo"),
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_an_attempt_to_leave_fails(talk, folder, outside, attempt):
    parent = folder.parent
    before = {path: found for path, found in state(parent).items() if not path.startswith(str(folder))}
    with pytest.raises((OSError, AssertionError)) as caught:
        ATTEMPTS[attempt](talk)
    assert caught.type is not AssertionError or os.strerror(errno.ENOENT) in str(caught.value)
    after = {path: found for path, found in state(parent).items() if not path.startswith(str(folder))}
    assert after == before
    assert stat.S_ISFIFO((folder / "fifo").stat().st_mode)
    talk.begin()
    assert read_all(talk, "file") == b"inside"  # the server goes on


def test_what_is_done_to_a_link_is_done_to_the_link(talk, folder, outside):
    before = state(outside)
    change(talk, "to-file", valid=Set.ATIME | Set.ATIME_SET | Set.MTIME | Set.MTIME_SET, atime_sec=5, mtime_sec=6)
    assert (folder / "to-file").lstat().st_mtime == 6
    link(talk, "to-file", "", b"another")
    assert (folder / "another").is_symlink()
    talk.ask("Tremove", fid=talk.walk("to-file", 1))
    assert not (folder / "to-file").is_symlink()
    rename(talk, "", b"relative", "a", b"relative")
    assert os.readlink(folder / "a/relative") == "../outside"
    if os.geteuid() == 0:
        change(talk, "another", valid=Set.UID | Set.GID, uid=12345, gid=12345)
        assert (folder / "another").lstat().st_uid == 12345
    assert state(outside) == before


def test_a_way_up_ends_at_the_root(talk):
    root = talk.ask("Tgetattr", fid=ROOT, mask=BASIC).body.qid
    for names in ([b".."], [b"..", b".."], [b"a", b"..", b".."]):
        assert talk.ask("Twalk", fid=ROOT, newfid=1, names=names).qids[-1] == root
        talk.clunk(1)


def test_special_links_of_proc_lead_nowhere():
    with talking(Folder("/proc/self")) as talk:
        for names in ([b"root", b"etc"], [b"cwd", b"."], [b"fd", b"0"], [b"exe"]):
            with pytest.raises((OSError, AssertionError)):
                walk(talk, *names)
            with contextlib.suppress(OSError):
                talk.clunk(59)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device")
def test_a_device_that_is_there_is_shown_and_not_opened(talk, folder):
    os.mknod(folder / "device", stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero
    assert stat.S_ISCHR(talk.ask("Tgetattr", fid=talk.walk("device", 1), mask=BASIC).body.mode)
    for flags in (0, Open.WRITE_ONLY):
        with pytest.raises(PermissionError):
            talk.open("device", 2, flags)
        talk.clunk(2)
    with pytest.raises(PermissionError):
        create(talk, "", b"device")


# Races: somebody replaces a directory by a link at the worst moment.


@contextlib.contextmanager
def swapped_at(step: int, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[list[int]]:
    """Replace the directory ``a`` by a link that leads out, right before the system call number ``step``."""
    calls = [0]
    for name in ("open", "mkdir", "symlink", "link", "unlink", "rmdir", "rename", "mknod", "chmod", "stat", "fstat"):
        real = getattr(os, name)

        def wrapped(*arguments: object, real: Callable[..., object] = real, **named: object) -> object:
            calls[0] += 1
            if calls[0] == step + 1:
                shutil.move(folder / "a", folder / "was-a")
                (folder / "a").symlink_to("../outside")
            return real(*arguments, **named)

        monkeypatch.setattr(os, name, wrapped)
    try:
        yield calls
    finally:
        monkeypatch.undo()


RACES: dict[str, Callable[[Talk], object]] = {
    "reading": lambda t: read_all(t, "a/secret"),
    "writing": lambda t: t.write(t.open("a/secret", 1, Open.WRITE_ONLY | Open.TRUNCATE), b"hostile"),
    "creating": lambda t: create(t, "a", b"new"),
    "creating over": lambda t: create(t, "a", b"secret"),
    "a directory": lambda t: make(t, "Tmkdir", "a", b"new", **MKDIR),
    "a link": lambda t: make(t, "Tsymlink", "a", b"new", target=b"x"),
    "removing": lambda t: remove(t, "a", b"secret"),
    "moving out": lambda t: rename(t, "a", b"secret", "", b"new"),
    "moving in": lambda t: rename(t, "", b"file", "a", b"new"),
    "a mode": lambda t: change(t, "a/secret", valid=Set.MODE, mode=0o600),
    "a size": lambda t: change(t, "a/secret", valid=Set.SIZE),
    "an attribute": lambda t: set_xattr(t, "a/secret"),
    "listing": lambda t: t.names(t.open("a", 1, Open.DIRECTORY)),
}


@pytest.mark.parametrize("race", RACES)
def test_a_directory_that_becomes_a_link_at_any_step_leads_nowhere(monkeypatch, tmp_path, race):
    for step in range(100):
        base = tmp_path / str(step)
        (base / "folder/a").mkdir(parents=True)
        (base / "outside").mkdir()
        for path, content in {"folder/file": b"in", "folder/a/secret": b"in", "outside/secret": SECRET}.items():
            (base / path).write_bytes(content)
        before = state(base / "outside")
        swapped = swapped_at(step, monkeypatch, base / "folder")
        with talking(Folder(base / "folder")) as talk, swapped as calls, contextlib.suppress(OSError):
            outcome = RACES[race](talk)
            assert outcome != SECRET
        assert state(base / "outside") == before, step
        if calls[0] <= step:
            break
    assert 3 < step < 99, "every step had its turn"


def test_a_thread_that_swaps_directory_and_link_all_the_time(talk, folder, outside):
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            os.rename(folder / "a", folder / "hidden")
            os.symlink("../outside", folder / "a")
            os.unlink(folder / "a")
            os.rename(folder / "hidden", folder / "a")

    before = state(outside)
    thread = threading.Thread(target=swap)
    thread.start()
    seen: dict[object, int] = {}
    try:
        for number in range(20_000):
            try:
                found: object = read_all(talk, "a/secret")
                create(talk, "a", b"new-%d" % number)
                remove(talk, "a", b"new-%d" % (number - 1))
            except OSError as error:
                found = error.errno
            for fid in (50, 51, 58):
                with contextlib.suppress(OSError):
                    talk.clunk(fid)
            seen[found] = seen.get(found, 0) + 1
            if number > 500 and seen.get(b"inside", 0) > 10 and len(seen) > 1:
                break
    finally:
        over.set()
        thread.join()
    assert SECRET not in seen
    assert seen.keys() <= {b"inside", errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ESTALE, errno.EEXIST}
    assert state(outside) == before


def test_the_kernel_is_given_no_path_to_interpret(talk, monkeypatch):
    """The one rule that everything above follows from."""
    given = []
    real = os.open

    def recorded(path: str | bytes, *arguments: int, **named: int) -> int:
        given.append(os.fsencode(path))
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, "open", recorded)
    read_all(talk, "a/secret")
    for path in given:
        assert b"/" not in path or path.startswith(b"/proc/self/fd/"), path
    assert any(path == b"secret" for path in given)
    assert beneath.check_name(b"name") == b"name"
    assert EntryHead.nbytes == 24
