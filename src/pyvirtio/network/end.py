"""What is at the other end of a network device's cable."""

from __future__ import annotations

from pyvirtio.network.packet import Offload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvirtio.network.packet import Packet


class End:
    """Takes packets from a guest, and has packets for it; subclass it.

    Attributes:
        offloads: what a guest may leave to this end, since this end does it or knows who does.
        carrier: called with whether somebody is there, where that changes.
        dropped: how many packets for the host were lost: nobody was there, or he did not keep up.
    """

    offloads: Offload = Offload.ALL

    def __init__(self) -> None:
        self.carrier: Callable[[bool], object] = lambda _up: None
        self.dropped = 0

    async def open(self, accepts: Offload) -> None:
        """Begin. ``accepts`` is what the guest takes; what is given to it beyond that is done for it."""

    def close(self) -> None:
        """End; `open` may follow."""

    def send(self, packet: Packet) -> None:
        """Take a packet from the guest, without waiting; lose it where that is not possible."""
        raise NotImplementedError

    async def receive(self) -> Sequence[Packet]:
        """Wait for packets for the guest."""
        raise NotImplementedError
