"""Devices with ``async def`` methods in workers: each request is answered once, whatever happens to the worker."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from pyvirtio.testing.frontend import RawFrontend, SharedMemory
from pyvirtio.testing.served import served
from pyvirtio.vhost_user import messages as m
from tests.support.commands import refused, run
from tests.support.slow_devices import FAILED
from tests.support.vhost import driven, pack, slow, unpack, until

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path

    from pyvirtio.testing.frontend import RawQueue
    from pyvirtio.testing.served import ServerProcess
    from tests.host.conftest import Record

R = m.Request
BATCH = 40


def batches(rng: random.Random, number: int, kills: int) -> list[tuple[list[int], int | None]]:
    """Return batches of different requests, each with the number of answers after which to kill the worker, or None."""
    found: list[tuple[list[int], int | None]] = []
    for start in range(0, number, BATCH):
        moment = rng.randrange(BATCH) if len(found) < kills else None
        found.append((list(range(start, start + BATCH)), moment))
    rng.shuffle(found)
    return found


def answers_in_spite_of_a_kill(
    server: ServerProcess, queue: RawQueue, numbers: list[int], moment: int | None
) -> list[int | None]:
    before = queue.rings.used[1]
    queue.submit(*pack(*numbers))
    queue.kick()
    if moment is not None:
        until(lambda: (queue.rings.used[1] - before) & 0xFFFF >= moment)
        until(lambda: len(server.workers()) == 1)
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        until(lambda: worker not in server.workers())
    return unpack(queue.answers(len(numbers)))


@pytest.mark.long
def test_worker_killed_200_times_during_20_000_requests_that_overtake_one_another(record: Record, rng: random.Random):
    with served(slow("Later"), environment=record.environment) as server, driven(server, size=128) as queue:
        for numbers, moment in batches(rng, 20_000, kills=200):
            assert answers_in_spite_of_a_kill(server, queue, numbers, moment) == [2 * n for n in numbers]
        assert queue.stop() == 20_000
    assert set(record.calls()) == set(range(20_000))


def test_worker_killed_20_times_while_files_are_read(engine: str, record: Record, rng: random.Random):
    """By io_uring, and by threads; the fixture's choice of the engine goes on in the environment."""
    with served(slow("Stored"), environment=record.environment) as server, driven(server, size=128) as queue:
        for numbers, moment in batches(rng, 2000, kills=20):
            assert answers_in_spite_of_a_kill(server, queue, numbers, moment) == [2 * n for n in numbers]
        assert queue.stop() == 2000
    assert set(record.calls()) == set(range(2000))


def test_files_are_read_once_for_requests_that_must_not_be_repeated(record: Record, rng: random.Random):
    with served(slow("StoredOnce"), environment=record.environment) as server, driven(server, size=128) as queue:
        for numbers, moment in batches(rng, 1000, kills=5):
            answers = answers_in_spite_of_a_kill(server, queue, numbers, moment)
            assert all(answer in {2 * n, FAILED} for n, answer in zip(numbers, answers, strict=True))
            assert moment is not None or FAILED not in answers
    assert set(record.calls().values()) == {1}


@pytest.mark.long
def test_requests_that_must_not_be_repeated_are_begun_once_or_fail_when_their_worker_is_killed(
    record: Record, rng: random.Random
):
    failed = 0
    with served(slow("LaterOnce"), environment=record.environment) as server, driven(server, size=128) as queue:
        for numbers, moment in batches(rng, 20_000, kills=200):
            answers = answers_in_spite_of_a_kill(server, queue, numbers, moment)
            assert all(answer in {2 * n, FAILED} for n, answer in zip(numbers, answers, strict=True))
            failed += answers.count(FAILED)
            assert moment is not None or FAILED not in answers
        assert server.lines("[request-failed]") <= failed
    calls = record.calls()
    assert set(calls.values()) == {1}
    assert 20_000 - len(calls) <= failed < 200 * BATCH
    assert failed


def test_as_many_requests_are_in_progress_as_the_device_declares(record: Record):
    with served(slow("Counting"), environment=record.environment) as server, driven(server, size=64) as queue:
        queue.submit(*pack(*range(32)))
        queue.kick()
        answers = unpack(queue.answers(32))
    assert answers[-1] == 4


@pytest.fixture
def four_queues(record: Record) -> Iterator[tuple[ServerProcess, list[RawQueue]]]:
    """Four queues of an async device, divided between two workers."""
    with ExitStack() as exits:
        server = exits.enter_context(served(slow("Four"), "--workers", "2", environment=record.environment))
        frontend = exits.enter_context(RawFrontend(server.path))
        memory = exits.enter_context(SharedMemory())
        frontend.negotiate()
        frontend.share(memory)
        queues = [frontend.queue(memory, index, size=64) for index in range(4)]
        for queue in queues:
            queue.start()
        yield server, queues


