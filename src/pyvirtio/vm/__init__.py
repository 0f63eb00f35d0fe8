"""Boots real guests: finds or provisions QEMU and a kernel, builds the initramfs, runs, collects.

- `guest`: a context that boots a Linux guest with devices: objects of this process, or ``file.py:Class``;
- `Guest` and `AsyncGuest`: what its block gets, with ``run`` and the rest; `Result`: how a command ended;
- `VhostUserDevice`: a device that some other back-end serves.

Nothing below `pyvirtio.vm.guests` knows a device or speaks vhost-user: the rest is told the path of a socket on which a
back-end listens, and a few numbers.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.vm.guests import AsyncGuest, guest
    from pyvirtio.vm.machine import VhostUserDevice
    from pyvirtio.vm.running import Guest, Result

_MODULES = {
    "AsyncGuest": "guests",
    "Guest": "running",
    "Result": "running",
    "VhostUserDevice": "machine",
    "guest": "guests",
}
__all__ = ["AsyncGuest", "Guest", "Result", "VhostUserDevice", "guest"]


def __getattr__(name: str) -> object:
    """Import a name when it is first used: the commands import single modules of this room, and not all of them."""
    from importlib import import_module

    if name in _MODULES:
        return getattr(import_module(f"pyvirtio.vm.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
