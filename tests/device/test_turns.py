"""A queue is served in turns of bounded length, so that nobody's requests starve another queue."""

from __future__ import annotations

import pytest
from pyvirtio.device.service import TURN

from pyvirtio.device import QueueService
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.ring import Journal, SplitDriverQueue, SplitLayout, device_queue
from pyvirtio.spec.features import RING_FEATURES
from pyvirtio.transport import QueueSetup


class Bench:
    """A queue of 256 entries whose device takes ``cost`` nanoseconds of a clock that only it moves."""

    def __init__(self, cost: int) -> None:
        memory = MemoryTable([Region(0, bytearray(1 << 20))])
        rings = SplitLayout(memory, 256, 0, 0x2000, 0x4000)
        self.now = 0
        self.calls = 0
        self.cost = cost
        self.driver = SplitDriverQueue(rings, memory, RING_FEATURES)
        setup = QueueSetup(0, 256, 0, 0x2000, 0x4000, RING_FEATURES)
        self.queue = device_queue(setup, memory, journal=Journal.private(256))
        self.service = QueueService(self.queue, self.answer, self.call, self.fail, lambda: self.now)

    def answer(self, chain) -> None:
        self.now += self.cost

    def call(self) -> None:
        self.calls += 1

    def fail(self, message, _error) -> None:
        pytest.fail(message)

    def submit(self, number: int) -> None:
        for _ in range(number):
            self.driver.add([(0x10000, 4)], [], None)
        self.driver.publish()


# 20000! takes about 5 ms of CPU: three such requests fill a turn.
@pytest.mark.parametrize("cost", [1_000, 100_000, 5_000_000, 50_000_000])
def test_a_turn_ends_after_its_time_and_one_more_request(cost):
    bench = Bench(cost)
    bench.submit(256)
    more = bench.service.turn()
    assert more == (256 * cost > TURN)
    assert bench.now < TURN + cost or not more


def test_answers_are_published_when_the_turn_ends():
    bench = Bench(cost=4_000_000)
    bench.submit(100)
    assert bench.service.turn()
    assert len(bench.driver.reap()) == 3  # begun at 0, 4 and 8 ms; the next would begin after 10 ms
    assert bench.calls == 1


def test_what_a_turn_left_is_answered_by_later_ones():
    bench = Bench(cost=4_000_000)
    bench.submit(100)
    turns = 1
    while bench.service.turn():
        turns += 1
    assert len(bench.driver.reap()) == 100
    assert turns >= 33


def test_two_busy_queues_share_the_worker():
    first, second = Bench(cost=5_000_000), Bench(cost=5_000_000)
    first.submit(256)
    second.submit(256)
    for _ in range(10):
        first.service.turn()
        second.service.turn()
    assert len(first.driver.reap()) == len(second.driver.reap()) == 20


def test_one_interrupt_for_a_batch():
    bench = Bench(cost=0)
    bench.submit(64)
    assert not bench.service.turn()
    assert bench.calls == 1


def test_stopping_answers_what_was_taken_and_nothing_else():
    bench = Bench(cost=4_000_000)
    bench.submit(100)
    bench.service.turn()
    bench.service.finish()
    assert len(bench.driver.reap()) == 64  # one batch had been popped
    assert bench.queue.has_more()
