"""The front-end's end of vhost-user, without I/O: questions out, replies checked; the back-end's own messages answered.

Sections named here are those of the vhost-user specification.
"""

from __future__ import annotations

from pyvirtio.errors import DeviceError, ProtocolError
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.framing import Frame, Framer, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyvirtio.spec.struct import Struct

_DONE, _REFUSED = 0, 1
"""What an acknowledgement says ("VHOST_USER_PROTOCOL_F_REPLY_ACK": zero on success or non-zero on failure)."""

_SHARED_OBJECT_LOOKUP = 8
"""The one message of a back-end that has a reply of its own, and so gets one without asking."""


class FrontendSession:
    """One connection's state.

    >>> session = FrontendSession()
    >>> data, waits = session.request(m.Request.GET_FEATURES)
    >>> waits
    True
    """

    def __init__(self) -> None:
        self.protocol = m.Protocol(0)
        """The protocol features that were negotiated."""
        self._framer = Framer(m.MAXIMUM_PAYLOAD, replies=True)

    def request(self, request: m.Request, payload: Struct | bytes = b"") -> tuple[bytes, bool]:
        """Return the bytes of a message, and whether a reply comes back.

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
        """Take what came from the socket; return whole replies.

        Raises:
            ProtocolError: the back-end does not speak vhost-user.
        """
        return self._framer.feed(data, fds)

    def check(self, request: m.Request, frame: Frame) -> bytes:
        """Return the payload of the reply to ``request``.

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


class BackendChannel:
    """The back-end's own messages ("Back-end communication"): bytes and descriptors in, acknowledgements out.

    Of the messages that a back-end may send, pyvirtio negotiates the feature of one, CONFIG_CHANGE_MSG. The others
    are refused, and their descriptors are closed: BACKEND_SEND_FD was not negotiated either.

    >>> channel = BackendChannel()
    >>> channel.receive(encode(m.CONFIG_CHANGE_MSG))
    b''
    >>> channel.config_changes
    1
    >>> channel.receive(encode(m.CONFIG_CHANGE_MSG, flags=m.F_NEED_REPLY)) == encode(2, bytes(8), m.F_REPLY)
    True
    """

    def __init__(self) -> None:
        self.config_changes = 0
        """How often the back-end said that its configuration space changed."""
        self._framer = Framer(m.MAXIMUM_PAYLOAD)

    @property
    def wanted(self) -> int:
        """The most bytes to read before the next call of `receive`."""
        return self._framer.wanted

    def receive(self, data: bytes, fds: Iterable[int] = ()) -> bytes:
        """Take what came; return the bytes to send back, if any. The descriptors become the channel's.

        Raises:
            ProtocolError: this is not a stream of vhost-user messages.
        """
        return b"".join([self._answer(frame) for frame in self._framer.feed(data, fds)])

    def _answer(self, frame: Frame) -> bytes:
        frame.close_fds()
        understood = frame.request == m.CONFIG_CHANGE_MSG and not frame.payload
        self.config_changes += understood
        # Whoever sets NEED_REPLY waits for the reply, whether REPLY_ACK was negotiated or not.
        if not frame.needs_reply and frame.request != _SHARED_OBJECT_LOOKUP:
            return b""
        return encode(frame.request, m.Number(_DONE if understood else _REFUSED).pack(), m.F_REPLY)

    def close(self) -> None:
        """Forget an unfinished message and close its descriptors."""
        self._framer.close()
