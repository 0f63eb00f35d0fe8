"""Unix sockets that carry frames, as QEMU's ``-netdev dgram`` and ``-netdev stream`` do.

A datagram is one frame. `pyvirtio.network.stream` says what is in a stream.
"""

from __future__ import annotations

import contextlib
import os
import socket

from pyvirtio.errors import LocalError, ProtocolError
from pyvirtio.network.descriptor import DescriptorEnd
from pyvirtio.network.inbox import MOST_AT_ONCE
from pyvirtio.network.offload import finished
from pyvirtio.network.packet import LONGEST, PLAIN, SHORTEST, Offload
from pyvirtio.network.stream import Deframer, greeting, in_stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pyvirtio.network.packet import Packet

BUFFER = 1 << 18
RETRY = 0.2
"""The seconds between two attempts to connect."""


class DatagramEnd(DescriptorEnd):
    """Receives datagrams at the path ``local``, and sends them to the path ``remote``.

    Nobody need be at ``remote``, now or later; what is sent meanwhile is lost, as on a cable that is not plugged in.
    """

    def __init__(self, local: Path, remote: Path) -> None:
        super().__init__()
        self._local, self._remote = os.fspath(local), os.fspath(remote)
        self._held = contextlib.ExitStack()
        self._receiver: socket.socket | None = None
        self._sender: socket.socket | None = None

    async def open(self, accepts: Offload) -> None:  # noqa: ARG002  # frames are complete here
        """Bind the socket at ``local``.

        Raises:
            LocalError: that is not possible.
        """
        self._receiver = self._held.enter_context(bound(self._local, socket.SOCK_DGRAM))
        # A second one sends, since only one that is connected can be waited for until the other side has room, and one
        # that is connected receives from nobody else.
        self._sender = self._held.enter_context(_socket(socket.SOCK_DGRAM))
        self._sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self.attach(self._sender.fileno())

    def close(self) -> None:
        """Close the sockets, and remove the path."""
        self.detach()
        self._held.close()
        self._receiver = self._sender = None

    def framed(self, header: bytes, frame: bytes) -> bytes:  # noqa: ARG002  # it is finished
        """Return the frame."""
        return frame

    def write(self, message: bytes) -> int:
        """Send one datagram, and look for the other side where it was not there, or has come back."""
        assert self._sender is not None
        try:
            return self._sender.send(message)
        except (ConnectionRefusedError, ConnectionResetError, OSError) as error:
            if isinstance(error, BlockingIOError):
                raise
        self._sender.connect(self._remote)
        return self._sender.send(message)

    async def receive(self) -> Sequence[Packet]:
        """Wait for datagrams."""
        import asyncio

        assert self._receiver is not None
        packets = [(PLAIN, await asyncio.get_running_loop().sock_recv(self._receiver, LONGEST))]
        with contextlib.suppress(BlockingIOError):
            while len(packets) < MOST_AT_ONCE:
                packets.append((PLAIN, self._receiver.recv(LONGEST)))
        return [packet for packet in packets if len(packet[1]) >= SHORTEST]


class StreamEnd(DescriptorEnd):
    """A connection to the Unix socket ``path``, or with ``listen`` one that is accepted there.

    It is made again when it ends. `carrier` hears of both, so that the guest sees its link go down and up. What the
    other side says that it can do itself is left to it.
    """

    def __init__(self, path: Path | str, *, listen: bool = False) -> None:
        super().__init__()
        self._path = os.fspath(path)
        self._listens = listen
        self._held = contextlib.ExitStack()
        self._listener: socket.socket | None = None
        self._connection: socket.socket | None = None
        self._accepts = Offload.NONE
        self._deframer = Deframer()

    async def open(self, accepts: Offload) -> None:
        """Listen, where that is asked for; the connection is made by `receive`.

        Raises:
            LocalError: it is not possible to listen there.
        """
        self._accepts = accepts
        if self._listens:
            self._listener = self._held.enter_context(listening(self._path))

    def close(self) -> None:
        """Close the connection; where it listens, remove the path."""
        self._disconnect()
        self._held.close()
        self._listener = None

    def send(self, packet: Packet) -> None:
        """Write a packet, or keep it; the frames that it is cut into are written at once."""
        self._put(b"".join([self.framed(header, frame) for header, frame in finished(packet, self.takes)]))

    def framed(self, header: bytes, frame: bytes) -> bytes:
        """Return the packet with its length in front."""
        return in_stream(frame, header)

    def write(self, message: bytes) -> int:
        """Write some of the stream."""
        assert self._connection is not None
        return self._connection.send(message)

    async def receive(self) -> Sequence[Packet]:
        """Wait for frames, and before for a connection."""
        import asyncio

        loop = asyncio.get_running_loop()
        while True:
            if self._connection is None:
                self._use(await self._connected())
            assert self._connection is not None
            try:
                data = await loop.sock_recv(self._connection, BUFFER)
                packets = self._deframer.feed(data)
                self.takes = self._deframer.takes
            except (OSError, ProtocolError):
                data, packets = b"", []
            if packets:
                return packets
            if not data:
                self._disconnect()

    async def _connected(self) -> socket.socket:
        """Return a connection, as soon as there is one."""
        import asyncio

        loop = asyncio.get_running_loop()
        if self._listener is not None:
            return (await loop.sock_accept(self._listener))[0]
        while True:
            connection = _socket(socket.SOCK_STREAM)
            try:
                await loop.sock_connect(connection, self._path)
            except OSError:  # nobody listens there yet; the path may not even exist, so there is nothing to wait for
                connection.close()
                await asyncio.sleep(RETRY)
            except BaseException:
                connection.close()
                raise
            else:
                return connection

    def _use(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            connection.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        self._connection = connection
        self._deframer = Deframer(self._accepts)
        if self._accepts:
            with contextlib.suppress(OSError):  # whoever has hung up is noticed by `receive`
                connection.send(in_stream(greeting(self._accepts)))
        self.attach(connection.fileno())
        self.carrier(True)

    def _disconnect(self) -> None:
        self.detach()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self.takes = Offload.NONE
            self.carrier(False)


def _socket(kind: int) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, kind)
    made.setblocking(False)
    return made


@contextlib.contextmanager
def bound(path: str, kind: int) -> Iterator[socket.socket]:
    """Yield a socket at ``path``, which is removed in the end.

    What an earlier process left there is removed, what is in use is not.

    Raises:
        LocalError: it is in use, or cannot be made.
    """
    with _socket(kind) as made:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, kind) as probe:
            probe.connect(path)
            raise LocalError(f"{path} is in use; give another path, or end what uses it")
        try:
            if _is_socket(path):
                os.unlink(path)
            made.bind(path)
        except OSError as error:
            raise LocalError(f"{path}: {error.strerror}; give the path of a socket to make") from error
        try:
            yield made
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


@contextlib.contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """Yield a socket that takes connections at ``path``; see `bound`."""
    with bound(path, socket.SOCK_STREAM) as listener:
        listener.listen()
        yield listener


def _is_socket(path: str) -> bool:
    import stat

    return os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode)
