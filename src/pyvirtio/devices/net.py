"""A network card (VIRTIO 1.4, 5.1); at the other end of its cable is one of `pyvirtio.network`'s ends."""

from __future__ import annotations

import contextlib
from enum import IntFlag
from pathlib import Path  # noqa: TC003  # options are read by their annotations

from pyvirtio.device import Device, OutgoingPort, OutgoingQueue, Queue, Reader, Writer
from pyvirtio.devices import net_commands as commands
from pyvirtio.errors import ChainError, LocalError, PeerError
from pyvirtio.network import End, Mac, Offload
from pyvirtio.network.cable import end_of
from pyvirtio.network.ethernet import LENGTH, ReceiveFilter, flow_of, header_of, is_group, read_tables
from pyvirtio.network.offload import finished
from pyvirtio.network.packet import LONGEST, VnetHeader, checked
from pyvirtio.spec.features import Feature
from pyvirtio.spec.struct import Struct, le16, raw

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.network.packet import Packet

MOST_PAIRS = 127  # vhost-user numbers queues with a byte
RECONSIDER = 0.2  # seconds


class NetFeature(IntFlag):
    """The feature bits that are used here (5.1.3)."""

    CSUM = 1 << 0
    GUEST_CSUM = 1 << 1
    MTU = 1 << 3
    MAC = 1 << 5
    GUEST_TSO4 = 1 << 7
    GUEST_TSO6 = 1 << 8
    HOST_TSO4 = 1 << 11
    HOST_TSO6 = 1 << 12
    MRG_RXBUF = 1 << 15
    STATUS = 1 << 16
    CTRL_VQ = 1 << 17
    CTRL_RX = 1 << 18
    CTRL_RX_EXTRA = 1 << 20
    GUEST_ANNOUNCE = 1 << 21
    MQ = 1 << 22
    CTRL_MAC_ADDR = 1 << 23


F = NetFeature
ALWAYS = (
    F.CSUM | F.HOST_TSO4 | F.HOST_TSO6 | F.GUEST_CSUM | F.GUEST_TSO4 | F.GUEST_TSO6 | F.MRG_RXBUF | F.STATUS
    | F.CTRL_VQ | F.CTRL_RX | F.CTRL_RX_EXTRA | F.CTRL_MAC_ADDR | F.GUEST_ANNOUNCE
)  # fmt: skip
# What a driver leaves to the device, and what it takes from it, by the features that it accepted.
FROM_DRIVER = {F.CSUM: Offload.CSUM, F.HOST_TSO4: Offload.TSO4, F.HOST_TSO6: Offload.TSO6}
TO_DRIVER = {F.GUEST_CSUM: Offload.CSUM, F.GUEST_TSO4: Offload.TSO4, F.GUEST_TSO6: Offload.TSO6}


def offloads(features: int, by_feature: dict[NetFeature, Offload]) -> Offload:
    """Return the offloads that go with ``features``."""
    return Offload(sum(one for feature, one in by_feature.items() if features & feature))


FILTERS = ("promiscuous", "all_multicast", "all_unicast", "no_multicast", "no_unicast", "no_broadcast")  # by RxCommand


class LinkStatus(IntFlag):
    """The status in the configuration space (5.1.4)."""

    LINK_UP = 1
    ANNOUNCE = 2


class Config(Struct):
    """The configuration space (5.1.4), as far as the features that are offered here go."""

    mac: bytes = raw(6)
    status: LinkStatus = le16(LinkStatus.LINK_UP, kind=LinkStatus)
    max_virtqueue_pairs: int = le16(1)
    mtu: int = le16()


class Header(VnetHeader):
    """What precedes each packet (5.1.9); a legacy driver without MRG_RXBUF has it without ``num_buffers``."""

    num_buffers: int = le16()


