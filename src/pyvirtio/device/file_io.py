"""What the files of one event loop wait with: an io_uring, or threads where there is none.

It exists while a runtime runs a device in that loop. The runtime waits for it as for everything else, so that a result
is dealt with in the round of the loop in which it arrives; see `pyvirtio.runtime.runner.DeviceRunner`.
"""

from __future__ import annotations

import asyncio

from pyvirtio.errors import LocalError
from pyvirtio.system import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from typing import Protocol, TypeVar

    from pyvirtio.ring import _native

    R = TypeVar("R")

    class Waiter(Protocol):
        """What runs a device, and waits for its files as well."""

        def watch(self, fd: int, callback: Callable[[], object], *, edge: bool = False) -> None:
            """Call ``callback`` when ``fd`` is readable; with ``edge``, each time that it becomes so."""
            ...

        def begin_io(self, flush: Callable[[], object]) -> None:
            """Call ``flush`` at the end of this turn."""
            ...

        def report(self, event: str, message: str, error: BaseException | None = None) -> None:
            """Log an event."""
            ...


MOST_THREADS = 32
"""The most threads that wait for files of one event loop."""

_by_loop: dict[asyncio.AbstractEventLoop, FileIO] = {}


class FileIO:
    """Waits for files in ``loop``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiters: list[Waiter] = []
        self._uring: _native.Uring | None = None
        self._has_none = False
        self._executor: Executor | None = None

    # For files.

    def uring(self) -> _native.Uring | None:
        """Return the io_uring, which is made when it is needed first; None where there is none."""
        if self._uring is None and not self._has_none:
            from pyvirtio.ring import _native

            try:
                self._uring = _native.Uring(self._loop, self._nudge)
            except OSError as error:
                self._has_none = True
                self._waiters[0].report(
                    "io-uring-missing",
                    f"files are waited for by threads, which takes longer: io_uring cannot be had ({error.strerror}); "
                    "it needs Linux 5.5 or newer, and a sandbox or container may forbid it",
                )
                return None
            for waiter in self._waiters:
                waiter.watch(self._uring.fileno(), self._uring.reap, edge=True)
        return self._uring

    async def call(self, function: Callable[..., R], *arguments: object) -> R:
        """Call ``function`` in a thread, and return what it returns; to be cancelled takes as long as that lasts."""
        if self._executor is None:
            from concurrent.futures import ThreadPoolExecutor

            if not self._has_none:
                log.info("io-uring-missing", "files are waited for by threads: io_uring is for the engine in C")
            self._executor = ThreadPoolExecutor(MOST_THREADS, "pyvirtio-files")
        work = self._executor.submit(function, *arguments)
        future = asyncio.wrap_future(work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            work.cancel()  # if it was not begun
            while not future.done():
                try:
                    await asyncio.wait([future])
                except asyncio.CancelledError:
                    continue
            if not future.cancelled():
                future.exception()  # nobody else asks, and nobody needs to be told
            raise

    def _nudge(self) -> None:
        assert self._uring is not None
        for waiter in self._waiters:  # mostly one; otherwise the first that has its turn
            waiter.begin_io(self._uring.flush)
        if not self._waiters:
            self._loop.call_soon(self._uring.flush)

    # For those who run devices.

    def attach(self, waiter: Waiter) -> None:
        """Have ``waiter`` wait for the files, too."""
        self._waiters.append(waiter)
        if self._uring is not None:
            waiter.watch(self._uring.fileno(), self._uring.reap, edge=True)

    def detach(self, waiter: Waiter) -> list[asyncio.Task[None]]:
        """Do without ``waiter``, and end with the last one; return tasks that end once nothing is under way."""
        self._waiters.remove(waiter)
        if self._waiters:
            return []
        del _by_loop[self._loop]
        if self._executor is not None:
            self._executor.shutdown(wait=False)
        if (uring := self._uring) is None:
            return []
        uring.flush()
        if not uring.under_way:
            self._close(uring)
            return []
        return [self._loop.create_task(self._drain(uring))]

    def _close(self, uring: _native.Uring) -> None:
        uring.close()
        self._uring = None  # it knows this object, and is none that the garbage collector looks into

    async def _drain(self, uring: _native.Uring) -> None:
        """Wait for what is under way, and for what those who are cancelled begin."""
        arrived = asyncio.Event()
        self._loop.add_reader(uring.fileno(), arrived.set)
        try:
            while True:
                uring.reap()
                await asyncio.sleep(0)  # who waited for something goes on
                uring.flush()
                if not uring.under_way:
                    break
                await arrived.wait()
                arrived.clear()
                _read_eventfd(uring.fileno())
        finally:
            self._loop.remove_reader(uring.fileno())
        self._close(uring)


def _read_eventfd(fd: int) -> None:
    import contextlib
    import os

    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(fd)


def io_of(loop: asyncio.AbstractEventLoop) -> FileIO:
    """Return what waits for the files of ``loop``, for whoever runs a device in it."""
    if loop not in _by_loop:
        _by_loop[loop] = FileIO(loop)
    return _by_loop[loop]


def running_io() -> FileIO:
    """Return what waits for the files of the loop that runs.

    Raises:
        LocalError: nothing runs a device in it.
    """
    found = _by_loop.get(asyncio.get_running_loop())
    if found is None:
        raise LocalError(
            "a File is for the methods of a device, in the event loop that runs it; await it in one of them"
        )
    return found
