r"""What a network card does for its driver, done here: completing checksums, and cutting TCP into segments.

>>> frame = bytes.fromhex("0a00000000020a00000000010800") + bytes(20) + b"\x00\x35\x00\x35\x00\x08\x00\x00"
>>> [(header, done)] = finished((VnetHeader(Flag.NEEDS_CSUM, csum_start=34, csum_offset=6).pack(), frame), Offload.NONE)
>>> header == PLAIN, done[40:42].hex()
(True, 'ff8d')
"""

from __future__ import annotations

from pyvirtio.errors import PeerError
from pyvirtio.network.ethernet import header_of
from pyvirtio.network.packet import CUTS, PLAIN, Flag, Gso, Offload, VnetHeader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvirtio.network.packet import Packet

FIN_PSH, CWR = 0x09, 0x80  # of TCP's flags: what only the last segment has, and what only the first one has
SMALLEST_TCP = 20
PROTOCOL_TCP = b"\x00\x06"


def finished(packet: Packet, takes: Offload) -> list[Packet]:
    """Return a packet as it can be given to somebody who can do what ``takes`` says: as it is, or done.

    Raises:
        PeerError: it is to be cut, and is not what it claims to be.
    """
    header, frame = packet
    if header == PLAIN:
        return [packet]
    fields = VnetHeader.unpack(header)
    if fields.gso_type:
        needed = CUTS[Gso(fields.gso_type)] | Offload.CSUM
        return [packet] if takes & needed == needed else [(PLAIN, one) for one in segments(fields, frame)]
    if takes & Offload.CSUM:
        return [packet]
    if fields.flags & Flag.NEEDS_CSUM:
        frame = completed(frame, fields.csum_start, fields.csum_offset)
    return [(PLAIN, frame)]


def checksum(data: bytes) -> int:
    """Return the Internet's checksum of ``data`` (RFC 1071).

    >>> hex(checksum(bytes.fromhex("0001f203f4f5f6f7")))
    '0x220d'
    """
    if len(data) % 2:
        data += b"\0"
    total = int.from_bytes(data, "big")
    # Adding with an end-around carry is counting modulo 65535, but for 0, which only zeros add up to.
    return 0xFFFF - (total % 0xFFFF or (0xFFFF if total else 0))


def completed(frame: bytes, start: int, offset: int) -> bytes:
    """Return ``frame`` with the checksum of all from ``start`` on, where a part of it was stored already.

    Raises:
        PeerError: the checksum would lie outside of it.
    """
    at = start + offset
    if at + 2 > len(frame):
        raise PeerError(f"a checksum at {at} in a frame of {len(frame)} bytes", section="5.1.9.2.1")
    # 0 would say that there is none in UDP; to TCP both are the same (RFC 768).
    value = checksum(frame[start:]) or 0xFFFF
    return frame[:at] + value.to_bytes(2, "big") + frame[at + 2 :]


def segments(header: VnetHeader, frame: bytes) -> Iterator[bytes]:
    """Yield complete frames with ``gso_size`` bytes of TCP's data each, and in the last one what remains.

    Raises:
        PeerError: there is no TCP where the header says it is.
    """
    tcp, size = header.csum_start, header.gso_size
    network = header_of(frame)
    data = tcp + 4 * (frame[tcp + 12] >> 4 if tcp + SMALLEST_TCP <= len(frame) else 0)
    version = 4 if header.gso_type == Gso.TCPV4 else 6
    smallest = {4: 20, 6: 40}[version]
    if tcp < network + smallest or frame[network] >> 4 != version or not tcp + SMALLEST_TCP <= data <= len(frame):
        raise PeerError("a packet to be cut does not hold TCP where its header says", section="5.1.9.2.1")
    write_network = _write_ipv4 if version == 4 else _write_ipv6
    addresses = frame[network + 12 : network + 20] if version == 4 else frame[network + 8 : network + 40]
    sequence = int.from_bytes(frame[tcp + 4 : tcp + 8], "big")
    for number, start in enumerate(range(data, max(len(frame), data + 1), size)):
        piece = frame[start : start + size]
        one = bytearray(frame[:data]) + piece
        write_network(one, network, number, tcp)
        one[tcp + 4 : tcp + 8] = ((sequence + start - data) & 0xFFFFFFFF).to_bytes(4, "big")
        if start + size < len(frame):
            one[tcp + 13] &= ~FIN_PSH
        if number:
            one[tcp + 13] &= ~CWR
        one[tcp + 16 : tcp + 18] = b"\0\0"
        length = (len(one) - tcp).to_bytes(2, "big")
        one[tcp + 16 : tcp + 18] = checksum(addresses + PROTOCOL_TCP + length + bytes(one[tcp:])).to_bytes(2, "big")
        yield bytes(one)


def _write_ipv4(frame: bytearray, at: int, number: int, tcp: int) -> None:
    frame[at + 2 : at + 4] = (len(frame) - at).to_bytes(2, "big")
    identification = int.from_bytes(frame[at + 4 : at + 6], "big") + number
    frame[at + 4 : at + 6] = (identification & 0xFFFF).to_bytes(2, "big")
    frame[at + 10 : at + 12] = b"\0\0"
    frame[at + 10 : at + 12] = checksum(bytes(frame[at:tcp])).to_bytes(2, "big")


def _write_ipv6(frame: bytearray, at: int, number: int, tcp: int) -> None:  # noqa: ARG001  # as for IPv4
    frame[at + 4 : at + 6] = (len(frame) - at - 40).to_bytes(2, "big")
