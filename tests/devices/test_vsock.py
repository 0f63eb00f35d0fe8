"""The socket device: Unix sockets, services in Python, back-pressure, and guests that break the rules."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio.devices.vsock import RX, TX, Vsock
from pyvirtio.errors import LocalError
from pyvirtio.vsock import BUFFER, MOST_CONNECTIONS, Connection, Header, Stream
from pyvirtio.vsock.connection import MOST_UNSENT
from pyvirtio.vsock.endpoint import MOST_RESETS
from pyvirtio.vsock.packets import Event, Op, Shutdown
from tests.support.runner import Scene, in_loop, rounds, until
from tests.support.vsock import GUEST, HOST, LIES, Talk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

ROOM = 4096
EVENT = 2


class Guest(Scene[Vsock], Talk):
    """A guest that says any packet, and reads those of the device when a test wants it to."""

    def send(self, *packets: bytes) -> None:
        """Send bytes as packets, and see them taken."""
        self.submit(*packets, room=0, index=TX)
        self.serve()
        assert set(self.reap(TX).values()) == {b""}

    def offer(self, number: int, room: int = ROOM) -> None:
        """Provide buffers for packets."""
        raw = self.raws[RX]
        raw.make_available(*[raw.request(room=room) for _ in range(number)])
        self.kick(RX)

    async def hear(self, number: int = 1) -> list[tuple[Header, bytes]]:
        """Provide buffers, and wait for as many packets."""
        packets: list[tuple[Header, bytes]] = []
        while len(packets) < number:
            self.offer(min(32, number - len(packets)))
            await until(lambda: (self.raws[RX].used_idx - self.raws[RX]._reaped) & 0xFFFF)
            packets += self.heard()
        return packets

    def heard(self) -> list[tuple[Header, bytes]]:
        """Return the packets that have come."""
        return [(Header.unpack(data), data[Header.nbytes :]) for data in self.reap(RX).values()]

    def reap(self, index: int = 0) -> dict[int, bytes]:
        """Give the memory back as well: these tests go on for long."""
        answers, raw = super().reap(index), self.raws[index]
        for head in answers:
            for buffer in raw.buffers(head):
                raw.arena.free(buffer.address, max(1, buffer.length))
        return answers

    async def ops(self, number: int = 1) -> list[Op]:
        """Wait for packets; return their operations."""
        return [Op(header.op) for header, _ in await self.hear(number)]

    async def connect(self, port: int = 1000, to: int = 80) -> None:
        """Connect to a port of the host's that accepts."""
        self.say(Op.REQUEST, port, to=to)
        assert await self.ops() == [Op.RESPONSE]


@contextlib.asynccontextmanager
async def guest(device: Vsock, *, event: bool = True) -> AsyncIterator[Guest]:
    async with Guest(device) as scene:
        scene.start(RX).start(TX)
        if event:
            scene.start(EVENT)
        yield scene


