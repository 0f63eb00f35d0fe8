"""The console device with its driver in one process, its ends, and drivers that break its rules."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tracemalloc
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pyvirtio import open_driver
from pyvirtio.devices.console import (
    EMERG_WRITE,
    MOST_KEPT,
    MULTIPORT,
    SIZE,
    Config,
    Console,
    Control,
    Event,
    Port,
    Resize,
)
from pyvirtio.drivers.console import ConsoleDriver
from pyvirtio.ends import End, SocketEnd
from pyvirtio.errors import DeviceError, LocalError, UsageError
from pyvirtio.testing.served import served
from tests.support.runner import Scene, in_loop, rounds, until
from tests.support.vhost import until as eventually
from tests.support.vhost import worker_of

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any


class Kept(End):
    """Keeps what the guest writes, as much as there is room for, and has something to say."""

    def __init__(self, *said: bytes, space: int = 1 << 30) -> None:
        self.written = b""
        self.space = space
        self._said = list(said)

    async def read(self) -> bytes:
        return self._said.pop(0) if self._said else await super().read()

    def put(self, data: bytes | memoryview) -> int:
        taken = bytes(data[: self.space])
        self.written += taken
        self.space -= len(taken)
        return len(taken)

    async def room(self) -> None:
        while not self.space:
            await asyncio.sleep(0.001)


@contextmanager
def lines(count: int) -> Iterator[tuple[list[socket.socket], list[Port]]]:
    """Make ports whose ends are sockets, and the sockets' other ends."""
    pairs = [socket.socketpair() for _ in range(count)]
    try:
        names = ["", *(f"port{number}" for number in range(1, count))]
        yield (
            [ours for ours, _ in pairs],
            [Port(SocketEnd(theirs), name) for (_, theirs), name in zip(pairs, names, strict=True)],
        )
    finally:
        for ours, _ in pairs:
            ours.close()


def hear(driver: ConsoleDriver, count: int) -> list[tuple[int, int, int]]:
    """Hear so many control messages."""
    return [tuple(driver.next_message()) for _ in range(count)]


# Ordinary use.


def test_one_terminal_needs_no_feature_and_carries_bytes_both_ways() -> None:
    with lines(1) as ([line], ports), open_driver(ConsoleDriver, Console(ports), features=0) as driver:
        driver.write(b"from the guest")
        assert line.recv(100) == b"from the guest"
        line.send(b"from the host")
        assert driver.read() == b"from the host"
        assert list(driver.bound) == ["receiveq", "transmitq"]


def test_the_driver_is_told_of_every_port() -> None:
    with lines(3) as (_, ports), open_driver(ConsoleDriver, Console(ports, columns=100)) as driver:
        assert hear(driver, 3) == [(number, Event.DEVICE_ADD, 0) for number in range(3)]
        assert sorted(hear(driver, 7)) == [
            (0, Event.CONSOLE_PORT, 1),
            (0, Event.RESIZE, 0),
            (0, Event.PORT_OPEN, 1),
            (1, Event.PORT_OPEN, 1),
            (1, Event.PORT_NAME, 0),
            (2, Event.PORT_OPEN, 1),
            (2, Event.PORT_NAME, 0),
        ]
        found = [(port.is_console, port.is_open, port.name) for _, port in sorted(driver.ports.items())]
        assert found == [(True, True, ""), (False, True, "port1"), (False, True, "port2")]
        assert driver.ports[0].size == (100, 25)


def test_what_comes_for_a_port_waits_until_the_guest_opens_it() -> None:
    kept = Kept(b"early")
    with open_driver(ConsoleDriver, Console([Port(kept, "agent")])) as driver:
        hear(driver, 3)
        driver.write(b"hello")
        assert kept.written == b"hello"
        with pytest.raises(TimeoutError):
            driver.read(timeout=0.05)
        driver.open_port(0)
        assert driver.read() == b"early"


def test_megabytes_arrive_as_they_were(rng: random.Random) -> None:
    data = rng.randbytes(4 << 20)
    kept = Kept(*(data[at : at + 65536] for at in range(0, len(data), 65536)))
    with open_driver(ConsoleDriver, Console([Port(kept)])) as driver:
        received = b""
        while len(received) < len(data):
            received += driver.read()
        assert received == data
        driver.write(data[: 1 << 20])
        assert kept.written == data[: 1 << 20]


