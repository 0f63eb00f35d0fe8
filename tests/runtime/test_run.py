"""What a device does by itself: when its `run` begins, goes on and ends."""

from __future__ import annotations

import asyncio
import functools
import os
from typing import TYPE_CHECKING

import pytest

from pyvirtio.device import Device, OutgoingQueue, Queue
from pyvirtio.errors import LocalError
from pyvirtio.runtime import DeviceRunner
from tests.support.runner import Scene, ended, in_loop, rounds, until

if TYPE_CHECKING:
    from pyvirtio.device import Reader, Writer


class Running(Device):
    """Notes what becomes of its `run`."""

    device_id = 63
    requests = Queue(size=16, count=2)

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.fails = False

    @requests.stream
    def answer(self, reader: Reader, writer: Writer) -> None:
        self.seen.append("request")

    async def run(self) -> None:
        self.seen.append("begins")
        if self.fails:
            raise ValueError("as it was told to")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.seen.append("ends")

    def close(self) -> None:
        self.seen.append("closed")


def test_it_begins_once_with_the_first_queue_and_goes_on_over_stops_and_starts():
    async def main() -> None:
        device = Running()
        async with Scene(device) as scene:
            await rounds()
            assert device.seen == []
            scene.start(0).start(1)
            await rounds()
            await ended(scene.stop(0))
            await ended(scene.stop(1))
            scene.start(0)
            await rounds()
            assert device.seen == ["begins"]
        assert device.seen == ["begins", "ends", "closed"]

    in_loop(main)


def test_a_reset_ends_it_and_the_next_start_begins_it_again():
    async def main() -> None:
        device = Running()
        async with Scene(device) as scene:
            scene.start()
            await until(lambda: device.seen)
            await ended(scene.runner.reset())
            await rounds()
            assert device.seen == ["begins", "ends"]
            scene.start()
            await rounds()
            assert device.seen == ["begins", "ends", "begins"]

    in_loop(main)


def test_a_reset_before_its_first_step_leaves_nothing_behind():
    async def main() -> None:
        device = Running()
        async with Scene(device) as scene:
            scene.start()
            await ended(scene.runner.reset())
            await rounds()
            assert "ends" not in device.seen
            assert scene.events == []

    in_loop(main)


def test_the_end_of_the_device_waits_for_the_end_of_a_run_that_a_reset_cancelled():
    class Slow(Running):
        async def run(self) -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                for _ in range(20):
                    await asyncio.sleep(0)
                self.seen.append("cleaned up")

    async def main() -> None:
        device = Slow()
        async with Scene(device) as scene:
            scene.start()
            await rounds()
            await ended(scene.runner.reset())
        assert "cleaned up" in device.seen

    in_loop(main)


def test_an_exception_is_reported_and_requests_are_still_answered():
    async def main() -> None:
        device = Running()
        device.fails = True
        async with Scene(device) as scene:
            scene.start().submit(b"x")
            await until(lambda: scene.events)
            assert scene.counts == {"run-failed": 1}
            assert [type(error) for error in scene.errors] == [ValueError]
            await scene.back(1)
            await ended(scene.runner.reset())
            device.fails = False
            device.seen.clear()
            scene.start()
            await until(lambda: "begins" in device.seen)

    in_loop(main)


def test_it_may_use_timers_descriptors_and_tasks():
    class Busy(Device):
        device_id = 63
        out = OutgoingQueue(size=16)

        def __init__(self, fd: int) -> None:
            self.fd = fd

        async def run(self) -> None:
            loop = asyncio.get_running_loop()
            readable: asyncio.Queue[bytes] = asyncio.Queue()
            loop.add_reader(self.fd, lambda: readable.put_nowait(os.read(self.fd, 100)))
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._tick())
                    await self.out.send(await readable.get())
            finally:
                loop.remove_reader(self.fd)

        async def _tick(self) -> None:
            await asyncio.sleep(0.001)
            await self.out.send(b"tick")

    async def main() -> None:
        reading, writing = os.pipe()
        try:
            async with Scene(Busy(reading)) as scene:
                raw = scene.start().raws[0]
                raw.make_available(*(raw.request(room=16) for _ in range(4)))
                scene.kick()
                assert list((await scene.back(1)).values()) == [b"tick"]
                os.write(writing, b"tock")
                assert list((await scene.back(1)).values()) == [b"tock"]
                assert scene.events == []
        finally:
            os.close(reading)
            os.close(writing)

    in_loop(main)


@pytest.mark.parametrize("kind", [Running])
def test_a_device_with_coroutines_needs_a_loop(kind: type[Device]):
    with pytest.raises(LocalError):
        DeviceRunner(kind(), lambda *_: None)


def test_a_close_that_raises_is_reported():
    class Bad(Device):
        device_id = 63
        requests = Queue(size=16)

        @requests.stream
        def answer(self, reader: Reader, writer: Writer) -> None: ...

        def close(self) -> None:
            raise ValueError("no")

    scene = Scene(Bad())
    assert scene.close() == []
    assert scene.counts == {"close-failed": 1}


def has_begun(device: Running, number: int) -> bool:
    return len(device.seen) == 2 * number + 1


def test_two_runs_of_one_device_never_overlap():
    class Slow(Running):
        async def run(self) -> None:
            self.seen.append("begins")
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                for _ in range(5):
                    await asyncio.sleep(0)
                self.seen.append("ends")

    async def main() -> None:
        device = Slow()
        async with Scene(device) as scene:
            for number in range(3):
                scene.start()
                await until(functools.partial(has_begun, device, number))
                await ended(scene.runner.reset())
            scene.start()
            await until(lambda: len(device.seen) == 7)
        assert device.seen == ["begins", "ends"] * 4 + ["closed"]

    in_loop(main)


def test_an_instance_that_a_reset_replaces_is_closed_after_its_run_has_ended():
    async def main() -> None:
        devices: list[Running] = []

        def renew() -> Running:
            devices.append(Running())
            return devices[-1]

        async with Scene(renew(), renew=renew) as scene:
            scene.start()
            await until(lambda: devices[0].seen)
            await ended(scene.runner.reset())
            await rounds()
            assert devices[0].seen == ["begins", "ends", "closed"]
            scene.start()
            await until(lambda: devices[1].seen)
        assert [device.seen for device in devices] == [["begins", "ends", "closed"]] * 2

    in_loop(main)


class Starting(Device):
    """Notes what it hears of the queues that start."""

    device_id = 63
    requests = Queue(size=16, count=2)

    def __init__(self) -> None:
        self.heard: list[tuple[int, bool]] = []
        self.fails = False

    @requests.stream
    def answer(self, reader: Reader, writer: Writer) -> None:
        """Answer with nothing."""

    def queue_started(self, index: int, *, resumed: bool) -> None:
        self.heard.append((index, resumed))
        if self.fails:
            raise ValueError("as it was told to")


def test_a_device_hears_whether_the_driver_of_a_queue_is_one_that_it_knows():
    device = Starting()
    with Scene(device) as scene:
        scene.start(0).start(1)
        assert device.heard == [(0, False), (1, False)]
        scene.submit(b"x")
        assert scene.stop(0).result == 1
        scene.start(0, position=1)
        assert device.heard[2:] == [(0, True)]
        after = Starting()
        with Scene(after, before=scene) as following:
            following.start(0)
            assert after.heard == [(0, True)], "a process before this one ran the queue"


def test_a_queue_runs_although_the_device_fails_when_it_hears_of_it():
    device = Starting()
    device.fails = True
    with Scene(device) as scene:
        scene.start().submit(b"x")
        assert len(scene.reap()) == 1
        assert scene.events == ["method-failed"]
