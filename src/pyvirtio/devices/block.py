"""A disk (VIRTIO 1.4, 5.2): a file, a block device of the host, or any object of Python whose slices are bytes."""

import asyncio
import errno
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic

from pyvirtio.device import Device, Queue, Rate, Reader, Writer
from pyvirtio.errors import ChainError
from pyvirtio.spec.struct import Struct, array, le16, le32, le64, nested, u8
from pyvirtio.storage import ByteObject, open_storage

SEG_MAX, RO, BLK_SIZE, FLUSH, MQ, DISCARD, WRITE_ZEROES = (1 << bit for bit in (2, 5, 6, 9, 12, 13, 14))
IN, OUT, SYNC, GET_ID, DISCARDED, ZEROED = 0, 1, 4, 8, 11, 13  # types of requests (5.2.6)
OK, IO_ERROR, UNSUPPORTED = b"\0", b"\1", b"\2"  # statuses
STATUS = 1  # byte, at the very end of an answer
SECTOR = 512  # bytes; the unit of the protocol, whatever the block size
ID_LENGTH = 20
MOST_RANGES, MOST_SECTORS = 64, (64 << 20) // SECTOR  # of one discard or write zeroes: so that none takes long
UNMAP = 1  # the only flag of a range


Operations = dict[int, Callable[[int, Reader, Writer], Awaitable[object]]]


class Geometry(Struct):
    cylinders: int = le16()
    heads: int = u8()
    sectors: int = u8()


class Topology(Struct):
    physical_block_exp: int = u8()
    alignment_offset: int = u8()
    min_io_size: int = le16()
    opt_io_size: int = le32()


class Zoned(Struct):
    zone_sectors: int = le32()
    max_open_zones: int = le32()
    max_active_zones: int = le32()
    max_append_sectors: int = le32()
    write_granularity: int = le32()
    model: int = u8()
    unused2: tuple[int, ...] = array(u8(), 3)


class Config(Struct):
    capacity: int = le64()  # in sectors
    size_max: int = le32()
    seg_max: int = le32()
    geometry: Geometry = nested(Geometry)
    blk_size: int = le32()
    topology: Topology = nested(Topology)
    writeback: int = u8()
    unused0: int = u8()
    num_queues: int = le16()
    max_discard_sectors: int = le32()
    max_discard_seg: int = le32()
    discard_sector_alignment: int = le32()
    max_write_zeroes_sectors: int = le32()
    max_write_zeroes_seg: int = le32()
    write_zeroes_may_unmap: int = u8()
    unused1: tuple[int, ...] = array(u8(), 3)
    max_secure_erase_sectors: int = le32()
    max_secure_erase_seg: int = le32()
    secure_erase_sector_alignment: int = le32()
    zoned: Zoned = nested(Zoned)


class Header(Struct):  # then the data, and in the last byte of the answer the status
    type: int = le32()
    reserved: int = le32()
    sector: int = le64()


class Status(Struct):
    code: int = u8(255)


class Range(Struct):  # what is discarded or zeroed
    sector: int = le64()
    num_sectors: int = le32()
    flags: int = le32()


class Unsupported(Exception):
    """The device does not know the request, or a flag of it."""


