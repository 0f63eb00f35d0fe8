"""A device that takes no request now: what it refused waits in order, goes back at a stop, and comes once more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyvirtio import Device, Queue, Struct, le32, open_driver
from pyvirtio.driver import Driver, RequestQueue
from pyvirtio.errors import NotNow
from tests.support.runner import Scene, in_loop, rounds

if TYPE_CHECKING:
    from pyvirtio.device import Reader, Writer

pytestmark = pytest.mark.usefixtures("engine")  # each of them


class Number(Struct):
    value: int = le32()


class Taking:
    """Takes so many requests, and no more before it is told to."""

    def __init__(self, ready: int = 0) -> None:
        self.ready = ready
        self.taken: list[bytes] = []

    def take(self, data: bytes) -> None:
        if not self.ready:
            raise NotNow
        self.ready -= 1
        self.taken.append(data)


class Sink(Taking, Device):
    requests = Queue(size=16)

    @requests.stream
    def sink(self, reader: Reader, _writer: Writer) -> None:
        self.take(reader.read(4))


class Each(Taking, Device):
    requests = Queue(Number, Number, size=16)

    @requests.each
    def sink(self, number: Number) -> int:
        self.take(number.pack())
        return number.value


class Noting(Sink):
    """Has memory that outlives its worker, and so may want to know which requests come again."""

    kept_size = 8

    def sink(self, reader: Reader, _writer: Writer) -> None:
        if self.repeats:
            self.repeated += 1
        self.take(reader.read(4))

    repeated = 0


WORDS = [Number(number).pack() for number in range(8)]


@pytest.mark.parametrize("kind", [Sink, Each])
def test_what_is_refused_waits_in_order(kind: type[Sink | Each]) -> None:
    with Scene(kind(ready=3)) as scene:
        heads = scene.start().submit(*WORDS)
        assert scene.device.taken == WORDS[:3]
        for ready in (1, 4):
            scene.device.ready = ready
            scene.device.resume(kind.requests)
            scene.serve()
        assert scene.device.taken == WORDS
        assert list(scene.reap()) == heads
        assert scene.events == []


@pytest.mark.parametrize("kind", [Sink, Each])
def test_a_stop_gives_it_back_to_the_ring(kind: type[Sink | Each]) -> None:
    with Scene(kind(ready=3)) as scene:
        scene.start().submit(*WORDS)
        assert scene.device.taken == WORDS[:3]
        stopped = scene.stop()
        assert stopped.result == 3  # at once, whatever the device waits for
        scene.device.ready = 5
        scene.start(position=3)
        scene.serve()
        assert scene.device.taken == WORDS
        assert scene.events == []


def test_one_that_comes_while_the_queue_is_paused_does_not_wake_it() -> None:
    with Scene(Sink()) as scene:
        scene.start().submit(WORDS[0])
        scene.submit(WORDS[1])
        assert scene.device.taken == []
        scene.device.ready = 2
        scene.device.resume(Sink.requests)
        scene.serve()
        assert scene.device.taken == WORDS[:2]


@pytest.mark.parametrize("looks", [False, True])
def test_what_a_dead_worker_had_and_the_next_one_refuses_goes_back_as_well(looks: bool) -> None:
    """Whether it was refused before the queue stops, or is then."""
    with Scene(Noting()) as scene:
        scene.start().submit(*WORDS[:4], kick=False)
        assert len(scene.runner._services[0].queue.pop(3)) == 3
        with Scene(Noting(), before=scene) as after:
            after.start()
            if looks:
                after.serve()
                assert after.device.repeated == 1
            stopped = after.stop()
            after.serve()
            assert stopped.result == 0
            after.device.ready = 4
            after.start()
            after.serve()
            assert after.device.taken == WORDS[:4]
            assert after.events == scene.events == []


def test_what_is_refused_fails_where_the_driver_has_written_over_its_place() -> None:
    with Scene(Sink(ready=1)) as scene:
        heads = scene.start().submit(*WORDS[:2])
        scene.raws[0].set_avail_ring(1, 15)
        stopped = scene.stop()
        assert stopped.result == 2
        assert list(scene.reap()) == heads
        assert scene.device.taken == WORDS[:1]
        assert scene.events == ["request-failed"]


def test_a_method_that_can_wait_by_itself_may_not_refuse() -> None:
    class Choosy(Device):
        requests = Queue(size=16)

        @requests.stream
        async def choose(self, reader: Reader, _writer: Writer) -> None:
            if reader.read(4) == WORDS[0]:
                raise NotNow
            await rounds(4)
            raise NotNow

    async def main() -> None:
        async with Scene(Choosy()) as scene:
            heads = scene.start().submit(*WORDS[:2])
            assert list(await scene.back(2)) == heads
            assert scene.events == ["method-failed"]  # the same twice

    in_loop(main)


def test_to_resume_a_queue_that_runs_does_nothing() -> None:
    with Scene(Sink(ready=1)) as scene:
        scene.device.resume(Sink.requests)
        scene.start().submit(*WORDS[:2])
        scene.device.resume(Sink.requests)
        scene.device.resume(Sink.requests)
        scene.serve()
        assert scene.device.taken == WORDS[:1]


class Pair(Device):
    """Two equal queues, which are not neighbours, and one method for both."""

    data = Queue(size=4)
    other = Queue(size=4)

    def __init__(self) -> None:
        self.queues = [Pair.data, Pair.other, Pair.data]

    @data.stream
    def answer(self, _reader: Reader, writer: Writer, number: int) -> None:
        writer.write(b"%d" % number)

    @other.stream
    def otherwise(self, _reader: Reader, writer: Writer) -> None:
        writer.write(b"other")


class PairDriver(Driver):
    device_id = 38
    first = RequestQueue()
    other = RequestQueue()
    second = RequestQueue()


class LatePair(Pair):
    later = Queue(size=4, count=2)

    def __init__(self) -> None:
        self.queues = [LatePair.later]

    @later.stream
    async def answer_later(self, _reader: Reader, writer: Writer, number: int) -> None:
        await rounds(1)
        writer.write(b"late %d" % number)


class LateDriver(Driver):
    device_id = 38
    first = RequestQueue()
    second = RequestQueue()


def test_a_method_is_told_which_of_several_equal_queues_it_answers() -> None:
    with open_driver(PairDriver, Pair()) as driver:
        assert driver.first.call(room=8) == b"0"
        assert driver.second.call(room=8) == b"1"
        assert driver.other.call(room=8) == b"other"
    with open_driver(LateDriver, LatePair()) as late:
        assert late.first.call(room=8) == b"late 0"
        assert late.second.call(room=8) == b"late 1"
