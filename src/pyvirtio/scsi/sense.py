"""How a target says that a command failed: a status, and sense data that say why (SAM-5, 5.3; SPC-4, 4.5).

>>> Check(Trouble.LBA_OUT_OF_RANGE).data().hex(" ", 2)
'7000 0500 0000 000a 0000 0000 2100 0000 0000'
"""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """How a command ended."""

    GOOD = 0x00
    CHECK_CONDITION = 0x02


class Key(IntEnum):
    """What kind of trouble it is."""

    NO_SENSE = 0x0
    HARDWARE_ERROR = 0x4
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6
    DATA_PROTECT = 0x7


class Trouble(IntEnum):
    """What the trouble is: the additional sense code, and in the low byte its qualifier."""

    NONE = 0x0000
    PARAMETER_LIST_LENGTH_ERROR = 0x1A00
    INVALID_COMMAND = 0x2000
    LBA_OUT_OF_RANGE = 0x2100
    INVALID_FIELD_IN_CDB = 0x2400
    UNIT_NOT_SUPPORTED = 0x2500
    INVALID_FIELD_IN_PARAMETERS = 0x2600
    WRITE_PROTECTED = 0x2700
    MEDIUM_CHANGED = 0x2800
    RESET_OCCURRED = 0x2900
    CAPACITY_CHANGED = 0x2A09
    INTERNAL_FAILURE = 0x4400


KEYS = {
    Trouble.NONE: Key.NO_SENSE,
    Trouble.WRITE_PROTECTED: Key.DATA_PROTECT,
    Trouble.MEDIUM_CHANGED: Key.UNIT_ATTENTION,
    Trouble.RESET_OCCURRED: Key.UNIT_ATTENTION,
    Trouble.CAPACITY_CHANGED: Key.UNIT_ATTENTION,
    Trouble.INTERNAL_FAILURE: Key.HARDWARE_ERROR,
}
"""The kinds of trouble; what is not here is an ILLEGAL_REQUEST."""


class Check(Exception):
    """A command ends with CHECK CONDITION."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.name)
        self.trouble = trouble
        self.key = KEYS.get(trouble, Key.ILLEGAL_REQUEST)

    def data(self) -> bytes:
        """Return sense data of fixed format, about the command that is answered (SPC-4, 4.5.3)."""
        return bytes((0x70, 0, self.key, 0, 0, 0, 0, 10, 0, 0, 0, 0, *self.trouble.to_bytes(2), 0, 0, 0, 0))