def test_a_size_is_seen_in_the_configuration_space_and_in_a_message() -> None:
    device = Console([Port(End()), Port(End(), "agent")])
    with open_driver(ConsoleDriver, device) as driver:
        assert driver.read_config().as_dict() == {"cols": 80, "rows": 25, "max_nr_ports": 2, "emerg_wr": 0}
        hear(driver, 7)
        device.resize(132, 43)
        assert sorted(hear(driver, 2)) == [(0, Event.RESIZE, 0), (0, Event.PORT_OPEN, 1)]
        assert driver.ports[0].size == (132, 43)
        assert driver.read_config().as_dict()["cols"] == 132


def test_an_emergency_write_needs_no_queue() -> None:
    kept = Kept()
    with idle_scene(Console([Port(kept)])) as scene:
        for character in b"panic\x00!":
            scene.runner.write_config(8, bytes([character, 1, 2, 3]))
        assert kept.written == b"panic\0!"
        assert scene.changes == 0


@contextmanager
def idle_scene(device: Console) -> Iterator[Scene[Console]]:
    """Run the device in a loop that does not run: nothing of it but its configuration space is used."""
    loop = asyncio.new_event_loop()

    async def make() -> Scene[Console]:
        return Scene(device)

    scene = loop.run_until_complete(make())
    try:
        yield scene
    finally:
        loop.run_until_complete(asyncio.sleep(0))
        assert scene.close() == []
        loop.close()


def test_the_host_goes_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "s"
    device = Console(f"agent=unix:{path}")
    with open_driver(ConsoleDriver, device) as driver:
        hear(driver, 3)
        driver.open_port(0)
        assert not driver.ports[0].is_open
        for word in (b"first", b"second"):
            driver.write(b"nobody hears this")
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                assert hear(driver, 1) == [(0, Event.PORT_OPEN, 1)]
                client.send(word)
                assert driver.read() == word
                driver.write(word)
                assert client.recv(100) == word
            assert hear(driver, 1) == [(0, Event.PORT_OPEN, 0)]
    device.close()
    assert not path.exists()


# A host that does not read, a guest that does not.


def test_a_serial_port_waits_for_its_host_and_loses_nothing() -> None:
    async def main() -> None:
        kept = Kept(space=10)
        async with Scene(Console([Port(kept, "agent")])) as scene:
            scene.start(1)
            heads = scene.submit(*[b"%04d" % number for number in range(20)], room=0, index=1)
            await until(lambda: len(kept.written) == 10)
            await rounds()
            assert len(scene.reap(1)) == 3  # the third is kept, and no further one is taken
            stopped = scene.stop(1)
            assert stopped.result == 3  # a machine that pauses does not wait for the host
            scene.start(1, position=3)
            kept.space = 1000
            await until(lambda: len(scene.raws[1].reap()) == 0 and len(kept.written) == 80)
            assert kept.written == b"".join(b"%04d" % number for number in range(20))
            assert len(heads) == 20

    in_loop(main)


def test_a_terminal_waits_a_moment_and_then_loses_what_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyvirtio.devices.console.LINGER", 0.01)

    async def main() -> None:
        kept = Kept(space=6)
        async with Scene(Console([Port(kept)])) as scene:
            scene.start(0).start(1)
            scene.submit(*[b"%04d" % number for number in range(20)], room=0, index=1)
            await scene.back(20, 1)
            assert kept.written == b"000000"
            kept.space = 1000
            scene.submit(b"again", room=0, index=1)
            await scene.back(1, 1)
            assert kept.written == b"000000again"

    in_loop(main)


def test_a_guest_that_does_not_read_holds_up_the_host_and_no_memory_grows() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    async def main() -> None:
        async with Scene(Console([Port(SocketEnd(theirs))])) as scene:
            scene.start(0).start(1)
            sent = 0
            tracemalloc.start()
            try:
                for _ in range(200):
                    try:
                        sent += ours.send(bytes(1 << 16))
                    except BlockingIOError:
                        await asyncio.sleep(0)
                assert tracemalloc.get_traced_memory()[1] < 1 << 20
            finally:
                tracemalloc.stop()
            assert 1 << 16 < sent < 2 << 20  # what the socket holds, and one piece

    with ours:
        in_loop(main)


# Drivers that break the rules.

