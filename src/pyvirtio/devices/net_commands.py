"""What a driver says to a network card on its control queue (VIRTIO 1.4, 5.1.9.5)."""

from __future__ import annotations

from enum import IntEnum

from pyvirtio.spec.struct import Struct, le16, u8

LARGEST_COMMAND = 1 << 16  # bytes; a table of 10 000 addresses


class ControlHeader(Struct):
    """The beginning of a command (5.1.9.5)."""

    class_: int = u8()
    command: int = u8()


class ControlClass(IntEnum):
    """The classes of commands (5.1.9.5)."""

    RX = 0
    MAC = 1
    ANNOUNCE = 3
    MQ = 4


class RxCommand(IntEnum):
    """The commands of the class RX (5.1.9.5.1); the data of each is one byte, 0 or 1."""

    PROMISC = 0
    ALLMULTI = 1
    ALLUNI = 2
    NOMULTI = 3
    NOUNI = 4
    NOBCAST = 5


MAC_TABLE_SET, MAC_ADDR_SET = 0, 1  # the commands of the class MAC (5.1.9.5.2)
ANNOUNCE_ACK = 0  # the one of ANNOUNCE (5.1.9.5.4)
MQ_VQ_PAIRS_SET = 0  # the one of MQ that is understood (5.1.9.5.6)


class PairsSet(Struct):
    """The data of MQ_VQ_PAIRS_SET (5.1.9.5.6.1)."""

    virtqueue_pairs: int = le16()


class Ack(Struct):
    """The answer to a command (5.1.9.5)."""

    ack: int = u8()


OK, ERR = 0, 1
