"""The record in which every transport ends, and the two interfaces around it.

A transport carries what a driver and a device must tell each other before a ring runs. On the
device's side it calls a `DeviceHost`; on the driver's side a `Driver` calls a `DriverTransport`.
Everything behind these is common to all transports.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvirtio.memory import MemoryTable
    from pyvirtio.memory.arena import Arena


class FileRegion:
    """A region of guest memory as it travels: a piece of a file.

    ``base`` is the guest address, ``size`` and ``offset`` (in the file) are in bytes. ``fd`` belongs to
    whoever holds the region.
    """

    __slots__ = ("base", "fd", "offset", "size")

    def __init__(self, base: int, size: int, fd: int, offset: int) -> None:
        self.base = base
        self.size = size
        self.fd = fd
        self.offset = offset

    def __repr__(self) -> str:
        return f"FileRegion({self.base:#x}, {self.size:#x})"


class QueueSetup:
    """All that is needed to run a queue, whichever transport set it up.

    ``descriptors``, ``available`` and ``used`` are guest addresses; ``features`` are all negotiated bits;
    ``base`` is the available index to go on from. The fds are eventfds, -1 where there is none.
    ``region`` is the front-end's own in-flight region as ``(fd, offset, size)``, if it brought one.
    """

    __slots__ = (
        "available",
        "base",
        "descriptors",
        "err_fd",
        "features",
        "index",
        "interrupt_fd",
        "kick_fd",
        "region",
        "size",
        "used",
    )

    def __init__(
        self,
        index: int,
        size: int,
        descriptors: int,
        available: int,
        used: int,
        features: int,
        *,
        base: int = 0,
        kick_fd: int = -1,
        interrupt_fd: int = -1,
        err_fd: int = -1,
        region: tuple[int, int, int] | None = None,
    ) -> None:
        self.index = index
        self.size = size
        self.descriptors = descriptors
        self.available = available
        self.used = used
        self.features = features
        self.base = base
        self.kick_fd = kick_fd
        self.interrupt_fd = interrupt_fd
        self.err_fd = err_fd
        self.region = region


class DeviceDescription:
    """What a device says of itself before anybody drives it.

    ``queue_sizes`` holds the most entries of each queue, ``config`` the configuration space's first
    content, ``writable`` a byte of 255 for each byte of it that a driver may write, 0 for the others.
    """

    __slots__ = ("config", "device_id", "features", "name", "patience", "queue_sizes", "writable")

    def __init__(
        self,
        name: str,
        device_id: int,
        features: int,
        queue_sizes: Sequence[int],
        config: bytes,
        writable: bytes,
        patience: float,
    ) -> None:
        self.name = name
        self.device_id = device_id
        self.features = features
        self.queue_sizes = tuple(queue_sizes)
        self.config = config
        self.writable = writable
        self.patience = patience


class DeviceHost(ABC):
    """What a transport asks of whoever runs the device. No call waits for the device's own code for long."""

    description: DeviceDescription

    @abstractmethod
    def set_memory(self, regions: Sequence[FileRegion]) -> None:
        """Replace the guest's memory by ``regions``; their fds stay the caller's."""

    @abstractmethod
    def start_queue(self, record: QueueSetup) -> None:
        """Run a queue, or go on with a changed record; its fds stay the caller's.

        Raises:
            PeerError: the record's in-flight region cannot be this queue's.
        """

    @abstractmethod
    def stop_queue(self, index: int) -> int:
        """Stop a queue once what was taken from it is answered; gives the available index to go on from."""

    @abstractmethod
    def read_config(self, offset: int, length: int) -> bytes:
        """Read the configuration space; the caller has checked the bounds."""

    @abstractmethod
    def write_config(self, offset: int, data: bytes, *, by_driver: bool = True) -> None:
        """Write the configuration space. A driver changes only what the device lets it change."""

    @abstractmethod
    def reset(self) -> None:
        """Bring the device back to its first state, with no queue running."""


class DriverTransport(ABC):
    """What a driver asks of the transport that leads to its device.

    ``memory`` is what both sides see, ``arena`` hands out pieces of it.
    """

    memory: MemoryTable
    arena: Arena

    @abstractmethod
    def offered_features(self) -> int:
        """Give the feature bits that the device offers."""

    @abstractmethod
    def accept_features(self, features: int) -> bool:
        """Settle on ``features``; gives whether the device agrees (FEATURES_OK, VIRTIO 1.4, 3.1.1)."""

    @abstractmethod
    def queue_size(self, index: int) -> int:
        """Give the most entries of a queue, 0 where there is no such queue."""

    @abstractmethod
    def start_queue(self, record: QueueSetup) -> None:
        """Tell the device of a queue; the transport fills the record's fds."""

    @abstractmethod
    def run(self) -> None:
        """Let the device start (DRIVER_OK)."""

    @abstractmethod
    def kick(self, index: int) -> None:
        """Tell the device that there is something on a queue."""

    @abstractmethod
    def wait(self, index: int, timeout: float | None) -> bool:
        """Wait until the device calls for a queue; gives False when ``timeout`` seconds are over.

        Raises:
            DeviceError: the device is gone.
        """

    @abstractmethod
    def interrupt_fd(self, index: int) -> int:
        """Give the eventfd on which the device calls, for an event loop."""

    @abstractmethod
    def config_generation(self) -> int:
        """Give a number that changes whenever the device changes its configuration space."""

    @abstractmethod
    def read_config(self, offset: int, length: int) -> bytes:
        """Read the configuration space."""

    @abstractmethod
    def write_config(self, offset: int, data: bytes) -> None:
        """Write the configuration space."""

    @abstractmethod
    def needs_reset(self) -> bool:
        """Tell whether the device asks to be reset (DEVICE_NEEDS_RESET)."""

    @abstractmethod
    def close(self) -> None:
        """Stop the device and give everything back; may be called twice."""