class Net(Device):
    """A network card.

    What is at the other end of its cable is one of the options ``tap``, ``dgram`` with ``remote``, ``stream`` and
    ``function``, or in Python any `End`, such as a port of a `Switch`.

    Args:
        end: what is at the other end.
        tap: the name of a TAP device.
        dgram: the path of a Unix socket that receives datagrams; ``remote`` is the one that they are sent to.
        stream: the path of a Unix socket to connect to, or with ``listen`` to accept a connection at.
        function: ``file.py:function``, which is called with each frame, and answers with frames or None.
        mac: the card's address; without one the driver chooses it.
        mtu: the largest packet without its Ethernet header, 68 to 65535.
        pairs: how many pairs of queues there are.
    """

    device_id = 1
    config = Config()
    receive = OutgoingQueue(size=256)
    transmit = Queue(size=256)
    control = Queue(size=256)  # as large as the others: QEMU is told of one size

    def __init__(
        self,
        end: End | None = None,
        /,
        *,
        tap: str | None = None,
        dgram: Path | None = None,
        remote: Path | None = None,
        stream: Path | None = None,
        listen: bool = False,
        function: str | None = None,
        mac: Mac | None = None,
        mtu: int | None = None,
        pairs: int = 1,
    ) -> None:
        if mtu is not None and not 68 <= mtu <= 0xFFFF:
            raise LocalError(f"mtu={mtu}; give 68 to 65535 bytes", section="5.1.4.1")
        if not 1 <= pairs <= MOST_PAIRS:
            raise LocalError(f"pairs={pairs}; give 1 to {MOST_PAIRS}")
        self.end = end_of(end, tap=tap, dgram=dgram, remote=remote, stream=stream, listen=listen, function=function)
        self.end.carrier = self.set_link
        self.features = ALWAYS | (F.MAC if mac else 0) | (F.MTU if mtu else 0) | (F.MQ if pairs > 1 else 0)
        self.config = Config(mac or bytes(LENGTH), LinkStatus.LINK_UP, pairs, mtu or 0)
        self.negotiate(self.features)  # what could be at most
        self.ports(Net.receive)
        self.negotiated = 0

    # What driver and device agreed on.

    def negotiate(self, features: int) -> None:
        """Take note of how long headers are, and of who completes what."""
        super().negotiate(features)
        # The control queue follows the pairs that are in use, which without MQ is one (5.1.2).
        self._pairs_here = self.config.max_virtqueue_pairs if features & F.MQ else 1
        self.queues = (Net.receive, Net.transmit) * self._pairs_here + (Net.control,)
        self.filter = ReceiveFilter()
        self._pairs = 1
        self._merges = bool(features & F.MRG_RXBUF)
        self._header = Header.nbytes if features & (F.MRG_RXBUF | Feature.VERSION_1) else VnetHeader.nbytes
        self._from_driver = offloads(features, FROM_DRIVER)
        self._to_driver = offloads(features, TO_DRIVER)
        self._mtu = self.config.mtu if features & F.MTU else LONGEST

    # From the driver.

    @transmit.stream
    def send(self, reader: Reader, _writer: Writer) -> None:
        """Send a packet."""
        if reader.left > self._header + LONGEST:  # before it is copied
            raise ChainError(f"a packet of {reader.left} bytes; {LONGEST} is the most", section="5.1.9.3")
        data = reader.read()
        packet = checked(data[: VnetHeader.nbytes], data[self._header :], self._from_driver)
        if self._exceeds_mtu(*packet):
            raise ChainError(f"a frame of {len(packet[1])} bytes; the MTU is {self._mtu}", section="5.1.4.2")
        if self.link_up:
            self.end.send(packet)

    def _exceeds_mtu(self, header: bytes, frame: bytes) -> bool:
        """Return whether a frame that is not to be cut is too long."""
        return not header[1] and len(frame) > self._mtu + header_of(frame)

    # To the driver.

    async def run(self) -> None:
        """Hand on what comes from the other end."""
        await self.end.open(self._to_driver)
        try:
            while True:
                for packet in await self.end.receive():
                    if self.link_up and self.filter.accepts(packet[1], self.config.mac):
                        await self._hand_on(packet)
        finally:
            self.end.close()

    async def _hand_on(self, packet: Packet) -> None:
        try:
            for header, frame in finished(packet, self._to_driver):
                if self._exceeds_mtu(header, frame):  # it must not be passed on (5.1.4.1)
                    self.end.dropped += 1
                else:
                    await self._deliver(header, frame)
        except (PeerError, LocalError):  # it is not what another guest said it is; the driver's buffers are too small
            self.end.dropped += 1

    async def _deliver(self, header: bytes, frame: bytes) -> None:
        def count(buffers: int) -> bytes:
            return header + buffers.to_bytes(2, "little")

        if self._merges:
            message, before = frame, count
        else:
            message, before = header + b"\1\0"[: self._header - VnetHeader.nbytes] + frame, None
        flow = flow_of(frame)
        while True:
            ports = self._receivers()
            port = ports[flow % len(ports)]
            if port.try_send(message, header=before):
                return
            import asyncio

            with contextlib.suppress(TimeoutError):  # not for ever: the driver may use fewer queues meanwhile
                await asyncio.wait_for(port.send(message, header=before), RECONSIDER)
                return

    def _receivers(self) -> list[OutgoingPort]:
        """Return the ports of the receive queues that may be used."""
        ports = self.ports(Net.receive)
        if self._pairs_here == 1:
            return ports[:1]
        # Where the control queue is not ours, QEMU has it, and starts the queues that may be used.
        number = self._pairs if len(self.queues) - 1 in self.running else self._pairs_here
        return [port for pair, port in enumerate(ports[:number]) if 2 * pair in self.running] or ports[:1]

    # The link.

    @property
    def link_up(self) -> bool:
        """Whether the link is up, as far as the driver can see."""
        return bool(self.config.status & LinkStatus.LINK_UP)

    def set_link(self, up: bool) -> None:
        """Set the link; the driver hears of it. While it is down, packets are lost in both directions."""
        bit = LinkStatus.LINK_UP
        self.update_config(status=self.config.status | bit if up else self.config.status & ~bit)

    def announce(self) -> bool:
        """Ask the driver to tell the network where it is (5.1.9.5.4); return whether it can be asked."""
        if self.negotiated & F.GUEST_ANNOUNCE:
            self.update_config(status=self.config.status | LinkStatus.ANNOUNCE)
        return bool(self.negotiated & F.GUEST_ANNOUNCE)

    # Commands.

    @control.stream
    def command(self, reader: Reader, writer: Writer) -> None:
        """Carry a command out."""
        if reader.left > commands.LARGEST_COMMAND:  # before it is copied
            raise ChainError(f"a command of {reader.left} bytes; {commands.LARGEST_COMMAND} is the most")
        header = reader.take(commands.ControlHeader)
        needed, carry_out = COMMANDS.get((header.class_, header.command), (0, None))
        if carry_out is None or not self.negotiated & needed:
            raise PeerError(f"there is no command {header.class_}/{header.command} here", section="5.1.9.5")
        carry_out(self, header.command, reader.read())
        writer.put(commands.Ack(commands.OK))

    @control.failed
    def refuse(self, writer: Writer) -> None:
        """Answer a command that is none, where there is room for an answer."""
        if writer.room:
            writer.put(commands.Ack(commands.ERR))

    def _set_filter(self, command: int, data: bytes) -> None:
        if data not in (b"\0", b"\1"):
            raise PeerError(f"{data[:8].hex()} says neither on nor off", section="5.1.9.5.1")
        setattr(self.filter, FILTERS[command], data == b"\1")

    def _set_table(self, _command: int, data: bytes) -> None:
        self.filter.addresses = read_tables(data)

    def _set_mac(self, _command: int, data: bytes) -> None:
        if len(data) != LENGTH or is_group(data):
            raise PeerError(f"{data[:8].hex()} is no address of a card", section="5.1.9.5.2")
        self.update_config(mac=data)

    def _announced(self, _command: int, _data: bytes) -> None:
        self.update_config(status=self.config.status & ~LinkStatus.ANNOUNCE)

    def _set_pairs(self, _command: int, data: bytes) -> None:
        number = commands.PairsSet.unpack(data).virtqueue_pairs
        if len(data) != commands.PairsSet.nbytes or not 1 <= number <= self.config.max_virtqueue_pairs:
            raise PeerError(
                f"{number} pairs of queues; there are 1 to {self.config.max_virtqueue_pairs}", section="5.1.9.5.6"
            )
        self._pairs = number


COMMANDS: dict[tuple[int, int], tuple[int, Callable[[Net, int, bytes], None]]] = {
    **{(commands.ControlClass.RX, one): (F.CTRL_RX_EXTRA, Net._set_filter) for one in commands.RxCommand},
    **{
        (commands.ControlClass.RX, one): (F.CTRL_RX, Net._set_filter)
        for one in (commands.RxCommand.PROMISC, commands.RxCommand.ALLMULTI)
    },
    (commands.ControlClass.MAC, commands.MAC_TABLE_SET): (F.CTRL_RX, Net._set_table),
    (commands.ControlClass.MAC, commands.MAC_ADDR_SET): (F.CTRL_MAC_ADDR, Net._set_mac),
    (commands.ControlClass.ANNOUNCE, commands.ANNOUNCE_ACK): (F.GUEST_ANNOUNCE, Net._announced),
    (commands.ControlClass.MQ, commands.MQ_VQ_PAIRS_SET): (F.MQ, Net._set_pairs),
}
"""What each command needs to have been negotiated, and what carries it out."""