class Block(Device):
    """A disk on a file, a block device, or an object of Python; its requests may finish in any order.

    ``path`` is a file, a block device, or an object with a byte interface such as a `bytearray`. ``direct`` bypasses
    the host's page cache. ``serial`` (20 characters) is what a guest tells disks apart by; by default the file's name.
    ``iops`` and ``bps`` limit the requests and bytes in a second. `resize` takes over a new size of the content.
    """

    device_id = 2
    requests = Queue(size=256)
    throttled = Queue(size=256, held=True)  # the same, where requests wait for their turn
    stateless = True

    def __init__(
        self,
        path: Path | ByteObject,
        *,
        readonly: bool = False,
        direct: bool = False,
        queues: int = 1,
        serial: str = "",
        iops: int | None = None,
        bps: int | None = None,
    ) -> None:
        self._serial = (serial or getattr(path, "name", "pyvirtio")).encode("ascii", "replace")[:ID_LENGTH]
        self._iops = Rate(iops, monotonic) if iops is not None else None
        self._bps = Rate(bps, monotonic) if bps is not None else None
        self._storage = open_storage(path, readonly=readonly, direct=direct)
        self._size = self._storage.size() // SECTOR * SECTOR
        self._operations: Operations = {OUT: self._refuse, SYNC: self._sync, GET_ID: self._identify}
        if not readonly:
            self._operations.update({OUT: self._write, DISCARDED: self._discard, ZEROED: self._zero})
        self.queues = [Block.throttled if self._iops or self._bps else Block.requests] * queues
        self.features = SEG_MAX | BLK_SIZE | FLUSH | MQ | (RO if readonly else DISCARD | WRITE_ZEROES)
        self.config = Config(
            capacity=self._size // SECTOR,
            seg_max=Block.requests.size - 2,
            blk_size=self._storage.block_size,
            num_queues=queues,
            max_discard_sectors=MOST_SECTORS,
            max_discard_seg=MOST_RANGES,
            discard_sector_alignment=self._storage.block_size // SECTOR,
            max_write_zeroes_sectors=MOST_SECTORS,
            max_write_zeroes_seg=MOST_RANGES,
            write_zeroes_may_unmap=1,
        )

    def close(self) -> None:
        """Close the file."""
        self._storage.close()

    async def run(self) -> None:
        """Tell the guest when the file has grown or shrunk on the host."""
        while True:
            await asyncio.sleep(1.0)  # seconds; there is no event that all files and block devices have
            self.resize()

    def resize(self) -> None:
        """Tell the driver the size that the content has now."""
        self._size = self._storage.size() // SECTOR * SECTOR
        if self.config.capacity != self._size // SECTOR:
            self.update_config(capacity=self._size // SECTOR)

    @requests.stream
    async def serve(self, reader: Reader, writer: Writer) -> None:
        """Do what one request asks for."""
        header, status = reader.take(Header), OK
        if header.type == IN:  # in the fewest steps, for a disk is mostly read
            length, offset = writer.room - STATUS, header.sector * SECTOR
            if length % SECTOR or not 0 <= length <= self._size - offset:
                raise self._off_the_disk(header.sector, length)
            if (number := await self._storage.read_into(writer, length, offset)) != length:
                raise OSError(errno.EIO, f"the content ends at {offset + number}, {length - number} bytes too early")
        else:
            status = await self._do(header, reader, writer)
        writer.write(status)

    @throttled.stream
    async def serve_in_turn(self, reader: Reader, writer: Writer) -> None:
        """Do the same when the request has its turn; where the queue stops, nobody waits for that."""
        amounts = ((self._iops, 1), (self._bps, reader.left + writer.room))
        delay = max(rate.claim(amount) for rate, amount in amounts if rate)
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(delay)
        work = asyncio.ensure_future(self.serve(reader, writer))
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        work.result()

    @requests.failed
    @throttled.failed
    def fail(self, writer: Writer) -> None:
        """Let the guest see an I/O error."""
        if writer.room:
            writer.skip(writer.room - STATUS)
            writer.write(IO_ERROR)

    # What is not a read.

    async def _do(self, header: Header, reader: Reader, writer: Writer) -> bytes:
        status = OK
        try:
            await (self._operations.get(header.type) or self._unknown)(header.sector, reader, writer)
        except Unsupported:
            status = UNSUPPORTED
        writer.skip(writer.room - STATUS)
        return status

    def _write(self, sector: int, reader: Reader, writer: Writer) -> Awaitable[int]:
        length = reader.left
        return self._storage.write_from(reader, length, self._offset(sector, length))

    def _refuse(self, sector: int, reader: Reader, writer: Writer) -> Awaitable[None]:
        raise ChainError("the disk is read-only and a request wants to write", section="5.2.6.2")

    def _sync(self, sector: int, reader: Reader, writer: Writer) -> Awaitable[None]:
        return self._storage.sync()

    async def _identify(self, sector: int, reader: Reader, writer: Writer) -> None:
        writer.write(self._serial.ljust(ID_LENGTH, b"\0")[: writer.room - STATUS])

    async def _discard(self, sector: int, reader: Reader, writer: Writer) -> None:
        for one in self._ranges(reader, flags=0):  # UNMAP is for write zeroes only (5.2.6.2)
            length = one.num_sectors * SECTOR
            await self._storage.discard(self._offset(one.sector, length), length)

    async def _zero(self, sector: int, reader: Reader, writer: Writer) -> None:
        for one in self._ranges(reader, flags=UNMAP):
            length = one.num_sectors * SECTOR
            await self._storage.zero(self._offset(one.sector, length), length, may_unmap=bool(one.flags & UNMAP))

    def _unknown(self, sector: int, reader: Reader, writer: Writer) -> Awaitable[None]:
        raise Unsupported

    def _ranges(self, reader: Reader, flags: int) -> list[Range]:
        """Return the ranges of a request, which may have these flags; all of them lie on the disk."""
        number, rest = divmod(reader.left, Range.nbytes)
        if rest or not 0 < number <= MOST_RANGES:
            raise ChainError(f"{reader.left} bytes are not 1 to {MOST_RANGES} ranges to discard", section="5.2.6.1")
        ranges = [reader.take(Range) for _ in range(number)]
        if any(one.flags & ~flags for one in ranges):
            raise Unsupported
        for one in ranges:
            if one.num_sectors > MOST_SECTORS:
                raise ChainError(f"{one.num_sectors} sectors at once; {MOST_SECTORS} is the most", section="5.2.5")
            self._offset(one.sector, one.num_sectors * SECTOR)
        return ranges

    def _offset(self, sector: int, length: int) -> int:
        """Return where a sector is; refuse what leads off the disk (5.2.6.1)."""
        offset = sector * SECTOR
        if length % SECTOR or not 0 <= length <= self._size - offset:
            raise self._off_the_disk(sector, length)
        return offset

    def _off_the_disk(self, sector: int, length: int) -> ChainError:
        sectors = self._size // SECTOR
        return ChainError(
            f"{length} bytes at sector {sector} are not whole sectors of a disk of {sectors}", section="5.2.6.1"
        )