@contextlib.contextmanager
def listener(path: Path, port: int = 80):
    """Listen as a program of the host does."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{path}_{port}")
        sock.listen(MOST_CONNECTIONS)
        sock.setblocking(False)
        yield sock
    os.unlink(f"{path}_{port}")


async def accepted(sock: socket.socket) -> socket.socket:
    connection, _ = await asyncio.get_running_loop().sock_accept(sock)
    return connection


async def shout(stream: Stream) -> None:
    while data := await stream.read():
        await stream.write(data.upper())


def with_service(service: Callable[[Stream], Any] = shout, port: int = 80, **options: Any) -> Vsock:
    device = Vsock(GUEST, **options)
    device.services[port] = service
    return device


def test_a_service_in_python_answers_a_guest():
    async def main() -> None:
        async with guest(with_service()) as driver:
            await driver.connect()
            driver.say(Op.RW, payload=b"hello")
            ((header, payload),) = await driver.hear()
            assert (header.op, header.src_port, header.dst_port, payload) == (Op.RW, 80, 1000, b"HELLO")
            assert (header.buf_alloc, header.fwd_cnt) == (BUFFER, 5)
            driver.say(Op.SHUTDOWN, flags=3)
            assert await driver.ops() == [Op.RST]
            await until(lambda: not driver.device._tasks)

    in_loop(main)


def test_a_guest_meets_a_program_of_the_host(tmp_path: Path):
    async def main() -> None:
        path, loop = tmp_path / "v", asyncio.get_running_loop()
        async with guest(Vsock(GUEST, path)) as driver:
            with listener(path) as sock:
                await driver.connect()
                with await accepted(sock) as host:
                    driver.say(Op.RW, payload=b"to the host")
                    assert await loop.sock_recv(host, 100) == b"to the host"
                    await loop.sock_sendall(host, b"to the guest")
                    ((header, payload),) = await driver.hear()
                    assert (header.op, payload) == (Op.RW, b"to the guest")
                    # Half a shutdown each, and what comes behind the guest's last byte.
                    driver.say(Op.RW, payload=b"the end")
                    driver.say(Op.SHUTDOWN, flags=Shutdown.SEND)
                    assert await loop.sock_recv(host, 100) == b"the end"
                    assert await loop.sock_recv(host, 100) == b""
                    await loop.sock_sendall(host, b"still here")
                    assert (await driver.hear())[0][1] == b"still here"
                [(header, _)] = await driver.hear()
                assert (header.op, header.flags) == (Op.SHUTDOWN, Shutdown.SEND)
                assert await driver.ops() == [Op.SHUTDOWN]
                driver.say(Op.RST)
                await until(lambda: not driver.device._tasks)
            driver.say(Op.REQUEST)
            assert await driver.ops() == [Op.RST], "nobody listens there any more"
            with listener(path):
                await driver.connect()

    in_loop(main)


def test_a_program_of_the_host_meets_a_guest(tmp_path: Path):
    async def main() -> None:
        path = tmp_path / "v"
        async with guest(Vsock(GUEST, path)) as driver:
            await until(path.exists)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b"CONNECT 5\nwhat follows")
            [(header, _)] = await driver.hear()
            assert (header.op, header.dst_port) == (Op.REQUEST, 5)
            driver.say(Op.RESPONSE, 5, to=header.src_port)
            assert await reader.readline() == b"OK %d\n" % header.src_port
            assert (await driver.hear())[0][1] == b"what follows"
            driver.say(Op.RW, 5, to=header.src_port, payload=b"hello")
            assert await reader.read(100) == b"hello"
            driver.say(Op.RST, 5, to=header.src_port)
            assert await reader.read(100) == b""
            writer.close()
        assert not path.exists()

    in_loop(main)


@pytest.mark.parametrize(
    "line", [b"CONNECT\n", b"CONNECT x\n", b"connect 5\n", b"CONNECT 4294967295\n", b"\n", b"x" * 200_000, b"CONNECT 5"]
)
def test_a_program_that_asks_wrongly_is_shown_the_door(tmp_path: Path, line: bytes):
    async def main() -> None:
        path = tmp_path / "v"
        async with guest(Vsock(GUEST, path)) as driver:
            await until(path.exists)
            reader, writer = await asyncio.open_unix_connection(str(path))
            with contextlib.suppress(ConnectionError):
                writer.write(line)
                writer.write_eof()
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
            assert driver.device._endpoint.connections == {}

    in_loop(main)


def test_a_refused_program_is_shown_the_door_and_a_function_hears_of_it(tmp_path: Path):
    async def main() -> None:
        path = tmp_path / "v"
        async with guest(Vsock(GUEST, path)) as driver:
            await until(path.exists)
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b"CONNECT 5\n")
            [(header, _)] = await driver.hear()
            driver.say(Op.RST, 5, to=header.src_port)
            assert await reader.read() == b""
            writer.close()
            asked = asyncio.create_task(driver.device.connect(5))
            [(header, _)] = await driver.hear()
            driver.say(Op.RST, 5, to=header.src_port)
            with pytest.raises(ConnectionRefusedError):
                await asked
            asked = asyncio.create_task(driver.device.connect(5))
            [(header, _)] = await driver.hear()
            driver.say(Op.RESPONSE, 5, to=header.src_port)
            stream = await asked
            driver.say(Op.RW, 5, to=header.src_port, payload=b"hello")
            assert await stream.read() == b"hello"

    in_loop(main)


@contextlib.asynccontextmanager
async def meeting(path: Path) -> AsyncIterator[tuple[Guest, Connection, socket.socket]]:
    """Connect a guest with a program of the host; yield the guest, the device's connection and the program's socket."""
    async with guest(Vsock(GUEST, path)) as driver:
        with listener(path) as sock:
            await driver.connect()
            (connection,) = driver.device._endpoint.connections.values()
            with await accepted(sock) as host:
                yield driver, connection, host


def test_a_program_that_does_not_read_holds_the_guest_up(tmp_path: Path):
    """What is not read waits in the kernel's socket and in one buffer, and the guest hears of no credit."""

    async def main() -> None:
        async with meeting(tmp_path / "v") as (driver, connection, host):
            sent = forwarded = looks = 0
            driver.offer(32, room=Header.nbytes)
            while looks < 200:  # as long as nothing changes
                looks += 1
                await asyncio.sleep(0)
                for header, _ in driver.heard():
                    forwarded, looks = header.fwd_cnt, 0
                if BUFFER - (sent - forwarded) >= 30_000:
                    driver.say(Op.RW, payload=bytes(30_000))
                    sent, looks = sent + 30_000, 0
            assert sent < 8 * BUFFER
            assert connection.received <= BUFFER
            received = 0
            while received < sent:
                received += len(await asyncio.get_running_loop().sock_recv(host, 1 << 20))
            await until(lambda: connection.forwarded == sent)
            assert driver.heard()[-1][0].op == Op.CREDIT_UPDATE

    in_loop(main)


