"""What a disk says of itself: INQUIRY and its pages, MODE SENSE, READ CAPACITY.

>>> disk = Medium("a serial", 2048, 512)
>>> disk.inquiry()[8:36]
b'PYVIRTIODISK            1   '
>>> disk.vital_page(0x80)[4:]
b'a serial'
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from pyvirtio.scsi.sense import Check, Trouble
from pyvirtio.spec.struct import Struct, be16, be32, be64, raw, u8

DISK, CDROM, NOTHING = 0x00, 0x05, 0x7F
"""Types of units; the last one says that there is none under this number, and that there cannot be one."""

VENDOR = b"PYVIRTIO"
CACHING, CONTROL, ALL_PAGES, CHANGEABLE = 0x08, 0x0A, 0x3F, 1
WRITE_PROTECT, KNOWS_FUA = 0x80, 0x10
THIN = 2
MOST_RANGES, MOST_BYTES = 64, 64 << 20
"""The most ranges of one UNMAP, and the most bytes that one range or one WRITE SAME covers: so that none takes long."""


class BlockLimits(Struct):
    """The page B0h (SBC-3, 6.6.4); lengths are in blocks."""

    wsnz: int = u8()
    max_compare_and_write: int = u8()
    transfer_granularity: int = be16()
    max_transfer: int = be32()
    optimal_transfer: int = be32()
    max_prefetch: int = be32()
    max_unmap_blocks: int = be32()
    max_unmap_descriptors: int = be32()
    unmap_granularity: int = be32()
    unmap_alignment: int = be32()
    max_write_same: int = be64()
    reserved: bytes = raw(20)


class Capacity16(Struct):
    """What READ CAPACITY (16) answers (SBC-3, 5.16.2)."""

    last_lba: int = be64()
    block_size: int = be32()
    protection: int = u8()
    physical_exponent: int = u8()
    provisioning: int = be16()
    reserved: bytes = raw(16)


@dataclass
class Medium:
    """A disk as its commands describe it.

    Attributes:
        serial: what it is told apart by.
        blocks: how many blocks it has.
        block_size: the bytes of each.
        physical_size: the bytes that are read and written at once.
        readonly: whether it refuses to be written.
        kind: DISK or CDROM.
    """

    serial: str
    blocks: int
    block_size: int
    physical_size: int = 512
    readonly: bool = False
    kind: int = DISK

    # INQUIRY (SPC-4, 6.6 and 7.8).

    def inquiry(self) -> bytes:
        """Return the standard data: SPC-4, commands may be queued."""
        product = b"CD-ROM" if self.kind == CDROM else b"DISK"
        removable = 0x80 if self.kind == CDROM else 0
        head = bytes((self.kind, removable, 0x06, 0x02, 31, 0, 0, 0x02))
        return head + VENDOR + product.ljust(16) + b"1".ljust(4)

    def vital_page(self, page: int) -> bytes:
        """Return a page of vital product data.

        Raises:
            Check: there is no such page.
        """
        make = self._pages().get(page)
        if make is None:
            raise Check(Trouble.INVALID_FIELD_IN_CDB)
        return bytes((self.kind, page)) + len(make).to_bytes(2) + make

    def _pages(self) -> dict[int, bytes]:
        pages = {0x80: self._serial(), 0x83: self._identification()}
        if self.kind == DISK:
            pages |= {0xB0: self._limits(), 0xB1: (1).to_bytes(2) + bytes(58), 0xB2: self._provisioning()}
        return {0x00: bytes((0x00, *pages)), **pages}

    def _serial(self) -> bytes:
        return self.serial.encode("ascii", "replace")

    def _identification(self) -> bytes:
        """Return two names of the unit: vendor and serial in ASCII, and a locally assigned number (NAA 3h)."""
        text = VENDOR + self._serial()
        number = 3 << 60 | int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 4
        return bytes((2, 1, 0, len(text))) + text + bytes((1, 3, 0, 8)) + number.to_bytes(8)

    @property
    def most_blocks(self) -> int:
        """The most blocks that one range of UNMAP, or one WRITE SAME, covers."""
        return MOST_BYTES // self.block_size

    def _limits(self) -> bytes:
        if self.readonly:
            return BlockLimits().pack()
        return BlockLimits(
            wsnz=1,
            max_unmap_blocks=self.most_blocks,
            max_unmap_descriptors=MOST_RANGES,
            unmap_granularity=self.physical_size // self.block_size,
            max_write_same=self.most_blocks,
        ).pack()

    def _provisioning(self) -> bytes:
        """Say how space is given back: by UNMAP, and by WRITE SAME of either length (SBC-3, 6.6.6)."""
        return bytes((0, 0 if self.readonly else 0xE0, 0 if self.readonly else THIN, 0))

    # READ CAPACITY.

    def capacity_10(self) -> bytes:
        """Return the last block and the size of blocks; a last block of 2**32-1 says to ask with 16 bytes."""
        return min(self._last, 0xFFFFFFFF).to_bytes(4) + self.block_size.to_bytes(4)

    def capacity_16(self) -> bytes:
        """Return the same, and how blocks lie on the medium."""
        exponent = max(0, (self.physical_size // self.block_size).bit_length() - 1)
        provisioned = 0 if self.readonly else 1 << 15
        return Capacity16(self._last, self.block_size, physical_exponent=exponent, provisioning=provisioned).pack()

    @property
    def _last(self) -> int:
        return max(0, self.blocks - 1)

    # MODE SENSE (SPC-4, 6.11 and 7.5).

    def mode(self, page: int, subpage: int, *, is_long: bool, with_descriptor: bool) -> bytes:
        """Return parameters: a header, a descriptor of the blocks, and pages.

        Raises:
            Check: there is no such page.
        """
        which, number = page >> 6, page & 0x3F
        known = {CACHING: bytes((0x04, *bytes(17))), CONTROL: bytes((0x02, 0x10, *bytes(8)))}
        if number not in {*known, ALL_PAGES} or subpage not in {0, 0xFF} or which == 3:  # nothing is saved
            raise Check(Trouble.INVALID_FIELD_IN_CDB)
        wanted = known if number == ALL_PAGES else {number: known[number]}
        shown = {key: bytes(len(data)) if which == CHANGEABLE else data for key, data in wanted.items()}
        pages = b"".join(bytes((key, len(data))) + data for key, data in sorted(shown.items()))
        descriptor = self._descriptor() if with_descriptor and self.kind == DISK else b""
        specific = KNOWS_FUA | (WRITE_PROTECT if self.readonly else 0)
        length = len(descriptor) + len(pages)
        if not is_long:
            return bytes((length + 3, 0, specific, len(descriptor))) + descriptor + pages
        head = (length + 6).to_bytes(2) + bytes((0, specific, 0, 0)) + len(descriptor).to_bytes(2)
        return head + descriptor + pages

    def _descriptor(self) -> bytes:
        return min(self.blocks, 0xFFFFFFFF).to_bytes(4) + self.block_size.to_bytes(4)

    # READ TOC (MMC-6, 6.25).

    def contents(self, flags: int, form: int) -> bytes:
        """Return the table of contents of a disc: one session with one track of data.

        Raises:
            Check: there is no table of that form.
        """
        if form & 0x0F not in {0, 1}:
            raise Check(Trouble.INVALID_FIELD_IN_CDB)
        entries = [(1, 0)] if form & 0x0F else [(1, 0), (LEAD_OUT, self.blocks)]
        rows = [bytes((0, DATA_TRACK, number, 0)) + _place(lba, as_time=bool(flags & TIME)) for number, lba in entries]
        return (2 + 8 * len(rows)).to_bytes(2) + bytes((1, 1)) + b"".join(rows)


TIME, DATA_TRACK, LEAD_OUT = 0x02, 0x14, 0xAA


def _place(lba: int, *, as_time: bool) -> bytes:
    """Return where a block is: its number, or minute, second and frame of 1/75 s."""
    if not as_time:
        return lba.to_bytes(4)
    seconds, frame = divmod(lba + 150, 75)  # the first two seconds lead in
    return bytes((0, min(seconds // 60, 0xFF), seconds % 60, frame))
