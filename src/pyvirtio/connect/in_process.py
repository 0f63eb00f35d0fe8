"""A driver and a device in one process: the shortest way that a request can go.

A kick steps the device's runtime, so what a plain method answers is there when `kick` returns. A device with
coroutines runs in the event loop in which the driver was opened; where there was none, in one that runs while the
driver waits.
"""

from __future__ import annotations

import os
import time

from pyvirtio.driver.waiting import running_loop
from pyvirtio.errors import LocalError
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.memory.arena import Arena
from pyvirtio.memory.files import map_file, shared_file
from pyvirtio.runtime import DeviceRunner
from pyvirtio.system import log
from pyvirtio.transport import DriverTransport, FileRegion

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from pyvirtio.device import Device
    from pyvirtio.runtime.loop import Attachment
    from pyvirtio.transport import QueueSetup

MEMORY = 16 << 20
"""The bytes of memory that driver and device share, unless told otherwise."""


class InProcessTransport(DriverTransport):
    """Leads a driver to a `Device` object, which ``new_runner`` runs."""

    def __init__(
        self, device: Device, memory: int = MEMORY, new_runner: Callable[..., DeviceRunner] = DeviceRunner
    ) -> None:
        self.device = device
        self.device_id = device.device_id
        self.faults: list[str] = []
        """What the device's runtime reported; it is logged as well, with tracebacks."""
        self._loop, self._own_loop = _loop_for(device)
        try:
            self.runner = new_runner(device, self._report, loop=self._loop)
        except BaseException:
            if self._own_loop is not None:
                self._own_loop.close()
            raise
        self.runner.events = self
        self._attachment: Attachment | None = None
        if self._loop is not None:
            from pyvirtio.runtime.loop import Attachment

            self._attachment = Attachment(self._loop, self.runner)
            self.runner.wake_loop = self._attachment.wake
        fd = shared_file("pyvirtio-driver", memory)
        self.memory = MemoryTable([Region(0, map_file(fd, 0, memory))])
        self.runner.set_memory([FileRegion(0, memory, fd, 0)])
        os.close(fd)
        self.arena = Arena(0, memory)
        self._features = 0
        self._setups: list[QueueSetup] = []
        self._fds: dict[int, int] = {}
        self._kick_fds: list[int] = []
        self._broken = 0
        self._closed = False

    def _report(self, event: str, message: str, error: BaseException | None) -> None:
        self.faults.append(message)
        log.warning(event, message, error)

    # What the runtime reports.

    def config_changed(self) -> None:
        """Do nothing: `config_generation` says it."""

    def queue_broken(self, index: int) -> None:  # noqa: ARG002  # the device as a whole needs a reset
        """Take note that the device needs to be reset (VIRTIO 1.4, 2.1.2)."""
        self._broken += 1

    # What a driver asks.

    def offered_features(self) -> int:
        """Return what the device offers."""
        return self.runner.description.features

    def accept_features(self, features: int) -> bool:
        """Agree to what was offered."""
        self._features = features
        return not features & ~self.runner.description.features

    def queue_size(self, index: int) -> int:
        """Return what the device declares."""
        sizes = self.runner.description.queue_sizes
        return sizes[index] if index < len(sizes) else 0

    def start_queue(self, setup: QueueSetup) -> None:
        """Keep the set-up until `run`."""
        self._setups.append(setup)

    def run(self) -> None:
        """Let the runtime serve every queue."""
        flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
        for setup in self._setups:
            self._fds[setup.index] = setup.interrupt_fd = os.eventfd(0, flags)
            setup.kick_fd = os.eventfd(0, flags)
            self._kick_fds.append(setup.kick_fd)
            self.runner.start_queue(setup)

    def kick(self, index: int) -> None:
        """Let the device serve the queue, here and now."""
        self.runner.kick(index)
        if self._own_loop is not None:
            self._run_loop(lambda: True, 0.0)
        elif self._loop is None:
            while self.runner.step():
                pass

    def wait(self, indexes: Sequence[int], timeout: float | None) -> bool:
        """Wait for an interrupt. Where the device has no coroutines, what is not there now never comes."""
        if self._interrupted(indexes):
            return True
        if self._own_loop is not None:
            return self._run_loop(lambda: self._interrupted(indexes), timeout)
        if self._loop is not None:
            raise LocalError("the device runs in this event loop, which a blocking wait would stop; await the ticket")
        return False

    def _interrupted(self, indexes: Sequence[int]) -> bool:
        return True in [_take(self._fds[index]) for index in indexes]

    def _run_loop(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """Run the loop of our own until ``condition`` holds, which is looked at after each of its rounds."""
        import asyncio

        if running_loop() is not None:
            raise LocalError(
                "the driver was opened where no event loop ran, so its device has one of its own, which cannot run "
                "inside another; open the driver in the event loop that uses it"
            )

        async def rounds() -> bool:
            deadline = None if timeout is None else time.monotonic() + timeout
            while True:
                await asyncio.sleep(0)  # a round of everything that is ready, the device's runtime included
                await asyncio.sleep(0)
                if condition():
                    return True
                if deadline is not None and time.monotonic() >= deadline:
                    return False
                await self._next_interrupt(deadline)

        assert self._own_loop is not None
        return self._own_loop.run_until_complete(rounds())

    async def _next_interrupt(self, deadline: float | None) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        arrived = loop.create_future()

        def interrupted() -> None:
            if not arrived.done():
                arrived.set_result(None)

        for fd in self._fds.values():
            loop.add_reader(fd, interrupted)
        try:
            await asyncio.wait([arrived], timeout=None if deadline is None else deadline - time.monotonic())
        finally:
            for fd in self._fds.values():
                loop.remove_reader(fd)

    def interrupt_fd(self, index: int) -> int:
        """Return the eventfd that the device's runtime writes."""
        return self._fds[index]

    def hangup_fd(self) -> int:
        """Return -1: the device cannot go away by itself."""
        return -1

    def process_events(self) -> None:
        """Do nothing: the device says nothing by itself."""

    def config_generation(self) -> int:
        """Count the changes that the device made; asking to be reset is one (VIRTIO 1.4, 2.1.2)."""
        return self.runner.config_generation() + self._broken

    def read_config(self, offset: int, length: int) -> bytes:
        """Read the device's configuration space."""
        return self.runner.read_config(offset, length)

    def write_config(self, offset: int, data: bytes) -> None:
        """Write what the device lets a driver write."""
        self.runner.write_config(offset, data)

    def needs_reset(self) -> bool:
        """Return whether a queue is not served any more (VIRTIO 1.4, 2.1.2)."""
        return self._broken > 0

    def close(self) -> None:
        """Stop the device; the object itself can be used again."""
        if self._closed:
            return
        self._closed = True
        if self._attachment is not None:
            self._attachment.detach()
        tasks = self.runner.close()
        if self._own_loop is not None:
            _finish(self._own_loop, tasks)
        for fd in (*self._fds.values(), *self._kick_fds):
            os.close(fd)
        self._fds.clear()
        self._kick_fds.clear()


def _take(fd: int) -> bool:
    """Return whether an eventfd was signalled since the last call."""
    try:
        return bool(os.eventfd_read(fd))
    except BlockingIOError:
        return False


def _loop_for(device: Device) -> tuple[asyncio.AbstractEventLoop | None, asyncio.AbstractEventLoop | None]:
    """Return the event loop for a device, if it needs one, and the same again if it was made for it."""
    if not device.is_async:
        return None, None
    import asyncio

    if (running := running_loop()) is not None:
        return running, None
    loop = asyncio.new_event_loop()
    return loop, loop


def _finish(loop: asyncio.AbstractEventLoop, tasks: list[asyncio.Task[None]]) -> None:
    """Let cancelled tasks end, and close the loop."""
    import asyncio

    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
