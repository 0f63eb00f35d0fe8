"""Stops while requests are under way: none is lost, none is answered twice, and none may take too long."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from pyvirtio.host.hosted_queue import GRACE, SUCCESSOR_TIME
from pyvirtio.testing.served import served
from pyvirtio.vhost_user import messages as m
from tests.support.slow_devices import FAILED, HANG, PATIENCE
from tests.support.vhost import ask, driven, pack, slow, unpack, until

if TYPE_CHECKING:
    from pyvirtio.testing.frontend import RawQueue
    from tests.host.conftest import Record


def submit(queue: RawQueue, *numbers: int) -> None:
    queue.submit(*pack(*numbers))
    queue.kick()


def begin_stop(queue: RawQueue) -> None:
    """Send GET_VRING_BASE, and do not wait for its answer."""
    queue.frontend.send(m.Request.GET_VRING_BASE, m.VringState(queue.index, 0))


def end_stop(queue: RawQueue) -> int:
    """Return the position that the device goes on from."""
    frame = queue.frontend.receive()
    assert frame is not None
    assert frame.request == m.Request.GET_VRING_BASE
    return m.VringState.unpack(frame.payload).num


def used(queue: RawQueue) -> int:
    return int(queue.rings.used[1])


@pytest.mark.parametrize("device", ["Slow", "SlowOnce"])
def test_stop_in_the_middle_gives_back_what_was_not_begun(record: Record, device: str):
    numbers = range(30)
    with served(slow(device), environment=record.environment) as server, driven(server) as queue:
        workers = server.workers()
        submit(queue, *numbers)
        until(lambda: used(queue) >= 3)
        base = queue.stop()
        assert base == used(queue) < 30
        assert len(record.lines()) == base
        queue.start(base=base)
        assert unpack(queue.answers(30)) == [2 * n for n in numbers]
        assert server.workers() == workers
    assert record.calls() == dict.fromkeys(numbers, 1)


@pytest.mark.parametrize("device", ["SlowOnce", "LaterOnce", "TogetherOnce"])
def test_stops_and_starts_in_a_row_repeat_nothing_and_lose_nothing(record: Record, device: str):
    numbers = range(30)
    with served(slow(device), environment=record.environment) as server, driven(server) as queue:
        workers = server.workers()
        submit(queue, *numbers)
        for _ in range(10):
            base = queue.stop()
            assert base == used(queue) == len(record.lines())
            queue.start(base=base)
        assert unpack(queue.answers(30)) == [2 * n for n in numbers]
        assert server.workers() == workers
    assert record.calls() == dict.fromkeys(numbers, 1)


@pytest.mark.parametrize("device", ["Together", "TogetherOnce"])
def test_stop_waits_for_what_is_in_progress(record: Record, device: str):
    numbers = range(32)
    with served(slow(device), environment=record.environment) as server, driven(server) as queue:
        submit(queue, *numbers)
        until(lambda: len(record.lines()) == 32)
        assert used(queue) == 0
        assert queue.stop() == 32
        assert unpack(queue.answers(32)) == [2 * n for n in numbers]
    assert record.calls() == dict.fromkeys(numbers, 1)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("device", ["Together", "TogetherOnce"])
def test_worker_killed_around_a_stop_with_32_in_progress(record: Record, device: str, when: str):
    numbers = range(32)
    with served(slow(device), environment=record.environment) as server, driven(server) as queue:
        submit(queue, *numbers)
        until(lambda: len(record.lines()) == 32)
        (worker,) = server.workers()
        if when == "before":
            os.kill(worker, signal.SIGKILL)
        begin_stop(queue)
        if when == "after":
            os.kill(worker, signal.SIGKILL)
        base = end_stop(queue)
        assert base == used(queue)
        queue.start(base=base)
        answers = unpack(queue.answers(32))
        assert ask(queue, 5) == [10]
    calls = record.calls()
    if device == "Together":
        assert answers == [2 * n for n in numbers]
        assert set(calls) == {*numbers, 5}
    else:
        assert answers == [FAILED] * 32  # nobody knows how far they were, and they must not be begun again
        assert calls == dict.fromkeys([*numbers, 5], 1) | {5: 2}


@pytest.mark.parametrize("device", ["Blocking", "Stubborn"])
def test_stop_ends_when_the_patience_is_over_whatever_the_method_does(record: Record, device: str):
    with served(slow(device), environment=record.environment) as server, driven(server) as queue:
        submit(queue, 1, HANG, 2)
        until(lambda: HANG in record.calls())
        began = time.monotonic()
        base = queue.stop()
        took = time.monotonic() - began
        # The worker is ended when its time is over; the next one has to come and to stop the queue in time.
        assert took < PATIENCE + GRACE + SUCCESSOR_TIME + GRACE
        assert base == used(queue)
        # What was not answered before the stop is answered after it; HANG hangs until it fails.
        queue.start(base=base)
        assert unpack(queue.answers(3)) == [2, FAILED, 4]
        assert ask(queue, 5) == [10]
        assert len(server.workers()) == 1


def test_stop_waits_for_a_successor_that_knows_what_was_answered_out_of_order(record: Record):
    """On a busy machine, a request that overtook another was answered twice, and the other one was lost."""
    with served(slow("LateToCome"), environment=record.environment) as server, driven(server) as queue:
        submit(queue, 1, HANG, 2)
        until(lambda: HANG in record.calls())
        base = queue.stop()
        assert base == used(queue) == 3
        queue.start(base=base)
        assert unpack(queue.answers(3)) == [2, FAILED, 4]
        assert ask(queue, 5) == [10]


@pytest.mark.parametrize("killed", [False, True], ids=["worker lives", "worker killed"])
def test_broken_queue_stops_where_it_was_whoever_still_knows_it(record: Record, killed: bool):
    with served(slow("Later"), environment=record.environment) as server, driven(server) as queue:
        assert ask(queue, 1, 2, 3) == [2, 4, 6]
        queue.rings.available[1] = 1000
        queue.kick()
        server.wait_for("[queue-broken]")
        before = server.workers()
        for pid in before if killed else []:
            os.kill(pid, signal.SIGKILL)
            until(lambda: server.workers() and not set(before) & set(server.workers()))
        assert queue.stop() == 3
        queue.rings.available[1] = 3
        queue.start(base=3)
        assert ask(queue, 4) == [8]


def test_reset_and_disconnection_do_not_wait_for_a_method_that_hangs(record: Record):
    with served(slow("Blocking"), environment=record.environment) as server:
        with driven(server) as queue:
            submit(queue, HANG)
            until(lambda: HANG in record.calls())
        with driven(server) as queue:
            assert ask(queue, 7) == [14]
        assert server.is_alive()
