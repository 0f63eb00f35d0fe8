r"""A packet: an Ethernet frame, and a header that says what is still to be done to it.

The header is the beginning of ``struct virtio_net_hdr`` (VIRTIO 1.4, 5.1.9), which Linux's TAP devices have as well.
All zeros, it says that the frame is complete.

>>> VnetHeader(flags=Flag.NEEDS_CSUM, csum_start=34, csum_offset=16).pack()
b'\x01\x00\x00\x00\x00\x00"\x00\x10\x00'
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

from pyvirtio.errors import PeerError
from pyvirtio.spec.struct import Struct, le16, u8

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Packet: TypeAlias = tuple[bytes, bytes]
    """A header, and a frame."""

LONGEST = 65589
"""The most bytes of a packet (VIRTIO 1.4, 5.1.9.3)."""

SHORTEST = 14
"""The bytes of an Ethernet header."""

MOST_SEGMENTS = 1400
"""The most frames that one packet may be cut into: no honest segment of TCP is smaller than 48 bytes."""


class Flag(IntFlag):
    """Flags of a header, of those that are used here; a device ignores the others (VIRTIO 1.4, 5.1.9.2.2)."""

    NEEDS_CSUM = 1  # the sum from csum_start to the end has to be stored at csum_start + csum_offset
    DATA_VALID = 2  # the checksum was looked at, and is correct


class Gso(IntEnum):
    """What a packet has to be cut into."""

    NONE = 0
    TCPV4 = 1
    TCPV6 = 4


class Offload(IntFlag):
    """What somebody can do to a packet himself, so that it may be given to him as it is."""

    NONE = 0
    CSUM = 1  # complete a checksum
    TSO4 = 2  # cut TCP over IPv4
    TSO6 = 4  # cut TCP over IPv6
    ALL = 7


CUTS = {Gso.TCPV4: Offload.TSO4, Gso.TCPV6: Offload.TSO6}
"""What is needed for each kind of packet that has to be cut."""


class VnetHeader(Struct):
    """What is still to be done to a packet."""

    flags: int = u8()
    gso_type: int = u8()
    hdr_len: int = le16()
    gso_size: int = le16()
    csum_start: int = le16()
    csum_offset: int = le16()


PLAIN = bytes(VnetHeader.nbytes)
"""The header of a packet to which nothing is to be done."""


def checked(header: bytes, frame: bytes, allowed: Offload) -> Packet:
    """Return a packet from somebody who is not trusted, with nothing in its header that is not needed.

    ``allowed`` is what he may leave to others. `hdr_len` is a hint that nobody may rely on, so it is not kept.

    Raises:
        PeerError: it is none, or leaves something to others that cannot be done.
    """
    if not SHORTEST <= len(frame) <= LONGEST:
        raise PeerError(f"a packet of {len(frame)} bytes; it has {SHORTEST} to {LONGEST}", section="5.1.9.3")
    if header == PLAIN:
        return PLAIN, frame
    flags, gso_type, _, gso_size, csum_start, csum_offset = VnetHeader.unpack(header)
    if not flags & Flag.NEEDS_CSUM:
        if gso_type:
            raise PeerError("a packet is to be cut, and its checksum is not to be completed", section="5.1.9.2.1")
        return PLAIN, frame  # csum_start and csum_offset mean nothing then
    if not allowed & Offload.CSUM:
        raise PeerError("a checksum is to be completed, and CSUM was not negotiated", section="5.1.9.2.1")
    if csum_start + csum_offset + 2 > len(frame):
        raise PeerError(f"a checksum at {csum_start} + {csum_offset} in {len(frame)} bytes", section="5.1.9.2.1")
    if gso_type:
        if gso_type not in CUTS or not allowed & CUTS[gso_type]:
            raise PeerError(f"a packet of gso_type {gso_type}, which was not negotiated", section="5.1.9.2.1")
        if not gso_size or len(frame) > csum_start + gso_size * MOST_SEGMENTS:
            raise PeerError(f"a packet of {len(frame)} bytes, to be cut every {gso_size}", section="5.1.9.2.1")
    else:
        gso_size = 0
    return VnetHeader(Flag.NEEDS_CSUM, gso_type, 0, gso_size, csum_start, csum_offset).pack(), frame
