r"""Packets in a stream of bytes: as with QEMU's ``-netdev stream``, and with more between two that know more.

The length of each frame precedes it, in 4 bytes, big-endian. That is all that QEMU and passt know, so what they get are
complete frames. Cutting 64 KiB into those takes far longer than carrying them, so whoever can do more says so in the
first frame that he sends, a `greeting`. Others take it for a frame to nobody. Packets to him may have a header; then
the highest bit of the length is set, and the header counts.

>>> deframer = Deframer(Offload.CSUM)
>>> deframer.feed(in_stream(greeting(Offload.CSUM)) + b"\x00\x00\x00\x0e01234"), deframer.feed(b"5678901234\x00")
([], [(b'\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00', b'01234567890123')])
>>> deframer.takes
<Offload.CSUM: 1>
"""

from __future__ import annotations

import contextlib

from pyvirtio.errors import PeerError, ProtocolError
from pyvirtio.network.packet import LONGEST, PLAIN, SHORTEST, Offload, checked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.network.packet import Packet

LENGTH = 4
HEADED = 1 << 31
"""The bit of a length that says that a packet's header precedes its frame."""

# To the group of LLDP, which no bridge forwards (IEEE 802.1Q), and of IEEE 802's type for local experiments.
GREETING = bytes.fromhex("0180c200000e 000000000000 88b5") + b"pyvirtio's offloads:"
SHORTEST_FRAME = 60
"""The bytes of the shortest frame that a real card sends."""


def greeting(takes: Offload) -> bytes:
    """Return the first frame of one who takes packets that he has to finish himself."""
    return (GREETING + bytes([takes])).ljust(SHORTEST_FRAME, b"\0")


def in_stream(frame: bytes, header: bytes = PLAIN) -> bytes:
    r"""Return a packet as it stands in a stream.

    >>> in_stream(b"frame")
    b'\x00\x00\x00\x05frame'
    """
    if header == PLAIN:
        return len(frame).to_bytes(LENGTH, "big") + frame
    return (HEADED | len(header) + len(frame)).to_bytes(LENGTH, "big") + header + frame


class Deframer:
    """Cuts a stream into packets. ``offers`` is what the other side was told that it may leave to this one.

    Attributes:
        takes: what may be left to the other side, as it has said in its first frame.
    """

    def __init__(self, offers: Offload = Offload.NONE) -> None:
        self.takes = Offload.NONE
        self._offers = offers
        self._rest = b""
        self._is_first = True

    def feed(self, data: bytes) -> list[Packet]:
        """Return the packets that are whole with ``data``; one that is not what it says it is is left out.

        Raises:
            ProtocolError: a length is none of a frame; what follows cannot be read.
        """
        data = self._rest + data if self._rest else data
        packets: list[Packet] = []
        at = 0
        while at + LENGTH <= len(data):
            size = int.from_bytes(data[at : at + LENGTH], "big")
            start, header = at + LENGTH, 0
            if size & HEADED and self._offers:
                size, header = size ^ HEADED, len(PLAIN)
            if not header < size <= header + LONGEST:
                raise ProtocolError(f"a frame of {size - header} bytes in a stream; it has at most {LONGEST}")
            at = start + size
            if at > len(data):
                at = start - LENGTH
                break
            frame = data[start + header : at]
            if self._is_first and self._is_greeting(frame):
                continue
            if header:
                with contextlib.suppress(PeerError):
                    packets.append(checked(data[start : start + header], frame, self._offers))
            elif size >= SHORTEST:
                packets.append((PLAIN, frame))
        self._rest = data[at:]
        return packets

    def _is_greeting(self, frame: bytes) -> bool:
        """Take note of what the first frame says. Later ones may come from any guest, so they count no more."""
        self._is_first = False
        if not frame.startswith(GREETING) or len(frame) == len(GREETING):
            return False
        self.takes = Offload(frame[len(GREETING)]) & Offload.ALL
        return True
