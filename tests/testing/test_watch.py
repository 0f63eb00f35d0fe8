"""A watched device answers as before, and what it is asked is an event that threads and tasks wait for."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from pyvirtio import Device, Driver, Queue, RequestQueue, Struct, le32, open_driver, serving
from pyvirtio.errors import NoAnswer, PeerError
from pyvirtio.testing.watch import Trigger, watch

if TYPE_CHECKING:
    from pathlib import Path

    from pyvirtio import Reader, Writer


class Number(Struct):
    value: int = le32()


class Both(Device):
    """Halves even numbers, at once and later, and copies bytes."""

    numbers = Queue(Number, Number)
    later = Queue(Number, Number)
    data = Queue()

    @numbers.each
    def halve(self, number: Number) -> Number:
        if number.value % 2:
            raise ValueError(f"{number.value} is odd")
        return Number(number.value // 2)

    @numbers.batch
    def halve_all(self, numbers: object) -> object:
        raise AssertionError("one by one, so that each is seen")

    @later.each
    async def halve_later(self, number: Number) -> Number:
        await asyncio.sleep(0)
        if number.value % 2:
            raise ValueError(f"{number.value} is odd")
        return Number(number.value // 2)

    @data.stream
    def copy(self, reader: Reader, writer: Writer) -> None:
        writer.write(reader.read())


class BothDriver(Driver):
    device_id = 38
    numbers = RequestQueue(Number, Number)
    later = RequestQueue(Number, Number)
    data = RequestQueue()


def test_requests_answers_and_failures_are_seen_in_order(tmp_path: Path) -> None:
    watched = watch(Both())
    path = str(tmp_path / "s")
    with serving(watched.device, path), open_driver(BothDriver, f"vhost-user:{path}") as driver:
        tickets = driver.numbers.submit_all([Number(2 * n) for n in range(40)])
        assert [ticket.result().value for ticket in tickets] == list(range(40))
        assert [watched.requested.wait().request for _ in range(40)] == [Number(2 * n) for n in range(40)]
        assert driver.later.call(Number(8)).value == 4
        assert bytes(driver.data.call(b"abc", room=5)) == b"abc"
        assert repr(watched.requested.wait()) == "later: Number(value=8) -> answered"
        assert repr(watched.requested.wait()) == "data: 3 bytes, room for 5 -> answered"
        for queue in (driver.numbers, driver.later):
            with pytest.raises(PeerError):
                queue.call(Number(7))
            assert watched.failed.wait().outcome == "ValueError: 7 is odd"
    assert len(watched.last) == 20
    with pytest.raises(NoAnswer, match=r"0\.01 s for a failure"):
        watched.failed.wait(timeout=0.01)


def test_a_trigger_wakes_threads_and_tasks_once_for_each_time() -> None:
    trigger: Trigger[int] = Trigger("a number")
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(trigger.wait()))
    thread.start()
    trigger.fire(1)
    thread.join()

    async def both() -> set[int]:
        tasks = [asyncio.ensure_future(asyncio.wait_for(_next(trigger), 10)) for _ in range(2)]
        await asyncio.sleep(0)
        for n in (2, 3):
            threading.Thread(target=trigger.fire, args=(n,)).start()
        return set(await asyncio.gather(*tasks))

    assert seen == [1]
    assert asyncio.run(both()) == {2, 3}


async def _next(trigger: Trigger[int]) -> int:
    return await trigger
