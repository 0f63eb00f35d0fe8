"""The front-end's end of vhost-user: messages out, replies checked."""

from __future__ import annotations

from pyvirtio.errors import DeviceError, ProtocolError
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.framing import Frame, Framer, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyvirtio.spec.struct import Struct


class FrontendSession:
    """One connection's state.

    >>> session = FrontendSession()
    >>> data, waits = session.request(m.Request.GET_FEATURES)
    >>> waits
    True
    """

    def __init__(self) -> None:
        self.protocol = m.Protocol(0)
        self._framer = Framer(m.MAXIMUM_PAYLOAD, replies=True)

    def request(self, request: m.Request, payload: Struct | bytes = b"") -> tuple[bytes, bool]:
        """Give the bytes of a message, and whether a reply comes back.

        With REPLY_ACK each message is acknowledged, so that a refusal is noticed where it happens.
        """
        replies = m.TABLE[request].reply is not None
        acknowledged = bool(self.protocol & m.Protocol.REPLY_ACK) and not replies
        data = payload if isinstance(payload, bytes) else payload.pack()
        return encode(request, data, m.F_NEED_REPLY if acknowledged else 0), replies or acknowledged

    @property
    def wanted(self) -> int:
        """The most bytes to read before the next call of `receive`."""
        return self._framer.wanted

    def receive(self, data: bytes, fds: Iterable[int] = ()) -> list[Frame]:
        """Take what came from the socket; give whole replies.

        Raises:
            ProtocolError: the back-end does not speak vhost-user.
        """
        return self._framer.feed(data, fds)

    def check(self, request: m.Request, frame: Frame) -> bytes:
        """Give the payload of the reply to ``request``.

        Raises:
            ProtocolError: it is the reply to something else, or has the wrong size.
            DeviceError: the back-end refuses the request.
        """
        kind = m.TABLE[request].reply
        if frame.request != request:
            raise ProtocolError(f"the back-end answered {request.name} with message {frame.request}")
        if kind is m.ConfigHeader and not frame.payload:
            raise DeviceError("the back-end refuses to read that part of the configuration space")
        if len(frame.payload) < (kind or m.Number).nbytes:
            raise ProtocolError(f"the back-end answered {request.name} with {len(frame.payload)} bytes")
        if kind is None and m.Number.unpack(frame.payload).value:
            raise DeviceError(f"the back-end refused {request.name}; look at its log")
        return frame.payload

    def close(self) -> None:
        """Forget an unfinished reply."""
        self._framer.close()
