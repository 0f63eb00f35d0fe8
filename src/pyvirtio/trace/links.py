"""What of a request is a packet of a network or a bus, in the form in which Wireshark reads that kind of packet.

The numbers are those of the registry of link types for pcap files. A request that is none, such as a command on a
control queue, gives nothing; it is among the ring's events all the same.
"""

from __future__ import annotations

import struct

from pyvirtio.spec.features import Feature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.trace.requests import Request

    Packet = Callable[[Request, int], bytes | None]
    """Returns the packet of a request that was answered under some features; None where it has none."""

ETHERNET, RADIOTAP, I2C_LINUX, CAN_SOCKETCAN, VSOCK = 1, 127, 209, 227, 271
USER0, USER1, USER2 = 147, 148, 149
"""Link types for private use: here messages, ring events, and the bytes of a console."""

_NET_HEADER, _NET_HASH, _NET_HASH_REPORT = 12, 8, 1 << 57
_LEGACY_NET_HEADER, _MERGEABLE = 10, 1 << 15


def _sent_or_received(request: Request) -> bytes | None:
    """Return what the driver sent on a queue for sending, or what came in a buffer that it had provided."""
    if request.parts:
        return request.data if not request.room else None
    return request.answer


def _ethernet(request: Request, features: int) -> bytes | None:
    """Return an Ethernet frame (VIRTIO 1.4, 5.1.9): it is behind a header whose length depends on features."""
    content = _sent_or_received(request)
    long = features & (Feature.VERSION_1 | _MERGEABLE)
    header = _NET_HEADER if long else _LEGACY_NET_HEADER
    header += _NET_HASH if features & _NET_HASH_REPORT else 0
    return content[header:] if content and len(content) > header else None


_VSOCK_HEADER = struct.Struct("<QQIIIHHIII")
_VSOCK_MONITOR = struct.Struct("<QQIIHHH2x")
_VSOCK_OPERATIONS = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 3, 7: 3}
"""What the header for capturing says of each operation (5.10.6): 1 connect, 2 disconnect, 3 control, 4 payload."""


def _vsock(request: Request, _features: int) -> bytes | None:
    """Return a packet of a socket device, behind the header that Linux's vsockmon puts before each."""
    content = _sent_or_received(request) if request.queue < 2 else None
    if not content or len(content) < _VSOCK_HEADER.size:
        return None
    source, target, source_port, target_port, _, _, operation, *_ = _VSOCK_HEADER.unpack_from(content)
    kind = _VSOCK_OPERATIONS.get(operation, 0)
    transport = 2  # the header of virtio follows
    head = _VSOCK_MONITOR.pack(source, target, source_port, target_port, kind, transport, _VSOCK_HEADER.size)
    return head + (content if kind == 4 else content[: _VSOCK_HEADER.size])


_CAN = struct.Struct("<HHBBHII")
_CAN_FD, _CAN_EXTENDED, _CAN_REMOTE = 0x4000, 0x8000, 0x2000


def _can(request: Request, _features: int) -> bytes | None:
    """Return a CAN frame (VIRTIO 1.4, "CAN Device"), in the form of Linux's SocketCAN."""
    content = (request.data or request.answer) if request.queue < 2 else None
    if not content or len(content) < _CAN.size:
        return None
    _, length, _, _, _, flags, number = _CAN.unpack_from(content)
    payload = content[_CAN.size :][: min(length, 64)]
    number |= (1 << 31 if flags & _CAN_EXTENDED else 0) | (1 << 30 if flags & _CAN_REMOTE else 0)
    return struct.pack(">IBBH", number & 0xFFFF_FFFF, len(payload), 4 if flags & _CAN_FD else 0, 0) + payload


_I2C = struct.Struct("<HHI")
_I2C_READ = 2


def _i2c(request: Request, _features: int) -> bytes | None:
    """Return a segment of an I2C transfer (VIRTIO 1.4, "I2C Adapter Device"): bus, flags, address, payload."""
    content = request.data
    if len(content) < _I2C.size:
        return None
    address, _, flags = _I2C.unpack_from(content)
    is_read = bool(flags & _I2C_READ)
    payload = (request.answer or b"")[: max(0, request.room - 1)] if is_read else content[_I2C.size :]
    return struct.pack(">BIB", 0, int(is_read), (address & 0xFE) | is_read) + payload


_NETLINK, _GENERIC = 16, 4
_HWSIM_FRAME, _HWSIM_ATTRIBUTE = 2, 3
_RADIOTAP = struct.pack("<BBHI", 0, 0, 8, 0)


def _wifi(request: Request, _features: int) -> bytes | None:
    """Return an IEEE 802.11 frame of Linux's simulated radio: an attribute of a netlink message."""
    content = request.data or request.answer or b""
    if len(content) < _NETLINK + _GENERIC or content[_NETLINK] != _HWSIM_FRAME:
        return None
    at = _NETLINK + _GENERIC
    while at + 4 <= len(content):
        length, kind = struct.unpack_from("<HH", content, at)
        if length < 4:
            return None
        if kind & 0x3FFF == _HWSIM_ATTRIBUTE:
            return _RADIOTAP + content[at + 4 : at + length]
        at += (length + 3) & ~3
    return None


def _console(request: Request, _features: int) -> bytes | None:
    """Return the bytes of a console; queues 2 and 3 are for control (VIRTIO 1.4, 5.3.2)."""
    return None if request.queue in (2, 3) else _sent_or_received(request)


LINKS: dict[int, tuple[int, str, Packet]] = {
    1: (ETHERNET, "network", _ethernet),
    3: (USER2, "console", _console),
    19: (VSOCK, "vsock", _vsock),
    29: (RADIOTAP, "wlan", _wifi),
    34: (I2C_LINUX, "i2c", _i2c),
    36: (CAN_SOCKETCAN, "can", _can),
}
"""By virtio id: the link type of a device's packets, the name of its interface, and what finds a packet."""
