"""All connections of one end: finds the one that a packet belongs to, and takes turns in what is to be said."""

from __future__ import annotations

from collections import deque

from pyvirtio.vsock.connection import BUFFER, Connection, State
from pyvirtio.vsock.packets import FIRST_PORT, LAST_PORT, Header, Op, Type

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyvirtio.vsock.ledger import Ledger

MOST_CONNECTIONS = 2048
"""The most connections of one end. Each may hold `pyvirtio.vsock.connection.BUFFER` bytes that its peer sent."""

MOST_RESETS = 2 * MOST_CONNECTIONS
"""The most RST packets that wait to be sent. Where a peer reads no replies and causes more, the rest is dropped.

It could be held up instead (VIRTIO 1.4, 5.10.6.1), but that would hold up whoever stops the queue, too.
"""


class Endpoint:
    """The end with the address ``cid`` of a device's connections; at the other end is ``peer_cid``.

    ``offered`` is called with each connection that the peer asks for; it, or somebody later, accepts or resets it.
    ``wake`` is called when there is something to say. ``first_port`` is the first that a connection begins from, and
    ``most`` the most connections.

    Attributes:
        connections: those that are not closed, by local port and peer's port.
        ledger: where they are noted for whoever comes after this process; None where nobody does.
    """

    def __init__(
        self,
        cid: int,
        peer_cid: int,
        offered: Callable[[Connection], object],
        wake: Callable[[], object],
        *,
        first_port: int = FIRST_PORT,
        most: int = MOST_CONNECTIONS,
    ) -> None:
        self.cid = cid
        self.peer_cid = peer_cid
        self.connections: dict[tuple[int, int], Connection] = {}
        self._offered = offered
        self._wake = wake
        self.ledger: Ledger | None = None
        self._most = most
        self._unread: set[Connection] = set()
        """Connections that are closed, and hold what somebody has not read."""
        self._resets: deque[Header] = deque()
        self._speaking: dict[Connection, None] = {}  # a set that remembers the order
        self._next_port = first_port

    # Connections.

    @property
    def is_full(self) -> bool:
        """Whether there is no place for another connection."""
        return len(self.connections) + len(self._unread) >= self._most

    def connect(self, peer_port: int) -> Connection | None:
        """Ask the peer for a connection to its port; return None where there is no place for another one."""
        if self.is_full:
            return None
        while (self._next_port, peer_port) in self.connections:
            self._advance()
        connection = self._add(Connection(self._next_port, peer_port, State.REQUESTED, self._speaks))
        self._advance()
        self._speaks(connection)
        return connection

    def _advance(self) -> None:
        self._next_port = self._next_port + 1 if self._next_port < LAST_PORT else FIRST_PORT

    def _add(self, connection: Connection) -> Connection:
        self.connections[connection.local_port, connection.peer_port] = connection
        if self.ledger is not None:
            self.ledger.add((connection.local_port, connection.peer_port))
        return connection

    def forget_all(self) -> None:
        """End every connection without a word: the peer is a new one, or starts anew."""
        for connection in list(self.connections.values()):
            connection.forget()
        self._resets.clear()
        self._speaking.clear()

    def reset_unknown(self, ports: Iterable[tuple[int, int]]) -> None:
        """Reset connections that are not here, each by its local port and the peer's, because their process is gone."""
        for local_port, peer_port in ports:
            if (local_port, peer_port) not in self.connections:
                self._reset(Header(self.cid, self.peer_cid, local_port, peer_port, op=Op.RST))

    # What the peer says.

    def receive(self, header: Header, payload: bytes = b"") -> None:
        """Take a packet; ``payload`` is what came behind the header, which may be less than that says.

        A packet that is not from the peer is dropped: a reply would go to somebody who did not ask (5.10.6.4).
        """
        if header.src_cid != self.peer_cid:
            return
        connection = self.connections.get((header.dst_port, header.src_port))
        if header.dst_cid != self.cid or header.type != Type.STREAM:
            self._refuse(header)
        elif connection is not None:
            connection.receive(header, payload)
        elif header.op == Op.REQUEST and not self.is_full:
            self._offer(header)
        else:
            self._refuse(header)

    def _offer(self, header: Header) -> None:
        connection = self._add(Connection(header.dst_port, header.src_port, State.OFFERED, self._speaks))
        connection.note_credit(header)
        self._offered(connection)

    def _refuse(self, header: Header) -> None:
        """Answer a packet that belongs to nothing with a RST, unless it is one."""
        if header.op != Op.RST:
            self._reset(
                Header(
                    src_cid=header.dst_cid,
                    dst_cid=header.src_cid,
                    src_port=header.dst_port,
                    dst_port=header.src_port,
                    type=int(header.type),
                    op=Op.RST,
                )
            )

    def _reset(self, header: Header) -> None:
        if len(self._resets) < MOST_RESETS:
            self._resets.append(header)
            self._wake()

    # What is said to the peer.

    def _speaks(self, connection: Connection) -> None:
        """Take note that a connection has something to say, or has ended."""
        if connection.state is State.CLOSED:
            self._ended(connection)
        else:
            self._speaking[connection] = None
            self._wake()

    def _ended(self, connection: Connection) -> None:
        self._speaking.pop(connection, None)
        key = connection.local_port, connection.peer_port
        if self.connections.get(key) is connection:
            del self.connections[key]
            if self.ledger is not None:
                self.ledger.discard(key)
            if connection.owes_reset:
                self._reset(self._header(connection, Op.RST))
        if connection.received:
            self._unread.add(connection)
        else:
            self._unread.discard(connection)

    def _header(self, connection: Connection, op: Op, flags: int = 0, length: int = 0) -> Header:
        return Header(
            self.cid,
            self.peer_cid,
            connection.local_port,
            connection.peer_port,
            length,
            Type.STREAM,
            op,
            flags,
            BUFFER,
            connection.forwarded,
        )

    def next_packet(self, room: int) -> bytes:
        """Return the next packet, in at most ``room`` bytes; no bytes where there is nothing to say.

        Connections take turns. ``room`` is at least the header's.
        """
        if self._resets:
            return self._resets.popleft().pack()
        while self._speaking:
            connection = next(iter(self._speaking))
            del self._speaking[connection]
            if (packet := connection.next_packet(room - Header.nbytes)) is not None:
                self._speaking[connection] = None  # at the end of the line
                op, flags, payload = packet
                return self._header(connection, op, flags, len(payload)).pack() + payload
        return b""
