"""A worker may die before any of its stores, with requests running, answered out of order and given back.

The journal's own tests do that with an engine alone; here it is the service that answers, as its workers do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio.device import Device, Queue
from pyvirtio.runtime.requests import RequestService
from pyvirtio.runtime.service import TIME_SLICE_NS, QueueState
from pyvirtio.spec.features import RING_FEATURES, Feature
from pyvirtio.testing import RawDriver
from tests.support.rings import Cut, Durable, Fuse, Number, memory_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

pytestmark = pytest.mark.usefixtures("mortal_engine")  # each of them

REQUESTS = 10
RING = 16


class Gate:
    """What a method awaits until the test opens it."""

    def __await__(self) -> Generator[Gate, None, None]:
        yield self


class Slot:
    """A coroutine that goes on when the test says so."""

    def __init__(self, work: Coroutine[Any, Any, None]) -> None:
        self._work = work
        self.done: Callable[[BaseException | None], object] = lambda error: None
        self.task = self

    def cancel(self) -> None:
        """Never called: nothing takes long here, and no ring breaks."""
        raise AssertionError

    def go_on(self) -> None:
        try:
            self._work.send(None)
        except StopIteration:
            self.done(None)


class Tasks:
    """Stands for the pool of tasks, and for its event loop: the test runs what is to be called soon."""

    cancelled = Cut

    def __init__(self) -> None:
        self.loop = self
        self.soon: list[Callable[[], object]] = []

    def begin(self, work: Coroutine[Any, Any, None]) -> Slot | None:
        try:
            work.send(None)
        except StopIteration:
            return None
        return Slot(work)

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.soon.append(callback)

    def run(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()


class Doubler(Device):
    """Doubles a number: odd ones at once, even ones once they may go on; three requests take a time slice."""

    device_id = 63
    patience = None
    requests = Queue(Number, Number, size=RING)

    def __init__(self, calls: list[int]) -> None:
        self.calls = calls
        self.now = 1

    @requests.each
    async def double(self, request: Number) -> Number:
        self.now += TIME_SLICE_NS // 3 + 1
        self.calls.append(request.value)
        if request.value % 2 == 0:
            await Gate()
        return Number(2 * request.value)


class Unrepeatable(Doubler):
    """Must not be asked twice."""

    repeatable = False


class Keeping(Doubler):
    """Keeps memory, so it has to be told of every request that comes again, also after a stop."""

    kept_size = 64

    async def double(self, request: Number) -> Number:
        if request.value in self.calls and not self.repeats:
            raise AssertionError(f"{request.value} was begun before")
        return await super().double(request)


class Worker:
    """A worker's service of the queue in ``durable``; it dies when its fuse is burnt."""

    def __init__(self, durable: Durable, device: Doubler, fuse: Fuse | None) -> None:
        self.device = device
        self.tasks = Tasks()
        self.clock = lambda: device.now
        queue = durable.worker(fuse, position=durable.position)  # type: ignore[attr-defined]  # see `World`
        tasks: Any = self.tasks
        declared: Any = Doubler.requests
        self.service = RequestService(0, queue, self, self, declared, device, tasks)

    # What the service asks.

    def notify(self) -> None: ...

    def wake(self, index: int) -> None: ...

    def report(self, event: str, message: str, error: BaseException | None = None) -> None: ...

    def broken(self, index: int) -> None:
        raise AssertionError

    def stuck(self, reason: str) -> None:
        raise AssertionError

    # A life.

    def turn(self) -> bool:
        return self.service.turn(self.device.now)

    def finish(self, *places: int) -> None:
        """Let running requests end, by their place among those that run; publish them together."""
        running = list(self.service._running.values())
        for place in places:
            if place < len(running):
                slot: Any = running[place].slot
                slot.go_on()
        self.tasks.run()

    def live(self) -> None:
        """Serve until nothing is left to do."""
        while True:
            more = self.turn()
            running = len(self.service._running)
            self.finish(*range(running))
            if not (more or running or self.service.has_more()):
                return

    def live_and_stop(self) -> int:
        """Serve some, answer out of order, stop with some running and some waiting; return where to go on."""
        self.turn()
        self.finish(1)
        self.turn()
        stopped = self.service.stop()
        self.turn()
        self.finish(*reversed(range(len(self.service._running))))
        while not stopped.done:
            self.turn()
            self.finish(*range(len(self.service._running)))
        assert self.service.state is QueueState.STOPPED
        return stopped.result


