"""The driver of network cards."""

from __future__ import annotations

from pyvirtio.devices.net import Config, Header, LinkStatus, NetFeature
from pyvirtio.devices.net_commands import (
    ANNOUNCE_ACK,
    LARGEST_COMMAND,
    MAC_ADDR_SET,
    MAC_TABLE_SET,
    MQ_VQ_PAIRS_SET,
    OK,
    Ack,
    ControlClass,
    ControlHeader,
    PairsSet,
    RxCommand,
)
from pyvirtio.driver import Driver, RequestQueue
from pyvirtio.errors import DeviceError, LocalError
from pyvirtio.network.ethernet import MacTable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pyvirtio.driver.bound_queue import BoundQueue

F = NetFeature
LARGEST_FRAME = 1514
"""The bytes of a frame where nothing else was negotiated (VIRTIO 1.4, 5.1.9.3)."""


class NetDriver(Driver):
    """Sends and receives Ethernet frames, and commands a network card.

    It uses one pair of queues, or all that the card has once it accepted MQ and `set_pairs` was called.
    """

    device_id = 1
    device_name = "net"
    features = (
        F.MTU | F.MAC | F.MRG_RXBUF | F.STATUS | F.CTRL_VQ | F.CTRL_RX | F.CTRL_RX_EXTRA | F.GUEST_ANNOUNCE
        | F.CTRL_MAC_ADDR
    )  # fmt: skip
    config = Config
    receive = RequestQueue(size=64)
    transmit = RequestQueue(size=64)
    control = RequestQueue(ControlHeader, Ack, size=4)

    def each_queue(self) -> Sequence[RequestQueue]:
        """Return the pairs of queues, and the control queue where there is one (5.1.2)."""
        pairs = self.card.max_virtqueue_pairs if self.negotiated & F.MQ else 1
        control = [NetDriver.control] if self.negotiated & F.CTRL_VQ else []
        return [NetDriver.receive, NetDriver.transmit] * pairs + control

    # What the card is.

    @property
    def card(self) -> Config:
        """The configuration space, as it is now; a field means something if its feature was accepted."""
        config = self.read_config()
        assert isinstance(config, Config)
        return config

    @property
    def link_up(self) -> bool:
        """Whether the link is up; without STATUS it always is (5.1.4.2)."""
        return not self.negotiated & F.STATUS or bool(self.card.status & LinkStatus.LINK_UP)

    # Frames.

    def send(self, frame: bytes, *, header: Header | None = None, pair: int = 0) -> None:
        """Send a frame; it is the card's when this returns, and may still be lost as on any network.

        ``header`` may leave something to the card that was negotiated.
        """
        queue = self._queue(NetDriver.transmit, pair)
        queue.reap()
        queue.submit((header or Header()).pack(), frame, room=0)

    def frames(self, *, pair: int = 0, timeout: float | None = None, largest: int = LARGEST_FRAME) -> Iterator[bytes]:
        """Return an iterator over frames as they come; see `packets`."""
        return (frame for _header, frame in self.packets(pair=pair, timeout=timeout, largest=largest))

    def packets(
        self, *, pair: int = 0, timeout: float | None = None, largest: int = LARGEST_FRAME
    ) -> Iterator[tuple[Header, bytes]]:
        """Return an iterator over frames as they come, with their headers.

        From the call on the card has buffers, each for ``largest`` bytes of a frame; before, it loses what comes. With
        MRG_RXBUF a frame may lie in several of them. Each wait takes at most ``timeout`` seconds.

        Raises:
            NoAnswer: in the iterator: no frame has come in time.
            DeviceError: there, too: the card broke a rule, or is gone.
        """
        pieces = self._queue(NetDriver.receive, pair).incoming(room=Header.nbytes + largest, timeout=timeout)
        return self._packets(iter(pieces))

    def _packets(self, pieces: Iterator[bytes]) -> Iterator[tuple[Header, bytes]]:
        for first in pieces:
            if len(first) < Header.nbytes:
                raise DeviceError(f"the card sent {len(first)} bytes; the header alone takes {Header.nbytes}")
            header = Header.unpack(first)
            number = header.num_buffers if self.negotiated & F.MRG_RXBUF else 1
            if not number:
                raise DeviceError("the card sent a packet in no buffers", section="5.1.9.4.2")
            yield header, first[Header.nbytes :] + b"".join(next(pieces) for _ in range(number - 1))

    def _queue(self, declared: RequestQueue, pair: int) -> BoundQueue:
        queues = self.all_of(declared)
        if not 0 <= pair < len(queues):
            raise LocalError(f"there is no pair {pair} of queues; serve a card with more pairs, and want MQ")
        return queues[pair]

    # Commands.

    def command(self, class_: int, command: int, data: bytes = b"") -> bool:
        """Have the card carry a command out; return whether it did (5.1.9.5).

        Raises:
            LocalError: the card has no control queue, or the command is too long.
        """
        if not self.all_of(NetDriver.control):
            raise LocalError("the card takes no commands, for CTRL_VQ was not negotiated; serve one that offers it")
        if len(data) > LARGEST_COMMAND:
            raise LocalError(f"a command of {len(data)} bytes; send {LARGEST_COMMAND} at most")
        return bool(self.control.call(ControlHeader(class_, command), data).ack == OK)

    def set_mac(self, address: bytes) -> bool:
        """Give the card another address."""
        return self.command(ControlClass.MAC, MAC_ADDR_SET, address)

    def set_receive_mode(self, mode: RxCommand, *, on: bool) -> bool:
        """Let more or less through than the addresses say."""
        return self.command(ControlClass.RX, mode, bytes([on]))

    def set_addresses(self, unicast: Sequence[bytes] = (), multicast: Sequence[bytes] = ()) -> bool:
        """Say which addresses to let through beside the card's own."""
        return self.command(ControlClass.MAC, MAC_TABLE_SET, _table(unicast) + _table(multicast))

    def set_pairs(self, number: int) -> bool:
        """Say how many pairs of queues the card may use."""
        return self.command(ControlClass.MQ, MQ_VQ_PAIRS_SET, PairsSet(number).pack())

    def acknowledge_announcement(self) -> bool:
        """Say that the network was told where we are."""
        return self.command(ControlClass.ANNOUNCE, ANNOUNCE_ACK)


def _table(addresses: Iterable[bytes]) -> bytes:
    listed = list(addresses)
    return MacTable(len(listed)).pack() + b"".join(listed)
