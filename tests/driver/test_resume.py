"""A driver whose back-end is killed and started again: what was in flight is answered once, and the rest goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from typing import TYPE_CHECKING

import pytest

from pyvirtio import Driver, RequestQueue, open_driver
from pyvirtio.devices.entropy import Entropy
from pyvirtio.errors import DeviceError, LocalError
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.ring import SplitDriverQueue, SplitLayout
from pyvirtio.spec.features import RING_FEATURES, Feature
from pyvirtio.testing import RawDevice, lay_out
from pyvirtio.testing.served import served
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.client import WANTED
from pyvirtio.vhost_user.resume import ResumingTransport
from tests.support.devices import parity
from tests.support.devices.parity import Config, Number

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

PARITY = f"{parity.__file__}:Parity"
STUBBORN = f"{PARITY},stubborn"
BOTH = [RING_FEATURES, 0]


class ParityDriver(Driver):
    device_id = 63
    features = 1 | 2
    config = Config
    requests = RequestQueue(Number, Number, size=32)
    news = RequestQueue(response=Number, size=4)


@pytest.fixture
def path() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="r-") as folder:
        yield f"{folder}/s"


@pytest.fixture(params=["tracked by the back-end", "known to the driver alone"])
def knowledge(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Have the back-end track what is in flight, or not; return which."""
    tracked: bool = request.param == "tracked by the back-end"
    if not tracked:
        monkeypatch.setattr(ResumingTransport, "_protocol_wanted", WANTED)
    return tracked


def resuming(path: str, **options: int) -> ParityDriver:
    return open_driver(ParityDriver, f"vhost-user:{path}", reconnect=60, **options)


@pytest.mark.parametrize("ring_features", BOTH)
def test_what_was_in_flight_is_answered_once_by_the_next_backend(path: str, knowledge: bool, ring_features: int):
    """In flight are the even numbers: they were begun before the odd ones that have been answered."""
    with served(STUBBORN, path=path) as server:
        driver = resuming(path, ring_features=ring_features)
        assert isinstance(driver.transport, ResumingTransport)
        assert bool(driver.transport.protocol & m.Protocol.INFLIGHT_SHMFD) == knowledge
        evens = []
        for number in range(0, 12, 2):
            evens.append(driver.requests.submit(Number(number)))
            assert driver.requests.call(Number(number + 1)).value == number + 1001
        late = driver.requests.submit_all([Number(number) for number in range(100, 104)])
        server.end(signal.SIGKILL)
    with driver, served(PARITY, path=path):
        assert [ticket.result().value for ticket in evens] == list(range(1000, 1012, 2))
        assert [ticket.result().value for ticket in late] == list(range(1100, 1104))
        for number in range(40):
            assert driver.requests.call(Number(number)).value == number + 1000
        assert not driver.requests.ring.outstanding


def test_answers_that_the_dead_one_gave_count(path: str, knowledge: bool):
    with served(STUBBORN, path=path) as server:
        driver = resuming(path)
        tickets = driver.requests.submit_all([Number(1), Number(3), Number(5)])
        assert tickets[-1].result().value == 1005  # they are answered in turn, so all of them are
        open_one = driver.requests.submit(Number(2))
        server.end(signal.SIGKILL)
    with driver, served(PARITY, path=path):
        assert open_one.result().value == 1002
        assert [ticket.result().value for ticket in tickets] == [1001, 1003, 1005]


def test_tasks_go_on_awaiting(path: str, knowledge: bool):
    async def main(driver: ParityDriver) -> list[int]:
        tasks = [asyncio.create_task(value_of(driver, number)) for number in range(100)]
        await tasks[1]
        await asyncio.to_thread(server.end, signal.SIGKILL)
        successor = served(PARITY, path=path)
        await asyncio.to_thread(successor.__enter__)
        try:
            return await asyncio.gather(*tasks)
        finally:
            await asyncio.to_thread(successor.__exit__, None, None, None)

    async def value_of(driver: ParityDriver, number: int) -> int:
        answer: Number = await driver.requests.submit(Number(number))
        return answer.value

    with served(STUBBORN, path=path) as server, resuming(path) as driver:
        assert asyncio.run(main(driver)) == list(range(1000, 1100))