class World:
    """A driver with ten requests, and the workers that live and die on its queue."""

    def __init__(self, index: int, kind: type[Doubler]) -> None:
        self.raw = RawDriver(memory_of((0x1000, 0x8000)), RING, index=index)
        self.index = index
        self.kind = kind
        self.calls: list[int] = []
        self.heads = {}
        for value in range(REQUESTS):
            number = self.raw.readable(Number(value).pack())
            self.heads[self.raw.chain([self.raw.table([number, self.raw.writable(4)])])] = value
        self.raw.make_available(*self.heads)
        self.new_queue(index)

    def new_queue(self, position: int) -> None:
        """Start the queue with a new journal, as after a stop."""
        self.durable = Durable(self.raw.memory, self.raw.layout, RING_FEATURES | Feature.VERSION_1)
        self.durable.position = position  # type: ignore[attr-defined]  # where a new worker would start

    def worker(self, fuse: Fuse | None) -> Worker:
        return Worker(self.durable, self.kind(self.calls), fuse)

    def survive(self, *fuses: Fuse | None) -> None:
        """Let a first worker serve and stop, and a last one do the rest; whoever dies is followed by the next."""
        stopped = False
        for fuse in (*fuses, None):
            try:
                worker = self.worker(fuse)
                if not stopped:
                    position = worker.live_and_stop()
                    stopped = True
                    self.new_queue(position)
                    worker = self.worker(fuse and Fuse(max(0, (fuse.limit or 0) - fuse.stores)))
                worker.live()
            except Cut:
                self.durable.journal().blame()
                continue
            return

    def check(self) -> None:
        answers = {head: self.raw.answer(head) for head in self.heads}
        elements = self.raw.reap()
        assert sorted(element.id for element in elements) == sorted(self.heads)  # each exactly once
        failed = {element.id for element in elements if element.len == 0}
        for element in elements:
            if element.id not in failed:
                assert element.len == 4
                assert Number.unpack(answers[element.id]).value == 2 * self.heads[element.id]
        assert self.durable.journal().in_flight() == []
        assert self.durable.journal().position() == self.raw.avail_idx
        if self.kind.repeatable:
            assert not failed
        else:
            assert len(self.calls) == len(set(self.calls))
            assert {self.heads[head] for head in failed} <= set(self.calls)


def stores_of_a_life(index: int, kind: type[Doubler]) -> int:
    world = World(index, kind)
    fuse = Fuse()
    position = world.worker(fuse).live_and_stop()
    given_back = (world.raw.avail_idx - position) & 0xFFFF
    assert 0 < given_back < REQUESTS - 2
    first = fuse.stores
    world.new_queue(position)
    second = Fuse()
    world.worker(second).live()
    world.check()
    assert sorted(world.calls) == list(range(REQUESTS))
    return first + second.stores


@pytest.mark.parametrize("kind", [Doubler, Unrepeatable, Keeping])
@pytest.mark.parametrize("index", [0, 65531])
def test_death_before_every_store(index: int, kind: type[Doubler]):
    stores = stores_of_a_life(index, kind)
    assert stores > 100
    for limit in range(stores):
        world = World(index, kind)
        world.survive(Fuse(limit))
        world.check()


@pytest.mark.parametrize("kind", [Doubler, Unrepeatable, Keeping])
def test_two_deaths_in_a_row(kind: type[Doubler]):
    stores = stores_of_a_life(65531, kind)
    for limit in range(0, stores, 7):
        for second in range(0, 80, 5):
            world = World(65531, kind)
            world.survive(Fuse(limit), Fuse(second))
            world.check()
