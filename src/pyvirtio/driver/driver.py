"""The class that driver authors subclass."""

from __future__ import annotations

from pyvirtio.driver.queue import BoundQueue, Queue
from pyvirtio.errors import DeviceError, LocalError, NegotiationError
from pyvirtio.ring import SplitDriverQueue, SplitLayout
from pyvirtio.spec import split
from pyvirtio.spec.features import RING_FEATURES, Feature
from pyvirtio.transport import QueueSetup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import ClassVar, Self

    from pyvirtio.spec.struct import Struct
    from pyvirtio.transport import DriverTransport


class Driver:
    """A virtio driver: data, and methods that submit requests.

    Attributes:
        device_id: the virtio id that it drives.
        features: the device's own feature bits that it would like.
        required: those of them without which it cannot work.
        config: the structure of the device's configuration space.
        negotiated: what driver and device agreed on.

    The constructor brings the device up (VIRTIO 1.4, 3.1.1). ``features`` overrides what the class would like,
    ``ring_features`` which of the ring's features to take.

    Raises:
        NegotiationError: driver and device have no common ground; the message says where.
    """

    device_id: ClassVar[int]
    features: ClassVar[int] = 0
    required: ClassVar[int] = 0
    config: ClassVar[type[Struct] | None] = None
    queues: ClassVar[tuple[Queue, ...]] = ()

    def __init_subclass__(cls) -> None:
        """Collect the declared queues, in order."""
        cls.queues = cls.queues + tuple(item for item in vars(cls).values() if isinstance(item, Queue))

    def __init__(
        self, transport: DriverTransport, *, features: int | None = None, ring_features: int = RING_FEATURES
    ) -> None:
        self.transport = transport
        self.bound: dict[str, BoundQueue] = {}
        try:
            self.negotiated = self._negotiate(self.features if features is None else features, ring_features)
            for index, queue in enumerate(self.queues):
                self.bound[queue.name] = self._set_up(index, queue)
            transport.run()
        except BaseException:
            transport.close()
            raise

    def _negotiate(self, wanted: int, ring_features: int) -> int:
        offered = self.transport.offered_features()
        if not offered & Feature.VERSION_1:
            raise NegotiationError(
                "the device is a legacy one: it does not offer VERSION_1, which this driver needs",
                section="6.1",
            )
        if missing := self.required & ~offered:
            raise NegotiationError(f"the device does not offer feature bits {missing:#x}, which this driver needs")
        features = offered & (wanted | self.required | ring_features | Feature.VERSION_1)
        if not self.transport.accept_features(features):
            raise NegotiationError(f"the device refused the features {features:#x} (FEATURES_OK)", section="3.1.1")
        return features

    def _set_up(self, index: int, queue: Queue) -> BoundQueue:
        most = self.transport.queue_size(index)
        if not split.is_valid_size(most):
            raise NegotiationError(
                f"the device offers {most} entries for queue {index} ({queue.name}); a queue has a power of two",
                section="2.7",
            )
        size = min(queue.size, most)
        memory, arena = self.transport.memory, self.transport.arena
        parts = (split.table_size(size), split.available_size(size), split.used_size(size))
        descriptors, available, used = map(arena.allocate, parts)  # aligned to 64 bytes at least
        rings = SplitLayout(memory, size, descriptors, available, used)
        self.transport.start_queue(QueueSetup(index, size, descriptors, available, used, self.negotiated))
        return BoundQueue(queue, index, SplitDriverQueue(rings, memory, self.negotiated), self.transport)

    # The configuration space.

    def read_config(self) -> Struct:
        """Read the configuration space as a whole: never half before and half after a change.

        Raises:
            LocalError: the driver declares no configuration structure.
            DeviceError: the device changes it all the time, has less of it, or asks to be reset.
        """
        if self.config is None:
            raise LocalError(f"{type(self).__name__} declares no config structure")
        for _ in range(100):
            before = self.transport.config_generation()
            data = self.transport.read_config(0, self.config.nbytes)
            if before == self.transport.config_generation():  # VIRTIO 1.4, 2.5.1
                if len(data) < self.config.nbytes:
                    raise DeviceError(
                        f"the configuration space takes {self.config.nbytes} bytes; only {len(data)} came"
                    )
                return self.config.unpack(data)
            if self.transport.needs_reset():
                raise DeviceError("the device asks to be reset; open the driver again", section="2.1.2")
        raise DeviceError("the configuration space changed during 100 attempts to read it", section="2.5.1")

    def write_config(self, **values: int) -> None:
        """Write fields of the configuration space; the device ignores those that a driver may not write."""
        if self.config is None:
            raise LocalError(f"{type(self).__name__} declares no config structure")
        packed = self.config(**values).pack()
        for name in values:
            offset = self.config.offset_of(name)
            self.transport.write_config(offset, packed[offset : offset + self.config.size_of(name)])

    # The end.

    def close(self) -> None:
        """Stop the device and give everything back. Tickets that are not done stay so."""
        self.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
