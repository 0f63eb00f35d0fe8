"""The file system device: driven in this process and over a socket, by a driver that may do anything."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from pyvirtio import Driver, RequestQueue, open_driver
from pyvirtio.devices.fs import LONGEST_TAG, Config, FileSystem, SharedFolder
from pyvirtio.drivers.fs import FsDriver
from pyvirtio.errors import LocalError
from pyvirtio.files import Objects, fids
from pyvirtio.fuse.nodes import HANDLES
from pyvirtio.spec import fuse
from pyvirtio.spec.fuse import ROOT, Opcode
from pyvirtio.testing.frontend import RawFrontend, SharedMemory
from pyvirtio.testing.served import served
from tests.support.killing import killing

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pyvirtio.spec.struct import Struct
    from pyvirtio.testing.served import ServerProcess
    from tests.support.uapi import Uapi

CONTENT = b"content"
SECRET = b"what lies outside"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    (made / "file").write_bytes(CONTENT)
    (tmp_path / "secret").write_bytes(SECRET)
    return made


def test_what_a_driver_does_with_files(place, folder: Path, rng: random.Random):
    with (
        place(lambda: SharedFolder(folder, "its name"), f"fs,path={folder},tag=its name") as device,
        open_driver(FsDriver, device) as driver,
    ):
        assert driver.tag == "its name"
        data = rng.randbytes(3_000_003)
        driver.mkdir("sub")
        driver.write_bytes("sub/new", data)
        assert driver.read_bytes("sub/new") == data == (folder / "sub/new").read_bytes()
        driver.truncate("sub/new", 5)
        driver.chmod("sub/new", 0o640)
        found, actual = driver.stat("sub/new"), (folder / "sub/new").stat()
        assert (found.size, found.mode, found.mtime) == (5, stat.S_IFREG | 0o640, int(actual.st_mtime))
        driver.symlink("sub/new", "link")
        driver.link("sub/new", "hard")
        assert driver.readlink("link") == "sub/new"
        assert driver.stat("hard").nlink == 2
        driver.rename("sub", "moved")
        driver.rename("moved/new", "hard")
        assert driver.names() == ["file", "hard", "link", "moved"]
        with pytest.raises(OSError, match="not empty"):
            driver.rmdir("moved")
        driver.unlink("moved/new")
        driver.rmdir("moved")
        driver.unlink("hard")
        assert [path for path, _ in driver.scan()] == ["/file", "/link"]
        with pytest.raises(FileNotFoundError):
            driver.read_bytes("moved/new")
        assert driver.statfs().namelen == 255


def test_a_folder_of_many_files_is_listed_in_several_pieces(place, folder: Path):
    names = sorted(f"{number:04} {'x' * 100}" for number in range(500))
    for name in names:
        (folder / name).touch()
    with place(lambda: SharedFolder(folder), f"fs,path={folder}") as device, open_driver(FsDriver, device) as driver:
        assert driver.names() == [*names, "file"]


def test_a_read_only_folder(place, folder: Path):
    with (
        place(lambda: SharedFolder(folder, readonly=True), f"fs,path={folder},readonly") as device,
        open_driver(FsDriver, device) as driver,
    ):
        assert driver.read_bytes("file") == CONTENT
        for attempt in (
            lambda: driver.mkdir("new"),
            lambda: driver.write_bytes("file", b""),
            lambda: driver.unlink("file"),
            lambda: driver.chmod("file", 0),
            lambda: driver.rename("file", "other"),
        ):
            with pytest.raises(OSError, match="Read-only"):
                attempt()
    assert os.listdir(folder) == ["file"]


@pytest.mark.parametrize("tag", ["", "x" * (LONGEST_TAG + 1), "ä" * 19])
def test_a_name_that_cannot_be_mounted_is_refused(folder: Path, tag: str):
    with pytest.raises(LocalError, match="1 to 36"):
        SharedFolder(folder, tag)
    SharedFolder(folder, "ä" * 18).close()


def test_a_tree_of_objects_whose_functions_may_wait():
    switched: list[bytes] = []

    async def later() -> str:
        await asyncio.sleep(0)
        return "later"

    def broken() -> str:
        raise ZeroDivisionError

    tree = Objects({"now": lambda: "now", "later": later, "switch": (None, switched.append), "broken": broken})
    with open_driver(FsDriver, FileSystem(tree, "objects")) as driver:
        assert driver.names() == ["broken", "later", "now", "switch"]
        assert (driver.read_bytes("now"), driver.read_bytes("later")) == (b"now", b"later")
        with driver.node("now") as node:
            opened = driver.ask(Opcode.OPEN, node, fuse.OpenIn(), answer=fuse.OpenOut)
            assert opened.open_flags == fuse.DIRECT_IO, "its size is not known before it is read"
        with driver.open("switch", os.O_WRONLY) as file:
            file.write(0, b"on")
        with pytest.raises(PermissionError):
            driver.read_bytes("switch")
        with pytest.raises(OSError, match="Input/output"):
            driver.read_bytes("broken")
    assert switched == [b"on"]


def test_a_node_is_what_was_found_there_and_nothing_else(folder: Path):
    with open_driver(FsDriver, SharedFolder(folder)) as driver, driver.node("file") as node:
        (folder / "other").write_bytes(b"another")
        (folder / "other").rename(folder / "file")
        with pytest.raises(OSError) as stale:  # noqa: PT011  # the number says it
            driver.ask(Opcode.GETATTR, node, fuse.GetattrIn(), answer=fuse.AttrOut)
        assert stale.value.errno == errno.ESTALE
        assert driver.read_bytes("file") == b"another"


def test_what_is_open_has_attributes_although_its_name_is_gone(folder: Path):
    with open_driver(FsDriver, SharedFolder(folder)) as driver, driver.node("file") as node:
        handle = driver.ask(Opcode.OPEN, node, fuse.OpenIn(os.O_RDWR), answer=fuse.OpenOut).fh
        driver.unlink("file")
        (folder / "file").write_bytes(b"another")
        driver.ask(Opcode.SETATTR, node, fuse.SetattrIn(fuse.Valid.SIZE, size=3), answer=fuse.AttrOut)
        found = driver.ask(Opcode.GETATTR, node, fuse.GetattrIn(), answer=fuse.AttrOut).attr
        assert (found.size, found.nlink) == (3, 0)
        assert driver.take(driver.submit(Opcode.READ, node, fuse.ReadIn(handle, 0, 10), room=10)) == CONTENT[:3]
        driver.tell(Opcode.RELEASE, node, fuse.ReleaseIn(handle))
        assert driver.read_bytes("file") == b"another"


def test_extended_attributes(folder: Path):
    with open_driver(FsDriver, SharedFolder(folder)) as driver, driver.node("file") as node:
        name = b"user.colour\0"
        try:
            driver.tell(Opcode.SETXATTR, node, fuse.SetxattrIn(4), name + b"blue")
        except OSError as error:
            pytest.skip(f"this file system has none: {error}")
        assert os.getxattr(folder / "file", "user.colour") == b"blue"
        size = driver.ask(Opcode.GETXATTR, node, fuse.GetxattrIn(), name, answer=fuse.GetxattrOut).size
        assert driver.take(driver.submit(Opcode.GETXATTR, node, fuse.GetxattrIn(size), name, room=size)) == b"blue"
        assert name in driver.take(driver.submit(Opcode.LISTXATTR, node, fuse.GetxattrIn(99), room=99))
        driver.tell(Opcode.SETXATTR, node, fuse.SetxattrIn(0, os.XATTR_REPLACE), name)
        assert os.getxattr(folder / "file", "user.colour") == b""
        driver.tell(Opcode.REMOVEXATTR, node, name)
        assert os.listxattr(folder / "file") == []


def test_too_many_nodes_make_the_oldest_go(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fids, "MOST_FIDS", 600)
    for number in range(1000):
        (folder / f"{number}").touch()
    with open_driver(FsDriver, SharedFolder(folder)) as driver, driver.open("file") as file:
        for number in range(1000):
            driver.ask(Opcode.LOOKUP, ROOT, b"%d\0" % number, answer=fuse.EntryOut)
        assert file.read(0, 100) == CONTENT, "what is open stays"
        assert driver.read_bytes("0") == b"", "and who asks by a path finds it again"


# A driver that asks for what it must not.


class Raw(Driver):
    """Sends bytes and shows bytes."""

    device_id = 26
    config = Config
    hiprio = RequestQueue()
    requests = RequestQueue()


def request(opcode: int, node: int, body: bytes = b"", *, length: int | None = None) -> bytes:
    size = fuse.InHeader.nbytes + len(body)
    return fuse.InHeader(size if length is None else length, opcode, 7, node).pack() + body


def named(how: Struct, *names: bytes) -> bytes:
    return how.pack() + b"".join(name + b"\0" for name in names)


BEGIN = request(Opcode.INIT, 0, fuse.InitIn(7, 36, 1 << 17).pack())
OUTSIDE = fuse.ReadIn(HANDLES + 5, 0, 10)
MALFORMED = {
    "F1 an opcode that nobody knows": (request(9999, ROOT), errno.ENOSYS),
    "F2 a length that is too short": (request(Opcode.STATFS, ROOT, length=39), errno.EINVAL),
    "F3 a length of 4 GiB": (request(Opcode.STATFS, ROOT, length=2**32 - 1), errno.EINVAL),
    "F4 a node that there is not": (request(Opcode.GETATTR, 99, fuse.GetattrIn().pack()), errno.ESTALE),
    "F5 a node beyond all numbers": (request(Opcode.GETATTR, 2**64 - 1, fuse.GetattrIn().pack()), errno.ESTALE),
    "F6 a name without an end": (request(Opcode.LOOKUP, ROOT, b"file"), errno.EINVAL),
    "F7 two names for one": (request(Opcode.LOOKUP, ROOT, b"file\0file\0"), errno.EINVAL),
    "F8 no name": (request(Opcode.LOOKUP, ROOT, b"\0"), errno.EINVAL),
    "F9 the directory above": (request(Opcode.LOOKUP, ROOT, b"..\0"), errno.EINVAL),
    "F10 a way out": (request(Opcode.LOOKUP, ROOT, b"../secret\0"), errno.EINVAL),
    "F11 an absolute path": (request(Opcode.LOOKUP, ROOT, b"/etc/passwd\0"), errno.EINVAL),
    "F12 a name that is too long": (request(Opcode.LOOKUP, ROOT, b"n" * 256 + b"\0"), errno.ENAMETOOLONG),
    "F13 to be made outside": (request(Opcode.MKDIR, ROOT, named(fuse.MkdirIn(), b"../new")), errno.EINVAL),
    "F14 to be moved outside": (
        request(Opcode.RENAME, ROOT, named(fuse.RenameIn(ROOT), b"file", b"../f")),
        errno.EINVAL,
    ),
    "F15 from outside": (request(Opcode.RENAME2, ROOT, named(fuse.Rename2In(ROOT), b"../secret", b"s")), errno.EINVAL),
    "F16 an exchange": (request(Opcode.RENAME2, ROOT, named(fuse.Rename2In(ROOT, 2), b"file", b"f")), errno.EINVAL),
    "F17 removed outside": (request(Opcode.UNLINK, ROOT, b"../secret\0"), errno.EINVAL),
    "F18 made and opened outside": (request(Opcode.CREATE, ROOT, named(fuse.CreateIn(66), b"../new")), errno.EINVAL),
    "F19 linked outside": (request(Opcode.LINK, ROOT, named(fuse.LinkIn(ROOT), b"../new")), errno.EINVAL),
    "F20 a device": (request(Opcode.MKNOD, ROOT, named(fuse.MknodIn(stat.S_IFBLK, 8), b"sda")), errno.EPERM),
    "F21 for its owner": (request(Opcode.CREATE, ROOT, named(fuse.CreateIn(66, 0o4755), b"su")), errno.EPERM),
    "F22 a link to nothing": (request(Opcode.SYMLINK, ROOT, b"link\0\0"), errno.EINVAL),
    "F23 half a structure": (request(Opcode.OPEN, ROOT, b"half"), errno.EINVAL),
    "F24 a handle that there is not": (request(Opcode.READ, ROOT, OUTSIDE.pack()), errno.EBADF),
    "F25 a node as a handle": (request(Opcode.READ, ROOT, OUTSIDE.replace(fh=ROOT).pack()), errno.EBADF),
    "F26 a handle that is closed twice": (request(Opcode.RELEASE, ROOT, fuse.ReleaseIn(HANDLES).pack()), errno.EBADF),
    "F27 more data than it says": (request(Opcode.WRITE, ROOT, fuse.WriteIn(size=1).pack() + b"xx"), errno.EINVAL),
    "F28 less data": (request(Opcode.WRITE, ROOT, fuse.WriteIn(size=2**32 - 1).pack() + b"xx"), errno.EINVAL),
    "F29 a request that is too long": (request(Opcode.LOOKUP, ROOT, b"n" * 100_000), errno.E2BIG),
    "F30 the root, to be removed": (request(Opcode.RMDIR, ROOT, b".\0"), errno.EINVAL),
    "F31 another version": (request(Opcode.INIT, 0, fuse.InitIn(6, 36).pack()), errno.EPROTO),
    "F32 one that is too old": (request(Opcode.INIT, 0, fuse.InitIn(7, 8).pack()), errno.EPROTO),
    "F33 an attribute of the system": (
        request(Opcode.GETXATTR, ROOT, named(fuse.GetxattrIn(9), b"security.x")),
        errno.EOPNOTSUPP,
    ),
    "F34 a time that never comes": (
        request(Opcode.SETATTR, ROOT, fuse.SetattrIn(32, mtime=2**64 - 1).pack()),
        errno.EINVAL,
    ),
}
FORGETTING = {
    "F35 more than there was": request(Opcode.FORGET, ROOT, (2**64 - 1).to_bytes(8, "little")),
    "F36 half a number": request(Opcode.FORGET, 5, b"1234"),
    "F37 more than come": request(Opcode.BATCH_FORGET, 0, fuse.BatchForgetIn(2**32 - 1).pack()),
    "F38 a handle": request(Opcode.BATCH_FORGET, 0, fuse.BatchForgetIn(1).pack() + fuse.ForgetOne(HANDLES, 1).pack()),
}


def check_hostile(ask: Callable[[bytes], bytes], forget: Callable[[bytes], bytes], folder: Path) -> None:
    def outcome(answer: bytes) -> int:
        header = fuse.OutHeader.unpack(answer)
        assert (header.len, header.unique) == (len(answer), 7)
        return -header.error & 0xFFFFFFFF

    assert outcome(ask(request(Opcode.STATFS, ROOT))) == errno.EPROTO  # F39: no session has begun
    assert outcome(ask(BEGIN)) == 0
    for name, (data, number) in MALFORMED.items():
        assert outcome(ask(data)) == number, name
    for name, data in FORGETTING.items():
        assert forget(data) == b"", name
    assert outcome(ask(request(Opcode.STATFS, ROOT))) == 0
    found = fuse.EntryOut.unpack(ask(request(Opcode.LOOKUP, ROOT, b"file\0"))[16:])
    opened = fuse.OpenOut.unpack(ask(request(Opcode.OPEN, found.nodeid, fuse.OpenIn().pack()))[16:])
    read = fuse.ReadIn(opened.fh, 0, 2**32 - 1).pack()
    assert ask(request(Opcode.READ, found.nodeid, read))[16:] == CONTENT  # F40: it is asked for 4 GiB
    assert outcome(ask(request(Opcode.READDIR, found.nodeid, read))) == errno.ENOTDIR  # F41
    beyond = fuse.ReadIn(opened.fh, 2**64 - 1, 10).pack()
    assert outcome(ask(request(Opcode.READ, found.nodeid, beyond))) == errno.EINVAL  # F42
    write = fuse.WriteIn(opened.fh, 0, 1).pack() + b"x"
    assert outcome(ask(request(Opcode.WRITE, found.nodeid, write))) == errno.EBADF  # F43: it is open to be read
    inside = named(fuse.MkdirIn(0o700), b"new")
    assert outcome(ask(request(Opcode.MKDIR, found.nodeid, inside))) == errno.ENOTDIR  # F44
    assert os.listdir(folder) == ["file"]
    assert (folder / "file").read_bytes() == CONTENT
    assert sorted(os.listdir(folder.parent)) == ["folder", "secret"]
    assert (folder.parent / "secret").read_bytes() == SECRET


def test_hostile_requests(place, folder: Path):
    with place(lambda: SharedFolder(folder), f"fs,path={folder}") as device, open_driver(Raw, device) as driver:
        check_hostile(
            lambda data: driver.requests.call(data, room=8192), lambda data: driver.hiprio.call(data, room=0), folder
        )
        for length in range(1, fuse.InHeader.nbytes):
            answer = driver.requests.call(request(Opcode.STATFS, ROOT)[:length], room=100)
            assert fuse.OutHeader.unpack(answer).error == -errno.EIO & 0xFFFFFFFF  # F45
        assert driver.requests.call(request(Opcode.STATFS, ROOT), room=15) == b""  # F46


def test_links_are_ends_and_never_ways(folder: Path):
    (folder / "up").symlink_to("..")
    (folder / "secret").symlink_to(folder.parent / "secret")
    with open_driver(FsDriver, SharedFolder(folder)) as driver:
        with pytest.raises(OSError) as found:  # noqa: PT011  # the number says it
            driver.stat("up/secret")
        assert found.value.errno in {errno.ENOTDIR, errno.ELOOP}
        with pytest.raises(OSError) as found:  # noqa: PT011  # as above
            driver.read_bytes("secret")
        assert found.value.errno == errno.ELOOP
        with driver.node("secret") as node, pytest.raises(OSError, match="not supported"):
            driver.ask(Opcode.SETATTR, node, fuse.SetattrIn(fuse.Valid.SIZE), answer=fuse.AttrOut)
    assert (folder.parent / "secret").read_bytes() == SECRET


def test_F47_a_long_read_allocates_nothing(server: ServerProcess, folder: Path):
    os.truncate(folder / "file", 4 << 30)
    with RawFrontend(server.path) as frontend, SharedMemory(16 << 20) as memory:
        frontend.negotiate()
        assert frontend.share(memory)
        queue = frontend.queue(memory, index=1, size=256)
        queue.start()
        queue.ask(BEGIN, room=200)
        [found] = queue.ask(request(Opcode.LOOKUP, ROOT, b"file\0"), room=200)
        node = fuse.EntryOut.unpack(found[16:]).nodeid
        [opened] = queue.ask(request(Opcode.OPEN, node, fuse.OpenIn().pack()), room=200)
        data = request(Opcode.READ, node, fuse.ReadIn(fuse.OpenOut.unpack(opened[16:]).fh, 0, 2**31).pack())
        at, target = memory.arena.allocate(len(data)), memory.arena.allocate(8 << 20)
        memory.table.write(at, data)
        before = server.memory(server.workers()[0])
        queue.ring.add([(at, len(data))], [(target, 16), *[(target, 8 << 20)] * 64], "the request")
        queue.ring.publish()
        queue.kick()
        while not (done := list(queue.ring.reap())):
            queue.ring.enable_interrupts()
        assert done == [("the request", 16 + 64 * (8 << 20))]
        assert server.memory(server.workers()[0]) < before + (4 << 20)


# Workers that die.


@pytest.fixture
def server(folder: Path) -> Iterator[ServerProcess]:
    with served(f"fs,path={folder}") as process:
        yield process


def test_a_mount_survives_its_workers(server: ServerProcess, folder: Path, rng: random.Random):
    with open_driver(FsDriver, f"vhost-user:{server.path}") as driver:
        with killing(server, rng) as killer, driver.open("held", os.O_RDWR | os.O_CREAT) as held:
            number = 0
            while len(killer.killed) < 10:
                killer.step()
                data = bytes([number % 256]) * 20_000
                driver.mkdir(f"d{number}")
                driver.write_bytes(f"d{number}/new", data)
                driver.rename(f"d{number}/new", f"d{number}/file")
                assert driver.read_bytes(f"d{number}/file") == data
                held.write(4 * number, b"line")
                if number % 2:
                    driver.unlink(f"d{number}/file")
                    driver.rmdir(f"d{number}")
                number += 1
        assert driver.read_bytes("held") == b"line" * number
        assert driver.names() == sorted(["file", "held", *(f"d{n}" for n in range(0, number, 2))])
    assert not server.lines("[request-failed]")
    assert not server.lines("[method-failed]")


def test_its_queues_are_about_the_same_nodes(folder: Path):
    with contextlib.closing(SharedFolder(folder)) as device:
        assert device.needs_one_worker


@pytest.mark.guest  # it needs what is provisioned for guests
def test_the_configuration_space_is_that_of_linux(uapi: Uapi):
    assert not uapi.differences("linux/virtio_fs.h", structs={Config: "virtio_fs_config"})
