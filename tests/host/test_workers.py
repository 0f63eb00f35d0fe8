"""Keeper and workers: whatever happens to a worker, each request is answered once, and the keeper stays as it was."""

from __future__ import annotations

import os
import signal
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pyvirtio.connect import open_driver
from pyvirtio.devices.factorial import WRAPPED, Request
from pyvirtio.driver import Driver, RequestQueue
from pyvirtio.drivers.factorial import FactorialDriver
from pyvirtio.host.serve import backend
from pyvirtio.spec import split
from pyvirtio.testing.frontend import RawFrontend, RawQueue, SharedMemory
from pyvirtio.testing.served import served
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.client import VhostUserTransport
from tests.support.odd_devices import CHANGE, CRASH, EXIT, HANG, KNOB, PID, RAISE, Config, Number
from tests.support.vhost import ask, driven, fds_at_rest, idle_fds, is_running, odd, pack, unpack, until, worker_of

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from pyvirtio.testing.served import ServerProcess

R = m.Request


def has_answered(queue: RawQueue, before: int, wanted: int) -> bool:
    return bool((queue.rings.used[1] - before) & 0xFFFF >= wanted)


def is_buried(server: ServerProcess, pid: int) -> bool:
    return pid not in server.workers()


@pytest.mark.long
def test_worker_killed_200_times_during_20_000_requests(rng: random.Random):
    """In batches of 40; 200 of them see the worker killed at a moment that the seed chooses."""
    with served("factorial") as server, driven(server, size=128) as queue:
        batches = [(rng.choices(range(40), k=40), number < 200) for number in range(500)]
        rng.shuffle(batches)
        kills = 0
        settled: tuple[list[str], int] | None = None
        for done, (numbers, kill) in enumerate(batches):
            before = queue.rings.used[1]
            queue.submit(*(Request(n).pack() for n in numbers))
            queue.kick()
            if kill:
                wanted = rng.randrange(40)
                until(partial(has_answered, queue, before, wanted))
                pid = worker_of(server)
                os.kill(pid, signal.SIGKILL)
                kills += 1
            assert unpack(queue.answers(40)) == [WRAPPED[min(n, 34)] for n in numbers]
            if kill:
                until(partial(is_buried, server, pid))
            if done == 100:
                settled = fds_at_rest(server, queue), server.memory()
        assert kills == 200
        assert queue.stop() == 20_000
        queue.start(base=20_000)
        assert unpack(queue.ask(Request(5).pack())) == [120]
        assert settled is not None
        assert fds_at_rest(server, queue) == settled[0]
        assert server.memory() < settled[1] + (1 << 20)
        assert server.log[1:] == []


def test_the_public_driver_sees_no_error_when_the_worker_dies(rng: random.Random):
    with served("factorial") as server, open_driver(FactorialDriver, f"vhost-user:{server.path}") as driver:
        for _ in range(10):
            numbers = rng.choices(range(500), k=100)
            answers = driver.factorials(numbers)
            first = next(answers)
            os.kill(worker_of(server), signal.SIGKILL)
            again = [first, *answers]
            assert again == list(driver.factorials(numbers))


@pytest.mark.parametrize(("what", "how"), [(EXIT, "status 7"), (CRASH, "SIGSEGV")])
def test_request_that_kills_three_workers_is_returned_empty_and_reported(tmp_path: Path, what: int, how: str):
    record = tmp_path / "record"
    with served(odd(), "-v", environment={"ODD_RECORD": str(record)}) as server, driven(server) as queue:
        before = fds_at_rest(server, queue)
        assert ask(queue, 1, 2, what, 3, 4) == [2, 4, None, 6, 8]
        server.wait_for("[worker-ended]", count=3)
        assert server.lines(how) == 3
        server.wait_for("[request-failed]")
        assert ask(queue, *range(20)) == [2 * n for n in range(20)]
        assert fds_at_rest(server, queue) == before
    times = Counter(map(int, record.read_text().split()))
    assert times[what] == 3


def test_strikes_are_a_requests_own_and_not_its_descriptors(tmp_path: Path):
    with served(odd()) as server, driven(server) as queue:
        for _ in range(3):
            assert ask(queue, EXIT) == [None]
            assert ask(queue, 1) == [2]


def test_unrepeatable_request_is_never_given_twice(tmp_path: Path):
    record = tmp_path / "record"
    with (
        served(odd("Unrepeatable"), environment={"ODD_RECORD": str(record)}) as server,
        driven(server) as queue,
    ):
        assert ask(queue, *range(10), EXIT, *range(10, 20)) == [
            *(2 * n for n in range(10)),
            None,
            *(2 * n for n in range(10, 20)),
        ]
        server.wait_for("[request-failed]")
    times = Counter(map(int, record.read_text().split()))
    assert times == Counter([*range(20), EXIT])


def test_method_that_hangs_is_killed_after_its_patience():
    with served(odd("Impatient")) as server, driven(server) as queue:
        assert ask(queue, 1, HANG, 2) == [2, None, 4]
        assert server.lines("[worker-hangs]") >= 3


def test_method_that_raises_is_logged_and_the_request_returned_empty():
    with served(odd()) as server, driven(server) as queue:
        pid = worker_of(server)
        assert ask(queue, 1, RAISE, 2, RAISE) == [2, None, 4, None]
        server.wait_for("[method-failed]")
        assert ask(queue, PID) == [pid]
        assert server.lines("[method-failed]") == 1


