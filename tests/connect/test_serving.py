"""A device object that is served by this process."""

from __future__ import annotations

import asyncio
import contextlib
import select
import threading
from typing import TYPE_CHECKING

import pytest

from pyvirtio import Device, Driver, Queue, RequestQueue, Struct, le32, open_driver, serving
from pyvirtio.errors import DeviceError, LocalError

if TYPE_CHECKING:
    from pathlib import Path


class Number(Struct):
    value: int = le32()


class Knob(Device):
    device_id = 63
    config = Number(1)
    requests = Queue(Number, Number)

    @requests.each
    def add(self, request: Number) -> int:
        return request.value + int(self.config.value)


class KnobDriver(Driver):
    device_id = 63
    config = Number
    requests = RequestQueue(Number, Number)


def test_a_change_that_no_request_caused_is_told_to_the_driver_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with serving(Knob(), path) as served, open_driver(KnobDriver, f"vhost-user:{path}") as driver:
        assert driver.requests.call(Number(1)).value == 2
        before = driver.transport.config_generation()
        served.call(served.device.update_config, value=5)
        assert select.select([driver.transport.hangup_fd()], [], [], 10)[0], "nobody told the driver"
        assert driver.transport.config_generation() == before + 1
        assert driver.read_config() == Number(5)
        assert driver.requests.call(Number(1)).value == 6


