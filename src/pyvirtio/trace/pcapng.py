"""A recording as a pcapng file, for Wireshark: messages, ring events, and the packets of network and bus devices.

There are three interfaces. USER0 has the messages of vhost-user and USER1 the events of rings; pyvirtio.lua, which is
beside this file, lets Wireshark read them. The third one, where the device is of a kind that has packets, has its own
link type, which Wireshark knows.

A packet of USER0 is `MESSAGE`, then the message as it was on the socket. One of USER1 is `RING`, then its descriptors,
each as `DESCRIPTOR`, then data.
"""

from __future__ import annotations

import struct

from pyvirtio.trace.links import LINKS, USER0, USER1
from pyvirtio.trace.requests import steps
from pyvirtio.vhost_user.framing import encode
from pyvirtio.vhost_user.messages import F_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvirtio.trace.events import Event, Recording

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_BYTE_ORDER = 0x1A2B3C4D
_NAME, _RESOLUTION, _FLAGS = 2, 9, 2
_NANOSECONDS = 9
_INBOUND, _OUTBOUND = 1, 2  # as the driver sees it

MESSAGE = struct.Struct("<BBBB")
"""Version 1; by whom, as in `SIDES`; 1 on the back-end's own channel; how many descriptors came along."""

RING = struct.Struct("<BBHHHIHH")
"""Version 1; what, as in `CODES`; by whom; queue; head (65535: none); a number; how many descriptors; 0.

The number is the index, or the bytes written.
"""

DESCRIPTOR = struct.Struct("<HQIHH")
"""Its index, and as it is in memory: address, length, flags, next."""

SIDES = {"front-end": 0, "driver": 0, "back-end": 1, "device": 1, "recorder": 2}
CODES = {
    "queue": 1,
    "descriptors": 2,
    "available": 3,
    "kick": 4,
    "pop": 5,
    "used": 6,
    "used_index": 7,
    "interrupt": 8,
    "reap": 9,
    "suppression": 10,
    "stopped": 11,
    "error": 12,
    "damaged": 13,
    "missed": 14,
}
"""The events of a ring, by number."""

_MOST_DESCRIPTORS = 256
_MOST_BYTES = 128 << 10
"""The bytes of the largest packet, which is cut there; Wireshark refuses a file with one of more than 256 KiB."""


def pcapng(recording: Recording) -> Iterator[bytes]:
    """Yield the blocks of a pcapng file."""
    device = recording.device_id()
    yield _block(_SECTION, struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1))
    yield _interface(USER0, "messages")
    yield _interface(USER1, "rings")
    if device in LINKS:
        link, name, _ = LINKS[device]
        yield _interface(link, name)
    packets = _packets(recording, device)
    for event in recording.events:
        time = recording.wall(event)
        way = _INBOUND if SIDES.get(event.by) == 1 else _OUTBOUND
        if event.what == "message":
            yield _packet(0, time, _message(event), way)
        elif event.what in CODES:
            yield _packet(1, time, _ring(event), way)
        for packet, direction in packets.get(id(event), ()):
            yield _packet(2, time, packet, direction)


def _packets(recording: Recording, device: int) -> dict[int, list[tuple[bytes, int]]]:
    """Return the packets of a device, by the identity of the event at which the recording has them."""
    if device not in LINKS:
        return {}
    find = LINKS[device][2]
    features, at = 0, 0
    found: dict[int, list[tuple[bytes, int]]] = {}

    def seen() -> Iterator[Event]:
        nonlocal features, at
        for event in recording.events:
            if event.what in ("queue", "resumed"):
                features = event["features"]
            at = id(event)
            yield event

    for kind, request in steps(seen()):
        # What the driver sends is there when it is available; what it receives, and a read, when it is used.
        is_sent = bool(request.parts) and not request.room
        if is_sent == (kind == "ask") and (packet := find(request, features)):
            found.setdefault(at, []).append((packet, _OUTBOUND if request.parts else _INBOUND))
    return found


def _message(event: Event) -> bytes:
    payload = bytes.fromhex(event["payload"])
    head = MESSAGE.pack(1, SIDES.get(event.by, 2), bool(event.get("channel")), min(255, max(0, event["fds"])))
    request, flags = event["request"] & 0xFFFF_FFFF, event.get("flags", 0) & 0xFFFF_FFFF
    return head + encode(request, payload, flags & ~F_VERSION)


def _ring(event: Event) -> bytes:
    chain = event.get("chain", [])[:_MOST_DESCRIPTORS]
    number = event.get("index", event.get("written", event.get("position", event.get("count", 0))))
    head = event.get("head", 0xFFFF)
    queue = max(0, event.queue) & 0xFFFF
    packed = [
        DESCRIPTOR.pack(index & 0xFFFF, address, length & 0xFFFF_FFFF, flags & 0xFFFF, following & 0xFFFF)
        for index, address, length, flags, following in chain
    ]
    data = event.get("error", "").encode() if event.what == "damaged" else bytes.fromhex(event.get("data", ""))
    by, code = SIDES.get(event.by, 2), CODES[event.what]
    return RING.pack(1, code, by, queue, head & 0xFFFF, number & 0xFFFF_FFFF, len(chain), 0) + b"".join(packed) + data


def _interface(link: int, name: str) -> bytes:
    options = _option(_NAME, name.encode()) + _option(_RESOLUTION, bytes([_NANOSECONDS])) + _option(0, b"")
    return _block(_INTERFACE, struct.pack("<HHI", link, 0, 0) + options)


def _packet(interface: int, time: int, data: bytes, way: int) -> bytes:
    kept = data[:_MOST_BYTES]
    head = struct.pack("<IIIII", interface, time >> 32 & 0xFFFF_FFFF, time & 0xFFFF_FFFF, len(kept), len(data))
    return _block(_PACKET, head + _padded(kept) + _option(_FLAGS, struct.pack("<I", way)) + _option(0, b""))


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
