"""The back-end's end of vhost-user: what a front-end says, turned into calls of a `DeviceHost`.

A message that is wrong is refused and changes nothing: with REPLY_ACK the front-end gets a NACK, otherwise the log
says so. Only a question that has no answer, and a stream that cannot be understood, end the connection.

Messages are handled one after the other. Where one has to wait for the host, those behind it wait, too, so that the
front-end may rely on what was acknowledged, and replies are in order.
"""

from __future__ import annotations

from pyvirtio.errors import ProtocolError
from pyvirtio.transport import Completion, Outgoing
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.config import BackendChannel, ConfigMessages
from pyvirtio.vhost_user.control import ControlMessages
from pyvirtio.vhost_user.framing import Frame, Framer, close_all, encode
from pyvirtio.vhost_user.guest_memory import MemoryMessages
from pyvirtio.vhost_user.handlers import REFUSALS, Answer, steps_of
from pyvirtio.vhost_user.inflight import InflightMessages
from pyvirtio.vhost_user.negotiation import Negotiation
from pyvirtio.vhost_user.ring_messages import RingMessages
from pyvirtio.vhost_user.rings import Rings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from pyvirtio.transport import DeviceHost, HostEvents
    from pyvirtio.vhost_user.handlers import Handlers, Steps


class BackendSession:
    """One connection: the `transport.Session` of vhost-user, which is told of the host's events as well.

    ``host`` runs the device; ``refused`` gets the reason for each message that was refused.
    """

    events: HostEvents

    def __init__(self, host: DeviceHost, refused: Callable[[str], None]) -> None:
        self.events = host.events = self
        self.wake: Callable[[], object] = lambda: None
        self._host = host
        self._refused = refused
        self._framer = Framer(m.MAXIMUM_PAYLOAD)
        self._frames: list[Frame] = []
        self._outgoing: list[Outgoing] = []
        self._waiting: Steps[None] | None = None
        self._failure: ProtocolError | None = None
        self._negotiation = Negotiation(host.description.features, has_config=bool(host.description.config))
        self._rings = Rings(host, self._negotiation)
        self._memory = MemoryMessages(host, self._rings, refused)
        self._channel = BackendChannel()
        self._handlers: Handlers = {
            **ControlMessages(host, self._negotiation, self._rings).handlers(),
            **self._memory.handlers(),
            **RingMessages(host, self._negotiation, self._rings).handlers(),
            **InflightMessages(self._rings).handlers(),
            **ConfigMessages(host).handlers(),
            **self._channel.handlers(),
        }

    # What the transport's server asks.

    @property
    def wanted(self) -> int:
        """The most bytes to read before the next call of `receive`; 0 while a message waits for the host."""
        return 0 if self._waiting else self._framer.wanted

    def receive(self, data: bytes, fds: Iterable[int] = ()) -> None:
        """Take what came from the connection; the descriptors become the session's.

        Raises:
            ProtocolError: close the connection.
        """
        self._frames += self._framer.feed(data, fds)
        self._handle_frames()
        if self._failure:
            raise self._failure

    def outgoing(self) -> list[Outgoing]:
        """Return what is to be sent, in order, and forget it.

        Raises:
            ProtocolError: close the connection: a message that had to wait for the host cannot be answered.
        """
        if self._failure:
            raise self._failure
        messages, self._outgoing = self._outgoing, []
        if not self._rings.suspended:
            messages += self._channel.outgoing()
        return messages

    def close(self) -> None:
        """Stop every queue and close every descriptor: the connection is over.

        What the host still needs is closed as soon as it does not, which may be later than this call.
        """
        if self._host.events is self:
            self._host.events = None
        if self._waiting:
            self._waiting.close()
            self._waiting = None
        self._framer.close()
        for frame in self._frames:
            frame.close_fds()
        for unsent in self._outgoing:
            close_all(unsent.fds)
        self._frames, self._outgoing = [], []
        self._channel.close()
        Completion.all([self._rings.abandon(), self._memory.abandon()]).then(self._let_go)

    def _let_go(self, _: None) -> None:
        """Have the host forget the memory before its descriptors close, unless a next session gave it other memory."""
        if self._host.events is None:
            self._host.set_memory([]).then(self._release)
        else:
            self._release(None)

    def _release(self, _: None) -> None:
        self._rings.close()
        self._memory.close()

    # What the host reports.

    def config_changed(self) -> None:
        """Report a changed configuration space to the front-end, if a ring is started, or as soon as one is."""
        if self._negotiation.protocol & m.Protocol.CONFIG:
            self._channel.config_changed()
            self.wake()

    def queue_broken(self, index: int) -> None:
        """Signal the queue's err fd."""
        self._rings.mark_broken(index)

    # One message after the other.

    def _handle_frames(self) -> None:
        while self._frames and not self._waiting and not self._failure:
            self._go_on(self._steps(self._frames.pop(0)), None)

    def _go_on(self, steps: Steps[None], result: Any) -> None:
        """Handle a message up to its end, or to where it has to wait for the host."""
        self._waiting = steps
        try:
            while True:
                completion = steps.send(result)
                if not completion.done:
                    completion.then(lambda result: self._resume(steps, result))
                    return
                result = completion.result
        except StopIteration:
            pass
        except ProtocolError as error:
            self._failure = error
        self._waiting = None

    def _resume(self, steps: Steps[None], result: Any) -> None:
        if self._waiting is steps:  # else the connection is closed
            self._go_on(steps, result)
            self._handle_frames()
            self.wake()

    def _steps(self, frame: Frame) -> Steps[None]:
        message = m.TABLE.get(frame.request)  # type: ignore[call-overload]  # an IntEnum is found by its number
        acknowledge = self._asks_for_acknowledgement(frame)
        try:
            if message is None:
                raise ProtocolError(f"the message {frame.request} is not known here")
            self._check(message, frame)
            answer = yield from steps_of(self._handlers[message.request](frame))
        except REFUSALS as error:
            self._refuse(message, frame, error, acknowledge=acknowledge)
        else:
            if answer:
                self._reply(frame.request, answer)
            elif acknowledge:
                self._reply(frame.request, Answer(m.Number(0)))
        finally:
            frame.close_fds()

    def _asks_for_acknowledgement(self, frame: Frame) -> bool:
        """Return whether the front-end waits for an acknowledgement, were it that of choosing REPLY_ACK itself."""
        protocol = int(self._negotiation.protocol)
        if frame.request == m.Request.SET_PROTOCOL_FEATURES and len(frame.payload) == m.Number.nbytes:
            protocol |= m.Number.unpack(frame.payload).value
        return frame.needs_reply and bool(protocol & m.Protocol.REPLY_ACK)

    def _check(self, message: m.Message, frame: Frame) -> None:
        fewest, most = message.sizes
        if not fewest <= len(frame.payload) <= most:
            raise ProtocolError(f"{len(frame.payload)} bytes of payload; {fewest} to {most} are right")
        fewest, most = message.fds
        if not fewest <= len(frame.fds) <= most:
            raise ProtocolError(f"{len(frame.fds)} file descriptors came; {fewest} to {most} are right")
        negotiation = self._negotiation
        if message.needs & ~(negotiation.offered_protocol if message.offered_is_enough else negotiation.protocol):
            raise ProtocolError(f"the protocol feature {message.needs.name} was not negotiated")

    def _reply(self, request: int, answer: Answer) -> None:
        self._outgoing.append(Outgoing(encode(request, answer.payload, m.F_REPLY), answer.fds))

    def _refuse(self, message: m.Message | None, frame: Frame, error: Exception, *, acknowledge: bool) -> None:
        """Say no in the way that there is for a message: a reply of its own, a NACK, or in the log only."""
        name = message.request.name if message else str(frame.request)
        if message and message.reply and message.refusal is None:
            raise ProtocolError(f"{name} cannot be answered: {error}") from error
        self._refused(f"{name} is refused: {error}")
        if message and message.refusal is not None:
            self._reply(frame.request, Answer(message.refusal_of(len(frame.payload))))
        elif acknowledge:
            self._reply(frame.request, Answer(m.Number(1)))
