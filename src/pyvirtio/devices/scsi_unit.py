"""A logical unit of the SCSI host: a disk or a CD-ROM, which carries commands out."""

from __future__ import annotations

import errno
from pathlib import Path

from pyvirtio.scsi import Check, Medium, Opcode, Trouble, parse
from pyvirtio.scsi.commands import (
    DISABLE_DESCRIPTORS,
    EVPD,
    FUA,
    NO_DATA_OUT,
    READ_CAPACITY_16,
    UNMAP_BIT,
    unmap_ranges,
)
from pyvirtio.scsi.medium import CDROM, DISK, MOST_RANGES, NOTHING
from pyvirtio.storage import ByteObject, open_storage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from pyvirtio.device import Reader, Writer

    Operation = Callable[[Any, Reader, Writer], Awaitable[None]]

BYTE_CHECK, ACTION, EJECT, LONG_MODE = 0x06, 0x1F, 0x02, 0x40
UNTOLD = frozenset({Opcode.INQUIRY, Opcode.REPORT_LUNS, Opcode.REQUEST_SENSE})
"""What is answered although there is news of the unit (SAM-5, 5.14)."""


class Overrun(Exception):
    """A command has to do with more data than its request has room for."""


class Unit:
    """A disk, or with ``cdrom`` a disc, on a file, a block device or an object whose slices are bytes.

    ``serial`` is what a guest tells units apart by; by default the file's name.
    """

    def __init__(
        self, content: Path | str | ByteObject, *, readonly: bool = False, cdrom: bool = False, serial: str = ""
    ) -> None:
        readonly = readonly or cdrom
        named = Path(content) if isinstance(content, str) else content
        self._storage = open_storage(content, readonly=readonly)
        self.medium = Medium(
            serial or getattr(named, "name", "pyvirtio"),
            blocks=0,
            block_size=2048 if cdrom else 512,
            physical_size=self._storage.block_size,
            readonly=readonly,
            kind=CDROM if cdrom else DISK,
        )
        self.news: Trouble | None = None
        """What the next command is told instead of being carried out."""
        self.resize()
        self._operations: dict[Opcode, Operation] = {
            Opcode.TEST_UNIT_READY: self._do_nothing,
            Opcode.START_STOP_UNIT: self._start_or_stop,
            Opcode.REQUEST_SENSE: self._tell_sense,
            Opcode.INQUIRY: self._inquire,
            Opcode.MODE_SENSE_6: self._tell_mode,
            Opcode.MODE_SENSE_10: self._tell_mode,
            Opcode.READ_CAPACITY_10: self._tell_capacity,
            **dict.fromkeys((Opcode.READ_6, Opcode.READ_10, Opcode.READ_12, Opcode.READ_16), self._read),
            **dict.fromkeys((Opcode.VERIFY_10, Opcode.VERIFY_12, Opcode.VERIFY_16), self._verify),
            **dict.fromkeys((Opcode.SYNCHRONIZE_CACHE_10, Opcode.SYNCHRONIZE_CACHE_16), self._sync),
        }
        if cdrom:
            self._operations[Opcode.READ_TOC] = self._tell_contents
            return
        writing = (Opcode.WRITE_6, Opcode.WRITE_10, Opcode.WRITE_12, Opcode.WRITE_16)
        removing = (Opcode.UNMAP, Opcode.WRITE_SAME_10, Opcode.WRITE_SAME_16)
        self._operations |= {Opcode.SERVICE_ACTION_IN_16: self._tell_long_capacity}
        if readonly:
            self._operations |= dict.fromkeys((*writing, *removing), self._refuse)
        else:
            self._operations |= {Opcode.UNMAP: self._unmap, **dict.fromkeys(removing[1:], self._write_same)}
            self._operations |= dict.fromkeys(writing, self._write)

    def resize(self) -> bool:
        """Take over the size that the content has now; return whether it is another one."""
        blocks = self._storage.size() // self.medium.block_size
        if blocks == self.medium.blocks:
            return False
        changed = Trouble.CAPACITY_CHANGED if self.medium.kind == DISK else Trouble.MEDIUM_CHANGED
        self.medium.blocks, self.news = blocks, changed if self.medium.blocks else None
        return True

    def close(self) -> None:
        """Close the content."""
        self._storage.close()

    async def execute(self, block: bytes, reader: Reader, writer: Writer) -> None:
        """Carry a command out, with data from ``reader`` and into ``writer``.

        Raises:
            Check: it fails, and this says why.
            Overrun: it has to do with more data than there is room for.
            OSError: the content cannot be read or written.
        """
        opcode, cdb = parse(block)
        operation = self._operations.get(opcode)
        if operation is None:
            raise Check(Trouble.INVALID_COMMAND)
        if self.news is not None and opcode not in UNTOLD:
            news, self.news = self.news, None
            raise Check(news)
        await operation(cdb, reader, writer)

    # Data.

    async def _read(self, cdb: Any, reader: Reader, writer: Writer) -> None:
        offset, length = self._extent(cdb)
        if length > writer.room:
            raise Overrun
        if (number := await self._storage.read_into(writer, length, offset)) != length:
            raise OSError(errno.EIO, f"the content ends at {offset + number}, {length - number} bytes too early")

    async def _write(self, cdb: Any, reader: Reader, writer: Writer) -> None:
        offset, length = self._extent(cdb)
        if length > reader.left:
            raise Overrun
        await self._storage.write_from(reader, length, offset)
        if cdb.opcode != Opcode.WRITE_6 and cdb.flags & FUA:
            await self._storage.sync()

    async def _refuse(self, cdb: Any, reader: Reader, writer: Writer) -> None:
        raise Check(Trouble.WRITE_PROTECTED)

    async def _verify(self, cdb: Any, reader: Reader, writer: Writer) -> None:
        if cdb.flags & BYTE_CHECK:  # a comparison with data that comes along
            raise Check(Trouble.INVALID_FIELD_IN_CDB)
        self._extent(cdb)

    async def _sync(self, cdb: Any, reader: Reader, writer: Writer) -> None:
        self._extent(cdb)
        await self._storage.sync()

    async def _unmap(self, cdb: Any, reader: Reader, writer: Writer) -> None:
        if cdb.length > reader.left:
            raise Overrun
        ranges = unmap_ranges(reader.read(cdb.length)) if cdb.length else []
        if len(ranges) > MOST_RANGES or any(one.blocks > self.medium.most_blocks for one in ranges):
            raise Check(Trouble.INVALID_FIELD_IN_PARAMETERS)
        for offset, length in [self._bytes(one.lba, one.blocks) for one in ranges]:
            await self._storage.discard(offset, length)

    async def _write_same(self, cdb: Any, reader: Reader, writer: Writer) -> None:
        """Write zeros; any other content would have to be stored block by block, and nobody asks for it."""
        if not 0 < cdb.length <= self.medium.most_blocks:
            raise Check(Trouble.INVALID_FIELD_IN_CDB)
        offset, length = self._extent(cdb)
        if not (cdb.opcode == Opcode.WRITE_SAME_16 and cdb.flags & NO_DATA_OUT):
            if self.medium.block_size > reader.left:
                raise Overrun
            if any(reader.read(self.medium.block_size)):
                raise Check(Trouble.INVALID_FIELD_IN_PARAMETERS)
        await self._storage.zero(offset, length, may_unmap=bool(cdb.flags & UNMAP_BIT))

    def _extent(self, cdb: Any) -> tuple[int, int]:
        """Return where the blocks of a command are, in bytes."""
        is_short = cdb.opcode in {Opcode.READ_6, Opcode.WRITE_6}
        return self._bytes(cdb.lba, cdb.length or (256 if is_short else 0))

    def _bytes(self, lba: int, blocks: int) -> tuple[int, int]:
        if lba + blocks > self.medium.blocks:
            raise Check(Trouble.LBA_OUT_OF_RANGE)
        return lba * self.medium.block_size, blocks * self.medium.block_size

    # What it says of itself.

    async def _do_nothing(self, cdb: Any, reader: Reader, writer: Writer) -> None:
        """Say that all is well."""

    async def _start_or_stop(self, cdb: Any, reader: Reader, writer: Writer) -> None:
        if cdb.length & EJECT:
            raise Check(Trouble.INVALID_FIELD_IN_CDB)

    async def _tell_sense(self, cdb: Any, reader: Reader, writer: Writer) -> None:
        news, self.news = self.news, None
        tell(Check(news or Trouble.NONE).data(), cdb.length, writer)

    async def _inquire(self, cdb: Any, reader: Reader, writer: Writer) -> None:
        has_page = cdb.flags & EVPD
        if cdb.page and not has_page:
            raise Check(Trouble.INVALID_FIELD_IN_CDB)
        tell(self.medium.vital_page(cdb.page) if has_page else self.medium.inquiry(), cdb.length, writer)

    async def _tell_mode(self, cdb: Any, reader: Reader, writer: Writer) -> None:
        is_long, with_descriptor = bool(cdb.opcode & LONG_MODE), not cdb.flags & DISABLE_DESCRIPTORS
        said = self.medium.mode(cdb.page, cdb.subpage, is_long=is_long, with_descriptor=with_descriptor)
        tell(said, cdb.length, writer)

    async def _tell_capacity(self, cdb: Any, reader: Reader, writer: Writer) -> None:
        said = self.medium.capacity_10()
        tell(said, len(said), writer)

    async def _tell_long_capacity(self, cdb: Any, reader: Reader, writer: Writer) -> None:
        if cdb.flags & ACTION != READ_CAPACITY_16:
            raise Check(Trouble.INVALID_FIELD_IN_CDB)
        tell(self.medium.capacity_16(), cdb.length, writer)

    async def _tell_contents(self, cdb: Any, reader: Reader, writer: Writer) -> None:
        tell(self.medium.contents(cdb.flags, cdb.format), cdb.length, writer)


class Absent:
    """What is under a number that no unit has."""

    async def execute(self, block: bytes, reader: Reader, writer: Writer) -> None:
        """Say so (SPC-4, 6.6.2)."""
        opcode, cdb = parse(block)
        if opcode != Opcode.INQUIRY:
            raise Check(Trouble.UNIT_NOT_SUPPORTED)
        tell(bytes((NOTHING, 0, 0, 0, 31)).ljust(36, b"\0"), cdb.length, writer)


ABSENT = Absent()


def tell(data: bytes, most: int, writer: Writer) -> None:
    """Answer with data, or with as much of it as is asked for."""
    if min(len(data), most) > writer.room:
        raise Overrun
    writer.write(data[:most])
