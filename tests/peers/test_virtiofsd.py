"""Our driver of a shared folder, and virtiofsd behind it: the one in C of QEMU 7.2, and the newest one, in Rust."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from typing import TYPE_CHECKING

import pytest

from pyvirtio import open_driver
from pyvirtio.devices.fs import Config
from pyvirtio.drivers.fs import FOLDER_PIECE, FsDriver
from pyvirtio.errors import LocalError
from pyvirtio.spec import fuse
from tests.support.peers import NEW, OLD, Peers, listening

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.uapi import Uapi

pytestmark = pytest.mark.guest

STRUCTURES = {
    fuse.InHeader: "fuse_in_header",
    fuse.OutHeader: "fuse_out_header",
    fuse.Attr: "fuse_attr",
    fuse.EntryOut: "fuse_entry_out",
    fuse.ForgetOne: "fuse_forget_one",
    fuse.BatchForgetIn: "fuse_batch_forget_in",
    fuse.GetattrIn: "fuse_getattr_in",
    fuse.AttrOut: "fuse_attr_out",
    fuse.SetattrIn: "fuse_setattr_in",
    fuse.MkdirIn: "fuse_mkdir_in",
    fuse.MknodIn: "fuse_mknod_in",
    fuse.RenameIn: "fuse_rename_in",
    fuse.Rename2In: "fuse_rename2_in",
    fuse.LinkIn: "fuse_link_in",
    fuse.OpenIn: "fuse_open_in",
    fuse.CreateIn: "fuse_create_in",
    fuse.OpenOut: "fuse_open_out",
    fuse.ReleaseIn: "fuse_release_in",
    fuse.FlushIn: "fuse_flush_in",
    fuse.FsyncIn: "fuse_fsync_in",
    fuse.ReadIn: "fuse_read_in",
    fuse.WriteIn: "fuse_write_in",
    fuse.WriteOut: "fuse_write_out",
    fuse.GetxattrIn: "fuse_getxattr_in",
    fuse.GetxattrOut: "fuse_getxattr_out",
    fuse.SetxattrIn: "fuse_setxattr_in",
    fuse.Kstatfs: "fuse_kstatfs",
    fuse.InitIn: "fuse_init_in",
    fuse.InitOut: "fuse_init_out",
}


def test_its_structures_are_those_of_linux(uapi: Uapi):
    assert not uapi.differences("linux/fuse.h", structs=STRUCTURES, beginnings=[fuse.SetxattrIn])
    assert not uapi.differences("linux/fuse.h", numbers={"FATTR_": fuse.Valid, "FUSE_ROOT_ID": fuse.ROOT})
    assert not uapi.differences("linux/fuse.h", numbers={"FUSE_": fuse.Opcode, "FUSE_DIRENT_ALIGN(1)": 8})
    assert not uapi.differences("linux/fuse.h", numbers={"FUSE_": fuse.InitFlags, "FOPEN_DIRECT_IO": fuse.DIRECT_IO})
    assert uapi.evaluate("linux/fuse.h", ["__builtin_offsetof(struct fuse_dirent, name)"]) == [fuse.Dirent.nbytes]
    assert not uapi.differences("linux/virtio_fs.h", structs={Config: "virtio_fs_config"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


@contextlib.contextmanager
def driven(folder: Path, packages: str, *options: str) -> Iterator[FsDriver]:
    """Serve ``folder`` and drive it."""
    peers = Peers.of(OLD if packages == "old" else NEW)
    program, *own = (
        ("usr/lib/qemu/virtiofsd", "-o", f"source={folder}", "-o", "sandbox=chroot")
        if packages == "old"
        else ("usr/libexec/virtiofsd", f"--shared-dir={folder}", "--sandbox=none")
    )
    with (
        listening() as listener,
        peers.running(program, *own, *options, f"--fd={listener.fileno()}", fds=[listener.fileno()]),
        open_driver(FsDriver, f"vhost-user:{listener.path}") as driver,
    ):
        yield driver


@pytest.fixture(params=["new"] if os.getuid() else ["old", "new"])  # the old one needs root
def shared(request: pytest.FixtureRequest, folder: Path) -> Iterator[FsDriver]:
    """Return a driver of ``folder``."""
    with driven(folder, request.param) as driver:
        yield driver
    request.node.funcargs.clear()  # which keep the driver, and its memory


def tree_of(folder: Path, rng: random.Random) -> dict[str, str]:
    """Make a tree of files of many sizes; return the check sum of each."""
    sums = {}
    for number, size in enumerate([0, 1, 4095, 4096, 4097, 128 << 10, (128 << 10) + 1, 3 << 20, (17 * 128 << 10) - 1]):
        place = folder / "/".join(f"level {depth}" for depth in range(number % 4))
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"file ä {number}"
        path.write_bytes(data := rng.randbytes(size))
        sums["/" + str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return sums


def test_a_tree_is_listed_and_read(shared: FsDriver, folder: Path, rng: random.Random):
    expected = tree_of(folder, rng)
    found = {}
    for path, attributes in shared.scan():
        actual = (folder / path[1:]).lstat()
        assert (attributes.mode, attributes.size, attributes.mtime) == (
            actual.st_mode,
            actual.st_size,
            int(actual.st_mtime),
        )
        if stat.S_ISREG(attributes.mode):
            found[path] = hashlib.sha256(shared.read_bytes(path)).hexdigest()
    assert found == expected


def test_a_folder_of_many_files_is_listed_in_several_pieces(shared: FsDriver, folder: Path):
    names = [f"{number:04} {'x' * 60}" for number in range(3 * FOLDER_PIECE // 100)]
    for name in names:
        (folder / name).touch()
    assert shared.names() == names


def test_files_are_written_where_they_are(shared: FsDriver, folder: Path, rng: random.Random):
    for size in (0, 5, 4096, (5 << 20) + 3):
        data = rng.randbytes(size)
        shared.write_bytes("file", data)
        assert (folder / "file").read_bytes() == data
        assert shared.read_bytes("file") == data
    with shared.open("file", os.O_RDWR) as file:
        file.write(1 << 20, b"hello")
        file.sync()
        assert file.read((1 << 20) - 1, 7) == data[(1 << 20) - 1 : 1 << 20] + b"hello" + data[(1 << 20) + 5 :][:1]
        assert file.read(len(data) - 2, 100) == data[-2:]
    shared.truncate("file", 3)
    assert (folder / "file").read_bytes() == data[:3]
    with shared.open("file", os.O_WRONLY | os.O_TRUNC):
        assert (folder / "file").stat().st_size == 0


def test_names_are_made_changed_and_removed(shared: FsDriver, folder: Path):
    shared.mkdir("/one")
    shared.mkdir("/one/two")
    shared.write_bytes("/one/two/file", b"content")
    shared.link("/one/two/file", "/hard")
    shared.symlink("one/two", "/soft")
    shared.chmod("/hard", 0o600)
    assert os.readlink(folder / "soft") == shared.readlink("soft") == "one/two"
    assert shared.stat("one/two/file").nlink == 2
    assert stat.S_IMODE((folder / "one/two/file").stat().st_mode) == 0o600
    shared.rename("/hard", "/one/soft")
    assert shared.names("/") == ["one", "soft"]
    shared.unlink("/one/two/file")
    shared.rmdir("/one/two")
    assert [path for path, _ in shared.scan()] == ["/one", "/one/soft", "/soft"]
    assert (folder / "one/soft").read_bytes() == b"content"
    assert shared.statfs().namelen == 255


def test_errors_are_the_file_systems_own(shared: FsDriver, folder: Path):
    (folder / "folder").mkdir()
    (folder / "folder/file").touch()
    with pytest.raises(FileNotFoundError) as missing:
        shared.read_bytes("folder/no such file")
    assert missing.value.filename == "folder/no such file"
    with pytest.raises(FileNotFoundError):
        shared.write_bytes("nowhere/file", b"")
    with pytest.raises(OSError, match="not empty"):
        shared.rmdir("folder")
    with pytest.raises(NotADirectoryError):
        shared.names("folder/file")
    with pytest.raises(FileExistsError):
        shared.mkdir("folder")
    with pytest.raises(FileExistsError), shared.open("folder/file", os.O_CREAT | os.O_EXCL | os.O_WRONLY):
        pass
    with pytest.raises(LocalError):
        shared.unlink("/")
    with pytest.raises(LocalError):
        shared.stat("a\0b")
    assert shared.names("folder") == ["file"]


def test_what_was_looked_up_is_forgotten(folder: Path):
    """A back-end keeps a descriptor of each file that was looked up, until it is forgotten."""
    (folder / "sub").mkdir()
    for number in range(50):
        (folder / f"sub/{number}").write_bytes(b"x")
    with driven(folder, "new") as shared:
        for path, _ in shared.scan():
            if path.startswith("/sub/"):
                assert shared.read_bytes(path) == b"x"
        shared.stat("/")  # behind the last one
        assert open_below(folder) < 5


def open_below(folder: Path) -> int:
    """Return how many descriptors our children have open on what is below a folder."""
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as children:
        pids = children.read().split()
    found = 0
    for pid in pids:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                found += os.readlink(f"/proc/{pid}/fd/{fd}").startswith(f"{folder}/")
    return found


def test_a_tag_is_read_where_the_backend_says_it(folder: Path):
    with driven(folder, "new", "--tag=my files") as shared:
        assert shared.tag == "my files"
    with driven(folder, "new") as shared, pytest.raises(LocalError, match="configuration"):
        assert shared.tag
