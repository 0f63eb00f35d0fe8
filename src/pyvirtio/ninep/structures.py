"""The structures of 9P2000.L that only its messages have, and its numbers; `pyvirtio.files.structures` has the others.

All of them are little-endian. Their text is the protocol's description by its users, `Linux's net/9p` and diod's
``protocol.md``; VIRTIO 1.4 only gives the transport its id.
"""

from pyvirtio.files.structures import Qid
from pyvirtio.spec.struct import Struct, le16, le32, le64, nested, u8

VERSION = b"9P2000.L"

NO_TAG, NO_FID, NO_UID = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF

MOST_NAMES = 16
"""The most names of one walk (Linux's P9_MAXWELEM)."""

REMOVE_DIRECTORY = 0x200
"""The flag of Tunlinkat for a directory (Linux's AT_REMOVEDIR)."""

BLOCK = 1
"""The flag of Tlock for a client that goes on asking until it has the lock."""


class Header(Struct):
    """What every message begins with; ``size`` counts all of its bytes."""

    size: int = le32()
    type: int = u8()
    tag: int = le16()


class EntryHead(Struct):
    """What an entry of Rreaddir begins with; its name follows. ``offset`` is where to go on behind it."""

    qid: Qid = nested(Qid)
    offset: int = le64()
    type: int = u8()
    length: int = le16()