def test_a_guest_that_does_not_read_holds_a_program_up(tmp_path: Path):
    async def main() -> None:
        async with meeting(tmp_path / "v") as (driver, connection, host):
            total = 4_000_000
            sender = asyncio.create_task(asyncio.get_running_loop().sock_sendall(host, bytes(total)))
            await until(lambda: connection.unsent == MOST_UNSENT)
            await rounds(200)
            assert not sender.done(), "so much fits nowhere"
            assert connection.unsent == MOST_UNSENT
            received = 0
            while received < total:
                received += len((await driver.hear())[0][1])
            assert received == total
            await sender

    in_loop(main)


@pytest.mark.parametrize("kind", [OSError, ValueError])
def test_a_service_that_fails_resets_its_connection_alone(kind: type[Exception]):
    async def fail(stream: Stream) -> None:
        raise kind(f"as it was told to, for {await stream.read()!r}")

    async def main() -> None:
        device = with_service(fail)
        device.services[81] = shout
        async with guest(device) as driver:
            await driver.connect(1)
            await driver.connect(2, to=81)
            driver.say(Op.RW, 1, payload=b"x")
            [(header, _)] = await driver.hear()
            assert (header.op, header.dst_port) == (Op.RST, 1)
            driver.say(Op.RW, 2, to=81, payload=b"x")
            assert (await driver.hear())[0][1] == b"X"

    in_loop(main)


def test_a_new_driver_finds_no_old_connections_and_an_old_one_finds_its_own():
    async def main() -> None:
        device = with_service()
        async with guest(device) as driver:
            await driver.connect()
            for index in (RX, TX):
                position = driver.stop(index).result
                driver.start(index, position=position)
            driver.say(Op.RW, payload=b"paused")
            assert (await driver.hear())[0][1] == b"PAUSED"
            for index in (RX, TX):
                driver.stop(index)
                raw = driver.raws[index]
                raw.avail_idx = raw.used_idx = raw._reaped = 0
                driver.start(index, position=0)
            await until(lambda: not device._tasks)
            driver.say(Op.RW, payload=b"rebooted")
            assert await driver.ops() == [Op.RST]

    in_loop(main)


