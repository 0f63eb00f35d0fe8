"""One connection as a state machine: it takes packets and gives packets, and knows neither sockets nor clocks.

A connection is in one of the states of `State`. `TRANSITIONS` says how it leaves each of them, and `ON_PACKET` what an
operation does there; what is not in that table breaks the protocol, and the connection is reset.

**Credit** (VIRTIO 1.4, 5.10.6.3). Each side says in every packet how large its buffer is (``buf_alloc``) and how much
of what came has left it (``fwd_cnt``), so the other side knows how much it may send. Memory is bounded on both sides
whatever the peer does: one that sends more is reset, and what is to be sent waits with whoever wants to send it.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from pyvirtio.vsock.packets import BOTH, MOST_PAYLOAD, Op, Shutdown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.vsock.packets import Header

    Packet = tuple[Op, int, bytes]
    """What a connection has to say: the operation, its flags, its payload."""

BUFFER = 1 << 17
"""The bytes that a connection takes from its peer before somebody reads them."""

MOST_UNSENT = 1 << 16
"""The bytes that may wait in a connection to be sent."""

_MODULUS = 1 << 32  # counters of bytes run freely, in 32 bits


class State(Enum):
    """Where a connection stands."""

    OFFERED = "offered"  # the peer asked for it, and is not answered yet
    REQUESTED = "requested"  # we asked for it
    ESTABLISHED = "established"
    CLOSING = "closing"  # we will neither send nor receive any more, and wait for the peer's RST
    CLOSED = "closed"


TRANSITIONS = {
    State.OFFERED: {State.ESTABLISHED, State.CLOSED},
    State.REQUESTED: {State.ESTABLISHED, State.CLOSED},
    State.ESTABLISHED: {State.CLOSING, State.CLOSED},
    State.CLOSING: {State.CLOSED},
    State.CLOSED: set(),
}
"""The states that may follow each state."""


class Connection:
    """A connection between ``local_port`` here and ``peer_port`` there.

    Attributes:
        state: where it stands.
        changed: called after something changed that its user may wait for; replace it.
        speaks: called when the connection has something to say.
        was_reset: whether it ended by a reset, so that data may be lost, and not as both sides wanted.
        shut: what we will not do any more; peer_shut: what the peer said that it will not do.
        lost: whether bytes that `send` took never reached the peer, as far as is known here.
        unsent: the bytes that wait to be sent; received: those that wait to be read.
    """

    def __init__(self, local_port: int, peer_port: int, state: State, speaks: Callable[[Connection], object]) -> None:
        self.local_port = local_port
        self.peer_port = peer_port
        self.state = state
        self.changed: Callable[[], object] = lambda: None
        self.speaks = speaks
        self.was_reset = self.lost = False
        self.shut = self.peer_shut = Shutdown(0)
        self.unsent = self.received = 0
        self._unsent: deque[memoryview] = deque()
        self._received: deque[memoryview] = deque()
        self._owed = [Op.REQUEST] if state is State.REQUESTED else []
        self._asked = False
        self._sent = 0  # tx_cnt
        self._peer_buffer = self._peer_forwarded = 0
        self._forwarded = self._announced = 0  # fwd_cnt, and as the peer knows it

    def _go(self, state: State) -> None:
        assert state in TRANSITIONS[self.state], (self.state, state)
        self.state = state

    # What its user does.

    def accept(self) -> None:
        """Accept a connection that the peer asked for."""
        if self.state is State.OFFERED:
            self._go(State.ESTABLISHED)
            self._owe(Op.RESPONSE)

    @property
    def may_send(self) -> bool:
        """Whether bytes that are given now can reach the peer."""
        return (
            self.state is State.ESTABLISHED and not self.shut & Shutdown.SEND and not self.peer_shut & Shutdown.RECEIVE
        )

    @property
    def may_receive(self) -> bool:
        """Whether something is there to be read, or may still come."""
        return bool(self.received) or (self.state is State.ESTABLISHED and not self.peer_shut & Shutdown.SEND)

    @property
    def room(self) -> int:
        """How many bytes `send` takes now."""
        return MOST_UNSENT - self.unsent if self.may_send else 0

    def send(self, data: bytes | memoryview) -> int:
        """Take as much of ``data`` as there is `room` for; return how many bytes."""
        taken = memoryview(data)[: self.room]
        if taken:
            self._unsent.append(taken)
            self.unsent += len(taken)
            self.speaks(self)
        return len(taken)

    def read(self, limit: int = MOST_PAYLOAD) -> bytes:
        """Return up to ``limit`` of the bytes that came; the peer may send as many more."""
        pieces = []
        while self._received and limit:
            piece = self._received.popleft()
            if len(piece) > limit:
                self._received.appendleft(piece[limit:])
                piece = piece[:limit]
            limit -= len(piece)
            pieces.append(piece)
        data = bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)
        self.received -= len(data)
        self._forward(len(data))
        self._end_if_drained()
        if self.state is State.CLOSED and not self.received:
            self.speaks(self)
        return data

    def shutdown(self, flags: Shutdown) -> None:
        """Send or receive no more; what waits to be sent is sent before."""
        if self.state is State.ESTABLISHED and flags & ~self.shut:
            self.shut |= flags
            if self.shut == BOTH:
                self._go(State.CLOSING)
                self._drop_received()
            self._owe(Op.SHUTDOWN)
            self._end_if_drained()

    def reset(self) -> None:
        """End the connection at once; what waits in it is lost."""
        self._cut(Op.RST)

    def forget(self) -> None:
        """End the connection without a word: the peer knows of it no more."""
        self._cut()

    def _cut(self, last_word: Op | None = None) -> None:
        if self.state is not State.CLOSED:
            self._end(last_word, was_reset=True)
        elif self.received:
            self._drop_received()
            self.speaks(self)

    # What the peer says.

    def receive(self, header: Header, payload: bytes) -> None:
        """Take a packet of the peer."""
        self.note_credit(header)
        if handle := ON_PACKET[self.state].get(header.op):  # type: ignore[call-overload]  # an unknown one is an int
            handle(self, header, payload)
        else:
            self.reset()
        if self.credit:
            self._asked = False
        if self.unsent:
            self.speaks(self)
        self.changed()

    def note_credit(self, header: Header) -> None:
        """Take note of how much the peer takes, which every packet of a connection says."""
        self._peer_buffer, self._peer_forwarded = header.buf_alloc, header.fwd_cnt

    def _established(self, _header: Header, _payload: bytes) -> None:
        self._go(State.ESTABLISHED)

    def _take(self, header: Header, payload: bytes) -> None:
        """Take data, unless the peer sends more than it may, or less than it says, or said that it would not."""
        if header.len > BUFFER - self.received or header.len != len(payload) or self.peer_shut & Shutdown.SEND:
            self.reset()
        elif self.shut & Shutdown.RECEIVE:
            self._forward(len(payload))  # nobody reads it any more
        elif payload:
            self._received.append(memoryview(payload))
            self.received += len(payload)

    def _note_shutdown(self, header: Header, _payload: bytes) -> None:
        """Take note of a hint, which is permanent; flags that do not exist say nothing."""
        self.peer_shut |= Shutdown(header.flags & BOTH)
        if self.peer_shut & Shutdown.RECEIVE:
            self._drop_unsent()
        self._end_if_drained()

    def _answer_credit(self, _header: Header, _payload: bytes) -> None:
        self._owe(Op.CREDIT_UPDATE)

    def _note(self, _header: Header, _payload: bytes) -> None:
        """Take note of the peer's credit, which every packet tells."""

    def _over(self, _header: Header, _payload: bytes) -> None:
        """End: the peer's RST cuts the connection off, unless one side had said that it was done.

        What came before a peer's SHUTDOWN can still be read: Linux does not wait for our RST for ever.
        """
        was_orderly = self.state is State.CLOSING or self.peer_shut == BOTH
        self._end(was_reset=not was_orderly or bool(self.unsent))

    # What is said to the peer.

    @property
    def credit(self) -> int:
        """How many bytes the peer takes now; a peer that contradicts itself takes none."""
        return max(0, self._peer_buffer - (self._sent - self._peer_forwarded) % _MODULUS)

    @property
    def forwarded(self) -> int:
        """What the next packet says of the bytes that were read."""
        return self._forwarded

    def next_packet(self, most: int) -> Packet | None:
        """Return what is to be said next, with at most ``most`` bytes of payload; None where there is nothing."""
        if self.state is State.CLOSED:
            return None
        packet = self._next_packet(most)
        if packet is not None:
            self._announced = self._forwarded
            if Op.CREDIT_UPDATE in self._owed:  # every packet is one
                self._owed.remove(Op.CREDIT_UPDATE)
        return packet

    def _next_packet(self, most: int) -> Packet | None:
        for op in (Op.REQUEST, Op.RESPONSE):
            if op in self._owed:
                self._owed.remove(op)
                return op, 0, b""
        if self.unsent and (fitting := min(self.credit, most, MOST_PAYLOAD)):
            return Op.RW, 0, self._take_unsent(fitting)
        if self.unsent and not self.credit and not self._asked:
            self._asked = True
            return Op.CREDIT_REQUEST, 0, b""
        if Op.SHUTDOWN in self._owed and not self.unsent:
            self._owed.remove(Op.SHUTDOWN)
            return Op.SHUTDOWN, int(self.shut), b""
        return (Op.CREDIT_UPDATE, 0, b"") if Op.CREDIT_UPDATE in self._owed else None

    def _take_unsent(self, most: int) -> bytes:
        piece = self._unsent.popleft()
        if len(piece) > most:
            self._unsent.appendleft(piece[most:])
            piece = piece[:most]
        self.unsent -= len(piece)
        self._sent = (self._sent + len(piece)) % _MODULUS
        self.changed()
        return bytes(piece)

    def _owe(self, op: Op) -> None:
        if op not in self._owed:
            self._owed.append(op)
        self.speaks(self)

    def _forward(self, number: int) -> None:
        """Count bytes that left the buffer; tell the peer where it may be short of credit."""
        self._forwarded = (self._forwarded + number) % _MODULUS
        if (self._forwarded - self._announced) % _MODULUS >= BUFFER // 4 and self.state is State.ESTABLISHED:
            self._owe(Op.CREDIT_UPDATE)

    # The end.

    def _end_if_drained(self) -> None:
        """Answer the peer's SHUTDOWN of both directions with a RST, once everything before it was read."""
        if self.peer_shut == BOTH and not self.received and self.state in (State.ESTABLISHED, State.CLOSING):
            self._end(Op.RST, was_reset=False)

    def _end(self, last_word: Op | None = None, *, was_reset: bool) -> None:
        self._go(State.CLOSED)
        self.was_reset = was_reset
        self._owed = [last_word] if last_word else []
        if was_reset:
            self._drop_received()
        self._drop_unsent()
        self.speaks(self)
        self.changed()

    def _drop_unsent(self) -> None:
        self.lost |= bool(self.unsent)
        self._unsent.clear()
        self.unsent = 0

    def _drop_received(self) -> None:
        self._received.clear()
        self._forwarded = (self._forwarded + self.received) % _MODULUS
        self.received = 0

    @property
    def owes_reset(self) -> bool:
        """Whether the connection is closed, and the peer is to be told so."""
        return self.state is State.CLOSED and Op.RST in self._owed

    def __repr__(self) -> str:
        return f"Connection(port {self.local_port} to {self.peer_port}, {self.state.value})"


