"""What every transport has to fill in: regions of memory, set-ups of queues, a device's description."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


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
    """All that is needed to run a queue, whichever transport set it up (VIRTIO 1.4, 2.6 and 4.1.5.1.3).

    ``descriptor_area``, ``driver_area`` and ``device_area`` are guest addresses; what lies there, and how long it is,
    the ring format in ``features`` (all negotiated bits) says. ``position`` is the available index to go on from.
    ``kick_fd`` and ``interrupt_fd`` are eventfds, -1 where there is none; they belong to whoever made the set-up.
    ``inflight`` is the front-end's own in-flight region as ``(fd, offset, size)``, if it brought one.
    """

    __slots__ = (
        "descriptor_area",
        "device_area",
        "driver_area",
        "features",
        "index",
        "inflight",
        "interrupt_fd",
        "kick_fd",
        "position",
        "size",
    )

    def __init__(
        self,
        index: int,
        size: int,
        descriptor_area: int,
        driver_area: int,
        device_area: int,
        features: int,
        *,
        position: int = 0,
        kick_fd: int = -1,
        interrupt_fd: int = -1,
        inflight: tuple[int, int, int] | None = None,
    ) -> None:
        self.index = index
        self.size = size
        self.descriptor_area = descriptor_area
        self.driver_area = driver_area
        self.device_area = device_area
        self.features = features
        self.position = position
        self.kick_fd = kick_fd
        self.interrupt_fd = interrupt_fd
        self.inflight = inflight


class DeviceDescription:
    """What a device says of itself before anybody drives it.

    ``queue_sizes`` holds the size that the device declares for each queue, ``config`` the configuration space's first
    content, ``writable`` a byte of 255 for each byte of it that a driver may write, 0 for the others. ``kept_size`` is
    how many bytes of memory are to outlive the process in which it runs.
    """

    __slots__ = ("config", "device_id", "features", "kept_size", "name", "queue_sizes", "writable")

    def __init__(
        self,
        name: str,
        device_id: int,
        features: int,
        queue_sizes: Sequence[int],
        config: bytes = b"",
        writable: bytes = b"",
        kept_size: int = 0,
    ) -> None:
        self.name = name
        self.device_id = device_id
        self.features = features
        self.queue_sizes = tuple(queue_sizes)
        self.config = config
        self.writable = writable
        self.kept_size = kept_size

    def differences(self, other: DeviceDescription) -> list[str]:
        """Name what a driver that knows ``self``, or memory kept for it, relies on and ``other`` has otherwise.

        >>> one = DeviceDescription("D", 38, 0, [64])
        >>> one.differences(DeviceDescription("E", 38, 1, [64, 64]))
        ['features', 'queues']
        """
        relied_on = {"device_id": "id", "features": "features", "queue_sizes": "queues", "writable": "configuration"}
        relied_on["kept_size"] = "kept memory"
        return [name for field, name in relied_on.items() if getattr(self, field) != getattr(other, field)]
