"""The cpio writer, against the system's cpio and against a parser of its own."""

from __future__ import annotations

import shutil
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvirtio.errors import ProvisionError
from pyvirtio.vm.initramfs import BLOCK, Initramfs

if TYPE_CHECKING:
    from pathlib import Path


def members(archive: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """Parse an archive, or several one after the other, as the kernel does."""
    found = {}
    at = 0
    while at < len(archive):
        if archive[at] == 0:
            at += 4
            continue
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, device, name_size = fields[1], fields[6], (fields[9], fields[10]), fields[11]
        name = archive[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        at += (110 + name_size + 3) & ~3
        if name != b"TRAILER!!!\0":
            found[name[:-1].decode()] = (mode, archive[at : at + size], device)
        at += (size + 3) & ~3
    return found


def example() -> Initramfs:
    archive = Initramfs()
    archive.file("init", b"#!/bin/sh\n", 0o755)
    archive.symlink("bin/sh", "busybox")
    archive.directory("proc", 0o555)
    archive.character_device("dev/console", 5, 1)
    archive.file("etc/odd", b"abc")
    return archive


def test_every_kind_of_member_keeps_its_type_mode_data_and_device() -> None:
    found = members(example().to_bytes())
    assert found["init"] == (stat.S_IFREG | 0o755, b"#!/bin/sh\n", (0, 0))
    assert found["bin/sh"] == (stat.S_IFLNK | 0o777, b"busybox", (0, 0))
    assert found["proc"] == (stat.S_IFDIR | 0o555, b"", (0, 0))
    assert found["dev/console"] == (stat.S_IFCHR | 0o600, b"", (5, 1))


def test_folders_stand_before_what_is_in_them() -> None:
    names = [name for name, _ in example().entries()]
    assert names == ["bin", "bin/sh", "dev", "dev/console", "etc", "etc/odd", "init", "proc"]


def test_the_same_entries_give_the_same_bytes_in_any_order() -> None:
    one, other = Initramfs(), Initramfs()
    for archive, names in ((one, "ab"), (other, "ba")):
        for name in names:
            archive.file(name, name.encode())
    assert one.to_bytes() == other.to_bytes()


def test_a_later_archive_replaces_files_of_an_earlier_one() -> None:
    overlay = Initramfs()
    overlay.file("init", b"other", 0o700)
    joined = example().to_bytes() + overlay.to_bytes()
    assert len(example().to_bytes()) % BLOCK == 0
    assert members(joined)["init"] == (stat.S_IFREG | 0o700, b"other", (0, 0))
    assert members(joined)["etc/odd"][1] == b"abc"


@pytest.mark.skipif(shutil.which("cpio") is None, reason="no cpio on this machine")
def test_cpio_lists_and_unpacks_it(tmp_path: Path) -> None:
    archive = example()
    done = subprocess.run(["cpio", "-t", "--quiet"], input=archive.to_bytes(), capture_output=True, check=True)
    assert done.stdout.decode().split() == [name for name, _ in archive.entries()]
    assert done.stderr == b""
    command = ["cpio", "-id", "--quiet", "init", "bin", "bin/sh", "etc", "etc/odd"]
    subprocess.run(command, input=archive.to_bytes(), cwd=tmp_path, check=True)
    assert (tmp_path / "etc/odd").read_bytes() == b"abc"
    assert (tmp_path / "bin/sh").readlink().as_posix() == "busybox"
    assert (tmp_path / "init").stat().st_mode & 0o777 == 0o755


@given(st.dictionaries(st.from_regex(r"[a-z]{1,5}(\.[a-z]{1,3})?", fullmatch=True), st.binary(max_size=70)))
def test_whatever_goes_in_comes_out(files: dict[str, bytes]) -> None:
    archive = Initramfs()
    for name, data in files.items():
        archive.file(name, data)
    assert {name: data for name, (_, data, _) in members(archive.to_bytes()).items()} == files


def test_a_tree_is_copied_with_links_and_executable_bits(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/run").write_bytes(b"x")
    (tmp_path / "a/b/run").chmod(0o711)
    (tmp_path / "a/skipped.txt").write_bytes(b"y")
    (tmp_path / "link").symlink_to("a/b")
    archive = Initramfs()
    archive.tree(tmp_path, "usr", wanted=lambda path: not path.endswith(".txt"))
    found = members(archive.to_bytes())
    assert found["usr/a/b/run"] == (stat.S_IFREG | 0o755, b"x", (0, 0))
    assert found["usr/link"] == (stat.S_IFLNK | 0o777, b"a/b", (0, 0))
    assert "usr/a/skipped.txt" not in found


@pytest.mark.parametrize("path", ["", "/", "../up", "a/../../b"])
def test_paths_outside_the_root_are_refused(path: str) -> None:
    with pytest.raises(ProvisionError, match="root"):
        Initramfs().file(path, b"")
