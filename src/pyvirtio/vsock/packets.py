"""The packets of virtio sockets (VIRTIO 1.4, 5.10.6), and the numbers in them."""

from __future__ import annotations

from enum import IntEnum, IntFlag

from pyvirtio.errors import LocalError
from pyvirtio.spec.struct import Struct, le16, le32, le64

ANY_CID, HOST_CID = 0xFFFF_FFFF, 2
RESERVED_CIDS = frozenset({0, 1, HOST_CID, ANY_CID})
"""Context ids that no guest has (5.10.4); the upper 32 bits of one are zero."""

FIRST_PORT, LAST_PORT = 1 << 30, 0xFFFF_FFFE
"""The ports that connections begin from. Services lie below, and 0xffffffff is Linux's word for any port."""

MOST_PAYLOAD = 1 << 16
"""The most bytes of payload that are sent in one packet. Linux does the same."""


class Op(IntEnum):
    """What a packet is for."""

    INVALID = 0
    REQUEST = 1
    RESPONSE = 2
    RST = 3
    SHUTDOWN = 4
    RW = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


class Type(IntEnum):
    """What kind of socket a packet belongs to."""

    STREAM = 1
    SEQPACKET = 2


class Shutdown(IntFlag):
    """The flags of a SHUTDOWN: what its sender will not do any more (5.10.6.5)."""

    RECEIVE = 1
    SEND = 2


BOTH = Shutdown.RECEIVE | Shutdown.SEND


class Header(Struct):
    """What each packet begins with; ``len`` bytes of payload follow it."""

    src_cid: int = le64()
    dst_cid: int = le64()
    src_port: int = le32()
    dst_port: int = le32()
    len: int = le32()
    type: int = le16(Type.STREAM, kind=Type)
    op: int = le16(kind=Op)
    flags: int = le32()
    buf_alloc: int = le32()
    fwd_cnt: int = le32()


class EventId(IntEnum):
    """What an event says (5.10.6.7)."""

    TRANSPORT_RESET = 0


class Event(Struct):
    """What a device tells by the event queue."""

    id: int = le32(kind=EventId)


def check_cid(cid: int) -> int:
    """Return ``cid`` if a guest may have it.

    Raises:
        LocalError: it is reserved, or longer than 32 bits.
    """
    if cid in RESERVED_CIDS or not 0 <= cid <= ANY_CID:
        raise LocalError(f"a guest cannot have the CID {cid}; choose one from 3 to 4294967294", section="5.10.4")
    return cid


def check_port(port: int) -> int:
    """Return ``port`` if something can be there.

    Raises:
        LocalError: it is none.
    """
    if not 0 <= port <= LAST_PORT:
        raise LocalError(f"there is no port {port}; choose one from 0 to {LAST_PORT}")
    return port
