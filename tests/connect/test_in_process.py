"""A driver and a device in one process, with and without an event loop."""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures import wait as wait_for_futures
from typing import Any

import pytest

from pyvirtio import Device, Driver, OutgoingQueue, Queue, RequestQueue, Struct, le32, open_driver
from pyvirtio.connect.in_process import InProcessTransport
from pyvirtio.errors import DeviceError, LocalError, NoAnswer


class Number(Struct):
    value: int = le32()


class Plain(Device):
    device_id = 63
    requests = Queue(Number, Number)

    @requests.each
    def double(self, request: Number) -> int:
        if request.value == 13:
            raise ValueError("13")
        return 2 * request.value


class Async(Device):
    """Waits a moment for even numbers, for ever for 13."""

    device_id = 63
    requests = Queue(Number, Number)
    started = 0
    stopped = 0

    @requests.each
    async def double(self, request: Number) -> int:
        if request.value == 13:
            await asyncio.get_running_loop().create_future()
        if request.value % 2 == 0:
            await asyncio.sleep(0.001)
        return 2 * request.value

    async def run(self) -> None:
        self.started += 1
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.stopped += 1


class Client(Driver):
    device_id = 63
    requests = RequestQueue(Number, Number)


def ask(driver: Any, *values: int) -> list[int]:
    tickets = driver.requests.submit_all([Number(value) for value in values])
    return [ticket.result().value for ticket in tickets]


# Without a loop.


def test_a_plain_device_has_answered_when_the_request_is_submitted():
    with open_driver(Client, Plain()) as driver:
        ticket = driver.requests.submit(Number(4))
        assert ticket.done or ticket.result(0).value == 8
        assert ask(driver, *range(12)) == [2 * value for value in range(12)]


def test_what_a_plain_device_does_not_answer_never_comes_and_nobody_waits_for_it():
    with open_driver(Client, Plain()) as driver:
        with pytest.raises(DeviceError):
            driver.requests.call(Number(13))
        assert isinstance(driver.transport, InProcessTransport)
        assert len(driver.transport.faults) == 1


def test_a_device_with_coroutines_runs_while_its_driver_waits():
    device = Async()
    with open_driver(Client, device) as driver:
        assert ask(driver, *range(12)) == [2 * value for value in range(12)]
        assert (device.started, device.stopped) == (1, 0)
    assert (device.started, device.stopped) == (1, 1)


def test_a_wait_for_a_device_with_coroutines_ends_in_time():
    with open_driver(Client, Async()) as driver:
        ticket = driver.requests.submit(Number(13))
        with pytest.raises(NoAnswer):
            ticket.result(0.02)
        assert ask(driver, 3, 4) == [6, 8]


def test_a_device_can_be_used_again():
    device = Async()
    for _ in range(3):
        with open_driver(Client, device) as driver:
            assert ask(driver, 1, 2) == [2, 4]
    assert (device.started, device.stopped) == (3, 3)


def test_closing_with_requests_in_progress_leaves_nothing_behind():
    device = Async()
    with open_driver(Client, device) as driver:
        driver.requests.submit_all([Number(13)] * 5)
    assert device.stopped == 1


def test_a_device_that_cannot_be_served_leaves_nothing_behind():
    device = Async()
    device.queues = ()
    with pytest.raises(LocalError):
        open_driver(Client, device)
    with pytest.raises(LocalError):
        open_driver(Client, Plain(), memory=1)
    gc.collect()


# In a loop.


def test_a_device_with_coroutines_shares_the_loop_of_its_driver():
    async def main() -> None:
        device = Async()
        with open_driver(Client, device) as driver:
            tickets = driver.requests.submit_all([Number(value) for value in range(12)])
            answers = await asyncio.gather(*(awaited(ticket) for ticket in tickets))
            assert answers == [2 * value for value in range(12)]
            assert device.started == 1
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert device.stopped == 1

    asyncio.run(main())


async def awaited(ticket: Any) -> int:
    answer = await ticket
    value: int = answer.value
    return value


def test_a_plain_device_can_be_awaited_in_a_loop():
    async def main() -> None:
        with open_driver(Client, Plain()) as driver:
            assert (await driver.requests.submit(Number(3))).value == 6

    asyncio.run(main())


def test_a_blocking_wait_in_the_loop_that_runs_the_device_is_refused():
    async def main() -> None:
        with open_driver(Client, Async()) as driver:
            ticket = driver.requests.submit(Number(2))
            with pytest.raises(LocalError, match="await"):
                ticket.result()
            assert (await ticket).value == 4

    asyncio.run(main())


