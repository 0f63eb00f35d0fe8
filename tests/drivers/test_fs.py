"""The driver of a shared folder, and devices that answer as they must not."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from pyvirtio import Device, Queue, open_driver
from pyvirtio.drivers.fs import FsDriver
from pyvirtio.errors import DeviceError, NegotiationError
from pyvirtio.spec import fuse
from pyvirtio.spec.fuse import Opcode

if TYPE_CHECKING:
    from pyvirtio.device import Reader, Writer

SESSION = fuse.InitOut(major=7, minor=36, max_write=1 << 20).pack()
HANDLE = fuse.OpenOut(5).pack()
FOUND = fuse.EntryOut(nodeid=9).pack()


class Scripted(Device):
    """Answers each request as ``answers`` says: with data, or with an error."""

    device_id = 26
    hiprio = Queue(size=16)
    requests = Queue(size=64)

    def __init__(self, **answers: bytes | int) -> None:
        usual: dict[str, bytes | int] = {"INIT": SESSION, "OPENDIR": HANDLE, "RELEASEDIR": b"", "LOOKUP": FOUND}
        self.answers = usual | answers
        self.asked: list[tuple[str, int]] = []
        self.forgotten: list[fuse.ForgetOne] = []

    @hiprio.stream
    def forget(self, reader: Reader, writer: Writer) -> None:
        """Note what is forgotten."""
        assert not writer.room
        assert reader.take(fuse.InHeader).opcode == Opcode.BATCH_FORGET
        self.forgotten += [reader.take(fuse.ForgetOne) for _ in range(reader.take(fuse.BatchForgetIn).count_)]

    @requests.stream
    def serve(self, reader: Reader, writer: Writer) -> None:
        """Answer."""
        header = reader.take(fuse.InHeader)
        assert header.len == fuse.InHeader.nbytes + reader.left
        name = Opcode(header.opcode).name
        self.asked.append((name, header.nodeid))
        answer = self.answers[name]
        data, error = (answer, 0) if isinstance(answer, bytes) else (b"", answer)
        writer.put(fuse.OutHeader(fuse.OutHeader.nbytes + len(data), error, header.unique))
        writer.write(data[: writer.room])


def entry(name: bytes, *, length: int | None = None) -> bytes:
    return fuse.Dirent(1, 1, len(name) if length is None else length).pack() + name


@pytest.mark.parametrize("session", [b"", SESSION[:-1]])
def test_a_session_that_is_cut_is_refused(session: bytes):
    with pytest.raises(DeviceError, match="INIT"):
        open_driver(FsDriver, Scripted(INIT=session))


def test_another_version_of_the_protocol_is_refused():
    with pytest.raises(NegotiationError, match="version 8"):
        open_driver(FsDriver, Scripted(INIT=fuse.InitOut(major=8).pack()))


@pytest.mark.parametrize("number", [1, errno.EIO, 1 << 31, (1 << 32) - 4096])
def test_an_error_that_is_none_is_the_devices_fault(number: int):
    with open_driver(FsDriver, Scripted(GETATTR=number)) as driver, pytest.raises(DeviceError):
        driver.stat("/")


def test_an_error_says_which_file_it_is_about():
    with open_driver(FsDriver, Scripted(GETATTR=(1 << 32) - errno.EACCES)) as driver:
        with pytest.raises(PermissionError) as refused:
            driver.stat("/some/where")
        assert refused.value.filename == "/some/where"


@pytest.mark.parametrize(
    "listing",
    [
        entry(b""),
        entry(b"abc", length=4),
        entry(b"a", length=1 << 31),
        entry(b"../../etc/passwd"),
        entry(b"a\0b"),
        entry(b"ordinary").ljust(32, b"\0") + entry(b"/"),
    ],
)
def test_names_that_are_none_are_refused(listing: bytes):
    with open_driver(FsDriver, Scripted(READDIR=listing)) as driver, pytest.raises(DeviceError, match="name"):
        driver.names("/")


def test_each_node_is_forgotten_as_often_as_it_was_looked_up_also_after_an_error():
    device = Scripted(GETATTR=fuse.AttrOut().pack())
    with open_driver(FsDriver, device) as driver:
        driver.stat("/a/./b//c")
        assert device.asked[1:] == [("LOOKUP", 1), ("LOOKUP", 9), ("LOOKUP", 9), ("GETATTR", 9)]
        assert device.forgotten == [fuse.ForgetOne(9, 1)] * 3
        device.answers["GETATTR"] = (1 << 32) - errno.EIO
        with pytest.raises(OSError, match="Input"):
            driver.stat("/a")
        assert len(device.forgotten) == 4


def test_a_name_that_is_known_not_to_be_there_is_not_found():
    device = Scripted(LOOKUP=fuse.EntryOut(nodeid=0).pack())
    with open_driver(FsDriver, device) as driver:
        with pytest.raises(FileNotFoundError):
            driver.stat("/a")
        assert not device.forgotten


def test_a_write_that_is_cut_short_is_no_success():
    answers = {
        "OPEN": HANDLE,
        "WRITE": fuse.WriteOut(3).pack(),
        "RELEASE": b"",
        "FLUSH": b"",
        "SETATTR": fuse.AttrOut().pack(),
    }
    with open_driver(FsDriver, Scripted(**answers)) as driver, pytest.raises(DeviceError, match="3 of 5"):
        driver.write_bytes("file", b"hello")
