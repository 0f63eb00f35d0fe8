"""What a driver asks of the transport that leads to its device."""

from __future__ import annotations

from abc import ABC, abstractmethod

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvirtio.memory import MemoryTable
    from pyvirtio.memory.arena import Arena
    from pyvirtio.transport.setup import QueueSetup


class DriverTransport(ABC):
    """What a driver asks of the transport that leads to its device.

    ``memory`` is what both sides see, ``arena`` hands out pieces of it. ``device_id`` is the device's virtio id where
    the transport knows it (vhost-user does not), else None. ``offer_again`` is the driver's: a transport that survives
    its device calls it before another one takes the queues up that knows nothing of them.
    """

    memory: MemoryTable
    arena: Arena
    device_id: int | None = None
    offer_again: Callable[[], None]

    @abstractmethod
    def offered_features(self) -> int:
        """Return the feature bits that the device offers."""

    @abstractmethod
    def accept_features(self, features: int) -> bool:
        """Settle on ``features``; return whether the device agrees (FEATURES_OK, VIRTIO 1.4, 3.1.1)."""

    @abstractmethod
    def queue_size(self, index: int) -> int:
        """Return the most entries of a queue, 0 where there is no such queue."""

    @abstractmethod
    def start_queue(self, setup: QueueSetup) -> None:
        """Announce a queue to the device; the transport fills in the set-up's fds."""

    @abstractmethod
    def run(self) -> None:
        """Let the device start (DRIVER_OK)."""

    @abstractmethod
    def kick(self, index: int) -> None:
        """Notify the device that there is something on a queue."""

    @abstractmethod
    def wait(self, indexes: Sequence[int], timeout: float | None) -> bool:
        """Wait until the device interrupts for one of these queues; return False when ``timeout`` seconds are over.

        Raises:
            DeviceError: the device is gone.
        """

    @abstractmethod
    def interrupt_fd(self, index: int) -> int:
        """Return the eventfd on which the device interrupts, for an event loop."""

    @abstractmethod
    def hangup_fd(self) -> int:
        """Return a descriptor that becomes readable when the device is gone or has something to say, -1 for none."""

    @abstractmethod
    def process_events(self) -> None:
        """Deal with what the device said by itself; an event loop calls this when `hangup_fd` is readable.

        Raises:
            DeviceError: the device is gone.
        """

    @abstractmethod
    def config_generation(self) -> int:
        """Return a number that changes whenever the device changes its configuration space."""

    @abstractmethod
    def read_config(self, offset: int, length: int) -> bytes:
        """Read the configuration space."""

    @abstractmethod
    def write_config(self, offset: int, data: bytes) -> None:
        """Write the configuration space."""

    @abstractmethod
    def needs_reset(self) -> bool:
        """Return whether the device asks to be reset (DEVICE_NEEDS_RESET, VIRTIO 1.4, 2.1.2)."""

    @abstractmethod
    def close(self) -> None:
        """Stop the device and give everything back; may be called twice."""