def test_several_workers_divide_the_queues_of_an_async_device(
    four_queues: tuple[ServerProcess, list[RawQueue]],
):
    server, queues = four_queues
    for queue in queues:
        queue.submit(*pack(*range(10)))
        queue.kick()
    answers = [set(unpack(queue.answers(10))) for queue in queues]
    assert answers[0] == answers[2] != answers[1] == answers[3]
    assert set.union(*answers) == set(server.workers())


def test_one_async_workers_death_does_not_touch_the_others_queues(
    four_queues: tuple[ServerProcess, list[RawQueue]],
):
    server, queues = four_queues
    before = server.workers()
    for queue in queues:
        queue.submit(*pack(*range(100, 110)))
        queue.kick()
    os.kill(before[0], signal.SIGKILL)
    answers = [set(unpack(queue.answers(10))) for queue in queues]
    assert before[1] in server.workers()
    assert sum(found == {before[1]} for found in answers) == 2
    assert sum(before[0] not in found for found in answers) >= 2
    for queue in queues:
        assert len(set(unpack(queue.ask(*pack(1, 2, 3))))) == 1


@pytest.mark.parametrize("device", ["Running", "Speaking"])
def test_a_device_that_speaks_first_is_one_object_and_has_one_worker(tmp_path: Path, device: str):
    refused(run("serve", slow(device), "--socket", str(tmp_path / "s"), "--workers", "2"), 1, "one worker")


LATER = """
import asyncio, os
from pyvirtio.device import Device, Queue
from pyvirtio.spec.struct import Struct, le32

class Number(Struct):
    value: int = le32()

class Mine(Device):
    requests = Queue(Number, Number, size=64)

    @requests.each
    async def answer(self, request):
        fd = os.open(os.environ["SLOW_RECORD"], os.O_WRONLY | os.O_APPEND)
        os.write(fd, b"%d\\n" % request.value)
        os.close(fd)
        if request.value < 1000:
            await asyncio.sleep(1.5)
        return FACTOR * request.value
"""


def test_reload_whose_old_worker_is_killed_does_not_repeat_what_must_not_be(record: Record, tmp_path: Path):
    device = tmp_path / "mine.py"
    source = LATER.replace("FACTOR", "2").replace("requests = ", "repeatable = False\n    requests = ")
    loaded = tmp_path / "loaded"
    device.write_text(source)
    with (
        served(f"{device}:Mine", "--reload", environment=record.environment) as server,
        driven(server) as queue,
    ):
        (old,) = server.workers()
        queue.submit(*pack(*range(10)))
        queue.kick()
        until(lambda: len(record.lines()) == 10)
        device.write_text(f"{source}\nopen({str(loaded)!r}, 'w').close()\n")
        until(loaded.exists)
        for _ in range(100):  # by then the keeper has most likely told the old worker to leave
            assert queue.frontend.number(R.GET_FEATURES)
        os.kill(old, signal.SIGKILL)
        assert unpack(queue.answers(10)) == [None] * 10
        assert unpack(queue.ask(*pack(1000))) == [2000]
    assert record.calls() == dict.fromkeys([*range(10), 1000], 1)


def test_reload_while_32_requests_are_in_progress_answers_each_once(record: Record, tmp_path: Path):
    device = tmp_path / "mine.py"
    device.write_text(LATER.replace("FACTOR", "2"))
    with (
        served(f"{device}:Mine", "--reload", environment=record.environment) as server,
        driven(server, size=128) as queue,
    ):
        queue.submit(*pack(*range(32)))
        queue.kick()
        until(lambda: len(record.lines()) == 32)
        device.write_text(LATER.replace("FACTOR", "3"))
        until(lambda: len(server.workers()) == 2)
        # What comes meanwhile is answered by either.
        queue.submit(*pack(*range(1000, 1020)))
        queue.kick()
        answers = unpack(queue.answers(52))
        server.wait_for("[device-reloaded]")
        assert answers[:32] == [2 * n for n in range(32)]
        assert all(answer in {2 * n, 3 * n} for n, answer in zip(range(1000, 1020), answers[32:], strict=True))
        assert unpack(queue.ask(*pack(1000))) == [3000]
    assert record.calls() == dict.fromkeys([*range(32), *range(1000, 1020)], 1) | {1000: 2}