ALL = 0xFFFFFFFF
MISUSE = {
    "an empty control message": b"",
    "half a control message": Control(0, Event.PORT_READY, 1).pack()[:7],
    "a port that there is not": Control(2, Event.PORT_READY, 1).pack(),
    "the last port of all": Control(ALL, Event.PORT_OPEN, 1).pack(),
    "a message of the device's": Control(0, Event.DEVICE_ADD, 1).pack(),
    "a port removed by the driver": Control(1, Event.DEVICE_REMOVE, 1).pack(),
    "a name given by the driver": Control(1, Event.PORT_NAME, 1).pack() + b"x" * 1000,
    "a size given by the driver": Control(0, Event.RESIZE, 0).pack() + bytes(4),
    "an event that nobody knows": Control(0, 0xFFFF, 0xFFFF).pack(),
}


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("message", MISUSE.values(), ids=MISUSE)
def test_a_control_message_that_makes_no_sense_fails_alone(message: bytes) -> None:
    async def main() -> None:
        async with Scene(Console([Port(End()), Port(End(), "agent")])) as scene:
            for index in range(6):
                scene.start(index)
            raw = scene.raws[3]
            head = raw.chain([raw.readable(message)]) if message else raw.request(room=8)
            raw.make_available(head)
            scene.kick(3)
            assert await scene.back(1, 3) == {head: b""}
            assert scene.events == ["request-failed"]
            scene.submit(Control(0, Event.DEVICE_READY, 1).pack(), room=0, index=3)
            scene.submit(b"", b"", room=64, index=2)
            assert [data[:8] for data in (await scene.back(2, 2)).values()] == [
                Control(0, Event.DEVICE_ADD).pack(),
                Control(1, Event.DEVICE_ADD).pack(),
            ]

    in_loop(main)


def test_a_driver_that_breaks_the_rules_over_a_socket_harms_nobody(tmp_path: Path) -> None:
    ports = f"none+agent=unix:{tmp_path}/agent+log=file:{tmp_path}/log"
    with served(f"console,ports={ports}") as server:
        memory = server.memory()
        with open_driver(ConsoleDriver, f"vhost-user:{server.path}") as driver:
            control = driver.control_transmitq
            for message in MISUSE.values():
                control.call(message, room=0 if message else 8)
            for number in (0, 1):
                control.call(Control(number, Event.PORT_OPEN, 0xFFFF), room=0)
                control.call(Control(number, Event.PORT_OPEN, 0), room=0)
            with pytest.raises(DeviceError, match="SET_CONFIG"):
                driver.transport.write_config(0, b"\xff" * 8)
            for offset, data in ((8, b"x"), (11, b"\xff"), (0, b"\xff" * 12)):
                driver.transport.write_config(offset, data)
            assert driver.read_config().as_dict() == {"cols": 80, "rows": 25, "max_nr_ports": 3, "emerg_wr": 0}
            driver.all_of(ConsoleDriver.transmitq)[2].call(b"", room=64)
            for _ in range(100):
                for number in range(3):
                    control.submit(Control(number, Event.PORT_READY, 1), room=0)
            driver.write(b"whole\n", port=2)
            assert (tmp_path / "log").read_bytes() == b"whole\n"
            assert {number for number, _, _ in hear(driver, 3)} <= {0, 1, 2}
        assert server.lines("[worker-ended]") == server.lines("[run-failed]") == 0
        assert server.memory() - memory < 1 << 20


def test_a_driver_that_asks_again_and_again_and_listens_to_nothing_costs_no_memory() -> None:
    async def main() -> None:
        device = Console([Port(End()), Port(End(), "agent")])
        async with Scene(device) as scene:
            for index in range(6):
                scene.start(index)
            for _ in range(50):
                ready = [Control(number, Event.PORT_READY, 1).pack() for number in (0, 1)]
                scene.submit(Control(0, Event.DEVICE_READY, 1).pack(), *ready * 10, room=0, index=3)
                await scene.back(21, 3)
            assert len(device._outbox) <= 8

    in_loop(main)


def test_a_buffer_too_small_for_a_control_message_costs_that_message_only() -> None:
    async def main() -> None:
        async with Scene(Console([Port(End()), Port(End(), "agent")])) as scene:
            for index in range(6):
                scene.start(index)
            scene.submit(b"", room=7, index=2)
            scene.submit(b"", room=64, index=2)
            scene.submit(Control(0, Event.DEVICE_READY, 1).pack(), room=0, index=3)
            await rounds()
            assert scene.reap(2) == {}  # the small buffer stays first, and everything is too long for it
            assert scene.runner._runs.tasks
            assert "run-failed" not in scene.events

    in_loop(main)


def test_a_buffer_that_only_the_device_may_write_carries_nothing() -> None:
    async def main() -> None:
        kept = Kept()
        async with Scene(Console([Port(kept)])) as scene:
            scene.start(0).start(1)
            scene.submit(b"", room=64, index=1)
            assert await scene.back(1, 1) != {}
            assert kept.written == b""

    in_loop(main)


