"""A driver whose back-end is killed and started again: what was in flight is answered once, and the rest goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
import threading
from typing import TYPE_CHECKING

import pytest

from pyvirtio import Driver, RequestQueue, open_driver
from pyvirtio.devices.entropy import Entropy
from pyvirtio.drivers.block import BlockDriver
from pyvirtio.errors import DeviceError, LocalError
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.memory.files import shared_file
from pyvirtio.ring import SplitDriverQueue, SplitLayout
from pyvirtio.spec.features import RING_FEATURES, Feature
from pyvirtio.testing import RawDevice, lay_out
from pyvirtio.testing.served import served
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user import reconnect, resume
from pyvirtio.vhost_user.client import WANTED
from pyvirtio.vhost_user.framing import encode
from pyvirtio.vhost_user.resume import ResumingTransport
from tests.support.backend_peer import ALL, BackendPeer
from tests.support.devices import parity
from tests.support.devices.parity import Config, Number

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import Self

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


def test_a_socket_that_only_listens_is_no_backend(path: str):
    """A service manager listens also where the service does not start."""
    with served(STUBBORN, path=path) as server:
        driver = open_driver(ParityDriver, f"vhost-user:{path}", reconnect=0.2)
        ticket = driver.requests.submit(Number(0))
        server.end(signal.SIGKILL)
    os.unlink(path)
    with driver, socket.socket(socket.AF_UNIX) as manager:
        manager.bind(path)
        manager.listen()
        with pytest.raises(DeviceError, match="not back"):
            ticket.result()


def test_a_backend_that_tracks_what_is_in_flight_has_to_give_memory_for_that(monkeypatch: pytest.MonkeyPatch):
    protocol = ALL | m.Protocol.INFLIGHT_SHMFD
    with BackendPeer(protocol=protocol) as peer:
        peer.on[m.Request.GET_INFLIGHT_FD] = m.Inflight(4096, 0, 2, 32).pack
        monkeypatch.setattr(resume, "connect", lambda _path, _device: peer.frontend)
        with pytest.raises(DeviceError, match="memory"):
            resuming("unused")
        assert [m.Inflight.unpack(one) for one in peer.payloads(m.Request.GET_INFLIGHT_FD)] == [m.Inflight(0, 0, 2, 32)]
        assert not peer.payloads(m.Request.SET_VRING_KICK)


class Peers:
    """A back-end and its successor, and a driver that meets one after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, protocol: m.Protocol) -> None:
        self.first, self.second = (BackendPeer(protocol=protocol, queues=1) for _ in range(2))
        self.region = shared_file("in-flight", 4096)
        self.first.on[m.Request.GET_INFLIGHT_FD] = self._give_region
        monkeypatch.setattr(resume, "connect", lambda _path, _device: self.first.frontend)
        monkeypatch.setattr(reconnect, "connect", lambda _path, _device: self.second.frontend)

    def _give_region(self) -> None:
        reply = m.Inflight(4096, 64, 1, 8).pack() + bytes(m.INFLIGHT_PADDING)
        self.first.send(encode(m.Request.GET_INFLIGHT_FD, reply, m.F_REPLY), [self.region])

    def __enter__(self) -> Self:
        self.first.__enter__()
        self.second.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.first.__exit__()
        self.second.__exit__()
        os.close(self.region)


class Bytes(Driver):
    device_id = 63
    requests = RequestQueue(size=8)


@pytest.mark.parametrize("protocol", [ALL, ALL | m.Protocol.INFLIGHT_SHMFD])
def test_a_successor_is_told_where_to_go_on_and_is_kicked(monkeypatch: pytest.MonkeyPatch, protocol: m.Protocol):
    tracked = bool(protocol & m.Protocol.INFLIGHT_SHMFD)
    with Peers(monkeypatch, protocol) as peers:
        driver = open_driver(Bytes, "vhost-user:unused", reconnect=60)
        with driver:
            first, second = driver.requests.submit(b"1", room=1), driver.requests.submit(b"2", room=1)
            device = peers.first.device()
            heads = device.heads()
            device.answer(heads[1], b"b")
            peers.first.interrupt()
            assert second.result() == b"b"
            assert os.eventfd_read(peers.first.fds[m.Request.SET_VRING_KICK, 0]) == 2
            peers.first.hang_up()
            driver.transport.config_generation()  # which waits for the successor
            base = m.VringState.unpack(peers.second.payloads(m.Request.SET_VRING_BASE)[0])
            assert base == m.VringState(0, 1 if tracked else 0)
            device = peers.second.device()
            assert (device.avail_idx, device.used_idx) == ((2, 1) if tracked else (1, 0))
            regions = peers.second.payloads(m.Request.SET_INFLIGHT_FD)
            assert [m.Inflight.unpack(one) for one in regions] == [m.Inflight(4096, 64, 1, 8)] * tracked
            assert os.eventfd_read(peers.second.fds[m.Request.SET_VRING_KICK, 0]) == 1  # "Starting and stopping rings"
            device.answer(heads[0], b"a")
            peers.second.interrupt()
            assert first.result() == b"a"


def test_an_answer_whose_interrupt_died_with_the_backend_ends_a_wait(monkeypatch: pytest.MonkeyPatch):
    with Peers(monkeypatch, ALL) as peers, open_driver(Bytes, "vhost-user:unused", reconnect=60) as driver:
        ticket = driver.requests.submit(b"1", room=1)
        waiting = threading.Event()

        def answer_and_die() -> None:
            waiting.wait(60)
            device = peers.first.device()
            device.answer(device.heads()[0], b"a")
            peers.first.hang_up()

        thread = threading.Thread(target=answer_and_die)
        thread.start()
        wait = driver.transport.wait

        def waits(indexes: Sequence[int], timeout: float | None) -> bool:
            waiting.set()  # the driver has looked at the ring, and will look only after an interrupt
            return wait(indexes, timeout)

        monkeypatch.setattr(driver.transport, "wait", waits)
        assert ticket.result(timeout=60) == b"a"
        thread.join()
        assert peers.second.device().avail_idx == 0


def test_a_disk_is_written_while_its_whole_backend_is_killed_again_and_again(
    path: str, knowledge: bool, tmp_path: Path, rng: random.Random
):
    image, size, piece = tmp_path / "disk.img", 1 << 20, 4096
    image.write_bytes(bytes(size))
    content = bytearray(size)
    with served(f"block,path={image},queues=2", "--workers", "2", path=path) as server:
        disk = open_driver(BlockDriver, f"vhost-user:{path}", queues=2, reconnect=60)
        server.end(signal.SIGKILL)
    with disk:
        for _ in range(4):
            with served(f"block,path={image},queues=2", "--workers", "2", path=path) as server:
                for place in rng.sample(range(size // piece), 100):
                    content[place * piece : (place + 1) * piece] = data = rng.randbytes(piece)
                    disk.write(place * piece, data)
                places = rng.sample(range(size // piece), 100)
                reads = [(place, disk.submit_read(place * piece, piece)) for place in places[:50]]
                writes = [
                    (place, disk.submit_write(place * piece, bytes([place % 256]) * piece)) for place in places[50:]
                ]
                server.end(signal.SIGKILL)
            with served(f"block,path={image},queues=2", "--workers", "2", path=path):
                for place, ticket in reads:
                    assert disk.check(ticket) == content[place * piece : (place + 1) * piece]
                for place, ticket in writes:
                    assert disk.check(ticket) == b""
                    content[place * piece : (place + 1) * piece] = bytes([place % 256]) * piece
        with served(f"block,path={image},queues=2", path=path):
            disk.flush()
            assert image.read_bytes() == content


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