def test_a_call_runs_in_the_thread_of_the_device(tmp_path: Path) -> None:
    with serving(Knob(), str(tmp_path / "s")) as served:
        assert served.call(threading.get_ident) not in {threading.get_ident(), 0}
        assert served.call(lambda: threading.current_thread().name) == "serving-Knob"
        with pytest.raises(ZeroDivisionError):
            served.call(lambda: 1 // 0)
    with pytest.raises(LocalError):
        served.call(threading.get_ident)


# The object that is served.


def test_its_attributes_are_seen_and_set_while_a_driver_uses_it(tmp_path: Path) -> None:
    class Counter(Knob):
        requests = Queue(Number, Number)
        answered = 0
        step = 1

        @requests.each
        def add(self, request: Number) -> int:
            self.answered += 1
            return request.value + self.step

    Counter.queues = Counter.queues[-1:]
    path = str(tmp_path / "s")
    with serving(Counter(), path) as served, open_driver(KnobDriver, f"vhost-user:{path}") as driver:
        for number in range(1, 4):
            served.device.step = 10 * number
            assert driver.requests.call(Number(1)).value == 10 * number + 1
            assert served.device.answered == number


def test_what_the_author_s_method_raises_is_logged_with_its_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong(Device):
        device_id = 63
        requests = Queue(Number, Number)

        @requests.each
        def add(self, request: Number) -> int:
            return 1 // (request.value - 5)

    path = str(tmp_path / "s")
    with serving(Wrong(), path) as served, open_driver(KnobDriver, f"vhost-user:{path}") as driver:
        with pytest.raises(DeviceError):
            driver.requests.call(Number(5))
        assert driver.requests.call(Number(6)).value == 1
        assert len(served.faults) == 1
    (record,) = [one for one in caplog.records if getattr(one, "event", "") == "method-failed"]
    assert record.exc_info
    assert record.exc_info[0] is ZeroDivisionError


def test_it_may_be_served_again_and_again_and_is_closed_each_time(tmp_path: Path) -> None:
    class Closing(Knob):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    device = Closing()
    path = str(tmp_path / "s")
    for number in range(3):
        with serving(device, path):
            for _ in range(2):
                with open_driver(KnobDriver, f"vhost-user:{path}") as driver:
                    assert driver.requests.call(Number(1)).value == 2
            assert device.closed == number
        assert device.closed == number + 1


class Waiting(Device):
    """Answers even numbers after a moment, and odd ones never."""

    device_id = 63
    config = Number(1)
    patience = None
    requests = Queue(Number, Number)

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.cancelled = threading.Event()
        self.runs: list[str] = []

    @requests.each
    async def answer(self, request: Number) -> int:
        if request.value % 2 == 0:
            await asyncio.sleep(0.001)
            return request.value
        self.begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.cancelled.set()
        raise AssertionError

    async def run(self) -> None:
        self.runs.append("begins")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.runs.append("ends")


def test_a_method_that_hangs_is_cancelled_when_its_front_end_goes_and_the_next_one_is_served(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with serving(Waiting(), path) as served:
        with open_driver(KnobDriver, f"vhost-user:{path}") as driver:
            driver.requests.submit(Number(1))
            assert driver.requests.call(Number(2)).value == 2
            assert served.device.begun.wait(10)
            assert not served.device.cancelled.is_set()
        assert served.device.cancelled.wait(10)
        with open_driver(KnobDriver, f"vhost-user:{path}") as driver:
            assert driver.requests.call(Number(4)).value == 4
        assert served.faults == []
    assert served.device.runs == ["begins", "ends"] * 2


def test_a_block_that_is_left_while_a_method_hangs_ends_it(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with serving(Waiting(), path) as served:
        driver = open_driver(KnobDriver, f"vhost-user:{path}")
        ticket = driver.requests.submit(Number(1))
        assert served.device.begun.wait(10)
    assert served.device.cancelled.is_set()
    with driver, pytest.raises(DeviceError):
        ticket.result()


# Threads and loops.


def test_no_thread_is_left(tmp_path: Path) -> None:
    before = threading.enumerate()
    with serving(Waiting(), str(tmp_path / "s")):
        assert len(threading.enumerate()) == len(before) + 1
    assert threading.enumerate() == before


def test_where_a_loop_runs_a_blocking_block_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(LocalError, match="async with"), serving(Knob(), str(tmp_path / "s")):
            pass

    asyncio.run(main())


@pytest.mark.parametrize("why", ["the socket is somebody's", "the device is not possible"])
def test_what_cannot_be_served_is_refused_where_the_block_begins(tmp_path: Path, why: str) -> None:
    path = str(tmp_path / "s")
    device = Knob()
    if why == "the device is not possible":
        device.queues = ()
    before = threading.enumerate()
    with contextlib.ExitStack() as stack:
        if why == "the socket is somebody's":
            stack.enter_context(serving(Knob(), path))
            before = threading.enumerate()
        with pytest.raises(LocalError), serving(device, path):
            pass
        assert threading.enumerate() == before


def test_a_method_that_ends_the_thread_is_told_where_the_block_ends(tmp_path: Path) -> None:
    class Exiting(Knob):
        requests = Queue(Number, Number)

        @requests.each
        def add(self, request: Number) -> int:
            raise SystemExit(3)

    Exiting.queues = Exiting.queues[-1:]
    path = str(tmp_path / "s")

    def serve() -> None:
        with serving(Exiting(), path) as served, open_driver(KnobDriver, f"vhost-user:{path}") as driver:
            with pytest.raises(DeviceError):
                driver.requests.call(Number(1))
            for thread in threading.enumerate():
                if thread.name == "serving-Exiting":
                    thread.join()
            with pytest.raises(LocalError):
                served.call(threading.get_ident)

    with pytest.raises(SystemExit):
        serve()


def drive(path: str, *values: int) -> list[int]:
    with open_driver(KnobDriver, f"vhost-user:{path}") as driver:
        tickets = driver.requests.submit_all([Number(value) for value in values])
        return [ticket.result().value for ticket in tickets]


def test_two_devices_in_one_loop_serve_at_the_same_time(tmp_path: Path) -> None:
    async def main() -> None:
        before = asyncio.all_tasks()
        one, other = (str(tmp_path / name) for name in ("one", "other"))
        async with serving(Waiting(), one) as first, serving(Knob(), other) as second:
            values = range(0, 40, 2)
            for _ in range(3):
                of_one, of_other = await asyncio.gather(
                    asyncio.to_thread(drive, one, *values), asyncio.to_thread(drive, other, *values)
                )
                assert (of_one, of_other) == (list(values), [value + 1 for value in values])
            second.device.update_config(value=10)
            assert (await asyncio.to_thread(drive, other, 1)) == [11]
        assert asyncio.all_tasks() == before
        assert first.device.runs == ["begins", "ends"] * 3
        assert first.faults == second.faults == []

    asyncio.run(main())


def test_in_a_loop_a_failing_block_ends_what_it_serves(tmp_path: Path) -> None:
    async def main() -> None:
        before = asyncio.all_tasks()
        with pytest.raises(KeyError):  # noqa: PT012  # the block is what is tested
            async with serving(Waiting(), str(tmp_path / "s")):
                await asyncio.to_thread(drive, str(tmp_path / "s"), 2)
                raise KeyError
        assert asyncio.all_tasks() == before
        assert not (tmp_path / "s").exists()

    asyncio.run(main())


def test_in_a_loop_a_hanging_method_is_ended_with_the_block(tmp_path: Path) -> None:
    async def main() -> None:
        before = asyncio.all_tasks()
        path = str(tmp_path / "s")
        async with serving(Waiting(), path) as served:
            driver = await asyncio.to_thread(open_driver, KnobDriver, f"vhost-user:{path}")
            driver.requests.submit(Number(1))
            assert await asyncio.to_thread(served.device.begun.wait, 10)
        driver.close()
        assert served.device.cancelled.is_set()
        assert served.device.runs == ["begins", "ends"]
        assert asyncio.all_tasks() == before

    asyncio.run(main())
