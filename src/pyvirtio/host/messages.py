"""What keeper and worker say to each other: one table, and the records of the transport as JSON.

A command has a number, and ``done`` with that number acknowledges it: this is how the keeper waits for what it asked.
"""

from __future__ import annotations

import json

from pyvirtio.errors import ProtocolError
from pyvirtio.transport import DeviceDescription, QueueSetup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

COMMANDS = {
    "keep": (),  # memory that outlives the worker comes along
    "memory": ("drop", "add"),  # regions that went, and [number, base, size, offset] of those whose fds come along
    # A queue, the places of its journal, the names of the fds that come along; and whether it is to stop, as by `stop`:
    # a queue that has to stop when its worker dies must not get another turn first.
    "start": ("setup", "journal", "names", "stop", "fail_suspects"),
    "stop": ("queue", "fail_suspects"),  # a queue; whether requests that a worker may have died of are not tried again
    "kick": ("queue",),  # serve a queue
    "set_kick": ("queue",),  # another kick descriptor, or none
    "set_interrupt": ("queue",),  # another interrupt descriptor, or none
    "config": ("changes", "by_driver"),  # bytes of the configuration space, each with its offset
    "reset": (),  # the device as it was at first; memory that outlives the worker comes along, if the device wants any
    "leave": (),  # finish what was begun, and end
}
"""What the keeper tells a worker, by name, with the fields of each; every one has a ``number`` as well."""

REPORTS = {
    "ready": ("description", "patience", "needs_one_worker", "sources"),  # the device is loaded
    "failed": ("why", "usage"),  # it cannot be
    "done": ("number", "result"),  # a command was carried out
    "broken": ("queue",),  # a queue is not served any more
    "config": ("changes", "notify"),  # the device changed its configuration space; whether the driver is to be told
}
"""What a worker tells the keeper."""


def encode(table: dict[str, tuple[str, ...]], kind: str, fields: dict[str, Any]) -> bytes:
    """Return the bytes of a message of ``table``."""
    expected = table[kind]
    if table is COMMANDS:
        expected = (*expected, "number")
    assert fields.keys() == set(expected), (kind, fields.keys())
    return json.dumps([kind, fields]).encode()


def decode(table: dict[str, tuple[str, ...]], data: bytes) -> tuple[str, dict[str, Any]]:
    """Return the kind and the fields of a message.

    Raises:
        ProtocolError: it is not a message of ``table``. (A device's code can write to any descriptor of its process.)
    """
    try:
        kind, fields = json.loads(data)
        if table[kind] and not fields.keys() >= set(table[kind]):
            raise KeyError(kind)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ProtocolError(f"a message between keeper and worker is damaged: {data[:80]!r}") from error
    return kind, fields


_SETUP = ("index", "size", "descriptor_area", "driver_area", "device_area", "features", "position")


def setup_to_json(setup: QueueSetup) -> list[int]:
    """Return a set-up's numbers; its descriptors travel beside them."""
    return [getattr(setup, name) for name in _SETUP]


def setup_from_json(row: list[int], *, kick_fd: int, interrupt_fd: int) -> QueueSetup:
    """Return the set-up that `setup_to_json` described."""
    *numbers, position = row
    return QueueSetup(*numbers, position=position, kick_fd=kick_fd, interrupt_fd=interrupt_fd)


def description_to_json(description: DeviceDescription) -> dict[str, Any]:
    """Return what a device says of itself."""
    return {
        "name": description.name,
        "device_id": description.device_id,
        "features": description.features,
        "queue_sizes": description.queue_sizes,
        "config": description.config.hex(),
        "writable": description.writable.hex(),
        "kept_size": description.kept_size,
    }


def description_from_json(fields: dict[str, Any]) -> DeviceDescription:
    """Return the description that `description_to_json` described."""
    content = {name: bytes.fromhex(fields[name]) for name in ("config", "writable")}
    return DeviceDescription(**{**fields, **content})


def pack_sources(sources: dict[str, bytes]) -> bytes:
    """Return the sources of a device, by path, as the content of a file: they may be longer than a message.

    >>> unpack_sources(pack_sources({"d.py": b"x = 1"}))
    {'d.py': b'x = 1'}
    """
    return json.dumps({path: content.decode("latin-1") for path, content in sources.items()}).encode()


def unpack_sources(data: bytes) -> dict[str, bytes]:
    """Return the sources that `pack_sources` packed."""
    found: dict[str, str] = json.loads(data)
    return {path: content.encode("latin-1") for path, content in found.items()}
