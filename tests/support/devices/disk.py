"""A disk (VIRTIO 1.4, 5.2) whose content is a file: reads and writes overlap, and finish in any order."""

from __future__ import annotations

import os
from pathlib import Path  # noqa: TC003  # the command line makes the option from it
from typing import TYPE_CHECKING

from pyvirtio import Device, Queue, Struct, le32, le64, raw

if TYPE_CHECKING:
    from pyvirtio.device import Reader, Writer

SECTOR = 512
SEGMENTS, FLUSH = 1 << 2, 1 << 9  # feature bits (5.2.3)
IN, OUT, FLUSHED, GET_ID = 0, 1, 4, 8  # types of requests (5.2.6)
OK, IO_ERROR, UNSUPPORTED = b"\0", b"\1", b"\2"  # statuses


class Config(Struct):
    """The configuration space (5.2.4)."""

    capacity: int = le64()
    size_max: int = le32()
    seg_max: int = le32()
    others: bytes = raw(44)  # of features that are not offered; QEMU reads them in any case


class Header(Struct):
    """What precedes the data of each request."""

    type: int = le32()
    reserved: int = le32()
    sector: int = le64()


class Disk(Device):
    """A disk in the file ``path``. A request takes at most ``segments`` pieces of the guest's memory."""

    device_id = 2
    features = SEGMENTS | FLUSH
    requests = Queue(size=64)

    def __init__(self, path: Path, *, segments: int = 126) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.config = Config(capacity=os.fstat(self._fd).st_size // SECTOR, seg_max=segments)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    @requests.stream
    async def serve(self, reader: Reader, writer: Writer) -> None:
        """Do what one request asks for; the last byte of the answer is its status."""
        header = reader.take(Header)
        if header.type == IN:
            await self.read(header.sector, writer)
        elif header.type == OUT:
            await self.write(header.sector, reader)
        elif header.type == FLUSHED:
            await self.offload(os.fdatasync, self._fd)
        elif header.type == GET_ID:
            writer.write(b"pyvirtio".ljust(writer.room - len(OK), b"\0"))
        else:
            writer.skip(writer.room - len(UNSUPPORTED))
            writer.write(UNSUPPORTED)
            return
        writer.write(OK)

    async def read(self, sector: int, writer: Writer) -> None:
        """Read from the file straight into the guest's memory."""
        length = writer.room - len(OK)
        offset = self._offset(sector, length)
        writer.advance(await self.offload(os.preadv, self._fd, writer.views(length), offset))
        if writer.room != len(OK):
            raise OSError(f"{writer.room - len(OK)} of {length} bytes at sector {sector} could not be read")

    async def write(self, sector: int, reader: Reader) -> None:
        """Write to the file straight from the guest's memory."""
        length = reader.left
        offset = self._offset(sector, length)
        written = await self.offload(os.pwritev, self._fd, reader.views(), offset)
        if written != length:
            raise OSError(f"{length - written} of {length} bytes at sector {sector} could not be written")

    def _offset(self, sector: int, length: int) -> int:
        """Return where a sector is in the file; refuse what leads out of it (5.2.6.2)."""
        if length % SECTOR or sector * SECTOR + length > self.config.capacity * SECTOR:
            raise ValueError(f"there are no {length} bytes at sector {sector} of {self.config.capacity}")
        return sector * SECTOR

    @requests.failed
    def fail(self, writer: Writer) -> None:
        """Let the guest see an I/O error."""
        writer.skip(writer.room - len(IO_ERROR))
        writer.write(IO_ERROR)
