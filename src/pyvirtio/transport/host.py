"""What a transport asks of whoever runs a device, and what it hears from them."""

from __future__ import annotations

from abc import ABC, abstractmethod

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from pyvirtio.transport.completion import Completion
    from pyvirtio.transport.setup import DeviceDescription, FileRegion, QueueSetup

    class HostEvents(Protocol):
        """What a `DeviceHost` reports to the transport by itself."""

        def config_changed(self) -> None:
            """Notify the driver that the device changed its configuration space (VIRTIO 1.4, 2.5)."""
            ...

        def queue_broken(self, index: int) -> None:
            """Notify the driver that a queue cannot be trusted and is not served until it is set up again."""
            ...


MAXIMUM_STRIKES = 3
"""How often a worker may die inside the device's method for one request before that request fails."""


class DeviceHost(ABC):
    """What a transport asks of whoever runs the device.

    No call waits for the device's own code. What takes time returns a `Completion`; the transport tells its driver
    that it is done only then. ``events`` is where the host reports what happens by itself; the transport sets it.
    """

    description: DeviceDescription
    events: HostEvents | None = None

    @abstractmethod
    def set_memory(self, regions: Sequence[FileRegion]) -> Completion[None]:
        """Replace the guest's memory by ``regions``; their fds stay the caller's.

        A queue that runs goes on in the new memory, which has to hold its three areas.
        """

    @abstractmethod
    def start_queue(self, setup: QueueSetup) -> None:
        """Run a queue that does not run; the fds of ``setup`` stay the caller's until the queue is stopped.

        Raises:
            PeerError: the set-up's in-flight region cannot be this queue's.
        """

    @abstractmethod
    def kick(self, index: int) -> None:
        """Serve a queue: the driver notified the device by other means than the kick eventfd."""

    @abstractmethod
    def set_kick(self, index: int, fd: int) -> None:
        """Change the eventfd by which the driver kicks a queue that runs; -1: it has none, and the ring is polled."""

    @abstractmethod
    def set_interrupt(self, index: int, fd: int) -> None:
        """Change the eventfd by which the device interrupts for a queue that runs; -1: nobody wants to know.

        The new one is signalled at once: an interrupt may have been lost on its way to the old one.
        """

    @abstractmethod
    def stop_queue(self, index: int) -> Completion[int]:
        """Stop a queue once what was begun is answered; the result is the available index to go on from.

        A request that the device has not begun is given back to the ring. The wait is as long as the device's
        `patience`, for a request that takes longer is answered as failed then.
        """

    @abstractmethod
    def read_config(self, offset: int, length: int) -> bytes:
        """Read the configuration space; the caller has checked the bounds."""

    @abstractmethod
    def config_generation(self) -> int:
        """Return a number that changes whenever the device changes its configuration space (VIRTIO 1.4, 2.5.1)."""

    @abstractmethod
    def write_config(self, offset: int, data: bytes, *, by_driver: bool = True) -> Completion[None]:
        """Write the configuration space. A driver changes only what the device lets it change.

        It is done when the device has seen it, so that a request which follows finds the device changed.
        """

    @abstractmethod
    def reset(self) -> Completion[None]:
        """Bring the device back to its first state, with no queue running."""
