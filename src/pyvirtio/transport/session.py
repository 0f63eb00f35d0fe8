"""One connection's protocol, without I/O: what a server carries bytes for."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Protocol

    class Session(Protocol):
        """One connection's protocol, without I/O: bytes and descriptors in, bytes and descriptors out.

        It tells its host to report to it, by setting the host's ``events``.

        A session may have to wait for its host before it can go on. Then ``wanted`` is 0, and it takes no more input
        until the host's `Completion` is done; replies are never given out of order.
        """

        wake: Callable[[], object]
        """Set by whoever owns the connection: called when something is to be sent that no input asked for."""

        @property
        def wanted(self) -> int:
            """The most bytes to read before the next call of `receive`; 0 while the session waits for its host."""
            ...

        def receive(self, data: bytes, fds: Iterable[int]) -> None:
            """Take what came from the connection; the descriptors become the session's.

            Raises:
                ProtocolError: nothing further can be understood; close the connection.
            """
            ...

        def outgoing(self) -> list[Outgoing]:
            """Return what is to be sent, in order, and forget it.

            Raises:
                ProtocolError: close the connection: what waited for the host cannot be answered.
            """
            ...

        def close(self) -> None:
            """Stop every queue and give back every descriptor: the connection is over."""
            ...


class Outgoing:
    """Bytes that a session wants to be sent, with descriptors that are closed once they are.

    ``socket`` is the descriptor of the socket to send on: None is the connection itself. Where ``lossy``, a message
    that the peer leaves no room for is dropped: what it says will be said again or was said before.
    """

    __slots__ = ("data", "fds", "lossy", "socket")

    def __init__(self, data: bytes, fds: Sequence[int] = (), *, socket: int | None = None, lossy: bool = False) -> None:
        self.data = data
        self.fds = list(fds)
        self.socket = socket
        self.lossy = lossy
