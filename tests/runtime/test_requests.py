"""Requests inside the runtime: answered later and in any order, failed, stopped, given back, taken over."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio.device import Device, Queue
from pyvirtio.runtime.in_progress import CANCEL_TIME
from pyvirtio.runtime.service import TIME_SLICE_NS
from pyvirtio.spec.struct import Struct, le32
from pyvirtio.testing import Descriptor, RawDriver
from pyvirtio.transport import MAXIMUM_STRIKES
from tests.support.rings import RawQueue, memory_of
from tests.support.runner import Scene, ended, in_loop, rounds, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.device import Reader, Writer

pytestmark = pytest.mark.usefixtures("engine")  # each of them


class Number(Struct):
    value: int = le32()


def packed(*values: int) -> list[bytes]:
    return [Number(value).pack() for value in values]


def doubles(*values: int) -> list[bytes]:
    return packed(*(2 * value for value in values))


FAILURE = b"fail"


class Way:
    """How the devices of the tests below declare their queue: for streams, or for structures."""

    uses_streams = False


way = Way()


@pytest.fixture(autouse=True, params=["structures", "streams"])
def _each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(way, "uses_streams", request.param == "streams")


class Gated(Device):
    """Answers a number with its double once a test opens its gate; 0 at once."""

    device_id = 63
    by_streams = Queue(size=64)
    requests = Queue(Number, Number, size=64)

    def __init__(self) -> None:
        if type(self).queues[:2] == Gated.queues:
            self.queues = [Gated.by_streams if way.uses_streams else Gated.requests]
        self.gates: dict[int, asyncio.Future[Any]] = {}
        self.begun: list[int] = []
        self.cancelled: list[int] = []
        self.goes_on = lambda: None

    @by_streams.stream
    async def double_streamed(self, reader: Reader, writer: Writer) -> None:
        writer.put(await self.double(reader.take(Number)))

    @requests.each
    async def double(self, request: Number) -> Number:
        value = request.value
        self.begun.append(value)
        if value:
            gate = self.gates[value] = asyncio.get_running_loop().create_future()
            try:
                await gate
            except asyncio.CancelledError:
                self.cancelled.append(value)
                raise
            self.goes_on()
        return Number(2 * value)

    def open(self, *values: int) -> None:
        for value in values:
            self.gates.pop(value).set_result(None)


class FailingStream(Device):
    """Does as its request says; shows what failed."""

    device_id = 63
    requests = Queue(size=64)

    @requests.stream
    def answer(self, reader: Reader, writer: Writer) -> None:
        number = reader.take(Number).value
        writer.write(b"half of an answer"[: writer.room - 1])
        if number == 13:
            raise ValueError("13")

    @requests.failed
    def write_failure(self, writer: Writer) -> None:
        writer.write(FAILURE)


# Answers, in any order.


def test_answers_go_back_in_the_order_in_which_they_are_ready():
    async def main() -> None:
        device = Gated()
        async with Scene(device) as scene:
            heads = scene.start().submit(*packed(1, 2, 3, 0, 4))
            assert list(await scene.back(1)) == [heads[3]]
            for value in (3, 1, 4, 2):
                device.open(value)
                answers = await scene.back(1)
                assert answers == {heads[device.begun.index(value)]: Number(2 * value).pack()}
            assert not scene.events

    in_loop(main)


def test_answers_of_one_round_go_back_with_one_interrupt():
    async def main() -> None:
        device = Gated()
        async with Scene(device) as scene:
            scene.raws[0].used_event = 0
            scene.start().submit(*packed(*range(1, 33)))
            await until(lambda: len(device.begun) == 32)
            await rounds()
            scene.interrupts()
            device.open(*range(32, 0, -1))
            assert list((await scene.back(32)).values()) == doubles(*range(32, 0, -1))
            assert scene.interrupts() == 1

    in_loop(main)


def test_more_requests_than_the_ring_holds_each_is_answered_once(rng):
    async def main() -> None:
        device = Gated()
        async with Scene(device) as scene:
            scene.start()
            answered: list[bytes] = []
            sent = 0
            while len(answered) < 500:
                while sent < 500 and len(scene.raws[0]._free) >= 2:
                    sent += 1
                    scene.submit(*packed(sent), kick=bool(rng.randrange(2)))
                scene.kick()
                await rounds(rng.randrange(1, 4))
                ready = rng.sample(sorted(device.gates), rng.randrange(len(device.gates) + 1))
                device.open(*ready)
                answered += scene.reap().values()
            assert sorted(answered) == sorted(doubles(*range(1, 501)))
            assert sorted(device.begun) == list(range(1, 501))

    in_loop(main)


def test_sixty_four_requests_are_in_progress_at_once():
    async def main() -> None:
        device = Gated()
        async with Scene(device, size=128) as scene:
            scene.start().submit(*packed(*range(1, 65)))
            await until(lambda: len(device.begun) == 64)
            await rounds()
            device.open(*range(64, 0, -1))
            assert list((await scene.back(64)).values()) == doubles(*range(64, 0, -1))

    in_loop(main)


@pytest.mark.parametrize("declared", [1, 2, 16])
def test_no_more_are_in_progress_than_the_device_declares_however_large_the_ring_is(declared: int):
    class Small(Gated):
        requests = Queue(Number, Number, size=declared)
        double = requests.each(Gated.double)

    Small.queues = Small.queues[-1:]

    async def main() -> None:
        device = Small()
        async with Scene(device, size=128) as scene:
            scene.start().submit(*packed(*range(1, 41)))
            for _ in range(40):
                await until(lambda: len(device.gates) == min(declared, 40 - len(device.begun) + len(device.gates)))
                await rounds()
                assert len(device.gates) <= declared
                device.open(min(device.gates))
                await scene.back(1)
            assert device.begun == list(range(1, 41))

    in_loop(main)


def test_no_kick_is_lost_while_as_many_are_in_progress_as_may_be():
    class Two(Gated):
        requests = Queue(Number, Number, size=2)
        double = requests.each(Gated.double)

    Two.queues = Two.queues[-1:]

    async def main() -> None:
        device = Two()
        async with Scene(device) as scene:
            scene.start().submit(*packed(1, 2))
            await until(lambda: len(device.begun) == 2)
            scene.submit(*packed(3, 4, 5), kick=False)  # the driver believes what it was told of kicks
            scene.kick()
            await rounds()
            device.open(1, 2)
            await until(lambda: len(device.begun) == 4)
            device.open(3, 4)
            await until(lambda: len(device.begun) == 5)
            device.open(5)
            await scene.back(5)

    in_loop(main)


def test_many_requests_may_wait_for_the_same_thing():
    class Shared(Device):
        device_id = 63
        requests = Queue(Number, Number, size=64)

        def __init__(self) -> None:
            self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.begun = 0

        @requests.each
        async def double(self, request: Number) -> Number:
            self.begun += 1
            await self.ready
            return Number(2 * request.value)

    async def main() -> None:
        device = Shared()
        async with Scene(device) as scene:
            scene.start().submit(*packed(*range(30)))
            await until(lambda: device.begun == 30)
            device.ready.set_result(None)
            assert list((await scene.back(30)).values()) == doubles(*range(30))
            assert not scene.events

    in_loop(main)


class Once(Gated):
    """Must not be asked twice."""

    repeatable = False


def test_what_must_not_be_repeated_is_published_each_at_once():
    """When the method of one begins, the answer of every earlier one that ended is with the driver."""

    class Plain(Device):
        device_id = 63
        repeatable = False
        requests = Queue(Number, Number, size=64)

        @requests.each
        def double(self, request: Number) -> Number:
            seen.append(scene.raws[0].used_idx)
            return Number(2 * request.value)

    seen: list[int] = []
    with Scene(Plain()) as scene:
        scene.start().submit(*packed(*range(20)))
        assert list(scene.reap().values()) == doubles(*range(20))
    assert seen == list(range(20))


def test_what_must_not_be_repeated_is_published_before_the_next_one_goes_on():
    async def main() -> None:
        device = Once()
        async with Scene(device) as scene:
            scene.start().submit(*packed(1, 2, 3))
            await until(lambda: len(device.begun) == 3)
            await rounds()
            seen: list[int] = []
            device.goes_on = lambda: seen.append(scene.raws[0].used_idx)
            device.open(2, 3, 1)
            assert list((await scene.back(3)).values()) == doubles(2, 3, 1)
            assert seen == [0, 1, 2]

    in_loop(main)


# Failure, and what the driver sees of it.


def test_a_method_that_raises_fails_its_own_request():
    with Scene(FailingStream()) as scene:
        heads = scene.start().submit(*packed(1, 13, 2), room=8)
        assert scene.reap() == {heads[0]: b"half of", heads[1]: FAILURE, heads[2]: b"half of"}
        assert scene.counts == {"method-failed": 1}
        assert [type(error) for error in scene.errors] == [ValueError]


def test_a_request_that_is_too_short_is_the_driver_s_fault_and_fails():
    with Scene(FailingStream()) as scene:
        heads = scene.start().submit(b"abc", *packed(1), room=8)
        assert scene.reap() == {heads[0]: FAILURE, heads[1]: b"half of"}
        assert scene.counts == {"request-failed": 1}
        assert scene.errors == []


def test_a_chain_without_room_for_the_answer_fails_with_what_room_there_is():
    with Scene(FailingStream()) as scene:
        raw = scene.start().raws[0]
        head = raw.request(b"1234", room=0)
        raw.make_available(head)
        scene.kick()
        assert scene.reap() == {head: b""}
        assert scene.counts == {"request-failed": 1, "method-failed": 1}  # nor is there room to show that it failed


@pytest.mark.parametrize("failure", ["raises", "is missing"])
def test_a_request_whose_failure_cannot_be_shown_is_returned_empty(failure: str):
    class Hopeless(Device):
        device_id = 63
        requests = Queue(Number, Number, size=64)

        @requests.each
        def answer(self, request: Number) -> Number:
            raise ValueError("no")

        def write_failure(self, writer: Writer) -> None:
            writer.write(b"ab")
            raise KeyError("neither")

    if failure == "raises":
        Hopeless.requests.failed(Hopeless.write_failure)
    with Scene(Hopeless()) as scene:
        heads = scene.start().submit(*packed(1, 2))
        assert scene.reap() == dict.fromkeys(heads, b"")
        kinds = {ValueError, KeyError} if failure == "raises" else {ValueError}
        assert {type(error) for error in scene.errors} == kinds
        assert set(scene.events) == {"method-failed"}


def test_a_chain_that_cannot_be_used_comes_back_empty_and_no_method_sees_it():
    with Scene(FailingStream()) as scene:
        raw = scene.start().raws[0]
        head = raw.chain([Descriptor(1 << 40, 4), raw.writable(8)])
        raw.make_available(head)
        scene.kick()
        assert [(element.id, element.len) for element in raw.reap()] == [(head, 0)]
        assert scene.counts == {"request-failed": 1}


class Impatient(Gated):
    """Fails what takes longer than a moment, and shows it."""

    patience = 0.02
    requests = Queue(Number, Number, size=64)
    double = requests.each(Gated.double)

    @requests.failed
    def write_failure(self, writer: Writer) -> None:
        writer.write(FAILURE)


Impatient.queues = Impatient.queues[-1:]


def test_what_takes_longer_than_the_patience_is_cancelled_and_fails_and_nothing_else_does():
    async def main() -> None:
        device = Impatient()
        async with Scene(device) as scene:
            heads = scene.start().submit(*packed(1, 2, 3))
            await until(lambda: len(device.begun) == 3)
            device.open(2)
            answers = await scene.back(1)
            answers |= await scene.back(2)
            assert answers == {heads[1]: Number(4).pack(), heads[0]: FAILURE, heads[2]: FAILURE}
            assert sorted(device.cancelled) == [1, 3]
            assert scene.counts == {"request-failed": 1}  # the same is reported once a queue
            scene.submit(*packed(0))
            assert list((await scene.back(1)).values()) == doubles(0)

    in_loop(main)


def test_each_request_has_its_own_patience():
    async def main() -> None:
        loop = asyncio.get_running_loop()
        timers: list[tuple[float, Callable[[], None]]] = []
        call_later = loop.call_later

        def far_away(seconds: float, callback: Callable[..., None], *arguments: Any) -> asyncio.TimerHandle:
            timers.append((seconds, functools.partial(callback, *arguments)))
            return call_later(3600, lambda: None)

        now = [1_000_000_000]
        device = Impatient()
        device.patience = 10.0
        async with Scene(device, clock=lambda: now[0]) as scene:
            loop.call_later = far_away  # type: ignore[assignment]
            scene.start().submit(*packed(1))
            await until(lambda: device.begun == [1])
            now[0] += 6_000_000_000
            scene.submit(*packed(2))
            await until(lambda: device.begun == [1, 2])
            assert [seconds for seconds, _ in timers] == [10.0]
            now[0] += 4_000_000_000
            timers.pop()[1]()
            assert list((await scene.back(1)).values()) == [FAILURE]
            assert device.cancelled == [1]
            assert [seconds for seconds, _ in timers] == [CANCEL_TIME, 6.0]
            device.open(2)
            assert list((await scene.back(1)).values()) == doubles(2)
            del loop.call_later

    in_loop(main)


def test_without_a_patience_nothing_is_cancelled():
    async def main() -> None:
        device = Impatient()
        device.patience = None  # type: ignore[assignment]  # the class has a number
        async with Scene(device) as scene:
            scene.start().submit(*packed(1))
            await until(lambda: device.begun == [1])
            await asyncio.sleep(0.05)
            assert device.cancelled == []
            device.open(1)
            assert list((await scene.back(1)).values()) == doubles(1)

    in_loop(main)


def test_a_method_that_ignores_its_cancellation_and_ends_in_time_still_took_too_long():
    class Stubborn(Impatient):
        requests = Queue(Number, Number, size=64)
        write_failure = requests.failed(Impatient.write_failure)

        @requests.each
        async def answer(self, request: Number) -> Number:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(0)
            return Number(7)

    Stubborn.queues = Stubborn.queues[-1:]

    async def main() -> None:
        async with Scene(Stubborn()) as scene:
            scene.start().submit(*packed(1))
            assert list((await scene.back(1)).values()) == [FAILURE]
            assert not scene.stuck

    in_loop(main)


def test_a_method_that_never_ends_when_cancelled_is_reported_as_stuck_and_not_returned(monkeypatch):
    monkeypatch.setattr("pyvirtio.runtime.in_progress.CANCEL_TIME", 0.02)

    class Endless(Impatient):
        requests = Queue(Number, Number, size=64)

        @requests.each
        async def answer(self, request: Number) -> Number:
            while not self.gates:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    self.cancelled.append(request.value)
            return Number(7)

    Endless.queues = Endless.queues[-1:]

    async def main() -> None:
        device = Endless()
        async with Scene(device) as scene:
            scene.start().submit(*packed(1))
            await until(lambda: scene.stuck)
            assert device.cancelled == [1]
            assert scene.reap() == {}
            stopped = scene.stop()
            await rounds()
            assert not stopped.done
            device.gates[0] = asyncio.get_running_loop().create_future()  # so that the test ends

    in_loop(main)


@pytest.mark.parametrize("where", ["first step", "later"])
def test_a_method_that_awaits_what_was_cancelled_fails_its_own_request(where: str):
    class Awaiting(Device):
        device_id = 63
        requests = Queue(Number, Number, size=64)

        @requests.each
        async def answer(self, request: Number) -> Number:
            if request.value == 1:
                if where == "later":
                    await asyncio.sleep(0)
                gone = asyncio.get_running_loop().create_future()
                gone.cancel()
                await gone
            return Number(2 * request.value)

    async def main() -> None:
        async with Scene(Awaiting()) as scene:
            heads = scene.start().submit(*packed(1, 2))
            assert (await scene.back(2)) == {heads[0]: b"", heads[1]: Number(4).pack()}
            assert scene.counts == {"method-failed": 1}

    in_loop(main)


# Stopping.


class Stepper(Device):
    """Takes a step of a clock that only it moves for each request."""

    device_id = 63
    requests = Queue(Number, Number, size=64)

    def __init__(self, step: int) -> None:
        self.now = 1
        self.step = step
        self.begun: list[int] = []

    @requests.each
    def double(self, request: Number) -> Number:
        self.now += self.step
        self.begun.append(request.value)
        return Number(2 * request.value)


def test_a_stop_gives_back_what_was_not_begun_and_the_next_start_goes_on_there():
    device = Stepper(TIME_SLICE_NS // 3 + 1)
    with Scene(device, clock=lambda: device.now) as scene:
        scene.start().submit(*packed(*range(10)), kick=False)
        scene.runner.kick(0)
        assert scene.runner.step()
        assert device.begun == [0, 1, 2]
        stopped = scene.stop()
        assert stopped.result == 3
        assert list(scene.reap().values()) == doubles(0, 1, 2)
        assert not scene.runner.step()
        scene.start(position=3).serve()
        assert device.begun == list(range(10))
        assert list(scene.reap().values()) == doubles(*range(3, 10))


def test_a_stop_waits_for_what_runs_and_gives_back_what_waits():
    async def main() -> None:
        clock = [1]

        class Timed(Gated):
            requests = Queue(Number, Number, size=64)

            @requests.each
            async def double(self, request: Number) -> Number:
                clock[0] += TIME_SLICE_NS // 2 + 1
                return await Gated.double(self, request)

        Timed.queues = Timed.queues[-1:]
        device = Timed()
        device.patience = None
        async with Scene(device, clock=lambda: clock[0]) as scene:
            scene.start().submit(*packed(1, 2, 3, 4, 5), kick=False)
            scene.runner.kick(0)
            scene.runner.step()
            assert device.begun == [1, 2]
            stopped = scene.stop()
            scene.kick()
            await rounds()
            assert device.begun == [1, 2]
            assert not stopped.done
            device.open(2)
            assert list((await scene.back(1)).values()) == doubles(2)
            assert not stopped.done
            device.open(1)
            assert await ended(stopped) == 2
            assert list(scene.reap().values()) == doubles(1)
            scene.start(position=2)
            await until(lambda: len(device.begun) == 5)
            device.open(3, 4, 5)
            assert list((await scene.back(3)).values()) == doubles(3, 4, 5)

    in_loop(main)


class Holding(Gated):
    """Holds requests for as long as it likes; one that a stop ends is answered with 99 if its number is even."""

    patience = 0.01
    held = Queue(Number, Number, size=64, held=True)

    @held.each
    async def hold(self, request: Number) -> Number:
        try:
            return await self.double(request)
        except asyncio.CancelledError:
            if request.value % 2:
                raise
            return Number(99)


def test_a_held_request_outlives_patience_and_a_stop_ends_it():
    async def main() -> None:
        device = Holding()
        device.queues = [Holding.held]
        async with Scene(device) as scene:
            heads = scene.start().submit(*packed(1, 2, 3))
            await until(lambda: len(device.begun) == 3)
            await asyncio.sleep(5 * device.patience)
            assert device.cancelled == []
            device.open(3)
            assert await scene.back(1) == {heads[2]: Number(6).pack()}
            assert await ended(scene.stop()) == 3
            assert scene.reap() == {heads[0]: b"", heads[1]: Number(99).pack()}
            assert scene.events == ["request-failed"]
            later = scene.start(position=3).submit(*packed(5))
            await until(lambda: 5 in device.gates)
            device.open(5)
            assert await scene.back(1) == {later[0]: Number(10).pack()}

    in_loop(main)


def test_what_the_driver_does_not_let_be_given_back_is_answered_before_the_stop_ends():
    """It has rewritten the slot of the available ring: who knows what the next start would find there."""
    device = Stepper(TIME_SLICE_NS // 3 + 1)
    with Scene(device, clock=lambda: device.now) as scene:
        heads = scene.start().submit(*packed(*range(10)), kick=False)
        scene.runner.kick(0)
        scene.runner.step()
        scene.raws[0].set_avail_ring(6, heads[0])
        stopped = scene.stop()
        assert not stopped.done
        scene.serve()
        assert stopped.result == 7
        assert list(scene.reap().values()) == doubles(*range(7))


def test_a_queue_that_stops_takes_nothing_more_from_its_ring():
    async def main() -> None:
        device = Gated()
        async with Scene(device) as scene:
            scene.start().submit(*packed(1))
            await until(lambda: device.begun == [1])
            stopped = scene.stop()
            scene.submit(*packed(2, 3))
            await rounds()
            assert device.begun == [1]
            device.open(1)
            assert await ended(stopped) == 1
            await scene.back(1)

    in_loop(main)


def test_a_turn_of_a_queue_that_stops_ends_although_its_ring_is_not_empty():
    """It is asked whether more is to be done, not whether the driver has more."""
    device = Stepper(0)
    raw = RawDriver(memory_of((0, 1 << 16)), 16)
    served = RawQueue(raw, device)  # on a clock that hardly moves
    raw.make_available(raw.request(Number(1).pack(), room=4))
    (chain,) = served.queue.pop()
    served.service._waiting.chains.append(chain)
    raw.make_available(raw.request(Number(2).pack(), room=4))
    raw.set_avail_ring(0, 15)
    stopped = served.service.stop()
    assert not served.turn()
    assert stopped.done
    assert device.begun == [1]


def test_two_stops_are_one():
    async def main() -> None:
        device = Gated()
        async with Scene(device) as scene:
            scene.start().submit(*packed(1))
            await until(lambda: device.begun == [1])
            first, second = scene.stop(), scene.stop()
            device.open(1)
            assert await ended(first) == await ended(second) == 1
            assert scene.stop().done  # nothing runs
            await scene.back(1)

    in_loop(main)


# Rings that break, and resets.


def break_ring(scene: Scene[Any]) -> None:
    """Make a head available that no queue has."""
    scene.raws[0].make_available(0xFFFF)
    scene.kick()


def test_a_broken_ring_gets_no_answers_even_once_it_is_set_up_again():
    async def main() -> None:
        device = Gated()
        async with Scene(device) as scene:
            raw = scene.start().raws[0]
            scene.submit(*packed(1, 2))
            await until(lambda: len(device.begun) == 2)
            break_ring(scene)
            await until(lambda: scene.broken)
            used = raw.used_idx
            stopped = scene.stop()
            await ended(stopped)
            assert device.cancelled == [1, 2]
            raw.avail_idx = raw.used_idx = 0
            scene.start()
            await rounds()
            assert raw.used_idx == used == 0
            assert scene.counts == {"queue-broken": 1}  # what was cancelled is nobody's fault

    in_loop(main)


def test_a_broken_ring_s_stop_waits_for_a_method_that_ignores_its_cancellation():
    class Slow(Gated):
        requests = Queue(Number, Number, size=64)

        @requests.each
        async def double(self, request: Number) -> Number:
            try:
                await Gated.double(self, request)
            except asyncio.CancelledError:
                await Gated.double(self, Number(request.value + 100))
            return Number(1)

    Slow.queues = Slow.queues[-1:]

    async def main() -> None:
        device = Slow()
        async with Scene(device) as scene:
            scene.start().submit(*packed(1))
            await until(lambda: device.begun == [1])
            break_ring(scene)
            await until(lambda: scene.broken)
            stopped = scene.stop()
            await until(lambda: 101 in device.gates)
            await rounds()
            assert not stopped.done
            device.open(101)
            await ended(stopped)
            assert scene.raws[0].used_idx == 0

    in_loop(main)


def test_a_broken_ring_is_not_served_and_its_neighbour_is():
    class Two(Stepper):
        requests = Queue(Number, Number, size=64, count=2)
        double = requests.each(Stepper.double)

    Two.queues = Two.queues[-1:]
    with Scene(Two(0)) as scene:
        scene.start(0).start(1)
        break_ring(scene)
        assert scene.broken == [0]
        scene.submit(*packed(1), index=0)
        scene.submit(*packed(2), index=1)
        assert scene.reap(0) == {}
        assert list(scene.reap(1).values()) == doubles(2)
        assert scene.stop(0).done


def test_a_reset_cancels_what_runs_and_answers_nothing():
    async def main() -> None:
        device = Gated()
        async with Scene(device) as scene:
            scene.start().submit(*packed(1, 2))
            await until(lambda: len(device.begun) == 2)
            await ended(scene.runner.reset())
            assert device.cancelled == [1, 2]
            assert scene.raws[0].used_idx == 0
            assert scene.events == []
            assert device.negotiated == 0

    in_loop(main)


# Taking over from a process that died.


def test_a_successor_repeats_what_was_in_flight_and_blames_nothing_that_was_not_begun():
    async def main() -> None:
        device = Gated()
        async with Scene(device) as scene:
            heads = scene.start().submit(*packed(1, 2, 3))
            await until(lambda: len(device.begun) == 3)
            device.open(2)
            assert await scene.back(1) == {heads[1]: Number(4).pack()}
            successor = Gated()
            async with Scene(successor, before=scene) as after:
                assert after.start().interrupts() == 1  # the last one of the dead process may be lost
                await until(lambda: len(successor.begun) == 2)
                successor.open(1, 3)
                assert set(await after.back(2)) == {heads[0], heads[2]}

    in_loop(main)


def test_a_request_with_a_strike_is_begun_alone():
    async def main() -> None:
        async with Scene(Gated()) as scene:
            scene.start().submit(*packed(1, 2, 3, 4))
            await until(lambda: len(scene.device.begun) == 4)
            journal = scene.runner._services[0].queue.journal
            for head in journal.in_flight()[2:]:
                journal.end(head)
            assert journal.blame() == 1  # the first two
            device = Gated()
            async with Scene(device, before=scene) as after:
                after.start()
                await rounds()
                assert device.begun == [1]
                device.open(1)
                await after.back(1)
                await until(lambda: device.begun == [1, 2])
                await rounds()
                assert device.begun == [1, 2]
                device.open(2)
                await until(lambda: len(device.begun) == 4)
                device.open(3, 4)
                await after.back(3)

    in_loop(main)


@pytest.mark.parametrize(("kind", "strikes"), [(Impatient, MAXIMUM_STRIKES), (Once, 1)])
def test_a_request_that_ended_its_process_too_often_fails_and_is_not_begun(kind: type[Gated], strikes: int):
    async def main() -> None:
        async with Scene(kind()) as scene:
            head, other = scene.start().submit(*packed(1, 2))
            await until(lambda: len(scene.device.begun) == 2)
            journal = scene.runner._services[0].queue.journal
            journal.end(other)
            for _ in range(strikes):
                journal.begin(head, 1)
                journal.blame()
            device = kind()
            async with Scene(device, before=scene) as after:
                answers = await after.start().back(1)
                assert answers == {head: FAILURE if kind is Impatient else b""}
                assert after.counts == {"request-failed": 1}
                await until(lambda: device.begun == [2])
                device.open(2)
                await after.back(1)

    in_loop(main)


@pytest.mark.parametrize("rewritten", [False, True])
def test_a_stop_gives_suspects_back_or_fails_them_at_once_and_begins_none(rewritten: bool):
    async def main() -> None:
        async with Scene(Gated()) as scene:
            heads = scene.start().submit(*packed(1, 2))
            await until(lambda: len(scene.device.begun) == 2)
            scene.runner._services[0].queue.journal.blame()
            if rewritten:
                scene.raws[0].set_avail_ring(1, heads[0])
            device = Gated()
            async with Scene(device, before=scene) as after:
                after.start()
                stopped = after.runner.stop_queue(0, fail_suspects=True)
                assert stopped.done
                answers = dict.fromkeys(heads, b"") if rewritten else {}
                assert (stopped.result, after.reap()) == (len(answers), answers)
                assert device.begun == []

    in_loop(main)
