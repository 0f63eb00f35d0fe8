"""A queue is served in turns of bounded length, so that nobody's requests starve another queue."""

from __future__ import annotations

import pytest

from pyvirtio.device import Device, Queue
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.ring import SplitDriverQueue, SplitLayout
from pyvirtio.runtime.service import TIME_SLICE_NS
from pyvirtio.spec.features import RING_FEATURES
from pyvirtio.testing import LocalQueue
from pyvirtio.transport import QueueSetup


class Slow(Device):
    """Takes ``cost`` nanoseconds for a request, of a clock that only it moves."""

    requests = Queue(size=256)

    def __init__(self, cost: int) -> None:
        self.now = 0
        self.cost = cost

    @requests.stream
    def answer(self, reader, writer) -> None:
        self.now += self.cost


class Bench(LocalQueue):
    """A queue of 256 entries of a slow device."""

    def __init__(self, cost: int) -> None:
        device = Slow(cost)
        memory = MemoryTable([Region(0, bytearray(1 << 20))])
        self.driver = SplitDriverQueue(SplitLayout(memory, 256, 0, 0x2000, 0x4000), memory, RING_FEATURES)
        setup = QueueSetup(0, 256, 0, 0x2000, 0x4000, RING_FEATURES)
        super().__init__(device, setup, memory, clock=lambda: device.now)

    @property
    def now(self) -> int:
        return self.clock()

    def submit(self, number: int) -> None:
        for _ in range(number):
            self.driver.add([(0x10000, 4)], [], None)
        self.driver.publish()


# 20000! takes about 5 ms of CPU: three such requests fill a turn.
@pytest.mark.parametrize("cost", [1_000, 100_000, 5_000_000, 50_000_000])
def test_a_turn_ends_after_its_time_and_one_more_request(cost):
    bench = Bench(cost)
    bench.submit(256)
    more = bench.turn()
    assert more == (256 * cost > TIME_SLICE_NS)
    assert bench.now < TIME_SLICE_NS + cost or not more


def test_answers_are_published_when_the_turn_ends():
    bench = Bench(cost=4_000_000)
    bench.submit(100)
    assert bench.turn()
    assert len(bench.driver.reap()) == 3  # begun at 0, 4 and 8 ms; the next would begin after 10 ms
    assert bench.interrupts == 1


def test_what_a_turn_left_is_answered_by_later_ones():
    bench = Bench(cost=4_000_000)
    bench.submit(100)
    turns = 1
    while bench.turn():
        turns += 1
    assert len(bench.driver.reap()) == 100
    assert turns >= 33


def test_two_busy_queues_share_the_worker():
    first, second = Bench(cost=5_000_000), Bench(cost=5_000_000)
    first.submit(256)
    second.submit(256)
    for _ in range(10):
        first.turn()
        second.turn()
    assert len(first.driver.reap()) == len(second.driver.reap()) == 20


def test_one_interrupt_for_a_batch():
    bench = Bench(cost=0)
    bench.submit(64)
    assert not bench.turn()
    assert bench.interrupts == 1


def test_stopping_gives_back_what_was_popped_and_not_begun():
    bench = Bench(cost=4_000_000)
    bench.submit(100)
    bench.turn()
    stopped = bench.service.stop()
    assert stopped.done
    assert stopped.result == len(bench.driver.reap()) == 3  # the next one to be begun, of 64 that were popped
    assert bench.queue.journal.in_flight() == []
