"""Ethernet addresses, and what a card lets through."""

from __future__ import annotations

from zlib import crc32

from pyvirtio.errors import LocalError, PeerError
from pyvirtio.spec.struct import Struct, le32

LENGTH = 6
BROADCAST = b"\xff" * LENGTH


class Mac(bytes):
    """An address of Ethernet, from its usual text.

    >>> Mac("52:54:00:12:34:56").hex(), str(Mac("52-54-00-12-34-56"))
    ('525400123456', '52:54:00:12:34:56')

    Raises:
        LocalError: the text is none, or the address of a group.
    """

    def __new__(cls, text: str) -> Mac:
        """Read an address."""
        try:
            address = bytes.fromhex(text.replace(":", "").replace("-", ""))
        except ValueError:
            address = b""
        if len(address) != LENGTH or is_group(address) or not any(address):
            raise LocalError(f"{text!r} is not an address of one network card; give one such as 52:54:00:12:34:56")
        return super().__new__(cls, address)

    def __str__(self) -> str:
        return self.hex(":")

    __repr__ = __str__


def is_group(address: bytes) -> bool:
    """Return whether ``address``, or the destination of a frame that begins with it, is that of a group."""
    return bool(address[0] & 1)


def header_of(frame: bytes) -> int:
    """Return the bytes of a frame's Ethernet header, with a VLAN tag if there is one: where IP begins."""
    return 18 if frame[12:14] == b"\x81\x00" else 14


def flow_of(frame: bytes) -> int:
    """Return a number that is the same for all frames of one flow: one direction of one connection.

    Addresses and ports of IPv4 without options, or of IPv6; for anything else the frame's first bytes.
    """
    return crc32(frame[22:58] if frame[12:14] == b"\x86\xdd" else frame[26:38])


class MacTable(Struct):
    """Precedes each of the two lists of addresses in a MAC_TABLE_SET (VIRTIO 1.4, 5.1.9.5.2)."""

    entries: int = le32()


def read_tables(data: bytes) -> frozenset[bytes]:
    """Return the addresses of two tables, the first of cards, the second of groups.

    Raises:
        PeerError: the tables are not as long as they say, or hold an address that belongs into the other one.
    """
    addresses: list[bytes] = []
    for groups in (False, True):
        end = MacTable.nbytes + LENGTH * MacTable.unpack(data).entries
        if end > len(data):
            raise PeerError(f"a table of {end} bytes in {len(data)}", section="5.1.9.5.2")
        listed = [data[at : at + LENGTH] for at in range(MacTable.nbytes, end, LENGTH)]
        if any(is_group(one) is not groups for one in listed):
            raise PeerError("an address stands in the wrong one of the two tables", section="5.1.9.5.2")
        addresses += listed
        data = data[end:]
    if data:
        raise PeerError(f"{len(data)} bytes behind the tables", section="5.1.9.5.2")
    return frozenset(addresses)


class ReceiveFilter:
    """What a driver wants to receive (VIRTIO 1.4, 5.1.9.5.1, 5.1.9.5.2).

    At first it is everything: a driver that says nothing has no way to say it, or says it to QEMU.

    Attributes:
        promiscuous, all_multicast, all_unicast: let more through than the addresses say.
        no_multicast, no_unicast, no_broadcast: let less through.
        addresses: the addresses beside the card's own.
    """

    def __init__(self) -> None:
        self.promiscuous = True
        self.all_multicast = self.all_unicast = False
        self.no_multicast = self.no_unicast = self.no_broadcast = False
        self.addresses: frozenset[bytes] = frozenset()

    def accepts(self, frame: bytes, own: bytes) -> bool:
        """Return whether a frame is for the driver of a card whose address is ``own``; zeros: it is not known."""
        if self.promiscuous:
            return True
        to = frame[:LENGTH]
        if to == BROADCAST:
            return not self.no_broadcast
        if is_group(to):
            return not self.no_multicast and (self.all_multicast or to in self.addresses)
        return not self.no_unicast and (self.all_unicast or to == own or to in self.addresses or not any(own))
