"""Frames of IPv4 as tests make them: ARP, pings, and UDP whose checksum is left to a network card."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from pyvirtio.devices.net import Header
from pyvirtio.network.offload import checksum
from pyvirtio.network.packet import Flag

BROADCAST = b"\xff" * 6
ICMP, UDP = 1, 17
HEADERS = 14 + 20 + 8


@dataclass(frozen=True)
class Host:
    """A card and an address, as whoever makes frames."""

    mac: bytes
    address: str

    def arp_request(self, address: str) -> bytes:
        """Return the question who has ``address``."""
        asked = bytes.fromhex("0001080006040001") + self.mac + socket.inet_aton(self.address)
        return BROADCAST + self.mac + b"\x08\x06" + (asked + bytes(6) + socket.inet_aton(address)).ljust(46, b"\0")

    def ping(self, to: Host, number: int, data: bytes = b"") -> bytes:
        """Return a question whether ``to`` is there."""
        icmp = b"\x08\0\0\0\0\1" + number.to_bytes(2, "big") + data
        icmp = icmp[:2] + checksum(icmp).to_bytes(2, "big") + icmp[4:]
        return to.mac + self.mac + b"\x08\x00" + self._ip(to, ICMP, len(icmp)) + icmp

    def _ip(self, to: Host, protocol: int, length: int) -> bytes:
        addresses = socket.inet_aton(self.address) + socket.inet_aton(to.address)
        start = b"\x45\0" + (20 + length).to_bytes(2, "big") + b"\0\1\x40\0\x40" + bytes([protocol])
        return start + checksum(start + b"\0\0" + addresses).to_bytes(2, "big") + addresses

    def udp(self, to: Host, data: bytes, *, source: int = 4000, port: int) -> tuple[Header, bytes]:
        """Return a packet whose checksum is left to the card, and what says so."""
        addresses = socket.inet_aton(self.address) + socket.inet_aton(to.address)
        length = (8 + len(data)).to_bytes(2, "big")
        begun = 0xFFFF - checksum(addresses + bytes([0, UDP]) + length)
        udp = source.to_bytes(2, "big") + port.to_bytes(2, "big") + length + begun.to_bytes(2, "big")
        header = Header(Flag.NEEDS_CSUM, csum_start=34, csum_offset=6)
        return header, to.mac + self.mac + b"\x08\x00" + self._ip(to, UDP, 8 + len(data)) + udp + data


def mac_in_reply(frame: bytes) -> bytes:
    """Return the card of who answered a question of ARP."""
    assert frame[12:14] == b"\x08\x06"
    assert frame[20:22] == b"\x00\x02"
    return frame[22:28]


def pong_number(frame: bytes) -> int:
    """Return the number of the ping that is answered."""
    assert frame[12:14] == b"\x08\x00"
    assert frame[23] == ICMP
    assert frame[34] == 0
    end = 14 + int.from_bytes(frame[16:18], "big")
    assert checksum(frame[34:end]) == 0
    return int.from_bytes(frame[40:42], "big")


def udp_data(frame: bytes, *, may_lack_checksum: bool = False) -> bytes:
    """Return the data of a packet whose checksum is complete and correct, or not there at all where it need not be."""
    assert frame[12:14] == b"\x08\x00"
    assert frame[23] == UDP
    assert checksum(frame[14:34]) == 0
    end = 14 + int.from_bytes(frame[16:18], "big")
    length = frame[38:40]
    if not (may_lack_checksum and frame[40:42] == b"\0\0"):
        assert checksum(frame[26:34] + bytes([0, UDP]) + length + frame[34:end]) == 0
    return frame[HEADERS:end]
