"""Messages that lie in several buffers of the driver: full but for the last, given back at once, counted in front."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio.device import Device, OutgoingQueue
from pyvirtio.errors import LocalError
from pyvirtio.spec import split
from pyvirtio.testing import Descriptor
from tests.support.runner import Scene, in_loop, rounds

if TYPE_CHECKING:
    from pyvirtio.device.outgoing import OutgoingPort

pytestmark = pytest.mark.usefixtures("engine")  # each of them


class Speaker(Device):
    device_id = 63
    out = OutgoingQueue(size=16)


def count(number: int) -> bytes:
    return b"%04d" % number


def port_of(scene: Scene[Any]) -> OutgoingPort:
    port: OutgoingPort = scene.device.out
    return port


def offer(scene: Scene[Any], *rooms: int) -> list[int]:
    raw = scene.raws[0]
    heads = [raw.request(room=room) for room in rooms]
    raw.make_available(*heads)
    scene.kick()
    return heads


@pytest.mark.parametrize(
    ("rooms", "expected"),
    [
        ([64], [b"0001" + bytes(range(20))]),
        ([24], [b"0001" + bytes(range(20))]),
        ([10, 64], [b"0002" + bytes(range(6)), bytes(range(6, 20))]),
        ([4, 10, 10], [b"0003", bytes(range(10)), bytes(range(10, 20))]),
        ([5] + [1] * 14 + [5], [b"0016\0"] + [bytes([n]) for n in range(1, 15)] + [bytes(range(15, 20))]),
    ],
)
def test_it_fills_all_buffers_but_the_last(rooms: list[int], expected: list[bytes]):
    async def main() -> None:
        async with Scene(Speaker()) as scene:
            offer(scene.start(), *rooms)
            scene.interrupts()
            assert port_of(scene).try_send(bytes(range(20)), header=count)
            assert list(scene.reap().values()) == expected
            assert scene.interrupts() == 1

    in_loop(main)


def test_buffers_are_kept_until_there_are_enough_and_nothing_is_seen_of_it_before():
    async def main() -> None:
        async with Scene(Speaker()) as scene:
            scene.start()
            task = asyncio.create_task(port_of(scene).send(bytes(20), header=count))
            heads = []
            for _ in range(5):
                await rounds()
                assert not task.done()
                assert scene.reap() == {}
                heads += offer(scene, 5)
            await task
            assert list(scene.reap()) == heads

    in_loop(main)


def test_a_smaller_message_takes_what_was_kept_for_one_that_could_not_be_sent():
    async def main() -> None:
        async with Scene(Speaker()) as scene:
            heads = offer(scene.start(), 5, 5)
            assert not port_of(scene).try_send(bytes(20), header=count)
            assert port_of(scene).try_send(b"hello")
            assert port_of(scene).try_send(b"!", header=count)
            assert scene.reap() == {heads[0]: b"hello", heads[1]: b"0001!"}

    in_loop(main)


def test_a_stop_gives_back_what_is_kept_and_the_message_goes_on_after_the_next_start():
    async def main() -> None:
        async with Scene(Speaker()) as scene:
            heads = offer(scene.start(), 10)
            task = asyncio.create_task(port_of(scene).send(bytes(20), header=count))
            await rounds()
            assert scene.stop().result == 0
            assert scene.reap() == {}
            scene.start()
            heads += offer(scene, 20)
            await task
            assert list(scene.reap()) == heads
            assert scene.stop().result == 2

    in_loop(main)


def test_what_a_dead_process_kept_is_the_driver_s_again():
    async def main() -> None:
        async with Scene(Speaker()) as scene:
            heads = offer(scene.start(), 5, 5)
            assert not port_of(scene).try_send(bytes(20), header=count)
            async with Scene(Speaker(), before=scene) as after:
                after.start()
                await port_of(after).send(b"hello")
                await port_of(after).send(b"again")
                assert after.reap() == {heads[0]: b"hello", heads[1]: b"again"}

    in_loop(main)


def test_a_message_that_no_queue_full_of_buffers_holds_is_refused_and_the_buffers_stay():
    async def main() -> None:
        async with Scene(Speaker(), size=4) as scene:
            offer(scene.start(), 8, 8, 8)
            task = asyncio.create_task(port_of(scene).send(bytes(29), header=count))
            await rounds()
            offer(scene, 8)
            with pytest.raises(LocalError, match="all 4 buffers"):
                await task
            assert scene.reap() == {}
            await port_of(scene).send(bytes(28), header=count)
            assert [len(piece) for piece in scene.reap().values()] == [8, 8, 8, 8]

    in_loop(main)


def test_buffers_too_small_for_the_header_or_of_no_use_are_returned_empty():
    async def main() -> None:
        async with Scene(Speaker()) as scene:
            raw = scene.start().raws[0]
            before, between = (raw.chain([Descriptor(1 << 40, 64, split.F_WRITE)]) for _ in range(2))
            small, first, second = (raw.request(room=room) for room in (3, 5, 5))
            raw.make_available(before, small, first, between, second)
            await port_of(scene).send(b"hello", header=count)
            assert scene.counts == {"buffer-refused": 2}  # one for each kind
            returned = [(element.id, element.len) for element in raw.reap()]
            assert returned == [(before, 0), (small, 0), (between, 0), (first, 5), (second, 4)]

    in_loop(main)


def test_the_device_knows_which_of_its_queues_run():
    async def main() -> None:
        async with Scene(Speaker()) as scene:
            assert scene.device.running == set()
            scene.start()
            assert scene.device.running == {0}
            assert scene.stop().done
            assert scene.device.running == set()

    in_loop(main)
