"""The driver of a disk, whoever serves it."""

from __future__ import annotations

from collections import deque
from itertools import cycle

from pyvirtio.devices.block import (
    BLK_SIZE,
    DISCARD,
    DISCARDED,
    FLUSH,
    GET_ID,
    ID_LENGTH,
    IN,
    MQ,
    OUT,
    RO,
    SECTOR,
    SEG_MAX,
    SYNC,
    UNMAP,
    WRITE_ZEROES,
    ZEROED,
    Config,
    Header,
    Range,
    Status,
)
from pyvirtio.driver import Driver, RequestQueue
from pyvirtio.errors import DeviceError, LocalError, NegotiationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from pyvirtio.driver import Ticket
    from pyvirtio.transport import DriverTransport

PIECE = 128 << 10
"""The most bytes that one request of `BlockDriver.pieces` and `BlockDriver.write_pieces` moves."""

WINDOW = 16
"""How many of those are on their way at once."""

ABILITIES = {"flush": FLUSH, "discard": DISCARD, "write zeroes": WRITE_ZEROES}
STATUSES = {1: "an I/O error (VIRTIO_BLK_S_IOERR)", 2: "that it does not know the request (VIRTIO_BLK_S_UNSUPP)"}


class BlockDriver(Driver):
    """Reads and writes a disk; offsets and lengths are in bytes and cover whole sectors of 512.

    Requests go to its queues in turn, at most ``queues`` of them. The methods whose names begin with ``submit`` return
    a `Ticket`, which can be awaited; `check` says whether its request succeeded.

    >>> from pyvirtio.connect import open_driver
    >>> from pyvirtio.devices.block import Block
    >>> with open_driver(BlockDriver, Block(bytearray(1024))) as disk:
    ...     disk.write(512, b"hello".ljust(512))
    ...     disk.read(512, 512)[:5], disk.size
    (b'hello', 1024)

    Raises:
        LocalError: ``queues`` is not above 0.
    """

    device_id = 2
    device_name = "block"
    features = SEG_MAX | RO | BLK_SIZE | FLUSH | MQ | DISCARD | WRITE_ZEROES
    config = Config
    requests = RequestQueue(Header, tail=Status, size=256)

    def __init__(self, transport: DriverTransport, *, queues: int = 1, **options: Any) -> None:
        if queues < 1:
            transport.close()
            raise LocalError(f"{queues} queues cannot drive a disk; give 1 or more")
        self._wanted = queues
        super().__init__(transport, **options)
        self._turns = cycle(self.all_of(BlockDriver.requests))

    def each_queue(self) -> Sequence[RequestQueue]:
        """Return a queue for each that is wanted, as far as the device has them (5.2.2)."""
        number = self.most_queues if self._wanted > 1 else 1
        if not number:
            raise NegotiationError(
                "the device offers VIRTIO_BLK_F_MQ and says that it has no queue; correct the device", section="5.2.4"
            )
        return [BlockDriver.requests] * min(self._wanted, number)

    # What it is.

    @property
    def size(self) -> int:
        """The disk's size in bytes; it may change."""
        return SECTOR * int(self._layout("capacity").capacity)

    @property
    def block_size(self) -> int:
        """The bytes that the disk reads and writes at once; smaller pieces may be slow."""
        return int(self._layout("blk_size").blk_size) if self.negotiated & BLK_SIZE else SECTOR

    @property
    def most_queues(self) -> int:
        """How many queues the disk has."""
        return int(self._layout("num_queues").num_queues) if self.negotiated & MQ else 1

    @property
    def abilities(self) -> list[str]:
        """What the disk can do beside reading and writing: ``flush``, ``discard``, ``write zeroes``."""
        return [name for name, feature in ABILITIES.items() if self.negotiated & feature]

    @property
    def is_readonly(self) -> bool:
        """Whether the disk refuses to be written."""
        return bool(self.negotiated & RO)

    def identify(self) -> str:
        """Return the text by which a guest tells disks apart.

        Raises:
            DeviceError: the device does not say, or broke a rule.
        """
        answer = self.submit(Header(GET_ID), room=ID_LENGTH)
        return self.check(answer).rstrip(b"\0").decode("ascii", "replace")

    def _layout(self, upto: str) -> Config:
        layout = self.read_config(upto)
        assert isinstance(layout, Config)
        return layout

    # Its content.

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset`` on.

        Raises:
            LocalError: they are not whole sectors.
            DeviceError: the device cannot read them; its log says why.
        """
        return self.check(self.submit_read(offset, length))

    def write(self, offset: int, data: bytes) -> None:
        """Write ``data`` at ``offset``; raises as `read` does. Only `flush` makes it last."""
        self.check(self.submit_write(offset, data))

    def pieces(self, offset: int, length: int) -> Iterator[bytes]:
        """Yield ``length`` bytes from ``offset`` on, piece by piece; neither has to be whole sectors.

        Raises:
            LocalError: the disk has fewer bytes.
            DeviceError: the device cannot read them; its log says why.
        """
        self._need_space(offset, length)
        at, end = offset - offset % SECTOR, offset + length
        tickets: deque[tuple[int, Ticket]] = deque()
        while tickets or at < end:
            while at < end and len(tickets) < WINDOW:
                size = min(PIECE, end - at + -end % SECTOR)
                tickets.append((at, self.submit_read(at, size)))
                at += size
            start, ticket = tickets.popleft()
            yield self.check(ticket)[max(0, offset - start) : end - start]

    def write_pieces(self, offset: int, pieces: Iterable[bytes]) -> int:
        """Write what comes, from ``offset`` on, and return how many bytes that were; raises as `pieces` does.

        Neither ``offset`` nor the lengths have to be whole sectors: what is beside is read and written again, so
        nobody else should write there.
        """
        self._need_space(offset, 0)
        at = offset - offset % SECTOR
        waiting = bytearray(self.read(at, SECTOR)[: offset - at] if at < offset else b"")
        tickets: deque[Ticket] = deque()
        for piece in pieces:
            waiting += piece
            while len(waiting) >= PIECE:
                tickets.append(self._write_piece(at, waiting))
                at += PIECE
            if len(tickets) >= WINDOW:
                self.check(tickets.popleft())
        end = at + len(waiting)
        if rest := end % SECTOR:
            self._need_space(end, SECTOR - rest)
            waiting += self.read(end - rest, SECTOR)[rest:]
        if waiting:
            tickets.append(self._write_piece(at, waiting))
        for ticket in tickets:
            self.check(ticket)
        return end - offset

    def _write_piece(self, offset: int, waiting: bytearray) -> Ticket:
        piece = bytes(waiting[:PIECE])
        del waiting[:PIECE]
        self._need_space(offset, len(piece))
        return self.submit_write(offset, piece)

    def _need_space(self, offset: int, length: int) -> None:
        if offset + length > (size := self.size):
            raise LocalError(
                f"the disk ends after {size} bytes; {length} bytes at {offset} are not in it, so ask for fewer"
            )

    def flush(self) -> None:
        """Return when everything that was written before is on the medium.

        Raises:
            LocalError: the device has no cache that could be flushed.
            DeviceError: it may not be there; the device's log says why.
        """
        self._need("flush")
        self.check(self.submit(Header(SYNC)))

    def discard(self, offset: int, length: int) -> None:
        """Say that nobody needs these bytes any more; raises as `read` does."""
        self._need("discard")
        self._ranges(DISCARDED, offset, length, 0, self._layout("max_discard_sectors").max_discard_sectors)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool = False) -> None:
        """Let these bytes read as zeros, with ``unmap`` perhaps without space on the medium; raises as `read` does."""
        self._need("write zeroes")
        self._ranges(
            ZEROED,
            offset,
            length,
            UNMAP if unmap else 0,
            self._layout("max_write_zeroes_sectors").max_write_zeroes_sectors,
        )

    def submit_read(self, offset: int, length: int) -> Ticket:
        """Ask for ``length`` bytes from ``offset`` on."""
        return self.submit(Header(IN, sector=_sectors(offset, length)), room=length)

    def submit_write(self, offset: int, data: bytes) -> Ticket:
        """Ask to write ``data`` at ``offset``."""
        return self.submit(Header(OUT, sector=_sectors(offset, len(data))), data)

    def submit(self, header: Header, *data: bytes, room: int = 0) -> Ticket:
        """Submit any request on the queue whose turn it is; ``room`` is what the device may write before the status."""
        return next(self._turns).submit(header, *data, room=room + Status.nbytes)

    def check(self, ticket: Ticket) -> bytes:
        """Wait for a request and return the data that came with its answer.

        Raises:
            DeviceError: the device says that it failed.
        """
        answer = ticket.result()
        if code := answer.tail.code:
            raise DeviceError(f"the disk answers with {STATUSES.get(code, f'the status {code}')}; look at its log")
        if len(answer.data) != ticket.room - Status.nbytes:
            raise DeviceError(f"the disk answers {len(answer.data)} bytes, not {ticket.room - Status.nbytes}, and OK")
        data: bytes = answer.data
        return data

    def _need(self, what: str) -> None:
        if what not in self.abilities:
            raise LocalError(
                f"this disk cannot {what}: the device does not offer it; `pyvirtio block SOCKET info` lists what it can"
            )

    def _ranges(self, kind: int, offset: int, length: int, flags: int, most: int) -> None:
        """Submit a range in as many requests as the device's limit (in sectors) needs."""
        sector, number = _sectors(offset, length), length // SECTOR
        if not most:
            raise DeviceError("the device offers to discard or zero 0 sectors at once", section="5.2.4")
        tickets = [
            self.submit(Header(kind), Range(start, min(most, sector + number - start), flags).pack())
            for start in range(sector, sector + number, most)
        ]
        for ticket in tickets:
            self.check(ticket)


def _sectors(offset: int, length: int) -> int:
    if offset % SECTOR or length % SECTOR or offset < 0:
        raise LocalError(f"{length} bytes at {offset} are not whole sectors; give multiples of {SECTOR} bytes")
    return offset // SECTOR
