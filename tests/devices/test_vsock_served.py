"""The socket device in a worker: guests that break the rules over vhost-user, a guest's driver, a worker that dies."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from pyvirtio.connect import open_driver
from pyvirtio.devices.vsock import EVENT, RX, TX
from pyvirtio.drivers.vsock import VsockDriver
from pyvirtio.testing.frontend import RawFrontend, SharedMemory
from pyvirtio.testing.served import served
from pyvirtio.vsock import BUFFER, Header
from pyvirtio.vsock.packets import Op
from tests.support.vhost import until, worker_of
from tests.support.vsock import GUEST, HOST, LIES, Talk, digest, program, shout

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path

    from pyvirtio.testing.served import ServerProcess

ROOM = 4096


class Guest(Talk):
    """A guest behind a raw front-end."""

    def __init__(self, frontend: RawFrontend, memory: SharedMemory) -> None:
        self.rx, self.tx, self.event = (frontend.queue(memory, index, size=64) for index in (RX, TX, EVENT))
        for queue in (self.rx, self.tx, self.event):
            queue.start()

    def send(self, *packets: bytes) -> None:
        self.tx.ask(*packets, room=0)

    def hear(self, number: int = 1) -> list[tuple[Header, bytes]]:
        self.rx.submit(*[b""] * number, room=ROOM)
        self.rx.kick()
        return [(Header.unpack(data), data[Header.nbytes :]) for data in self.rx.answers(number)]

    def connect(self, port: int, to: int) -> None:
        self.say(Op.REQUEST, port, to=to)
        assert [header.op for header, _ in self.hear()] == [Op.RESPONSE]


@contextlib.contextmanager
def guest(server: ServerProcess) -> Iterator[Guest]:
    with RawFrontend(server.path) as frontend, SharedMemory() as memory:
        frontend.negotiate()
        frontend.share(memory)
        yield Guest(frontend, memory)


def memory_of(pid: int) -> int:
    """Return the bytes of memory that a process holds for itself."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["RssAnon"].split()[0]) * 1024


def test_guests_that_break_the_rules_are_reset_one_after_the_other(tmp_path: Path):
    path = tmp_path / "v"
    with (
        served(f"vsock,cid={GUEST},path={path}") as server,
        program(path, 80),
        program(path, 82, shout),
        guest(server) as driver,
    ):
        pid = worker_of(server)
        driver.connect(2000, 82)
        for act, words in LIES.values():
            driver.connect(1000, 80)
            act(driver)
            driver.say(Op.RW, 2000, to=82, payload=b"still here")
            packets = driver.hear(len(words) + 1)
            assert next(payload for _, payload in packets if payload) == b"STILL HERE"
            assert sorted(header.op for header, payload in packets if not payload) == words
            driver.say(Op.RST)
        assert server.workers() == [pid], "none of them is worth a worker"


@pytest.mark.long
def test_a_hundred_thousand_requests_cost_no_more_memory_than_the_first_thousands(tmp_path: Path):
    path = tmp_path / "v"
    with served(f"vsock,cid={GUEST},path={path}") as server, program(path, 80), guest(server) as driver:
        pid = worker_of(server)

        def ask(start: int, number: int) -> None:
            for first in range(start, start + number, 32):
                packets = [Header(GUEST, HOST, first + n, 80, op=Op.REQUEST).pack() for n in range(32)]
                driver.tx.ask(*packets, room=0)

        ask(0, 10_016)
        before = memory_of(pid)
        ask(20_000, 90_016)
        assert memory_of(pid) < before + (8 << 20)
        assert before < 256 << 20
        assert server.workers() == [pid]
        words = driver.hear(32)
        assert {header.op for header, _ in words} == {Op.RST}


def test_a_driver_and_programs_of_the_host_in_both_directions(tmp_path: Path, rng: random.Random):
    path, data = tmp_path / "v", rng.randbytes(3_000_000)

    with (
        served(f"vsock,cid={GUEST},path={path}") as server,
        program(path, 80, digest),
        open_driver(VsockDriver, f"vhost-user:{server.path}") as driver,
    ):
        assert driver.cid == GUEST
        with driver.connect(80) as sock:
            sock.send(data)
            sock.shutdown()
            assert sock.receive() == hashlib.sha256(data).digest()
        driver.listen(5)
        with socket.socket(socket.AF_UNIX) as host:
            until(path.exists)
            host.connect(str(path))
            host.sendall(b"CONNECT 5\n")
            taken = driver.accept(5)
            assert host.recv(100) == b"OK %d\n" % taken.connection.peer_port
            sender = threading.Thread(target=host.sendall, args=(data,))
            sender.start()
            received = b""
            while len(received) < len(data):
                received += taken.receive(1 << 16)
            sender.join()
            assert received == data
            host.shutdown(socket.SHUT_WR)
            assert taken.receive() == b""
            taken.send(b"thanks")
            taken.shutdown()
            assert host.recv(100) == b"thanks"
            taken.close()
        with pytest.raises(ConnectionRefusedError):
            driver.connect(81)


def test_a_driver_hears_that_the_worker_died_and_goes_on_with_the_next(tmp_path: Path):
    path = tmp_path / "v"
    with (
        served(f"vsock,cid={GUEST},path={path}") as server,
        program(path, 82, shout),
        open_driver(VsockDriver, f"vhost-user:{server.path}") as driver,
    ):
        for _ in range(3):
            sock = driver.connect(82)
            sock.send(b"hello")
            assert sock.receive() == b"HELLO"
            os.kill(worker_of(server), signal.SIGKILL)
            with pytest.raises(ConnectionResetError):
                sock.receive()
            with pytest.raises(ConnectionResetError):
                sock.send(b"x")


def test_a_program_that_does_not_read_holds_a_driver_up(tmp_path: Path):
    path = tmp_path / "v"
    with (
        served(f"vsock,cid={GUEST},path={path}") as server,
        program(path, 80) as listener,
        open_driver(VsockDriver, f"vhost-user:{server.path}") as driver,
    ):
        sock = driver.connect(80)
        host, _ = listener.accept()
        with host:
            before = memory_of(worker_of(server))
            total = 0
            while not sock.connection.unsent:
                total += sock.connection.send(bytes(50_000))
                driver.turn()
                assert total < 64 * BUFFER
            assert memory_of(worker_of(server)) < before + (4 << 20)


def test_code_that_is_reloaded_takes_the_path_over_and_resets_what_was_connected(tmp_path: Path):
    path, source = tmp_path / "v", tmp_path / "mine.py"
    text = "from pyvirtio.devices.vsock import Vsock\n\n\nclass Mine(Vsock):\n    pass\n"
    source.write_text(text)
    with (
        served(f"{source}:Mine,cid={GUEST},path={path}", "--reload") as server,
        program(path, 82, shout),
        open_driver(VsockDriver, f"vhost-user:{server.path}") as driver,
    ):
        driver.listen(5)
        for number in (1, 2):
            sock = driver.connect(82)
            sock.send(b"hello")
            assert sock.receive() == b"HELLO"
            source.write_text(f"{text}#{number}")
            server.wait_for("[device-reloaded]", count=number)
            with pytest.raises(ConnectionResetError):
                sock.receive()
            with socket.socket(socket.AF_UNIX) as host:
                until(lambda host=host: host.connect_ex(str(path)) == 0)  # type: ignore[misc]  # a lambda's defaults
                host.sendall(b"CONNECT 5\n")
                driver.accept(5)
                assert host.recv(3) == b"OK "