ON_PACKET: dict[State, dict[Op, Callable[[Connection, Header, bytes], None]]] = {
    State.OFFERED: {
        Op.RST: Connection._over,
        Op.CREDIT_UPDATE: Connection._note,
        Op.CREDIT_REQUEST: Connection._note,  # what answers it tells the credit, too
    },
    State.REQUESTED: {
        Op.RESPONSE: Connection._established,
        Op.RST: Connection._over,
        Op.CREDIT_UPDATE: Connection._note,
    },
    State.ESTABLISHED: {
        Op.RST: Connection._over,
        Op.SHUTDOWN: Connection._note_shutdown,
        Op.RW: Connection._take,
        Op.CREDIT_UPDATE: Connection._note,
        Op.CREDIT_REQUEST: Connection._answer_credit,
    },
    State.CLOSING: {  # the peer may not have heard of it yet
        Op.RST: Connection._over,
        Op.SHUTDOWN: Connection._note_shutdown,
        Op.RW: Connection._take,
        Op.CREDIT_UPDATE: Connection._note,
        Op.CREDIT_REQUEST: Connection._answer_credit,
    },
    State.CLOSED: dict.fromkeys(Op, Connection._note),
}
"""What each operation does in each state; one that is not here breaks the protocol and resets the connection."""