def test_gigabytes_in_one_request_cost_a_megabyte() -> None:
    """The same memory, named again and again."""

    async def main() -> None:
        kept = Kept(space=5)
        async with Scene(Console([Port(kept, "agent")])) as scene:
            scene.start(1)
            raw = scene.raws[1]
            big = raw.readable(bytes(1 << 18))
            head = raw.chain([raw.table([big._replace(length=1 << 18)] * 60)])
            raw.make_available(head)
            tracemalloc.start()
            try:
                scene.kick(1)
                await scene.back(1, 1)
                assert tracemalloc.get_traced_memory()[1] < 3 * MOST_KEPT
            finally:
                tracemalloc.stop()
            assert scene.events == ["request-failed"]

    in_loop(main)


def test_a_driver_without_the_control_queues_uses_port_0() -> None:
    kept = Kept(b"hello")
    with open_driver(ConsoleDriver, Console([Port(kept), Port(End(), "agent")]), features=0) as driver:
        assert driver.read() == b"hello"
        driver.write(b"and back")
        assert kept.written == b"and back"


def test_a_worker_that_takes_over_knows_which_ports_are_open(tmp_path: Path) -> None:
    """The guest says that once; before it, nothing may be sent to a port."""
    with (
        served(f"console,ports=agent=unix:{tmp_path}/agent", "-v") as server,
        open_driver(ConsoleDriver, f"vhost-user:{server.path}") as driver,
    ):
        driver.open_port(0)
        for number, word in ((1, b"first"), (2, b"second")):
            os.kill(worker_of(server), signal.SIGKILL)
            server.wait_for("[worker-ended]", count=number)
            with socket.socket(socket.AF_UNIX) as client:
                eventually(lambda client=client: client.connect_ex(str(tmp_path / "agent")) == 0)  # type: ignore[misc]  # its default
                client.send(word)
                assert driver.read() == word


# What cannot be made.


@pytest.mark.parametrize(
    ("ports", "hint"),
    [
        ("tty", "pty:LINK"),
        ("unix:", "unix:PATH"),
        ("a=none+a=none", "name of its own"),
        ("+".join(["none"] * 512), "511"),
        (f"{'x' * 256}=none", "255"),
        ("a/b=none", "slash"),
    ],
)
def test_ports_that_make_no_sense_are_refused(ports: str, hint: str) -> None:
    with pytest.raises(LocalError, match=hint):
        Console(ports)


def test_a_socket_in_the_way_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(FileExistsError, match="not a socket"):
        Console(f"unix:{tmp_path / 's'}")
    assert (tmp_path / "s").read_text() == "precious"


def test_a_console_without_ports_is_refused() -> None:
    with pytest.raises(UsageError, match="1 to 511"):
        Console([])


def test_features_say_what_there_is() -> None:
    assert Console("none").features == SIZE | EMERG_WRITE
    assert Console("agent=none").features == SIZE | EMERG_WRITE | MULTIPORT
    description = Console("none+none+none").description()
    assert len(description.queue_sizes) == 8
    assert description.config == Config(80, 25, 3).pack()
    assert description.writable == bytes(8) + b"\xff" * 4


@pytest.mark.guest
def test_it_speaks_as_linux_does(uapi: Any) -> None:
    linux = {"DEVICE_ADD": "PORT_ADD", "DEVICE_REMOVE": "PORT_REMOVE"}
    assert not uapi.differences(
        "linux/virtio_console.h",
        structs={Config: "virtio_console_config", Control: "virtio_console_control"},
        bits={f"VIRTIO_CONSOLE_F_{name}": bit for name, bit in zip(BITS, (SIZE, MULTIPORT, EMERG_WRITE), strict=True)},
        numbers={f"VIRTIO_CONSOLE_{linux.get(event.name, event.name)}": int(event) for event in Event},
    )
    assert Resize.nbytes == 4


BITS = ("SIZE", "MULTIPORT", "EMERG_WRITE")


def test_a_file_keeps_what_the_guest_prints(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for word in (b"one\n", b"two\n"):
        device = Console(f"file:{log}")
        with open_driver(ConsoleDriver, device) as driver:
            driver.write(word)
        assert log.read_bytes().endswith(word)
    assert log.read_bytes() == b"one\ntwo\n"


def test_a_full_file_system_fails_the_request() -> None:
    async def main() -> None:
        async with Scene(Console("file:/dev/full")) as scene:
            scene.start(0).start(1)
            scene.submit(b"lost", room=0, index=1)
            await scene.back(1, 1)
            assert scene.events == ["method-failed"]
            assert isinstance(scene.errors[0], OSError)

    in_loop(main)


def test_at_its_end_only_files_are_left(tmp_path: Path) -> None:
    device = Console(f"pty:{tmp_path / 'tty'}+a=unix:{tmp_path / 's'}+b=file:{tmp_path / 'log'}")
    with open_driver(ConsoleDriver, device) as driver:
        hear(driver, 3)
    device.close()
    assert os.listdir(tmp_path) == ["log"]