def test_buffers_for_what_the_device_says_are_there_for_the_next_one(path: str, knowledge: bool):
    with served(STUBBORN, path=path) as server:
        driver = resuming(path)
        news = driver.news.incoming(timeout=60)
        assert next(news).value == 1
        server.end(signal.SIGKILL)
    with driver, served(PARITY, path=path):
        assert next(news).value == 2


def test_the_configuration_space_is_the_next_ones(path: str):
    with served(STUBBORN, path=path) as server:
        driver = resuming(path)
        assert driver.read_config() == Config(1)
        before = driver.transport.config_generation()
        server.end(signal.SIGKILL)
    with driver, served(PARITY, path=path):
        assert driver.read_config() == Config(2)
        assert driver.transport.config_generation() != before


def test_a_device_that_cannot_do_what_was_agreed_on_is_refused(path: str):
    with served(STUBBORN, path=path) as server:
        driver = resuming(path)
        ticket = driver.requests.submit(Number(0))
        server.end(signal.SIGKILL)
    with driver, served(f"{PARITY},further=off", path=path):
        for ask in (ticket.result, driver.read_config, ticket.result):
            with pytest.raises(DeviceError, match="another device"):
                ask()


@pytest.mark.parametrize("how", ["blocking", "awaiting", "reading the configuration"])
def test_a_backend_that_does_not_come_back_ends_every_wait(path: str, how: str):
    with served(STUBBORN, path=path) as server:
        driver = open_driver(ParityDriver, f"vhost-user:{path}", reconnect=0.1)
        ticket = driver.requests.submit(Number(0))
        server.end(signal.SIGKILL)
    os.unlink(path)

    async def main() -> None:
        await ticket

    ask: dict[str, Callable[[], object]] = {
        "blocking": ticket.result,
        "awaiting": lambda: asyncio.run(main()),
        "reading the configuration": driver.read_config,
    }
    with driver:
        for _ in range(2):
            with pytest.raises(DeviceError, match="not back"):
                ask[how]()
        with pytest.raises(DeviceError, match="not back"):
            ticket.result()


def test_a_driver_is_closed_while_its_backend_is_away(path: str):
    with served(STUBBORN, path=path) as server:
        driver = resuming(path)
        ticket = driver.requests.submit(Number(0))
        server.end(signal.SIGKILL)
    os.unlink(path)
    driver.transport.process_events()  # it is seen to be gone
    driver.close()
    with pytest.raises(LocalError):
        ticket.result()


def test_a_device_in_this_process_does_not_go_away():
    with pytest.raises(LocalError, match="reconnect"):
        open_driver(ParityDriver, Entropy(), reconnect=1)


@pytest.mark.parametrize("features", [0, Feature.EVENT_IDX])
def test_a_ring_offers_again_what_is_outstanding_in_its_order(features: int, rng: random.Random):
    size, layout = 8, lay_out(8, 0)
    memory = MemoryTable([Region(0, memoryview(bytearray(1 << 12)))])
    rings = SplitLayout(memory, size, layout.descriptors, layout.available, layout.used)
    driver = SplitDriverQueue(rings, memory, features)
    expected: list[int] = []
    for _ in range(200):
        device = RawDevice(memory, layout)
        while driver.free and rng.random() < 0.7:
            expected.append(driver.add([], [(0xF00, 1)], None))
        driver.publish()
        heads = device.heads()
        assert heads == expected
        for head in rng.sample(heads, rng.randrange(len(heads) + 1)):
            device.answer(head, b"x")
            expected.remove(head)
        driver.reap()
        driver.offer_again()
        assert not driver.enable_interrupts()
