"""The messages of vhost-user as they pass by: their names, and events made of them.

A recorder meets messages that pyvirtio's own back-end does not know; names and numbers are those of QEMU's "Vhost-user
Protocol" (docs/interop/vhost-user.rst).
"""

from __future__ import annotations

from pyvirtio.trace.events import Event
from pyvirtio.vhost_user import messages as m

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FRONT_END = {request.value: request.name for request in m.Request} | {
    6: "SET_LOG_BASE",
    7: "SET_LOG_FD",
    19: "SEND_RARP",
    20: "NET_SET_MTU",
    22: "IOTLB_MSG",
    23: "SET_VRING_ENDIAN",
    26: "CREATE_CRYPTO_SESSION",
    27: "CLOSE_CRYPTO_SESSION",
    28: "POSTCOPY_ADVISE",
    29: "POSTCOPY_LISTEN",
    30: "POSTCOPY_END",
    33: "GPU_SET_SOCKET",
    35: "VRING_KICK",
    41: "GET_SHARED_OBJECT",
    42: "SET_DEVICE_STATE_FD",
    43: "CHECK_DEVICE_STATE",
}
"""What a front-end may ask, by number."""

BACK_END = {
    1: "IOTLB_MSG",
    m.CONFIG_CHANGE_MSG: "CONFIG_CHANGE_MSG",
    3: "VRING_HOST_NOTIFIER_MSG",
    4: "VRING_CALL",
    5: "VRING_ERR",
    6: "SHARED_OBJECT_ADD",
    7: "SHARED_OBJECT_REMOVE",
    8: "SHARED_OBJECT_LOOKUP",
}
"""What a back-end may say on its own channel, by number."""

MOST_PAYLOAD = 1 << 16
"""The bytes of the longest payload that is followed: more than any message of the protocol has."""


def message(at: int, by: str, request: int, flags: int, payload: bytes, fds: int, *, channel: bool = False) -> Event:
    """Return the event that a message passed."""
    names = BACK_END if channel else FRONT_END
    fields: dict[str, Any] = {
        "request": request,
        "name": names.get(request, f"message {request}"),
        "flags": flags,
        "payload": payload.hex(),
        "fds": fds,
    }
    if channel:
        fields["channel"] = True
    return Event(at, by, "message", **fields)


class Split:
    """Cuts a stream into messages, whatever they say; a stream that makes no sense is heard no further."""

    def __init__(self, by: str, *, channel: bool = False) -> None:
        self._by = by
        self._channel = channel
        self._buffer = bytearray()
        self._fds = 0
        self._deaf = False

    def take(self, at: int, data: bytes, fds: int) -> list[Event]:
        """Take what came, with so many descriptors; return the messages that became whole."""
        if self._deaf:
            return []
        self._buffer += data
        self._fds += fds
        events: list[Event] = []
        while len(self._buffer) >= m.Header.nbytes:
            header = m.Header.unpack(self._buffer[: m.Header.nbytes])
            if header.size > MOST_PAYLOAD:
                self._deaf = True
                self._buffer.clear()
                said = f"message {header.request} announces {header.size} bytes; nothing behind it is recorded"
                return [*events, Event(at, self._by, "damaged", error=said)]
            whole = m.Header.nbytes + header.size
            if len(self._buffer) < whole:
                break
            payload = bytes(self._buffer[m.Header.nbytes : whole])
            del self._buffer[:whole]
            events.append(
                message(at, self._by, header.request, header.flags, payload, self._fds, channel=self._channel)
            )
            self._fds = 0
        return events


class Conversation:
    """What both ends of a connection say."""

    def __init__(self) -> None:
        self._front_end = Split("front-end")
        self._back_end = Split("back-end")
        self._channel = Split("back-end", channel=True)

    def front_end(self, at: int, data: bytes, fds: int) -> list[Event]:
        """Return the events of what the front-end sent."""
        return self._front_end.take(at, data, fds)

    def back_end(self, at: int, data: bytes, fds: int, channel: bool) -> list[Event]:
        """Return the events of what the back-end sent, on its own ``channel`` or on the connection."""
        return (self._channel if channel else self._back_end).take(at, data, fds)
