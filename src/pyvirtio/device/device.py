"""The class that device authors subclass."""

from __future__ import annotations

import sys

from pyvirtio.device.queue import Queue
from pyvirtio.errors import LocalError
from pyvirtio.spec.features import DEVICE_FEATURES, RING_FEATURES, Feature
from pyvirtio.transport import DeviceDescription

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar

    from pyvirtio.device.records import Answer
    from pyvirtio.spec.struct import ByteOrder, Struct


class Device:
    """A virtio device: data, and a method for each of its queues.

    Attributes:
        device_id: its virtio id, 1 to 63 where it shall be seen over PCI.
        features: its own feature bits (bits 0 to 23 and 50 to 63); rings and transports add theirs.
        config: the first content of its configuration space, a structure.
        repeatable: whether a request may be given to its method again when the worker died in it.
            Where not, such a request is completed empty.
        patience: the seconds that its method may take for one request, before its worker counts as hung.
        negotiated: the features that driver and device agreed on; 0 before.

    Raises:
        LocalError: something declared is not possible; the message says what.
    """

    device_id: ClassVar[int]
    features: ClassVar[int] = 0
    config: Struct | None = None
    repeatable: ClassVar[bool] = True
    patience: ClassVar[float] = 10.0
    queues: ClassVar[tuple[Queue, ...]] = ()

    def __init_subclass__(cls) -> None:
        """Collect the declared queues, in order."""
        declared = tuple(item for item in vars(cls).values() if isinstance(item, Queue))
        cls.queues = cls.queues + declared
        if cls.features & ~DEVICE_FEATURES:
            raise LocalError(
                f"{cls.__name__}.features has bits that belong to rings and transports; "
                "a device has bits 0 to 23 and 50 to 63",
                section="2.2",
            )

    def __init__(self) -> None:
        self.negotiated = 0
        self._tell_config: Callable[[bytes], None] = lambda _data: None
        self._logger: Any = None

    @classmethod
    def description(cls) -> DeviceDescription:
        """Say what the device is, for a transport."""
        if not cls.queues or not getattr(cls, "device_id", 0):
            raise LocalError(f"{cls.__name__} needs a device_id and at least one Queue")
        config = cls.config
        return DeviceDescription(
            name=cls.__name__,
            device_id=cls.device_id,
            features=cls.features | RING_FEATURES,
            queue_sizes=[queue.size for queue in cls.queues for _ in range(queue.count)],
            config=config.pack() if config is not None else b"",
            writable=config.writable_mask() if config is not None else b"",
        )

    def negotiate(self, features: int) -> None:
        """Take note of what driver and device agreed on, and of whether somebody reads the log.

        The host calls this before the first request.
        """
        self.negotiated = features
        logging = sys.modules.get("logging")  # who wants to read a log has imported it
        if logging is None:
            return
        logger = logging.getLogger(f"pyvirtio.device.{type(self).__name__}")
        self._logger = logger if logger.isEnabledFor(logging.INFO) else None

    @property
    def byte_order(self) -> ByteOrder:
        """The order of bytes in structures: the guest's for a legacy driver, little-endian otherwise."""
        return "little" if self.negotiated & Feature.VERSION_1 else sys.byteorder

    def answers(self) -> list[Answer]:
        """Give, for each queue, the function that answers one chain."""
        order = self.byte_order
        return [queue.bind(self, order) for queue in self.queues for _ in range(queue.count)]

    @property
    def logs(self) -> bool:
        """Whether somebody reads what `info` logs."""
        return self._logger is not None

    def info(self, message: str, *values: object) -> None:
        """Log at level INFO. Without a reader nothing is formatted.

        Control characters in ``values``, which may come from a guest, are shown escaped.
        """
        if self._logger is not None:
            self._logger.info(message, *map(_printable, values))

    # The configuration space.

    def attach_config(self, tell: Callable[[bytes], None]) -> None:
        """Say whom to tell when the device itself changes its configuration space."""
        self._tell_config = tell

    def load_config(self, data: bytes | bytearray) -> None:
        """Take over the content of the configuration space, as the driver left it."""
        if self.config is not None:
            self.config = type(self.config).unpack(data, self.byte_order)

    def config_written(self) -> None:
        """Do what is to be done when a driver wrote the configuration space; override it."""

    def update_config(self, **changes: object) -> None:
        """Change fields of the configuration space; the driver gets a configuration-change interrupt."""
        if self.config is None:
            raise LocalError(f"{type(self).__name__} has no configuration space")
        self.config = self.config.replace(**changes)
        self._tell_config(self.config.pack(self.byte_order))


def _printable(value: object) -> object:
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
