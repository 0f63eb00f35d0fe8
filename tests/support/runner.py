"""A device behind its runtime, and raw drivers of its queues: a test is the transport, the drivers and the loop."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pyvirtio.device import Device
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.memory.arena import Arena
from pyvirtio.memory.files import map_file, shared_file
from pyvirtio.ring import Journal
from pyvirtio.ring.journal import ledger_size, region_size
from pyvirtio.runtime import DeviceRunner
from pyvirtio.runtime.loop import Attachment
from pyvirtio.spec.features import RING_FEATURES, Feature
from pyvirtio.testing import RawDriver, RawRing, lay_out
from pyvirtio.transport import FileRegion

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Self

    from pyvirtio.transport import Completion, QueueSetup

MEMORY = 1 << 20
FEATURES = RING_FEATURES | Feature.VERSION_1
LIMIT = 10.0

D = TypeVar("D", bound=Device)


class Scene(Generic[D]):
    """Runs ``device`` on queues of ``size`` entries, in the event loop that runs, if the device needs one.

    ``before`` is the scene of a process that has died: this one goes on with its memory and its journals.

    Attributes:
        raws: the raw driver of each queue.
        events: the names of what was reported; errors: the exceptions behind it.
        changes: how often the device told of its configuration space; broken: the queues that it gave up.
        stuck: why a request could not be ended.
    """

    def __init__(
        self, device: D, *, size: int = 64, features: int = FEATURES, before: Scene[D] | None = None, **options: Any
    ) -> None:
        self.device = device
        self.features = features
        self.events: list[str] = []
        self.errors: list[BaseException] = []
        self.messages: list[str] = []
        self.stuck: list[str] = []
        self.broken: list[int] = []
        self.changes = 0
        self._before = before
        self._loop = asyncio.get_running_loop() if device.is_async else None
        self.runner = DeviceRunner(
            device, self._report, loop=self._loop, new_journal=self._journal, stuck=self.stuck.append, **options
        )
        self.runner.events = self
        number = len(self.runner.description.queue_sizes)
        self._fd = shared_file("scene", MEMORY)
        if before is not None:
            os.pwrite(self._fd, before.memory.read(0, MEMORY), 0)
        self.memory: MemoryTable = MemoryTable([Region(0, map_file(self._fd, 0, MEMORY))])
        self.runner.set_memory([FileRegion(0, MEMORY, self._fd, 0)])
        self.journals: dict[int, tuple[memoryview, memoryview]] = before.journals if before else {}
        self.raws: list[RawDriver] = before.raws if before else self._new_raws(number, size)
        for raw in self.raws if before else ():
            RawRing.__init__(raw, self.memory, raw.layout)
        flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
        self.kick_fds = [os.eventfd(0, flags) for _ in range(number)]
        self.interrupt_fds = [os.eventfd(0, flags) for _ in range(number)]
        self._attachment = Attachment(self._loop, self.runner) if self._loop else None
        if self._attachment:
            self.runner.wake_loop = self._attachment.wake

    def _new_raws(self, number: int, size: int) -> list[RawDriver]:
        layouts = []
        at = 0
        for _ in range(number):
            layouts.append(lay_out(size, at))
            at = layouts[-1].end
        arena = Arena(at, MEMORY - at)
        return [RawDriver(self.memory, layout=layout, arena=arena) for layout in layouts]

    def _journal(self, setup: QueueSetup) -> Journal:
        if setup.index not in self.journals:
            parts = bytearray(region_size(setup.size)), bytearray(ledger_size(setup.size))
            self.journals[setup.index] = memoryview(parts[0]), memoryview(parts[1])
        return Journal(setup.size, *self.journals[setup.index])

    # What the runtime reports.

    def _report(self, event: str, message: str, error: BaseException | None) -> None:
        self.events.append(event)
        self.messages.append(message)
        if error is not None:
            self.errors.append(error)

    def config_changed(self) -> None:
        """Count it."""
        self.changes += 1

    def queue_broken(self, index: int) -> None:
        """Keep it."""
        self.broken.append(index)

    # What a transport does.

    def start(self, index: int = 0, *, position: int | None = None) -> Self:
        """Start a queue."""
        fds = {"kick_fd": self.kick_fds[index], "interrupt_fd": self.interrupt_fds[index]}
        self.runner.start_queue(self.raws[index].setup(index, self.features, position=position or 0, **fds))
        return self

    def stop(self, index: int = 0) -> Completion[int]:
        """Stop a queue; with its end, its journal is over."""
        stopped = self.runner.stop_queue(index)
        stopped.then(lambda _position: self.journals.pop(index, None))
        return stopped

    def kick(self, index: int = 0) -> None:
        """Kick a queue; without a loop, serve it until nothing is left to do."""
        os.eventfd_write(self.kick_fds[index], 1)
        if self._loop is None:
            self.serve()

    def serve(self) -> None:
        """Take steps until nothing is left to do."""
        while self.runner.step():
            pass

    def interrupts(self, index: int = 0) -> int:
        """Return how often the driver was interrupted since the last call."""
        try:
            return os.eventfd_read(self.interrupt_fds[index])
        except BlockingIOError:
            return 0

    # What a driver does.

    def submit(self, *requests: bytes, room: int = 4, index: int = 0, kick: bool = True) -> list[int]:
        """Make requests available; return their heads."""
        raw = self.raws[index]
        heads = [raw.request(data, room=room) for data in requests]
        raw.make_available(*heads)
        if kick:
            self.kick(index)
        return heads

    def reap(self, index: int = 0) -> dict[int, bytes]:
        """Return what came back since the last time: the bytes that were written, by head, in order."""
        raw = self.raws[index]
        answers: dict[int, bytes] = {}
        number = (raw.used_idx - raw._reaped) & 0xFFFF
        elements = [raw.used_ring(raw._reaped + place) for place in range(number)]
        for element in elements:
            assert element.id not in answers
            answers[element.id] = raw.answer(element.id)[: element.len] if element.len else b""
        assert [element.id for element in raw.reap()] == list(answers)
        return answers

    async def back(self, number: int, index: int = 0) -> dict[int, bytes]:
        """Wait until ``number`` requests came back, and return them."""
        raw = self.raws[index]
        await until(lambda: (raw.used_idx - raw._reaped) & 0xFFFF >= number)
        answers = self.reap(index)
        assert len(answers) == number, answers
        return answers

    @property
    def counts(self) -> Counter[str]:
        """How often each event was reported."""
        return Counter(self.events)

    # The end.

    def close(self) -> list[asyncio.Task[None]]:
        """End the device; return what still has to end in the loop."""
        if self._attachment:
            self._attachment.detach()
        tasks = self.runner.close()
        for fd in (self._fd, *self.kick_fds, *self.interrupt_fds):
            os.close(fd)
        return tasks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.close() == []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*self.close(), return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until ``condition`` holds."""
    while not condition():
        await asyncio.sleep(0)


async def rounds(number: int = 8) -> None:
    """Let the loop run for a while, so that what should not happen would have happened."""
    for _ in range(number):
        await asyncio.sleep(0)


async def ended(completion: Completion[Any]) -> Any:
    """Wait for a completion; return its result."""
    await until(lambda: completion.done)
    return completion.result


def in_loop(main: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine in an event loop, which must have no tasks left at its end."""

    async def bounded() -> None:
        before = asyncio.all_tasks()
        await asyncio.wait_for(main(), LIMIT)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before

    asyncio.run(bounded())
