"""The class that device authors subclass."""

from __future__ import annotations

import sys

from pyvirtio.device import handlers
from pyvirtio.device.outgoing import OutgoingPort
from pyvirtio.device.queue import AnyQueue, OutgoingQueue, Queue
from pyvirtio.errors import LocalError
from pyvirtio.memory import MemoryTable
from pyvirtio.spec.features import DEVICE_FEATURES, RING_FEATURES
from pyvirtio.spec.struct import Struct
from pyvirtio.transport import DeviceDescription

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor
    from typing import Any, ClassVar, Self, TypeVar

    R = TypeVar("R")

MAXIMUM_CONFIG = 256
"""The most bytes of a configuration space: QEMU and vhost-user take no more in one message."""

MOST_KEPT = 1 << 30
"""The most bytes of memory that may outlive a worker."""

MAXIMUM_ID = 63
"""The largest virtio id that has a PCI device id (VIRTIO 1.4, 4.1.2)."""


class _Config:
    """The configuration space of a device as an attribute: on an instance, assigning to it tells the driver."""

    def __get__(self, device: Device | None, owner: type[Device]) -> Any:
        return owner._first_config if device is None else device._config

    def __set__(self, device: Device, value: Struct | None) -> None:
        device._replace_config(value)


class Device:
    """A virtio device: data, and a method for each of its queues.

    What the class says may be changed by an instance in its constructor, whose typed parameters are the device's
    options: ``features``, ``config``, and ``queues``, the list of its queues in the order of their indexes. From then
    on the device's description is fixed. A worker process makes an instance of its own.

    Attributes:
        device_id: its virtio id, 1 to 63; the default is one that QEMU takes and no Linux driver claims.
        features: its own feature bits (bits 0 to 23 and 50 to 63); rings and transports add theirs.
        config: its configuration space, a structure. Assigning another one tells the driver.
        queues: its queues; by default those that the class declares, in order.
        repeatable: whether a request may be given to its method again when the worker died in it.
            Where not, such a request fails.
        patience: the seconds that its method may take for one request before the request fails, or its worker counts
            as hung; None where it may take any time.
        stateless: whether its instances share nothing but what is outside the process. Then several workers may serve
            it although it has a `run`, and each of them has one.
        executor: where `offload` sends work, unless told otherwise; by default threads of this process.
        negotiated: the features that driver and device agreed on; 0 before.
        running: the indexes of the queues that run now; in a worker, those that it serves.
        logs: whether somebody reads what `info` logs; False before.
        guest_memory: the guest's memory by its own addresses, for a device whose requests name some.
        kept_size: the bytes of memory that the device wants to outlive the worker in which it runs.
        kept_memory: that memory, zero at first and after a reset; None where there is none, as in one's own process.
        repeats: whether the request that a method begins with now may have been given to it before, in a worker that
            died. An ``async def`` method asks before it first waits.

    Raises:
        LocalError: something declared is not possible; the message says what.
    """

    device_id: int = 38
    features: int = 0
    config: Any = _Config()
    queues: Sequence[AnyQueue] = ()
    repeatable: bool = True
    kept_size: int = 0
    repeats: bool = False
    patience: float | None = 10.0
    stateless: bool = False
    executor: Executor | None = None
    _first_config: ClassVar[Struct | None] = None

    def __init_subclass__(cls) -> None:
        """Collect the declared queues, in order, and refuse what cannot work."""
        declared = tuple(item for item in vars(cls).values() if isinstance(item, AnyQueue))
        if declared:
            cls.queues = (*cls.queues, *declared)
        if "config" in vars(cls):
            cls._first_config = vars(cls)["config"]
            delattr(cls, "config")
        _check(cls, cls.__name__, cls._first_config)
        if handlers.is_async(cls.config_written):
            raise LocalError(f"{cls.__name__}.config_written is called and ends at once; make it a plain `def`")
        if cls.run is not Device.run and not handlers.is_async(cls.run):
            raise LocalError(f"{cls.__name__}.run goes on while the device runs; make it an `async def`")

    def __new__(cls, *_options: object, **_named: object) -> Self:
        """Make a device that works even if its own constructor does not call this class's."""
        device = super().__new__(cls)
        device.negotiated = 0
        device.running = set()
        device._config = cls._first_config
        device._tell_config = None
        device._tell_resumed = None
        device.logs = False
        device.guest_memory = MemoryTable()
        device.kept_memory = None
        device._logger = None
        device._ports = {}
        device._own_executor = None
        return device

    negotiated: int
    running: set[int]
    _config: Struct | None
    _tell_config: Callable[[bytes], None] | None
    _tell_resumed: Callable[[int], None] | None
    logs: bool
    guest_memory: MemoryTable
    kept_memory: memoryview | None
    _logger: Any
    _ports: dict[AnyQueue, list[OutgoingPort]]
    _own_executor: Executor | None

    # What it is.

    def description(self) -> DeviceDescription:
        """Return what the device is, for a transport.

        Raises:
            LocalError: what the instance chose is not possible.
        """
        name, config = type(self).__name__, self._config
        if not self.queues:
            raise LocalError(f"{name} has no queue; declare one in the class: requests = Queue(Request, Response)")
        _check(self, name, config)
        for queue in self.queues:
            queue.check(type(self))
        return DeviceDescription(
            name=name,
            device_id=self.device_id,
            features=self.features | RING_FEATURES,
            queue_sizes=[queue.size for queue in self.each_queue()],
            config=config.pack() if config is not None else b"",
            writable=config.writable_mask() if config is not None else b"",
            kept_size=self.kept_size,
        )

    def each_queue(self) -> list[AnyQueue]:
        """Return the declaration of each queue, in the order of the queues' indexes."""
        return [queue for queue in self.queues for _ in range(queue.count)]

    def ports(self, queue: OutgoingQueue) -> list[OutgoingPort]:
        """Return the ports of an outgoing queue: as many as it is declared for."""
        if queue not in self._ports:
            self._ports[queue] = [OutgoingPort(queue.name) for _ in self._indexes(queue)]
        return self._ports[queue]

    def _indexes(self, queue: AnyQueue) -> list[int]:
        return [index for index, declared in enumerate(self.each_queue()) if declared is queue]

    def number_of(self, index: int) -> int:
        """Return the number of the queue ``index`` among those that are declared by one `Queue` or `OutgoingQueue`."""
        return self._indexes(self.each_queue()[index]).index(index)

    def resume(self, queue: Queue, number: int = 0) -> None:
        """Take requests again from a queue whose method raised `NotNow`; where none did, that changes nothing.

        ``number`` is that of the queue among those of the same declaration.
        """
        if self._tell_resumed is not None:
            self._tell_resumed(self._indexes(queue)[number])

    @property
    def is_async(self) -> bool:
        """Whether the device needs an event loop: it has a `run`, an ``async def`` method or an outgoing queue."""
        return self.speaks_first or any(queue.is_async(self) for queue in self.queues if isinstance(queue, Queue))

    @property
    def speaks_first(self) -> bool:
        """Whether the device does something that no request asked for."""
        return type(self).run is not Device.run or any(isinstance(queue, OutgoingQueue) for queue in self.queues)

    @property
    def needs_one_worker(self) -> bool:
        """Whether the device is one object, so that not several workers can each have an instance of it."""
        return self.speaks_first and not self.stateless

    # What it does; override these.

    async def run(self) -> None:
        """Do what no request asks for; override it.

        It begins when the driver is ready (DRIVER_OK), goes on while queues are stopped and started again, and is
        cancelled when the device is reset or its process ends. It may use timers, descriptors and anything else of
        asyncio. A device that has it is served by one worker, unless it says that it is `stateless`.
        """

    def queue_started(self, index: int, *, resumed: bool) -> None:
        """Do what is to be done when the driver's queue ``index`` starts; override it.

        With ``resumed`` the driver goes on with a queue that it has used: the machine was paused or migrated, or this
        instance takes over from one whose process died. Without it the driver is a new one, which knows nothing of
        what was before: a guest that is rebooted, or that binds its driver again, need not reset the device.
        """

    def config_written(self) -> None:
        """Do what is to be done when a driver wrote the configuration space; override it.

        What it changes there is the answer to what the driver wrote: the driver reads it next, and is not interrupted.
        """

    def close(self) -> None:
        """Release what the device holds; override it. It is called when the device is reset or its process ends."""

    async def offload(self, function: Callable[..., R], *arguments: object, executor: Executor | None = None) -> R:
        """Call ``function`` in a thread, another process or a cluster, and return what it returns.

        ``executor`` is any `concurrent.futures.Executor`, for example Dask's ``Client.get_executor()``; without one it
        is the device's own, and without that threads of this process.
        """
        import asyncio

        chosen = executor or self.executor or self._own_executor
        if chosen is None:
            from concurrent.futures import ThreadPoolExecutor

            chosen = self._own_executor = ThreadPoolExecutor(thread_name_prefix=type(self).__name__)
        return await asyncio.wrap_future(chosen.submit(function, *arguments))

    # What the runtime calls.

    def negotiate(self, features: int) -> None:
        """Take note of what driver and device agreed on, and of whether somebody reads the log.

        The runtime calls this before the first request.
        """
        self.negotiated = features
        logging = sys.modules.get("logging")  # a reader of the log has imported it
        if logging is None:
            return
        logger = logging.getLogger(f"pyvirtio.device.{type(self).__name__}")
        self.logs = logger.isEnabledFor(logging.INFO)
        self._logger = logger if self.logs else None

    def retire(self) -> None:
        """Release what belongs to this instance; the runtime calls this when it is done with it."""
        self._tell_config = self._tell_resumed = None
        self.guest_memory = MemoryTable()
        try:
            self.close()
        finally:
            if self._own_executor is not None:
                self._own_executor.shutdown(wait=False, cancel_futures=True)
                self._own_executor = None

    def info(self, message: str, *values: object) -> None:
        """Log at level INFO. Without a reader nothing is formatted.

        Control characters in ``values``, which may come from a guest, are shown escaped.
        """
        if self._logger is not None:
            self._logger.info(message, *map(_printable, values))

    def attach(self, tell_config: Callable[[bytes], None], tell_resumed: Callable[[int], None]) -> None:
        """Say whom to tell a new content of the configuration space, and the index of a queue that is resumed."""
        self._tell_config = tell_config
        self._tell_resumed = tell_resumed

    # The configuration space.

    def load_config(self, data: bytes | bytearray) -> None:
        """Take over the content of the configuration space, as the driver left it."""
        if self._config is not None:
            self._config = type(self._config).unpack(data)

    def update_config(self, **changes: object) -> None:
        """Change fields of the configuration space; the driver gets a configuration-change interrupt."""
        if self._config is None:
            raise LocalError(f"{type(self).__name__} has no configuration space; set its `config` to a structure first")
        self.config = self._config.replace(**changes)

    def _replace_config(self, value: Struct | None) -> None:
        name = type(self).__name__
        _check_config(name, value)
        if self._tell_config is not None and type(value) is not type(self._config):
            raise LocalError(f"the driver knows the configuration space of {name} already; change its fields only")
        self._config = value
        if self._tell_config is not None and value is not None:
            self._tell_config(value.pack())


