"""The class that driver authors subclass."""

from __future__ import annotations

from pyvirtio.driver.bound_queue import BoundQueue
from pyvirtio.driver.request_queue import RequestQueue
from pyvirtio.driver.waiting import Watch
from pyvirtio.errors import DeviceError, LocalError, NegotiationError
from pyvirtio.ring import SplitDriverQueue, SplitLayout
from pyvirtio.spec import split
from pyvirtio.spec.features import RING_FEATURES, Feature
from pyvirtio.system.closing import Closing
from pyvirtio.transport import QueueSetup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import ClassVar

    from pyvirtio.spec.struct import Struct
    from pyvirtio.transport import DriverTransport


class Driver(Closing):
    """A virtio driver: data, and methods that submit requests. It belongs to the thread that opened it.

    Attributes:
        device_id: the virtio id that it drives.
        device_name: what ``pyvirtio serve`` calls the device.
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
    device_name: ClassVar[str] = "DEVICE"
    features: ClassVar[int] = 0
    required: ClassVar[int] = 0
    config: ClassVar[type[Struct] | None] = None
    queues: ClassVar[tuple[RequestQueue, ...]] = ()

    def __init_subclass__(cls) -> None:
        """Collect the declared queues, in order.

        Raises:
            LocalError: ``config`` is not a class.
        """
        if cls.config is not None and not isinstance(cls.config, type):
            kind = type(cls.config).__name__
            raise LocalError(
                f"{cls.__name__}.config is a value, {cls.config!r}; a driver declares the structure alone, for the "
                f"values are the device's: config = {kind}"
            )
        cls.queues = cls.queues + tuple(item for item in vars(cls).values() if isinstance(item, RequestQueue))

    def __init__(
        self, transport: DriverTransport, *, features: int | None = None, ring_features: int = RING_FEATURES
    ) -> None:
        self.transport = transport
        self.bound: dict[str, list[BoundQueue]] = {}
        self._watch = Watch(transport)
        transport.offer_again = self._offer_again
        try:
            self._check_device_id()
            self.negotiated = self._negotiate(self.features if features is None else features, ring_features)
            for index, queue in enumerate(self.each_queue()):
                self.bound.setdefault(queue.name, []).append(self._set_up(index, queue))
            transport.run()
        except BaseException:
            transport.close()
            raise

    def each_queue(self) -> Sequence[RequestQueue]:
        """Return the declaration of each queue to set up, in the order of the queues' indexes; override it.

        It is called once features are negotiated, so the configuration space can be read. A declaration may come
        several times; `all_of` returns what came of it.
        """
        return self.queues

    def all_of(self, queue: RequestQueue) -> list[BoundQueue]:
        """Return every queue that is declared by ``queue``, in the order of their indexes."""
        return self.bound.get(queue.name, [])

    def _check_device_id(self) -> None:
        actual = self.transport.device_id
        if actual is not None and actual != self.device_id:
            raise NegotiationError(
                f"the device has the virtio id {actual}, and {type(self).__name__} drives devices of id "
                f"{self.device_id}; use the driver for that device, or correct one of the two numbers",
                section="5",
            )

    def _negotiate(self, wanted: int, ring_features: int) -> int:
        offered = self.transport.offered_features()
        if not offered & Feature.VERSION_1:
            raise NegotiationError(
                "the device is a legacy one: it does not offer VERSION_1, which this driver needs; "
                "serve it as a modern one",
                section="6.1",
            )
        if missing := self.required & ~offered:
            raise NegotiationError(
                f"the device does not offer feature bits {missing:#x}, which this driver needs; serve one that does"
            )
        features = offered & (wanted | self.required | ring_features | Feature.VERSION_1)
        if not self.transport.accept_features(features):
            raise NegotiationError(
                f"the device refused the features {features:#x} (FEATURES_OK); ask for fewer: features=BITS",
                section="3.1.1",
            )
        return features

    def _set_up(self, index: int, declared: RequestQueue) -> BoundQueue:
        most = self.transport.queue_size(index)
        if not most:
            raise NegotiationError(
                f"the device offers 0 entries for queue {index} ({declared.name}): it has no such queue, "
                "which this driver needs; use the driver for that device"
            )
        if not split.is_valid_size(most):
            raise NegotiationError(
                f"the device offers {most} entries for queue {index} ({declared.name}); "
                "correct the device, a queue has a power of two",
                section="2.7",
            )
        size = min(declared.size, most)
        memory, arena = self.transport.memory, self.transport.arena
        parts = (split.table_size(size), split.available_size(size), split.used_size(size))
        descriptors, available, used = map(arena.allocate, parts)  # aligned to 64 bytes at least
        rings = SplitLayout(memory, size, descriptors, available, used)
        setup = QueueSetup(index, size, descriptors, available, used, self.negotiated)
        self.transport.start_queue(setup)
        ring = self._new_ring(setup, rings)
        queue = BoundQueue(declared, index, ring, self.transport, self._watch)
        self._watch.queues.append(queue)
        return queue

    def _new_ring(self, setup: QueueSetup, rings: SplitLayout) -> SplitDriverQueue:
        return SplitDriverQueue(rings, self.transport.memory, setup.features)

    def _offer_again(self) -> None:
        for queues in self.bound.values():
            for queue in queues:
                queue.offer_again()

    # The configuration space.

    def read_config(self, upto: str = "") -> Struct:
        """Read the configuration space as a whole: never half before and half after a change.

        With ``upto``, nothing behind the field of that name is read, and has its default instead. A device need not
        have fields that no negotiated feature asks for (VIRTIO 1.4, 2.5), and some have not.

        Raises:
            LocalError: the driver declares no configuration structure.
            DeviceError: the device changes it all the time, has less of it, or asks to be reset.
        """
        if self.config is None:
            raise LocalError(
                f"{type(self).__name__} declares no config structure; declare it in the class: config = STRUCTURE"
            )
        # From its beginning, for some back-ends know no other offset.
        length = self.config.offset_of(upto) + self.config.size_of(upto) if upto else self.config.nbytes
        for _ in range(100):
            before = self.transport.config_generation()
            data = self.transport.read_config(0, length)
            if before == self.transport.config_generation():  # VIRTIO 1.4, 2.5.1
                if len(data) < length:
                    raise DeviceError(f"the configuration space takes {length} bytes; only {len(data)} came")
                return self.config.unpack(data + self.config().pack()[length:])
            if self.transport.needs_reset():
                raise DeviceError("the device asks to be reset; open the driver again", section="2.1.2")
        raise DeviceError("the configuration space changed during 100 attempts to read it", section="2.5.1")

    def write_config(self, **values: int) -> None:
        """Write fields of the configuration space; the device ignores those that a driver may not write.

        Fields that lie side by side are written at once.
        """
        if self.config is None:
            raise LocalError(
                f"{type(self).__name__} declares no config structure; declare it in the class: config = STRUCTURE"
            )
        packed = self.config(**values).pack()
        for start, end in _runs((self.config.offset_of(name), self.config.size_of(name)) for name in values):
            self.transport.write_config(start, packed[start:end])

    # The end.

    def close(self) -> None:
        """Stop the device and give everything back; may be called twice.

        Whoever still waits for an answer gets a `LocalError`.
        """
        self._watch.end(
            LocalError("the driver was closed before the device answered; wait for the answers before you close it")
        )
        self.transport.close()


def _runs(pieces: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join pieces ``(offset, length)`` that touch; return where each run starts and ends.

    >>> _runs([(4, 2), (0, 4), (8, 1)])
    [(0, 6), (8, 9)]
    """
    runs: list[tuple[int, int]] = []
    for offset, length in sorted(pieces):
        if runs and runs[-1][1] == offset:
            runs[-1] = (runs[-1][0], offset + length)
        else:
            runs.append((offset, offset + length))
    return runs
