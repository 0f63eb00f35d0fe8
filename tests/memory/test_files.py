"""Files as memory: what is checked before anything is mapped."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import LocalError, ProtocolError
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.memory.files import PAGE, check_file, map_file, shared_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def fd() -> Iterator[int]:
    made = shared_file("test", 4 * PAGE)
    yield made
    os.close(made)


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        (0, 4 * PAGE + 1),
        (1, 4 * PAGE),
        (4 * PAGE, 1),
        (3 * PAGE, 2 * PAGE),
        (0, 1 << 62),
        (1 << 62, 1),
        ((1 << 64) - 1, 1),
        ((1 << 64) - PAGE, 2 * PAGE),
        (0, (1 << 64) - 1),
        (0, 0),
        (0, -1),
        (-1, 1),
    ],
)
def test_beyond_the_end_of_the_file(fd: int, offset: int, size: int):
    """Touching such memory would kill the process with SIGBUS: fstat comes first."""
    for look in (check_file, map_file):
        with pytest.raises(ProtocolError, match=f"at offset {offset} was sent with a file of {4 * PAGE} bytes"):
            look(fd, offset, size)


@pytest.mark.parametrize(("offset", "size"), [(0, 4 * PAGE), (PAGE, PAGE), (5, 7), (PAGE - 1, 2), (4 * PAGE - 1, 1)])
def test_any_offset_and_size_within_the_file(fd: int, offset: int, size: int):
    view = map_file(fd, offset, size)
    assert len(view) == size
    view[0], view[-1] = 0xAA, 0xBB
    assert os.pread(fd, 1, offset + size - 1) == b"\xbb"
    if size > 1:
        assert os.pread(fd, 1, offset) == b"\xaa"
    os.pwrite(fd, b"\xcc", offset)
    assert view[0] == 0xCC  # shared, not copied


def test_a_mapping_lives_as_long_as_its_view(fd: int):
    view = map_file(fd, 0, PAGE)
    part = view[100:200].cast("I")
    del view
    part[0] = 7
    table = MemoryTable([Region(0x1000, map_file(fd, 0, PAGE))])
    assert table.read(0x1000 + 100, 4) == b"\7\0\0\0"


def test_what_is_no_file(tmp_path: Path):
    reader, writer = os.pipe()
    eventfd = os.eventfd(0)
    folder = os.open(tmp_path, os.O_RDONLY)
    null = os.open("/dev/null", os.O_RDWR)
    try:
        for made in (reader, writer, eventfd, folder, null):
            with pytest.raises(ProtocolError, match="something other than a file"):
                map_file(made, 0, 1)
    finally:
        for made in (reader, writer, eventfd, folder, null):
            os.close(made)


def test_a_file_that_may_only_be_read(tmp_path: Path):
    (tmp_path / "memory").write_bytes(bytes(PAGE))
    made = os.open(tmp_path / "memory", os.O_RDONLY)
    try:
        with pytest.raises(ProtocolError, match="cannot be mapped"):
            map_file(made, 0, PAGE)
    finally:
        os.close(made)


def test_a_shared_file_cannot_shrink(fd: int):
    with pytest.raises(PermissionError):
        os.ftruncate(fd, PAGE)
    os.ftruncate(fd, 8 * PAGE)
    assert os.fstat(fd).st_size == 8 * PAGE


def test_a_shared_file_is_not_inherited(fd: int):
    assert not os.get_inheritable(fd)


def test_a_shared_file_that_cannot_be_made():
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LocalError, match="cannot be created"):
        shared_file("test", -1)
    with pytest.raises(LocalError, match="cannot be created"):
        shared_file("n" * 300, 1)
    assert len(os.listdir("/proc/self/fd")) == before
