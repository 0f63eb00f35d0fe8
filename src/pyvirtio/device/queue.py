"""The declaration of a device's queue: its structures, its size, and the methods of the device that serve it."""

from __future__ import annotations

from pyvirtio.device import handlers
from pyvirtio.errors import LocalError
from pyvirtio.spec import split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self, TypeVar, overload

    from pyvirtio.device.device import Device
    from pyvirtio.device.handlers import Handler
    from pyvirtio.device.outgoing import OutgoingPort
    from pyvirtio.device.streams import Reader, Writer
    from pyvirtio.spec.struct import Struct

    Method = TypeVar("Method", bound=Callable[..., Any])
else:
    from pyvirtio.system.typing import overload


class AnyQueue:
    """What both kinds of queues declare: ``size`` entries and ``count`` equal queues in a row.

    Raises:
        LocalError: the size or the count is not possible.
    """

    def __init__(self, *, size: int, count: int) -> None:
        if not split.is_valid_size(size):
            raise LocalError(f"a queue of {size} entries: use a power of two from 1 to 32768", section="2.7")
        if count < 1:
            raise LocalError(f"{count} queues are declared at once; declare 1 or more")
        self.size = size
        self.count = count
        self.name = ""

    def __set_name__(self, _owner: type, name: str) -> None:
        self.name = name

    def check(self, device: type) -> None:
        """Refuse a queue that the class ``device`` cannot serve."""


