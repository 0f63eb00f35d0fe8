"""Write virtio devices and drivers in Python, and plug them into an unmodified QEMU.

These are the names for authors; the rest is imported from the package that it belongs to, such as `pyvirtio.testing`.

A device:

- `Device`: the class to subclass, `Queue` and `OutgoingQueue` to declare its queues;
- `Reader` and `Writer`: what a ``stream`` method takes; `RecordArray`: what a ``batch`` method takes;
- `File`: what an ``async def`` method reads into guest memory and writes from it;
- `OutgoingPort`: what an outgoing queue is on an instance;
- `serving`: serve a device object of this process on a socket.

A driver:

- `Driver`: the class to subclass, `RequestQueue` to declare its queues;
- `Ticket`: a request that was submitted; `Answer`: an answer in parts;
- `open_driver`: open a driver on a device, in this process or at an address.

Both:

- `Struct`: a wire structure. Its fields are declared by `u8`, `le16`, `le32`, `le64`, `be16`, `be32`, `be64`, `chars`,
  `raw`, `array` and `nested`;
- `VirtioError`: the root of every error that is raised on purpose; see `pyvirtio.errors`.

Public are these names, what docs/stability.md lists of other packages, and what the modules of `pyvirtio.devices` and
`pyvirtio.drivers` define under a name without an underscore. Everything else is private and may change with any
version, wherever it can be imported from.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.connect import open_driver, serving
    from pyvirtio.device import Device, OutgoingPort, OutgoingQueue, Queue, Reader, RecordArray, Writer
    from pyvirtio.device.files import File
    from pyvirtio.driver import Answer, Driver, RequestQueue, Ticket
    from pyvirtio.errors import VirtioError
    from pyvirtio.spec.struct import Struct, array, be16, be32, be64, chars, le16, le32, le64, nested, raw, u8

__version__ = "0.1.0"

_ROOMS = {
    "pyvirtio.connect": ("open_driver", "serving"),
    "pyvirtio.device": ("Device", "OutgoingPort", "OutgoingQueue", "Queue", "Reader", "RecordArray", "Writer"),
    "pyvirtio.device.files": ("File",),
    "pyvirtio.driver": ("Answer", "Driver", "RequestQueue", "Ticket"),
    "pyvirtio.errors": ("VirtioError",),
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
    "Answer",
    "Device",
    "Driver",
    "File",
    "OutgoingPort",
    "OutgoingQueue",
    "Queue",
    "Reader",
    "RecordArray",
    "RequestQueue",
    "Struct",
    "Ticket",
    "VirtioError",
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
