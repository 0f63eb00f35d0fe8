"""The commands that a disk knows, and how each lays out its command descriptor block (SPC-4, 6; SBC-3, 5).

>>> opcode, cdb = parse(bytes.fromhex("28 00 00000800 00 0010 00") + bytes(22))
>>> opcode.name, cdb.lba, cdb.length
('READ_10', 2048, 16)
"""

from __future__ import annotations

from enum import IntEnum

from pyvirtio.scsi.sense import Check, Trouble
from pyvirtio.spec.struct import Struct, be16, be32, be64, raw, u8

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


class Opcode(IntEnum):
    """The first byte of a command; a service action follows where several commands share it."""

    TEST_UNIT_READY = 0x00
    REQUEST_SENSE = 0x03
    READ_6 = 0x08
    WRITE_6 = 0x0A
    INQUIRY = 0x12
    MODE_SENSE_6 = 0x1A
    START_STOP_UNIT = 0x1B
    READ_CAPACITY_10 = 0x25
    READ_10 = 0x28
    WRITE_10 = 0x2A
    VERIFY_10 = 0x2F
    SYNCHRONIZE_CACHE_10 = 0x35
    WRITE_SAME_10 = 0x41
    UNMAP = 0x42
    READ_TOC = 0x43
    MODE_SENSE_10 = 0x5A
    READ_16 = 0x88
    WRITE_16 = 0x8A
    VERIFY_16 = 0x8F
    SYNCHRONIZE_CACHE_16 = 0x91
    WRITE_SAME_16 = 0x93
    SERVICE_ACTION_IN_16 = 0x9E
    REPORT_LUNS = 0xA0
    READ_12 = 0xA8
    WRITE_12 = 0xAA
    VERIFY_12 = 0xAF


READ_CAPACITY_16 = 0x10
"""The service action of SERVICE_ACTION_IN_16 that is known."""

FUA, UNMAP_BIT, NO_DATA_OUT = 0x08, 0x08, 0x01
"""Flags: a write lasts when it is answered; zeros may take no space; WRITE SAME (16) comes without data."""

EVPD, DISABLE_DESCRIPTORS = 0x01, 0x08
"""Flags: a page of INQUIRY is wanted; no block descriptor is wanted from MODE SENSE."""


class Cdb6(Struct):
    """A command about blocks; of the address, the upper bits are in ``flags``, and ``length`` 0 is 256."""

    opcode: int = u8()
    flags: int = u8()
    lba_low: int = be16()
    length: int = u8()
    control: int = u8()

    @property
    def lba(self) -> int:
        """The first block."""
        return (self.flags & 0x1F) << 16 | self.lba_low


class Cdb10(Struct):
    """A command about blocks."""

    opcode: int = u8()
    flags: int = u8()
    lba: int = be32()
    group: int = u8()
    length: int = be16()
    control: int = u8()


class Cdb12(Struct):
    """A command about blocks."""

    opcode: int = u8()
    flags: int = u8()
    lba: int = be32()
    length: int = be32()
    group: int = u8()
    control: int = u8()


class Cdb16(Struct):
    """A command about blocks; for a service action, ``flags`` is its number and ``length`` how much it may answer."""

    opcode: int = u8()
    flags: int = u8()
    lba: int = be64()
    length: int = be32()
    group: int = u8()
    control: int = u8()


class Inquiry(Struct):
    """Asks what the unit is; ``length`` is how much it may answer, as below."""

    opcode: int = u8()
    flags: int = u8()
    page: int = u8()
    length: int = be16()
    control: int = u8()


class ModeSense6(Struct):
    """Asks for parameters; the two upper bits of ``page`` say which values of them."""

    opcode: int = u8()
    flags: int = u8()
    page: int = u8()
    subpage: int = u8()
    length: int = u8()
    control: int = u8()


