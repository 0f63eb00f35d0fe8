"""Queues on which the device speaks: what is said goes into the driver's buffers, in order, and no buffer is kept."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio.device import Device, OutgoingQueue, Queue
from pyvirtio.errors import LocalError
from pyvirtio.spec import split
from pyvirtio.testing import Descriptor
from tests.support.runner import Scene, ended, in_loop, rounds

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from pyvirtio.device import Reader, Writer
    from pyvirtio.device.outgoing import OutgoingPort

pytestmark = pytest.mark.usefixtures("engine")  # each of them


class Speaker(Device):
    device_id = 63
    out = OutgoingQueue(size=16)
    requests = Queue(size=16)

    @requests.stream
    def nothing(self, reader: Reader, writer: Writer) -> None:
        """Answer with nothing."""


def port_of(scene: Scene[Any]) -> OutgoingPort:
    port: OutgoingPort = scene.device.out
    return port


def offer(scene: Scene[Any], *rooms: int, kick: bool = True) -> list[int]:
    """Make buffers available."""
    raw = scene.raws[0]
    heads = [raw.request(room=room) for room in rooms]
    raw.make_available(*heads)
    if kick:
        scene.kick()
    return heads


def begin(*work: Coroutine[Any, Any, None]) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(one) for one in work]


def test_no_buffer_is_taken_before_there_is_something_to_say():
    async def main() -> None:
        async with Scene(Speaker()) as scene:
            scene.start()
            offer(scene, 64, 64, 64)
            await rounds()
            assert scene.stop().result == 0
            assert scene.reap() == {}

    in_loop(main)


def test_a_message_goes_into_one_buffer_and_interrupts():
    async def main() -> None:
        async with Scene(Speaker()) as scene:
            heads = offer(scene.start(), 64, 64)
            scene.interrupts()
            await port_of(scene).send(b"hello")
            assert scene.reap() == {heads[0]: b"hello"}
            assert scene.interrupts() == 1
            await port_of(scene).send(b"")
            assert scene.reap() == {heads[1]: b""}

    in_loop(main)


def test_a_message_waits_for_a_buffer_and_for_the_queue():
    async def main() -> None:
        async with Scene(Speaker()) as scene:
            (task,) = begin(port_of(scene).send(b"hello"))
            await rounds()
            scene.start()
            await rounds()
            assert not task.done()
            offer(scene, 64)
            await task
            assert list(scene.reap().values()) == [b"hello"]

    in_loop(main)


def test_a_driver_is_asked_to_kick_before_a_message_waits():
    """With EVENT_IDX: the kick that a driver owes for its next buffer, and no more."""

    async def main() -> None:
        async with Scene(Speaker()) as scene:
            raw = scene.start().raws[0]
            for number in range(5):
                (task,) = begin(port_of(scene).send(b"x"))
                await rounds()
                assert raw.avail_event == number
                offer(scene, 4)
                await task
            assert len(scene.reap()) == 5

    in_loop(main)


def test_several_who_wait_are_served_in_the_order_in_which_they_came():
    async def main() -> None:
        async with Scene(Speaker()) as scene:
            scene.start()
            tasks = begin(*(port_of(scene).send(b"%d" % number) for number in range(8)))
            await rounds()
            answers: list[bytes] = []
            for rooms in ([4], [4, 4, 4], [4] * 4):
                offer(scene, *rooms)
                answers += (await scene.back(len(rooms))).values()
            await asyncio.gather(*tasks)
            assert answers == [b"%d" % number for number in range(8)]

    in_loop(main)


def test_nobody_overtakes_who_waits_although_there_are_buffers():
    async def main() -> None:
        async with Scene(Speaker()) as scene:
            scene.start()
            port = port_of(scene)
            first = begin(port.send(b"first"), port.send(b"second"))
            await rounds()
            offer(scene, 64, 64, 64, 64, kick=False)  # they are there, and nobody who waits has looked yet
            assert not port.try_send(b"late")
            last = begin(port.send(b"third"))
            await rounds()
            scene.kick()
            await asyncio.gather(*first, *last)
            assert port.try_send(b"fourth")
            assert list(scene.reap().values()) == [b"first", b"second", b"third", b"fourth"]

    in_loop(main)


def test_one_who_is_cancelled_while_it_waits_keeps_nobody_from_being_served():
    async def main() -> None:
        async with Scene(Speaker()) as scene:
            scene.start()
            tasks = begin(*(port_of(scene).send(b"%d" % number) for number in range(3)))
            await rounds()
            tasks[0].cancel()
            offer(scene, 4, 4)
            await asyncio.wait(tasks)
            assert list(scene.reap().values()) == [b"1", b"2"]

    in_loop(main)


def test_a_stream_is_split_and_no_message_comes_in_between():
    async def main() -> None:
        async with Scene(Speaker()) as scene:
            scene.start()
            data = bytes(range(256)) * 300
            tasks = begin(port_of(scene).write(data), port_of(scene).send(b"after it"))
            received: list[bytes] = []
            while not tasks[0].done():
                offer(scene, 5000, 70_000, 8)
                await rounds()
                received += scene.reap().values()
            await tasks[1]
            received += scene.reap().values()
            assert b"".join(received) == data + b"after it"
            assert received[-1] == b"after it"
            assert {len(piece) for piece in received[:-2]} <= {5000, 8, 1 << 16}

    in_loop(main)


@pytest.mark.parametrize("how", ["send", "try_send"])
def test_a_message_that_is_too_large_keeps_the_buffer_for_the_next_one(how: str):
    async def main() -> None:
        async with Scene(Speaker()) as scene:
            (head,) = offer(scene.start(), 4)
            port = port_of(scene)
            for _ in range(3):
                with pytest.raises(LocalError):
                    port.try_send(b"12345") if how == "try_send" else await port.send(b"12345")
            assert scene.reap() == {}
            await port.send(b"1234")
            assert scene.reap() == {head: b"1234"}
            assert scene.events == []

    in_loop(main)


def test_one_who_waits_with_too_large_a_message_lets_the_next_one_go_on():
    async def main() -> None:
        async with Scene(Speaker()) as scene:
            scene.start()
            tasks = begin(port_of(scene).send(b"12345"), port_of(scene).send(b"1234"))
            await rounds()
            offer(scene, 4)
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(one) for one in outcomes] == [LocalError, type(None)]
            assert list(scene.reap().values()) == [b"1234"]

    in_loop(main)


@pytest.mark.parametrize("data", ["text", 5, None, [1, 2]])
def test_something_else_than_bytes_is_refused_at_once(data: Any):
    async def main() -> None:
        async with Scene(Speaker()) as scene:
            offer(scene.start(), 64)
            port = port_of(scene)
            for work in (port.send, port.write):
                with pytest.raises(LocalError):
                    await work(data)
            with pytest.raises(LocalError):
                port.try_send(data)
            assert scene.reap() == {}

    in_loop(main)


def test_buffers_that_cannot_be_used_are_returned_empty_and_the_message_takes_the_next():
    async def main() -> None:
        async with Scene(Speaker()) as scene:
            raw = scene.start().raws[0]
            bad = [
                raw.chain([Descriptor(1 << 40, 64, split.F_WRITE)]),  # outside the memory
                raw.chain([raw.readable(b"abc")]),  # no room
            ]
            good = raw.request(room=8)
            raw.make_available(*bad, good)
            await port_of(scene).send(b"hello")
            assert [(element.id, element.len) for element in raw.reap()] == [(bad[0], 0), (bad[1], 0), (good, 5)]
            assert scene.counts == {"buffer-refused": 2}

    in_loop(main)


def test_a_broken_ring_is_reported_and_a_message_waits_for_the_next_start():
    async def main() -> None:
        async with Scene(Speaker()) as scene:
            raw = scene.start().raws[0]
            raw.make_available(0xFFFF)
            (task,) = begin(port_of(scene).send(b"hello"))
            await rounds()
            assert scene.broken == [0]
            assert not task.done()
            assert scene.stop().done
            raw.avail_idx = raw.used_idx = 0
            scene.start()
            offer(scene, 8)
            await task
            assert scene.counts == {"queue-broken": 1}
            await ended(scene.stop())

    in_loop(main)


def test_a_message_that_waits_goes_on_over_a_stop_and_a_start():
    async def main() -> None:
        async with Scene(Speaker()) as scene:
            scene.start()
            (task,) = begin(port_of(scene).send(b"hello"))
            await rounds()
            assert scene.stop().result == 0
            offer(scene, 8)
            await rounds()
            assert not task.done()
            assert not port_of(scene).try_send(b"x")
            scene.start()
            await task
            assert list(scene.reap().values()) == [b"hello"]
            assert scene.stop().result == 1

    in_loop(main)


@pytest.mark.parametrize("rewritten", [False, True])
def test_a_buffer_that_a_dead_process_had_in_its_hand_is_the_driver_s_again(rewritten: bool):
    """It goes back to the ring, or where the driver does not allow that, is returned empty."""

    async def main() -> None:
        async with Scene(Speaker()) as scene:
            first, second = offer(scene.start(), 8, 8)
            scene.runner._services[0].queue.pop(1)
            if rewritten:
                scene.raws[0].set_avail_ring(0, 7)
            async with Scene(Speaker(), before=scene) as after:
                after.start()
                await port_of(after).send(b"hello")
                expected = {first: b"", second: b"hello"} if rewritten else {first: b"hello"}
                assert after.reap() == expected

    in_loop(main)


def test_each_of_several_queues_has_a_port_of_its_own():
    class Two(Device):
        device_id = 63
        out = OutgoingQueue(size=16, count=2)

    async def main() -> None:
        async with Scene(Two()) as scene:
            scene.start(0).start(1)
            for index in (0, 1):
                raw = scene.raws[index]
                raw.make_available(raw.request(room=8))
            ports = scene.device.ports(Two.out)
            await ports[1].send(b"one")
            await ports[0].send(b"zero")
            assert [list(scene.reap(index).values()) for index in (0, 1)] == [[b"zero"], [b"one"]]

    in_loop(main)


def test_a_message_is_made_for_its_buffer_when_there_is_one():
    rooms: list[int] = []

    def make(room: int) -> bytes:
        rooms.append(room)
        return bytes(min(room, 100))

    async def main() -> None:
        async with Scene(Speaker()) as scene:
            (task,) = (asyncio.create_task(port_of(scene.start()).send_fitting(make, least=10)),)
            await rounds()
            assert rooms == []
            heads = offer(scene, 9, 64, 4096)
            assert await task
            assert await port_of(scene).send_fitting(make, least=10)
            assert scene.reap() == {heads[0]: b"", heads[1]: bytes(64), heads[2]: bytes(100)}
            assert rooms == [64, 4096]
            assert scene.counts == {"buffer-refused": 1}

    in_loop(main)


def test_a_message_that_comes_to_nothing_leaves_the_buffer_to_the_next():
    def fail(room: int) -> bytes:
        raise ZeroDivisionError

    async def main() -> None:
        async with Scene(Speaker()) as scene:
            (head,) = offer(scene.start(), 64)
            assert not await port_of(scene).send_fitting(lambda _room: b"")
            with pytest.raises(ZeroDivisionError):
                await port_of(scene).send_fitting(fail)
            with pytest.raises(LocalError):
                await port_of(scene).send_fitting(lambda room: bytes(room + 1))
            assert scene.reap() == {}
            await port_of(scene).send(b"hello")
            assert scene.reap() == {head: b"hello"}

    in_loop(main)
