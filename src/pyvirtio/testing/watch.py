"""What happens to a device, as events that a test waits for instead of sleeping.

>>> import threading
>>> from pyvirtio.connect import open_driver
>>> from pyvirtio.devices.factorial import Factorial
>>> from pyvirtio.drivers.factorial import FactorialDriver
>>> watched = watch(Factorial())
>>> with open_driver(FactorialDriver, watched.device) as driver:
...     _ = driver.factorial(5)
>>> watched.requested.wait(timeout=1)
compute: 36 bytes, room for 21 -> answered
"""

from __future__ import annotations

import collections
import functools
import threading

from pyvirtio.device.handlers import is_async
from pyvirtio.errors import NoAnswer

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator
    from typing import Any, Generic, TypeVar

    from pyvirtio.device import Device
    from pyvirtio.device.streams import Reader, Writer

    T = TypeVar("T")
    D = TypeVar("D", bound=Device)
else:
    from pyvirtio.system.typing import Generic

    T = D = None

KEPT = 1000
"""So many events are kept for whoever waits later; then the oldest are forgotten."""


class Trigger(Generic[T]):
    """Something that happens again and again: `wait` for the next time, or ``await`` it.

    What happened before anybody waited counts: each occurrence is handed out once, the oldest first.

    >>> rang = Trigger("the bell to ring")
    >>> rang.fire("ding")
    >>> rang.wait(timeout=1)
    'ding'
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._news = threading.Condition()
        self._values: collections.deque[T] = collections.deque(maxlen=KEPT)
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def fire(self, value: T) -> None:
        """Let it happen; any thread may do this."""
        with self._news:
            self._values.append(value)
            self._news.notify()
            waiting = list(self._waiting)
        for loop, event in waiting:
            loop.call_soon_threadsafe(event.set)

    def wait(self, timeout: float = 60.0) -> T:
        """Wait for the next occurrence, for at most so many seconds, and return its value.

        Raises:
            NoAnswer: it did not happen in time.
        """
        with self._news:
            if not self._news.wait_for(lambda: self._values, timeout):
                raise NoAnswer(f"waited {timeout:g} s for {self._what}")
            return self._values.popleft()

    def __await__(self) -> Generator[Any, None, T]:
        return self._next().__await__()

    async def _next(self) -> T:
        import asyncio

        entry = (asyncio.get_running_loop(), asyncio.Event())
        with self._news:
            self._waiting.append(entry)
        try:
            while True:
                with self._news:
                    if self._values:
                        return self._values.popleft()
                    entry[1].clear()
                await entry[1].wait()
        finally:
            with self._news:
                self._waiting.remove(entry)


class Call:
    """A request that a device was asked.

    Attributes:
        queue: the name of the queue.
        request: the structure of a typed request; of any other, how many bytes are to be read and may be written.
        outcome: what came of it, in words; empty while it is answered.
    """

    def __init__(self, queue: str, request: object) -> None:
        self.queue = queue
        self.request = request
        self.outcome = ""

    def __repr__(self) -> str:
        return f"{self.queue}: {self.request}" + (f" -> {self.outcome}" if self.outcome else "")


class Watch(Generic[D]):
    """Watches a device object, from before it is served; see `watch`.

    Attributes:
        device: the device.
        requested: a request's method is called; its value is a `Call`.
        answered: a method has returned.
        failed: a method has raised.
        last: the last calls, oldest first.
    """

    def __init__(self, device: D) -> None:
        self.device = device
        self.requested: Trigger[Call] = Trigger("a request")
        self.answered: Trigger[Call] = Trigger("an answer")
        self.failed: Trigger[Call] = Trigger("a failure")
        self.last: collections.deque[Call] = collections.deque(maxlen=20)
        for queue in device.each_queue():
            for role, name in getattr(queue, "methods", {}).items():
                if wrap := WRAPPERS.get(role):
                    setattr(device, name, wrap(self, queue.name, getattr(device, name)))

    def begin(self, queue: str, request: object) -> Call:
        """Note that a method is called."""
        call = Call(queue, request)
        self.last.append(call)
        self.requested.fire(call)
        return call

    def end(self, call: Call, error: BaseException | None = None) -> None:
        """Note that it has ended."""
        call.outcome = f"{type(error).__name__}: {error}" if error else "answered"
        (self.failed if error else self.answered).fire(call)


def watch(device: D) -> Watch[D]:
    """Watch a device object of this process. Its requests are handed to its methods one by one, batches too."""
    return Watch(device)


def _watching(watched: Watch[Any], queue: str, method: Callable[..., Any], seen: Callable[..., object]) -> Any:
    if is_async(method):

        @functools.wraps(method)
        async def later(*arguments: Any) -> Any:
            call = watched.begin(queue, seen(*arguments))
            try:
                result = await method(*arguments)
            except BaseException as error:
                watched.end(call, error)
                raise
            watched.end(call)
            return result

        return later

    @functools.wraps(method)
    def at_once(*arguments: Any) -> Any:
        call = watched.begin(queue, seen(*arguments))
        try:
            result = method(*arguments)
        except BaseException as error:
            watched.end(call, error)
            raise
        watched.end(call)
        return result

    return at_once


def _typed(watched: Watch[Any], queue: str, method: Callable[..., Any]) -> Any:
    return _watching(watched, queue, method, lambda request: request)


def _stream(watched: Watch[Any], queue: str, method: Callable[..., Any]) -> Any:
    def seen(reader: Reader, writer: Writer, *_number: int) -> str:
        return f"{reader.left} bytes, room for {writer.room}"

    return _watching(watched, queue, method, seen)


def _one_by_one(_watched: Watch[Any], _queue: str, _method: Callable[..., Any]) -> Any:
    return lambda _requests: NotImplemented


WRAPPERS = {"each": _typed, "stream": _stream, "batch": _one_by_one}
"""How the methods of a queue are watched, by what they do."""
