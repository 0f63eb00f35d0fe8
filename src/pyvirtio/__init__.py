"""Write virtio devices and drivers in Python, and plug them into an unmodified QEMU.

What most authors need is here; everything else is in the package named after it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.connect import open_driver, serving
    from pyvirtio.device import Device, OutgoingQueue, Queue, Reader, Writer
    from pyvirtio.driver import Driver, RequestQueue
    from pyvirtio.spec.struct import Struct, array, be16, be32, be64, chars, le16, le32, le64, nested, raw, u8

__version__ = "0.1.0"

_ROOMS = {
    "pyvirtio.connect": ("open_driver", "serving"),
    "pyvirtio.device": ("Device", "OutgoingQueue", "Queue", "Reader", "Writer"),
    "pyvirtio.driver": ("Driver", "RequestQueue"),
    "pyvirtio.spec.struct": (
        "Struct",
        "array",
        "be16",
        "be32",
        "be64",
        "chars",
        "le16",
        "le32",
        "le64",
        "nested",
        "raw",
        "u8",
    ),
}
__all__ = [
    "Device",
    "Driver",
    "OutgoingQueue",
    "Queue",
    "Reader",
    "RequestQueue",
    "Struct",
    "Writer",
    "array",
    "be16",
    "be32",
    "be64",
    "chars",
    "le16",
    "le32",
    "le64",
    "nested",
    "open_driver",
    "raw",
    "serving",
    "u8",
]


def __getattr__(name: str) -> object:
    """Import a name's room when the name is first used: a command does not pay for what it does not use."""
    from importlib import import_module

    for room, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(room), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