@pytest.mark.parametrize("how", ["submit", "call"])
def test_a_driver_that_was_opened_outside_of_a_loop_is_not_used_in_one(how: str):
    """The device's own loop cannot run inside another one."""

    async def main(driver: Any) -> None:
        with pytest.raises(LocalError, match="loop"):
            getattr(driver.requests, how)(Number(2))

    with open_driver(Client, Async()) as driver:
        assert ask(driver, 2) == [4]
        asyncio.run(main(driver))
        assert ask(driver, 4) == [8]


def test_closing_in_a_loop_cancels_what_runs():
    async def main() -> None:
        device = Async()
        with open_driver(Client, device) as driver:
            driver.requests.submit_all([Number(13)] * 5)
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_device_may_drive_another_one():
    class Middle(Device):
        device_id = 63
        requests = Queue(Number, Number)

        def __init__(self, driver: Any) -> None:
            self.driver = driver

        @requests.each
        async def double(self, request: Number) -> int:
            answer = await self.driver.requests.submit(request)
            value: int = answer.value
            return 10 * value

    async def main() -> None:
        with open_driver(Client, Async()) as inner, open_driver(Client, Middle(inner)) as outer:
            tickets = outer.requests.submit_all([Number(value) for value in range(6)])
            assert [(await ticket).value for ticket in tickets] == [20 * value for value in range(6)]

    asyncio.run(main())


# Offloading.


def thread_of(value: int) -> tuple[int, str]:
    return 2 * value, threading.current_thread().name


def fails(value: int) -> int:
    raise KeyError(value)


def double(value: int) -> int:
    return 2 * value


class Offloading(Device):
    device_id = 63
    requests = Queue(Number, Number)

    def __init__(self, work: Any = thread_of, executor: Any = None) -> None:
        self.work = work
        self.executor = executor
        self.seen: list[Any] = []

    @requests.each
    async def answer(self, request: Number) -> int:
        try:
            found = await self.offload(self.work, request.value)
        except BaseException as error:
            self.seen.append(type(error))
            raise
        self.seen.append(found)
        answer: int = found[0] if isinstance(found, tuple) else found
        return answer


def test_offloaded_work_runs_in_threads_of_the_device_which_end_with_it():
    device = Offloading()
    with open_driver(Client, device) as driver:
        assert ask(driver, *range(8)) == [2 * value for value in range(8)]
    assert all(name.startswith("Offloading") for _, name in device.seen)
    assert not any(thread.name.startswith("Offloading") for thread in wait_for_threads("Offloading"))


def wait_for_threads(name: str) -> list[threading.Thread]:
    for thread in threading.enumerate():
        if thread.name.startswith(name):
            thread.join(10)
    return threading.enumerate()


def test_offloaded_work_that_fails_fails_the_request():
    device = Offloading(fails)
    with open_driver(Client, device) as driver, pytest.raises(DeviceError):
        driver.requests.call(Number(3))
    assert device.seen == [KeyError]


def test_work_goes_to_the_executor_of_the_device_or_of_the_call():
    with ThreadPoolExecutor(1, "chosen") as executor:
        device = Offloading(executor=executor)
        with open_driver(Client, device) as driver:
            assert ask(driver, 1, 2) == [2, 4]
        assert {name for _, name in device.seen} == {"chosen_0"}
        assert executor.submit(double, 2).result() == 4  # it is its owner's, and goes on


def test_work_may_go_to_other_processes():
    with ProcessPoolExecutor(1) as executor, open_driver(Client, Offloading(double, executor)) as driver:
        assert ask(driver, *range(5)) == [0, 2, 4, 6, 8]


def test_a_cancelled_request_does_not_wait_for_its_work():
    begun, gate = threading.Event(), threading.Event()

    def wait(value: int) -> int:
        begun.set()
        gate.wait(10)
        return value

    device = Offloading(wait)
    device.patience = 0.02
    with ThreadPoolExecutor(1) as executor:
        device.executor = executor
        with open_driver(Client, device) as driver:
            with pytest.raises(DeviceError):
                driver.requests.call(Number(3))
            assert device.seen == [asyncio.CancelledError]
            assert begun.is_set()
        gate.set()
        wait_for_futures([executor.submit(double, 1)])


# A device that speaks.


class Speaking(Device):
    device_id = 63
    out = OutgoingQueue(size=16)

    async def run(self) -> None:
        for number in range(3):
            await asyncio.sleep(0)
            await self.out.send(Number(number).pack())


def test_a_device_speaks_to_a_driver_in_its_loop():
    class Listener(Driver):
        device_id = 63
        events = RequestQueue(response=Number)

    async def main() -> None:
        with open_driver(Listener, Speaking()) as driver:
            seen = []
            async for event in driver.events.incoming():
                seen.append(event.value)
                if len(seen) == 3:
                    break
            assert seen == [0, 1, 2]

    asyncio.run(main())
