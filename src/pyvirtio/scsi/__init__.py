"""SCSI as data (SPC-4, SBC-3): commands, what is said of a disk, and how a failure is told.

It knows no virtio and no storage; whoever carries a command out says where bytes come from and go to.
"""

from pyvirtio.scsi.commands import Opcode, parse
from pyvirtio.scsi.medium import Medium
from pyvirtio.scsi.sense import Check, Key, Status, Trouble

__all__ = ["Check", "Key", "Medium", "Opcode", "Status", "Trouble", "parse"]
