"""A disk in memory, enough of a block device (VIRTIO 1.4, 5.2) for the driver of Linux."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvirtio import Device, Queue, Struct, le32, le64

if TYPE_CHECKING:
    from pyvirtio.device import Reader, Writer

SECTOR = 512
SECTORS = 2048
GROW = b"grow"  # written anywhere, it doubles the disk
READ, WRITE, GET_ID = 0, 1, 8  # types of requests (5.2.6)
OK, UNSUPPORTED = b"\0", b"\2"  # statuses


class Header(Struct):
    """What precedes the data of each request."""

    type: int = le32()
    reserved: int = le32()
    sector: int = le64()


class Config(Struct):
    """The configuration space, as far as no feature is negotiated."""

    capacity: int = le64()


class Disk(Device):
    """A disk whose sectors hold their numbers; whatever is written is read again."""

    device_id = 2
    config = Config(capacity=SECTORS)
    requests = Queue(size=256)

    def __init__(self) -> None:
        super().__init__()
        self.content = bytearray(b"".join(b"sector%9d\n" % number * 32 for number in range(2 * SECTORS)))

    @requests.stream
    def serve(self, reader: Reader, writer: Writer) -> None:
        """Read or write sectors; the last byte of the answer is the status."""
        header = reader.take(Header)
        start = header.sector * SECTOR
        if header.type == READ:
            writer.write(bytes(self.content[start : start + writer.room - len(OK)]) + OK)
        elif header.type == WRITE:
            data = reader.read(reader.left)
            self.content[start : start + len(data)] = data
            if GROW in data:
                self.update_config(capacity=2 * SECTORS)
            writer.write(OK)
        elif header.type == GET_ID:
            writer.write(b"pyvirtio".ljust(20, b"\0") + OK)
        else:
            writer.write(bytes(writer.room - len(UNSUPPORTED)) + UNSUPPORTED)