class ModeSense10(Struct):
    """The same, for longer answers."""

    opcode: int = u8()
    flags: int = u8()
    page: int = u8()
    subpage: int = u8()
    reserved: bytes = raw(3)
    length: int = be16()
    control: int = u8()


class ReportLuns(Struct):
    """Asks which logical units there are."""

    opcode: int = u8()
    reserved: int = u8()
    select: int = u8()
    reserved_too: bytes = raw(3)
    length: int = be32()
    reserved_last: int = u8()
    control: int = u8()


class ReadToc(Struct):
    """Asks for the table of contents of a disc."""

    opcode: int = u8()
    flags: int = u8()
    format: int = u8()
    reserved: bytes = raw(3)
    track: int = u8()
    length: int = be16()
    control: int = u8()


GROUPS = {0: Cdb6, 1: Cdb10, 2: Cdb10, 4: Cdb16, 5: Cdb12}
"""The layouts of commands about blocks, by the upper three bits of the opcode, which say how long it is."""

OTHERS = {
    Opcode.INQUIRY: Inquiry,
    Opcode.MODE_SENSE_6: ModeSense6,
    Opcode.MODE_SENSE_10: ModeSense10,
    Opcode.READ_TOC: ReadToc,
    Opcode.REPORT_LUNS: ReportLuns,
}


class UnmapHeader(Struct):
    """What precedes the ranges that UNMAP gives back; both lengths count what follows them."""

    data_length: int = be16()
    descriptors_length: int = be16()
    reserved: int = be32()


class UnmapRange(Struct):
    """A range that UNMAP gives back."""

    lba: int = be64()
    blocks: int = be32()
    reserved: int = be32()


def parse(cdb: bytes) -> tuple[Opcode, Any]:
    """Return which command a descriptor block is, and the block as a structure.

    Raises:
        Check: nobody knows such a command, or the block is shorter than that.
    """
    try:
        opcode = Opcode(cdb[0])
    except (IndexError, ValueError):
        raise Check(Trouble.INVALID_COMMAND) from None
    kind = OTHERS.get(opcode) or GROUPS[opcode >> 5]
    if len(cdb) < kind.nbytes:
        raise Check(Trouble.INVALID_FIELD_IN_CDB)
    return opcode, kind.unpack(cdb[: kind.nbytes])


def unmap_ranges(data: bytes) -> list[UnmapRange]:
    """Return what the parameters of UNMAP name.

    Raises:
        Check: they are shorter than they say.
    """
    if len(data) < UnmapHeader.nbytes:
        raise Check(Trouble.PARAMETER_LIST_LENGTH_ERROR)
    number, rest = divmod(UnmapHeader.unpack(data[: UnmapHeader.nbytes]).descriptors_length, UnmapRange.nbytes)
    ranges = data[UnmapHeader.nbytes :]
    if rest or len(ranges) < number * UnmapRange.nbytes:
        raise Check(Trouble.INVALID_FIELD_IN_PARAMETERS)
    return [UnmapRange.unpack(ranges[at * UnmapRange.nbytes :][: UnmapRange.nbytes]) for at in range(number)]


def pack_lun(number: int) -> bytes:
    """Return a number as a single level logical unit number: peripheral up to 255, then flat (SAM-5, 4.7.5).

    >>> pack_lun(3).hex(), pack_lun(256).hex()
    ('0003', '4100')
    """
    return (number if number < 256 else 0x4000 | number).to_bytes(2)


def unpack_lun(data: bytes) -> int | None:
    """Return the number that 2 bytes stand for, in either of the two methods; None where they use another one."""
    method, number = data[0] >> 6, int.from_bytes(data) & 0x3FFF
    return number if method == 1 or (method == 0 and number < 256) else None


def luns_data(numbers: Iterable[int]) -> bytes:
    """Return what REPORT LUNS answers."""
    rows = b"".join(pack_lun(number) + bytes(6) for number in numbers)
    return len(rows).to_bytes(4) + bytes(4) + rows