def _check(device: Any, name: str, config: object) -> None:
    """Refuse what a class or an instance says of itself and cannot be."""
    if not isinstance(device.device_id, int) or not 1 <= device.device_id <= MAXIMUM_ID:
        raise LocalError(
            f"{name}.device_id is {device.device_id!r}; give a number from 1 to {MAXIMUM_ID}", section="4.1.2"
        )
    if not isinstance(device.features, int) or device.features & ~DEVICE_FEATURES:
        raise LocalError(
            f"{name}.features has bits that belong to rings and transports; set only bits 0 to 23 and 50 to 63",
            section="2.2",
        )
    patience = device.patience
    if patience is not None and not (isinstance(patience, (int, float)) and 0 < patience < float("inf")):
        raise LocalError(f"{name}.patience is {patience!r}; give seconds above 0, or None for no limit")
    if not isinstance(device.kept_size, int) or not 0 <= device.kept_size <= MOST_KEPT:
        raise LocalError(f"{name}.kept_size is {device.kept_size!r}; give a number of bytes up to {MOST_KEPT}")
    for queue in device.queues:
        if not isinstance(queue, AnyQueue):
            raise LocalError(f"{name}.queues holds {queue!r}; put into it only queues that the class declares")
    _check_config(name, config)


def _check_config(name: str, config: object) -> None:
    if config is None:
        return
    if not isinstance(config, Struct):
        hint = f"write {config.__name__}()" if isinstance(config, type) else "give a structure"
        raise LocalError(f"{name}.config is the first content of its configuration space, an instance: {hint}")
    if config.nbytes > MAXIMUM_CONFIG:
        raise LocalError(
            f"{name}.config takes {config.nbytes} bytes; "
            f"front-ends read {MAXIMUM_CONFIG} at most, so put the rest into a request"
        )


def _printable(value: object) -> object:
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
