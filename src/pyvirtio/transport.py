"""What every transport ends in: memory, queue set-ups, and the interfaces on both sides of them.

A transport carries what a driver and a device must tell each other before and while a ring runs. Its wire
protocol is its own business; on the device's side it ends in calls of a `DeviceHost`, which answers through
`HostEvents`, and on the driver's side a `Driver` calls a `DriverTransport`. Everything behind these is common to
all transports.

::

    socket ─ Session ─► DeviceHost: set_memory, start_queue, kick, set_interrupt, stop_queue, write_config, reset
              (bytes)       │
                  ◄─────────┘ HostEvents: config_changed, queue_broken; and a Completion for what takes time
"""

from __future__ import annotations

from abc import ABC, abstractmethod

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Generic, Protocol, Self, TypeVar

    from pyvirtio.memory import MemoryTable
    from pyvirtio.memory.arena import Arena

    T = TypeVar("T")

    class HostEvents(Protocol):
        """What a `DeviceHost` reports to the transport by itself."""

        def config_changed(self) -> None:
            """Notify the driver that the device changed its configuration space (VIRTIO 1.4, 2.5)."""
            ...

        def queue_broken(self, index: int) -> None:
            """Notify the driver that a queue cannot be trusted and is not served until it is set up again."""
            ...

    class Session(Protocol):
        """One connection's protocol, without I/O: bytes and descriptors in, bytes and descriptors out.

        It tells its host to report to it, by setting the host's ``events``.

        A session may have to wait for its host before it can go on. Then ``wanted`` is 0, and it takes no more input
        until the host's `Completion` is done; replies are never given out of order.
        """

        wake: Callable[[], object]
        """Set by whoever owns the connection: called when something is to be sent that no input asked for."""

        @property
        def wanted(self) -> int:
            """The most bytes to read before the next call of `receive`; 0 while the session waits for its host."""
            ...

        def receive(self, data: bytes, fds: Iterable[int]) -> None:
            """Take what came from the connection; the descriptors become the session's.

            Raises:
                ProtocolError: nothing further can be understood; close the connection.
            """
            ...

        def outgoing(self) -> list[Outgoing]:
            """Return what is to be sent, in order, and forget it.

            Raises:
                ProtocolError: close the connection: what waited for the host cannot be answered.
            """
            ...

        def close(self) -> None:
            """Stop every queue and give back every descriptor: the connection is over."""
            ...

else:
    T = None

    class Generic:
        """Stands for `typing.Generic` while the program runs: importing ``typing`` takes as long as this package."""

        def __class_getitem__(cls, _parameter: object) -> type:
            return cls


MAXIMUM_STRIKES = 3
"""How often a worker may die inside the device's method for one request before that request fails."""


class Completion(Generic[T]):
    """The result of something that may take a while, set exactly once; a callback waits for it.

    It knows no thread and no event loop: who completes it runs the callbacks.

    >>> stopped = Completion[int]()
    >>> stopped.then(print)
    >>> stopped.complete(7)
    7
    >>> Completion.of(3).then(print)
    3
    """

    __slots__ = ("_callbacks", "_result", "done")

    def __init__(self) -> None:
        self.done = False
        self._result: Any = None
        self._callbacks: list[Callable[[T], object]] = []

    @classmethod
    def of(cls, result: T) -> Self:
        """Return a completion that is done already."""
        completion = cls()
        completion.complete(result)
        return completion

    @classmethod
    def all(cls, parts: Iterable[Completion[Any]]) -> Completion[None]:
        """Return a completion that is done when all ``parts`` are.

        >>> one = Completion[None]()
        >>> both = Completion.all([one, Completion.of(None)])
        >>> both.done
        False
        >>> one.complete(None)
        >>> both.done
        True
        """
        whole: Completion[None] = Completion()
        left = list(parts)
        missing = len(left)

        def one_is_done(_result: object) -> None:
            nonlocal missing
            missing -= 1
            if not missing:
                whole.complete(None)

        if not left:
            whole.complete(None)
        for part in left:
            part.then(one_is_done)
        return whole

    def complete(self, result: T) -> None:
        """Set the result and run what waits for it."""
        assert not self.done, "completed twice"
        self.done, self._result = True, result
        for callback in self._callbacks:
            callback(result)
        self._callbacks.clear()

    def then(self, callback: Callable[[T], object]) -> None:
        """Call ``callback`` with the result, now if it is there."""
        if self.done:
            callback(self._result)
        else:
            self._callbacks.append(callback)

    @property
    def result(self) -> T:
        """The result; only to be read when `done`."""
        assert self.done, "not completed yet"
        result: T = self._result
        return result


class Outgoing:
    """Bytes that a session wants to be sent, with descriptors that are closed once they are.

    ``socket`` is the descriptor of the socket to send on: None is the connection itself. Where ``lossy``, a message
    that the peer leaves no room for is dropped: what it says will be said again or was said before.
    """

    __slots__ = ("data", "fds", "lossy", "socket")

    def __init__(self, data: bytes, fds: Sequence[int] = (), *, socket: int | None = None, lossy: bool = False) -> None:
        self.data = data
        self.fds = list(fds)
        self.socket = socket
        self.lossy = lossy


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
    content, ``writable`` a byte of 255 for each byte of it that a driver may write, 0 for the others.
    """

    __slots__ = ("config", "device_id", "features", "name", "queue_sizes", "writable")

    def __init__(
        self,
        name: str,
        device_id: int,
        features: int,
        queue_sizes: Sequence[int],
        config: bytes = b"",
        writable: bytes = b"",
    ) -> None:
        self.name = name
        self.device_id = device_id
        self.features = features
        self.queue_sizes = tuple(queue_sizes)
        self.config = config
        self.writable = writable

    def differences(self, other: DeviceDescription) -> list[str]:
        """Name what a driver that knows ``self`` relies on and ``other`` has otherwise.

        >>> one = DeviceDescription("D", 38, 0, [64])
        >>> one.differences(DeviceDescription("E", 38, 1, [64, 64]))
        ['features', 'queues']
        """
        relied_on = {"device_id": "id", "features": "features", "queue_sizes": "queues", "writable": "configuration"}
        return [name for field, name in relied_on.items() if getattr(self, field) != getattr(other, field)]


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


class DriverTransport(ABC):
    """What a driver asks of the transport that leads to its device.

    ``memory`` is what both sides see, ``arena`` hands out pieces of it. ``device_id`` is the device's virtio id where
    the transport knows it (vhost-user does not), else None.
    """

    memory: MemoryTable
    arena: Arena
    device_id: int | None = None

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
    def wait(self, index: int, timeout: float | None) -> bool:
        """Wait until the device interrupts for a queue; return False when ``timeout`` seconds are over.

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
