"""Serves a device object of this process on a socket: in a thread, or in the event loop of the caller.

>>> import tempfile, os
>>> from pyvirtio.connect import open_driver
>>> from pyvirtio.devices.factorial import Factorial
>>> from pyvirtio.drivers.factorial import FactorialDriver
>>> path = os.path.join(tempfile.mkdtemp(), "f.sock")
>>> with serving(Factorial(), path), open_driver(FactorialDriver, f"vhost-user:{path}") as driver:
...     driver.factorial(5)
120
"""

from __future__ import annotations

import contextlib

from pyvirtio.errors import LocalError
from pyvirtio.runtime import DeviceRunner
from pyvirtio.server import Server
from pyvirtio.system import log
from pyvirtio.system.listener import listen
from pyvirtio.vhost_user.backend import BackendSession

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    import threading
    from collections.abc import Callable
    from typing import Any, Generic, Self, TypeVar

    from pyvirtio.device import Device

    D = TypeVar("D", bound=Device)
else:
    from pyvirtio.system.typing import Generic

    D = None


class serving(Generic[D]):  # noqa: N801  # used as a statement: `with serving(device, path):`
    """Serve ``device`` over vhost-user on the socket ``path`` for as long as the block lasts.

    *This* object answers, so its attributes can be read while a guest uses it. ``with`` runs it in a thread of its own;
    what changes the device, such as `Device.update_config`, is to happen there, too: see `call`. ``async with`` runs
    it in the event loop of the caller.

    Nothing protects the front-end here: a method that never returns stops the device, and QEMU with it.
    ``pyvirtio serve`` runs a device in processes that may hang and die.

    Attributes:
        device: the device that answers.
        faults: what the runtime reported, oldest first; it is logged as well, with tracebacks.

    Raises:
        LocalError: the device cannot be served as it is, or the socket not be made.
        BaseException: at the end of a ``with`` block: what ended its thread, such as a method that raised SystemExit.
    """

    def __init__(self, device: D, path: str, *, busy_poll_us: int = 0) -> None:
        self.device = device
        self.path = path
        self.faults: list[str] = []
        self._busy_poll_us = busy_poll_us
        self._exits: contextlib.AsyncExitStack | None = None
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: BaseException | None = None

    def _report(self, event: str, message: str, error: BaseException | None) -> None:
        self.faults.append(message)
        log.warning(event, message, error)

    # In the event loop of the caller.

    async def __aenter__(self) -> Self:
        import asyncio

        from pyvirtio.runtime.loop import Attachment

        loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as exits:
            listener = exits.enter_context(listen(self.path))
            runner = DeviceRunner(self.device, self._report, loop=loop, busy_poll_us=self._busy_poll_us)
            exits.push_async_callback(self._close_runner, runner)
            server = Server(runner, lambda host: BackendSession(host, log.refused), listener=listener)
            exits.callback(server.close)
            of_runner, of_server = Attachment(loop, runner), Attachment(loop, server)
            runner.wake_loop = of_runner.wake
            exits.callback(of_runner.detach)
            exits.callback(of_server.detach)
            self._exits = exits.pop_all()
        return self

    async def _close_runner(self, runner: DeviceRunner) -> None:
        import asyncio

        await asyncio.gather(*runner.close(), return_exceptions=True)

    async def __aexit__(self, *_: object) -> None:
        assert self._exits is not None
        await self._exits.aclose()

    # In a thread.

    def __enter__(self) -> Self:
        import asyncio
        import threading

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise LocalError("an event loop runs here, and `with` would block it; write `async with serving(...)`")
        ready = threading.Event()
        self._failure = None

        async def serve() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            async with self:
                ready.set()
                await self._stop.wait()

        def run() -> None:
            try:
                asyncio.run(serve())
            except BaseException as error:  # noqa: BLE001  # it is raised where the block begins or ends
                self._failure = error
            finally:
                self._loop = None
                ready.set()

        self._thread = threading.Thread(target=run, name=f"serving-{type(self.device).__name__}", daemon=True)
        self._thread.start()
        ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def call(self, function: Callable[..., Any], *arguments: object, **named: object) -> Any:
        """Call ``function`` in the device's thread, between two of its steps, and return what it returns.

        An ``async def`` is awaited there, and the device goes on meanwhile.

        >>> import tempfile, os
        >>> from pyvirtio.devices.factorial import Factorial
        >>> with serving(Factorial(), os.path.join(tempfile.mkdtemp(), "f.sock")) as served:
        ...     served.call(served.device.update_config, max_exact=10)
        ...     served.device.config.max_exact
        10

        Raises:
            Exception: what the function raised.
            LocalError: no thread serves the device: the block is left, or it is an ``async with``.
        """
        import asyncio
        import inspect

        if self._loop is None:
            raise LocalError("no thread serves the device; in the event loop that does, call the function directly")

        async def in_its_thread() -> Any:
            result = function(*arguments, **named)
            return await result if inspect.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(in_its_thread(), self._loop).result()

    def __exit__(self, *_: object) -> None:
        assert self._stop is not None
        assert self._thread is not None
        if (loop := self._loop) is not None:
            with contextlib.suppress(RuntimeError):  # it ended by itself at this moment
                loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        if self._failure is not None:
            raise self._failure
