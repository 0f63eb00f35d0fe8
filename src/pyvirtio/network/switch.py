r"""A learning switch between guests: each `Switch.port` is an `End`.

>>> switch = Switch()
>>> one, two, three = switch.port(), switch.port(), switch.port()
>>> for port in (one, two, three):
...     port.plug()
>>> header = bytes(10)
>>> one.send((header, bytes.fromhex("ffffffffffff" "020000000001" "0800")))  # to all
>>> two.send((header, bytes.fromhex("020000000001" "020000000002" "0800")))  # to one, which was seen on the first port
>>> [port.waiting for port in (one, two, three)]
[1, 1, 1]
"""

from __future__ import annotations

from threading import Lock

from pyvirtio.network.end import End
from pyvirtio.network.ethernet import is_group
from pyvirtio.network.inbox import Inbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvirtio.network.packet import Offload, Packet

MOST_ADDRESSES = 4096
"""The most addresses that are remembered; beyond, the one that was learned first is forgotten."""


class Switch:
    """Sends each frame to the port where its destination was seen last, or to all others where it was not.

    Its ports may be used in different threads, each in one. A port that does not keep up loses frames.
    """

    def __init__(self) -> None:
        self._ports: tuple[SwitchPort, ...] = ()
        self._seen: dict[bytes, SwitchPort] = {}
        self._lock = Lock()  # for whoever changes one of the two

    def port(self) -> SwitchPort:
        """Return a new port."""
        port = SwitchPort(self)
        with self._lock:
            self._ports = (*self._ports, port)
        return port

    def unplug(self, port: SwitchPort) -> None:
        """Remove a port."""
        port.close()
        with self._lock:
            self._ports = tuple(one for one in self._ports if one is not port)

    def forward(self, packet: Packet, source: SwitchPort) -> None:
        """Send a packet that came from ``source`` to where it belongs."""
        frame = packet[1]
        to, origin = frame[:6], frame[6:12]
        if self._seen.get(origin) is not source and not is_group(origin):
            self._learn(origin, source)
        target = self._seen.get(to)
        if target is None:
            for port in self._ports:
                if port is not source:
                    port.put(packet)
        elif target is not source:
            target.put(packet)

    def forget(self, port: SwitchPort) -> None:
        """Forget the addresses that were seen on a port."""
        with self._lock:
            for address in [address for address, where in self._seen.items() if where is port]:
                del self._seen[address]

    def _learn(self, address: bytes, port: SwitchPort) -> None:
        with self._lock:
            self._seen.pop(address, None)  # so that it counts as the newest
            if len(self._seen) >= MOST_ADDRESSES:
                del self._seen[next(iter(self._seen))]
            self._seen[address] = port


class SwitchPort(End):
    """One port of a `Switch`."""

    def __init__(self, switch: Switch) -> None:
        super().__init__()
        self._switch = switch
        self._inbox = Inbox()
        self._is_open = False

    @property
    def waiting(self) -> int:
        """How many packets wait here."""
        return len(self._inbox)

    def put(self, packet: Packet) -> None:
        """Take a packet from another port; lose it where nobody is plugged in."""
        if self._is_open and not self._inbox.put(packet):
            self.dropped += 1

    def send(self, packet: Packet) -> None:
        """Send a packet to the other ports."""
        self._switch.forward(packet, self)

    async def receive(self) -> Sequence[Packet]:
        """Wait for packets from other ports."""
        return await self._inbox.take()

    async def open(self, accepts: Offload) -> None:  # noqa: ARG002  # whoever receives does what it cannot leave
        """Begin with an empty port."""
        self.plug()

    def plug(self) -> None:
        """Let packets come in from now on."""
        self._inbox.clear()
        self._is_open = True

    def close(self) -> None:
        """Forget what was seen here, and what waits."""
        self._is_open = False
        self._inbox.clear()
        self._switch.forget(self)