def test_config_space_that_the_driver_wrote_survives_the_worker():
    with served(odd()) as server, driven(server) as queue:
        frontend = queue.frontend
        assert frontend.write_config(0, (1234).to_bytes(4, "little"))
        assert ask(queue, KNOB) == [1234]
        os.kill(worker_of(server), signal.SIGKILL)
        assert ask(queue, KNOB) == [1234]
        assert frontend.config(0, 4) == (1234).to_bytes(4, "little")


def is_changed(driver: Driver, generation: int) -> bool:
    return driver.transport.config_generation() != generation


class OddDriver(Driver):
    device_id = 38
    config = Config
    requests = RequestQueue(Number, Number)


def test_driver_of_a_backend_of_its_own_hears_of_changes_of_the_config_space():
    with backend(odd()) as connection, OddDriver(VhostUserTransport(connection)) as driver:
        for number in range(1, 4):
            before = driver.transport.config_generation()
            assert driver.requests.call(Number(CHANGE)).value == 100 + number
            until(partial(is_changed, driver, before))
            assert driver.read_config() == Config(state=100 + number)


@pytest.mark.parametrize("workers", ["1", "2", "3", "4", "5"])
def test_workers_divide_the_queues(workers: str):
    with served(odd("Four"), "--workers", workers) as server:
        with RawFrontend(server.path) as frontend, SharedMemory() as memory:
            frontend.negotiate()
            frontend.share(memory)
            queues = [frontend.queue(memory, index) for index in range(4)]
            for queue in queues:
                queue.start()
            for _ in range(3):
                for queue in queues:
                    queue.submit(*pack(*range(8)))
                    queue.kick()
                for pid in server.workers():
                    os.kill(pid, signal.SIGKILL)
                for queue in queues:
                    assert unpack(queue.answers(8)) == [2 * n for n in range(8)]
            until(lambda: len(server.workers()) == min(int(workers), 4))
        idle_fds(server)


def test_one_workers_death_does_not_touch_the_others_queues():
    with (
        served(odd("Four"), "--workers", "2") as server,
        RawFrontend(server.path) as frontend,
        SharedMemory() as memory,
    ):
        frontend.negotiate()
        frontend.share(memory)
        queues = [frontend.queue(memory, index) for index in range(4)]
        for queue in queues:
            queue.start()
        pids = [ask(queue, PID)[0] for queue in queues]
        assert pids[0] == pids[2] != pids[1] == pids[3]
        assert ask(queues[0], EXIT) == [None]
        assert ask(queues[1], PID) == [pids[1]]
        assert ask(queues[2], PID)[0] not in pids


@pytest.mark.parametrize("workers", ["1", "2"])
def test_keeper_killed_leaves_no_worker_behind_even_one_that_hangs(workers: str, tmp_path: Path):
    with served(odd("Four"), "--workers", workers) as server, RawFrontend(server.path) as frontend:
        with SharedMemory() as memory:
            frontend.negotiate()
            frontend.share(memory)
            queues = [frontend.queue(memory, index) for index in range(2)]
            for queue in queues:
                queue.start()
                queue.submit(*pack(1, HANG))
                queue.kick()
        pids = server.workers()
        assert len(pids) == int(workers)
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        until(lambda: not any(is_running(pid) for pid in pids))


# One after the other.


def test_two_drivers_one_after_the_other():
    with served("factorial") as server:
        before = idle_fds(server)
        for n in (5, 6):
            with open_driver(FactorialDriver, f"vhost-user:{server.path}") as driver:
                assert driver.factorial(n) == WRAPPED[n]
        assert idle_fds(server) == before


def test_driver_that_dies_with_requests_in_flight_leaves_nothing():
    with served(odd("Impatient")) as server:
        before = idle_fds(server)
        with driven(server) as queue:
            queue.submit(*pack(*range(10), HANG))
            queue.kick()
        until(lambda: idle_fds(server) == before)  # the killed worker has a successor first
        with driven(server) as queue:
            assert ask(queue, *range(10)) == [2 * n for n in range(10)]


def test_a_worker_that_polls_needs_no_kick_until_it_sleeps():
    with served("factorial", "--poll-us", "300000") as server, driven(server) as queue:
        assert unpack(queue.ask(Request(5).pack())) == [120]
        for n in range(20):  # nobody kicks, for nobody is asked to
            queue.submit(Request(n).pack())
            assert unpack(queue.answers(1)) == [WRAPPED[n]]
        assert queue.rings.used[split.FLAGS] == split.NO_NOTIFY
        # When it has looked for nothing for long enough, it asks for a kick and sleeps.
        until(lambda: queue.rings.used[split.FLAGS] == 0)
        assert unpack(queue.ask(Request(7).pack())) == [5040]


def test_without_polling_a_worker_sleeps():
    with served("factorial") as server, driven(server) as queue:
        assert unpack(queue.ask(Request(5).pack())) == [120]
        until(lambda: queue.rings.used[split.FLAGS] == 0)


@pytest.mark.parametrize(("kind", "outcome"), [("Closing", "closed\n"), ("Stubborn", "")])
def test_a_device_is_closed_when_the_keeper_ends_unless_that_takes_long(tmp_path: Path, kind: str, outcome: str):
    record = tmp_path / "record"
    record.touch()
    with served(odd(kind), environment={"ODD_RECORD": str(record)}) as server:
        assert server.end() == 0
    assert record.read_text() == outcome