@pytest.mark.parametrize("event", [True, False])
def test_connections_of_a_dead_process_are_reset(event: bool):
    """By the event for all of them (5.10.6.7), or one by one where the event queue is QEMU's."""

    async def main() -> None:
        dead = with_service()
        dead.kept_memory = memoryview(bytearray(dead.kept_size))
        async with guest(dead) as before:
            await before.connect(1)
            await before.connect(2)
            device = with_service()
            device.kept_memory = memoryview(bytearray(dead.kept_memory))  # as it was when that process died
            async with Guest(device, before=before) as driver:
                driver.start(RX).start(TX)
                if event:
                    raw = driver.start(EVENT).raws[EVENT]
                    raw.make_available(raw.request(room=8))
                    driver.kick(EVENT)
                    assert list((await driver.back(1, EVENT)).values()) == [Event(0).pack()]
                else:
                    packets = await driver.hear(2)
                    assert {(header.op, header.src_port, header.dst_port) for header, _ in packets} == {
                        (Op.RST, 80, 1),
                        (Op.RST, 80, 2),
                    }
                await driver.connect(1)
                driver.say(Op.RW, 2, payload=b"x")
                assert await driver.ops() == [Op.RST]

    in_loop(main)


def test_what_cannot_be_is_refused(tmp_path: Path):
    for cid in (0, 1, 2, 0xFFFFFFFF, 1 << 32):
        with pytest.raises(LocalError, match="CID"):
            Vsock(cid)


# Guests that break the rules. Each returns what the device says to it, and the device goes on.


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.usefixtures("engine")
def test_a_guest_that_breaks_the_rules_is_reset_and_others_go_on(lie: str):
    async def sit(stream: Stream) -> None:
        await stream.closed()

    async def main() -> None:
        act, words = LIES[lie]
        device = with_service()
        device.services[81] = sit
        device.services[80] = sit
        device.services[82] = shout
        async with guest(device) as driver:
            await driver.connect(1000)
            await driver.connect(2000, to=82)
            act(driver)
            driver.say(Op.RW, 2000, to=82, payload=b"still here")
            packets = await driver.hear(len(words) + 1)
            assert next(payload for _, payload in packets if payload) == b"STILL HERE"
            assert sorted(header.op for header, payload in packets if not payload) == words
            assert device._endpoint.connections.keys() >= {(82, 2000)}
            assert set(driver.events) <= {"request-failed"}

    in_loop(main)


def test_twenty_thousand_requests_are_bounded():
    """The guest never reads an answer, and lets none of its connections be."""

    async def sit(stream: Stream) -> None:
        await stream.closed()

    async def main() -> None:
        async with guest(with_service(sit)) as driver:
            for start in range(0, 20_000, 32):
                packets = [Header(GUEST, HOST, start + n, 80, op=Op.REQUEST).pack() for n in range(32)]
                driver.submit(*packets, room=0, index=TX)
                driver.runner.step()
                await asyncio.sleep(0)
                driver.reap(TX)
            device = driver.device
            assert len(device._endpoint.connections) == len(device._tasks) == MOST_CONNECTIONS
            assert len(device._endpoint._resets) == MOST_RESETS
            words = await driver.ops(MOST_RESETS + MOST_CONNECTIONS)
            assert words == [Op.RST] * MOST_RESETS + [Op.RESPONSE] * MOST_CONNECTIONS

    in_loop(main)


def test_buffers_too_small_for_a_header_are_returned_and_the_next_is_used():
    async def main() -> None:
        async with guest(with_service()) as driver:
            driver.offer(3, room=Header.nbytes - 1)
            driver.offer(1)
            driver.say(Op.REQUEST)
            answers = list((await driver.back(4, RX)).values())
            assert answers[:3] == [b"", b"", b""]
            assert Header.unpack(answers[3]).op == Op.RESPONSE
            assert driver.counts == {"buffer-refused": 1}

    in_loop(main)


def test_a_packet_of_gigabytes_is_not_even_read():
    """A chain may have them; what exceeds the credit stays where it is."""

    async def main() -> None:
        async with guest(with_service()) as driver:
            await driver.connect()
            raw = driver.raws[TX]
            header = Header(GUEST, HOST, 1000, 80, 0x7FFFFFF0, op=Op.RW).pack()
            buffers = [raw.readable(header), *[raw.readable(bytes(60_000)) for _ in range(10)]]
            raw.make_available(raw.chain(buffers))
            driver.kick(TX)
            driver.serve()
            assert await driver.ops() == [Op.RST]

    in_loop(main)