class Queue(AnyQueue):
    """A queue on which the driver asks and the device answers, or ``count`` equal ones.

    ``request`` and ``response`` are structures. ``size``, a power of two up to 32768, is how many entries the device
    asks for, and the most requests that it is given at once; the driver may make the ring larger or smaller.
    Decorate one method of the device with `each` or `stream`, perhaps one with `batch`, and perhaps one with `failed`.
    Where ``repeatable`` is False, a request is never given to its method twice, even if a worker died in it; by
    default the queue does as its `Device` says. Where ``held`` is True, an ``async def`` method may hold a request
    until something happens, such as a stream that is to start: the device's patience does not end that. A stop of the
    queue does: the method is cancelled, and may still write what the driver is to see.

    Raises:
        LocalError: the declaration is not possible.
    """

    def __init__(
        self,
        request: type[Struct] | None = None,
        response: type[Struct] | None = None,
        *,
        size: int = 128,
        count: int = 1,
        repeatable: bool | None = None,
        held: bool = False,
    ) -> None:
        super().__init__(size=size, count=count)
        self.held = held
        self.request = request
        self.response = response
        self.repeatable = repeatable
        self.methods: dict[str, str] = {}
        """The names of the device's methods, by what they do: ``each`` or ``stream``, ``batch``, ``failed``."""

    # Decorators.

    def each(self, method: Method) -> Method:
        """Let ``method(self, request)`` answer: a structure in, a structure out.

        A response with a single number may be given as that number. An ``async def`` method may answer later, and
        in any order; as many are in progress as the driver has requests on the queue.
        """
        if self.request is None or self.response is None:
            raise LocalError(
                "a method that answers each request needs the queue's two structures; declare them, or use stream"
            )
        return self._declare("each", method, instead_of="stream")

    def stream(self, method: Method) -> Method:
        """Let ``method(self, reader, writer)`` answer: bytes in, bytes out; ``async def`` as for `each`.

        Where there are several equal queues, a third parameter of the method takes the number of the request's queue
        among them, from 0 on.
        """
        return self._declare("stream", method, instead_of="each")

    def batch(self, method: Method) -> Method:
        """Let ``method(self, requests)`` answer many requests at once, where many wait. It needs NumPy.

        It takes a record array of the request's structure, which it may not change, and returns an array of the
        response's, or of plain values where the response has one field. It may return NotImplemented; then, where few
        requests wait or NumPy is missing, and on a queue that is not repeatable, the queue's other method is called
        for each request.
        """
        if self.request is None or self.response is None:
            raise LocalError(
                "a method that answers batches needs the queue's two structures; declare it as Queue(Request, Response)"
            )
        _refuse_async(method, "a batch method")
        return self._declare("batch", method)

    def failed(self, method: Method) -> Method:
        """Let ``method(self, writer)`` write what the driver is to see of a request that failed.

        A request failed when its method raised, took longer than the device's patience, or ended its worker too
        often, and when the driver's request is malformed. Without such a method the request is returned with length 0:
        *a driver need not notice that*. Linux's virtio_blk takes an untouched status byte for success.
        """
        _refuse_async(method, "a method for failed requests")
        return self._declare("failed", method)

    def _declare(self, role: str, method: Method, instead_of: str = "") -> Method:
        if isinstance(method, (staticmethod, classmethod)) or not callable(method):
            raise LocalError(
                f"@{self.name or 'queue'}.{role} stands above something that is no method; "
                "put it above a plain method of the device"
            )
        if handlers.is_generator(method):
            raise LocalError(
                f"{method.__name__} is a generator, and nobody would run it; "
                f"a method that answers requests is a plain `def`, or `async def` without `yield`"
            )
        for taken in (role, instead_of):
            if taken in self.methods:
                raise LocalError(
                    f"two methods answer one queue, {self.methods[taken]} and {method.__name__}; keep one of them"
                )
        if method.__name__ in self.methods.values():
            raise LocalError(f"two methods of one queue are called {method.__name__}; give each a name of its own")
        self.methods[role] = method.__name__
        return method

    # What the runtime asks.

    def check(self, device: type) -> None:
        """Refuse a queue that no method answers."""
        if not self.methods.keys() & {"each", "stream"}:
            raise LocalError(
                f"no method answers the queue {self.name!r} of {device.__name__}; "
                f"put @{self.name}.each or @{self.name}.stream above one"
            )
        clashes = [name for role, name in self.methods.items() if not callable(getattr(device, name, None))]
        if clashes:
            raise LocalError(
                f"{device.__name__} has no method {clashes[0]}, which is to answer {self.name!r}; "
                "write it, or give it its name back"
            )

    def is_async(self, device: object) -> bool:
        """Return whether the queue's method of ``device`` is an ``async def``."""
        return handlers.is_async(getattr(device, self._answering, None))

    @property
    def _answering(self) -> str:
        return self.methods.get("each") or self.methods.get("stream", "")

    def stream_method(self, device: object, number: int) -> Callable[[Reader, Writer], Any] | None:
        """Return the ``stream`` method of ``device`` for the queue ``number`` of this declaration, if there is one."""
        name = self.methods.get("stream")
        return handlers.numbered(getattr(device, name), number) if name else None

    def handler(self, device: object, number: int = 0) -> Handler:
        """Return what has ``device`` answer a chain of the queue ``number`` of this declaration."""
        if (stream := self.stream_method(device, number)) is not None:
            return handlers.stream_handler(stream)
        method = getattr(device, self._answering)
        assert self.request is not None
        assert self.response is not None
        return handlers.typed_handler(method, self.request, self.response)

    def failure(self, device: object) -> Callable[[Writer], object] | None:
        """Return the method that writes what a driver sees of a failed request, if there is one."""
        name = self.methods.get("failed")
        return getattr(device, name) if name else None


class OutgoingQueue(AnyQueue):
    """A queue on which the device speaks and the driver only provides buffers, such as a console's receive queue.

    No buffer is taken before there is something to say. On an instance of the device it reads as an `OutgoingPort`,
    whose `send` a device calls; where ``count`` is above 1, `Device.ports` has one for each.
    """

    def __init__(self, *, size: int = 128, count: int = 1) -> None:
        super().__init__(size=size, count=count)

    @overload
    def __get__(self, device: None, _owner: type) -> Self: ...
    @overload
    def __get__(self, device: Device, _owner: type) -> OutgoingPort: ...  # noqa: F811  # ruff knows typing's only
    def __get__(self, device: Device | None, _owner: type) -> Self | OutgoingPort:  # noqa: F811  # as above
        if device is None:
            return self
        if self.count > 1:
            kind = type(device).__name__
            raise LocalError(f"{kind} has {self.count} queues {self.name!r}; use self.ports({kind}.{self.name})[0]")
        return device.ports(self)[0]


def _refuse_async(method: Callable[..., Any], what: str) -> None:
    if handlers.is_async(method):
        raise LocalError(f"{what} is called and answers at once; make {method.__name__} a plain `def`, not `async def`")
