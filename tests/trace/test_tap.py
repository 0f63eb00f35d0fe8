"""The tap between front-ends and back-ends: everything passes, everything is recorded, and nobody breaks it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from pyvirtio import open_driver
from pyvirtio.devices.block import SECTOR
from pyvirtio.drivers.block import BlockDriver
from pyvirtio.drivers.factorial import FactorialDriver
from pyvirtio.errors import DeviceError
from pyvirtio.system import memory_file
from pyvirtio.system.fd_passing import receive, send
from pyvirtio.testing.frontend import RawFrontend, SharedMemory, drain, wait_readable
from pyvirtio.testing.served import ServerProcess, served
from pyvirtio.trace.replay import open_device, replay_into
from pyvirtio.trace.requests import requests
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.framing import close_all
from pyvirtio.vhost_user.resume import ResumingTransport
from tests.support.odd_devices import CHANGE
from tests.support.tapped import Tapped, tapped
from tests.support.vhost import ask, driven, odd, pack

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def server():
    with served("factorial") as server:
        yield server


@pytest.fixture
def image(tmp_path: Path, rng: random.Random) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(rng.randbytes(1 << 20))
    return path


class ServerAt(ServerProcess):
    """A path that is served, for those who want a server."""

    def __init__(self, path: str) -> None:
        self.path = path


def answers(tap: Tapped, *numbers: int) -> list[int]:
    with open_driver(FactorialDriver, f"vhost-user:{tap.path}") as driver:
        return list(driver.factorials(numbers))


def test_each_step_is_recorded_and_causes_come_before_effects(server: ServerProcess):
    with tapped(server.path) as tap:
        assert answers(tap, 5) == [120]
    # The driver may find the answer before the interrupt comes, and leave; and a device that has just been started may
    # find the request before the kick comes.
    steps = [event.what for event in tap.events("descriptors", "available", "used", "used_index")]
    assert steps == ["descriptors", "available", "used", "used_index"]
    (kick,) = tap.events("kick")
    assert kick.at >= tap.events("available")[0].at
    (request,) = requests(tap.recording().events)
    assert request.data[:4] == (5).to_bytes(4, "little")
    assert request.answer is not None
    assert request.answer[-1] == 120 or request.is_late
    names = [event["name"] for event in tap.events("message") if event.by == "front-end"]
    assert names[0] == "SET_OWNER"
    assert {"SET_VRING_KICK", "SET_VRING_CALL", "SET_BACKEND_REQ_FD"} <= set(names)
    assert not tap.events("damaged", "missed")


def test_a_front_end_after_another_is_served_and_each_connection_is_told(server: ServerProcess):
    with tapped(server.path) as tap:
        for number in range(3):
            assert answers(tap, number + 3)[0] in (6, 24, 120)
    assert [event["connection"] for event in tap.events("connected")] == [1, 2, 3]
    assert [event["connection"] for event in tap.events("disconnected")] == [1, 2, 3]
    assert len(requests(tap.recording().events)) == 3


def test_several_queues_and_many_requests_in_flight_are_recorded_whole(image: Path, rng: random.Random):
    content = bytearray(image.read_bytes())
    with (
        served(f"block,path={image},queues=4", "--workers", "2") as server,
        tapped(server.path) as tap,
        open_driver(BlockDriver, f"vhost-user:{tap.path}", queues=4) as disk,
    ):
        tickets = []
        for place in rng.sample(range(256), 200):
            content[4096 * place : 4096 * (place + 1)] = data = rng.randbytes(4096)
            tickets.append(disk.submit_write(4096 * place, data))
        for ticket in tickets:
            disk.check(ticket)
        assert disk.read(0, len(content)) == content
    found = requests(tap.recording().events)
    assert Counter(request.queue for request in found).keys() == {0, 1, 2, 3}
    seen, missed = len(found), sum(event["count"] for event in tap.events("missed"))
    assert missed == 0
    assert seen >= 201
    assert all(request.answer is not None for request in found)
    written = [request.parts[1] for request in found if request.is_whole and len(request.data) == 16 + 4096]
    assert all(data in content for data in written)


def test_the_back_ends_own_channel_passes_and_is_recorded_and_may_be_replaced():
    with served(odd()) as server, tapped(server.path) as tap, driven(ServerAt(tap.path)) as queue:
        for number in range(2):
            with queue.frontend.open_channel() as channel:
                assert ask(queue, CHANGE)
                assert wait_readable(channel.fileno()), number
                header = m.Header.unpack(channel.recv(m.Header.nbytes))
                assert header.request == m.CONFIG_CHANGE_MSG
    assert [event["name"] for event in tap.events("message") if event.get("channel")] == ["CONFIG_CHANGE_MSG"] * 2


def test_a_back_end_that_dies_and_comes_back_is_found_again(image: Path, tmp_path: Path, rng: random.Random):
    path = str(tmp_path / "s")
    data = rng.randbytes(SECTOR)
    with served(f"block,path={image}", path=path) as first, tapped(path) as tap:
        transport = ResumingTransport(tap.path, device="block", patience=60)
        with BlockDriver(transport) as disk:
            disk.write(0, data)
            first.end(signal.SIGKILL)
            with served(f"block,path={image}", path=path):
                assert disk.read(0, SECTOR) == data
                disk.write(SECTOR, data)
    assert image.read_bytes()[: 2 * SECTOR] == 2 * data
    assert len(tap.events("disconnected")) >= 2
    assert not tap.events("damaged")


def test_a_front_end_that_comes_before_the_back_end_is_told_to_come_again(tmp_path: Path):
    with tapped(str(tmp_path / "nobody")) as tap, pytest.raises(DeviceError):
        open_driver(FactorialDriver, f"vhost-user:{tap.path}")
    (over,) = tap.events("disconnected")
    assert "nobody serves" in over["why"]


def test_what_the_recording_tells_can_be_asked_again(server: ServerProcess):
    with tapped(server.path) as tap:
        with driven(ServerAt(tap.path)) as queue:
            # Who does not look at the ring before the interrupt comes leaves each answer to the tap, too.
            for number in range(20):
                queue.ring.enable_interrupts()
                queue.submit(*pack(number))
                queue.kick()
                assert wait_readable(queue.interrupt_fd)
                queue.answers(1)
                drain(queue.interrupt_fd)
        outcome = replay_into(open_device(server.path), tap.recording())
    assert (outcome.compared + outcome.skipped, outcome.differences) == (20, [])
    assert outcome.compared > 0


# Nobody breaks it.


@pytest.mark.parametrize("garbage", [b"x" * 64, b"\1\0\0\0\1\0\0\0\xff\xff\xff\x7f", b"\1\0\0\0\2\0\0\0\0\0\0\0"])
def test_what_is_not_vhost_user_ends_that_connection_alone(server: ServerProcess, garbage: bytes):
    with tapped(server.path) as tap:
        with RawFrontend(tap.path) as frontend:
            frontend.send_bytes(garbage)
            assert frontend.is_closed()
        assert answers(tap, 5) == [120]


def test_descriptors_that_cannot_carry_notifications_are_passed_on_for_the_back_end_to_refuse(server: ServerProcess):
    with tapped(server.path) as tap:
        with RawFrontend(tap.path) as frontend, open("/dev/null", "rb") as null, open(__file__, "rb") as file:
            frontend.negotiate()
            for request in (m.Request.SET_VRING_KICK, m.Request.SET_VRING_CALL, m.Request.SET_VRING_ERR):
                for fd in (null.fileno(), file.fileno()):
                    assert not frontend.tell(request, m.Number(0), [fd])
            assert not frontend.tell(m.Request.SET_BACKEND_REQ_FD, b"", [null.fileno()])
        assert answers(tap, 5) == [120]


def test_a_file_that_is_cut_under_the_tap_is_told_and_does_not_end_it(server: ServerProcess):
    with tapped(server.path) as tap:
        with RawFrontend(tap.path) as frontend, SharedMemory() as memory:
            frontend.negotiate()
            frontend.share(memory)
            queue = frontend.queue(memory, 0, size=64)
            queue.set_up()  # and not enabled, so nobody else touches it
            os.ftruncate(memory.fd, 0)
            queue.kick()
            assert frontend.number(m.Request.GET_FEATURES)
        assert answers(tap, 5) == [120]
    assert {event.queue for event in tap.events("damaged")} == {0}


def test_a_ring_that_is_broken_is_told_as_such(server: ServerProcess):
    with tapped(server.path) as tap:
        with RawFrontend(tap.path) as frontend, SharedMemory() as memory:
            frontend.negotiate()
            frontend.share(memory)
            queue = frontend.queue(memory, 0, size=64)
            queue.start()
            queue.rings.available[1] = 5000
            queue.kick()
            assert frontend.number(m.Request.GET_FEATURES)
        assert answers(tap, 5) == [120]
    (missed,) = tap.events("missed")
    assert missed["count"] == 5000


def test_a_recording_that_reaches_its_limit_ends_and_what_is_tapped_goes_on(server: ServerProcess):
    with tapped(server.path, limit=10_000) as tap:
        assert answers(tap, *range(40))
        assert answers(tap, 5) == [120]
        assert tap.file.stat().st_size <= 10_100
    assert tap.recording().events[-1].what == "full"


def test_a_front_end_that_vanishes_in_the_middle_of_a_message_leaves_nothing(server: ServerProcess):
    with tapped(server.path) as tap:
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as sock, open("/dev/null", "rb") as null:
                sock.connect(tap.path)
                send(sock, b"\5\0\0\0\1\0", [null.fileno()] * 4)
        assert answers(tap, 5) == [120]


def test_the_command_prints_each_step_in_80_columns(server: ServerProcess, tmp_path: Path):
    front = str(tmp_path / "f")
    command = [sys.executable, "-m", "pyvirtio", "tap", front, server.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "is ready" in process.stderr.readline()
        with open_driver(FactorialDriver, f"vhost-user:{front}") as driver:
            assert driver.factorial(5) == 120
        process.terminate()
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert not os.path.exists(front)
    lines = output.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("stores available index 1" in line for line in lines)


@pytest.mark.parametrize("garbage", [b"y" * 64, m.Header(1, 5, 1 << 30).pack(), m.Header(1, 1, 0).pack()])
def test_a_back_end_that_makes_no_sense_ends_its_connection_alone(tmp_path: Path, garbage: bytes):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "b"))
        listener.listen()
        listener.settimeout(60)
        with tapped(str(tmp_path / "b")) as tap:
            for _ in range(2):
                with RawFrontend(tap.path) as frontend, listener.accept()[0] as sock:
                    sock.sendall(garbage)
                    assert frontend.is_closed()
        (tmp_path / "b").unlink()
    assert len(tap.events("disconnected")) == 2


def test_a_front_end_that_reads_nothing_holds_up_nobody_but_itself(server: ServerProcess):
    with tapped(server.path) as tap:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(tap.path)
            sock.setblocking(False)
            question = m.Header(m.Request.GET_FEATURES, 1, 0).pack()
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while sent < 50_000_000:
                    sent += sock.send(question * 1000)
            assert sent < 50_000_000  # somebody stopped reading
        assert answers(tap, 5) == [120]


def test_a_call_descriptor_that_is_replaced_while_the_device_answers_loses_no_interrupt(server: ServerProcess):
    with tapped(server.path) as tap, RawFrontend(tap.path) as frontend, SharedMemory() as memory:
        frontend.negotiate()
        frontend.share(memory)
        queue = frontend.queue(memory, 0, size=64)
        queue.start()
        for number in range(50):
            queue.submit(b"\5\0\0\0" + bytes(32))
            queue.kick()
            other = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            old, queue.interrupt_fd = queue.interrupt_fd, other
            assert queue.set_call(), number
            os.close(old)
            (answer,) = queue.answers(1)
            assert answer == b"\x78\0\0\0"


def test_random_messages_with_random_descriptors_do_the_tap_no_harm(server: ServerProcess, rng: random.Random):
    with tapped(server.path, snap=4096) as tap:
        for _ in range(60):
            with contextlib.ExitStack() as stack, RawFrontend(tap.path) as frontend:
                fds = descriptors(stack)
                with contextlib.suppress(OSError):  # the back-end closes where a question has no answer
                    for _ in range(30):
                        send_anything(frontend, fds, rng)
        assert answers(tap, 5) == [120]


@contextlib.contextmanager
def sink(path: Path) -> Iterator[None]:
    """Serve a back-end that takes everything and says nothing."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def take() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                with sock:
                    while True:
                        data, fds = receive(sock, 65536, 16)
                        close_all(fds)
                        if not data:
                            break

        thread = threading.Thread(target=take)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(60)
            path.unlink()


def test_random_messages_do_no_harm_where_the_back_end_takes_them_all(tmp_path: Path, rng: random.Random):
    with sink(tmp_path / "b"), tapped(str(tmp_path / "b"), snap=4096) as tap:
        for _ in range(40):
            with contextlib.ExitStack() as stack, RawFrontend(tap.path) as frontend:
                fds = descriptors(stack)
                with contextlib.suppress(OSError):
                    start_something(frontend, memory=fds[2], kick=fds[4], rng=rng)
                    for _ in range(200):
                        send_anything(frontend, fds, rng)
                        if rng.randrange(4) == 0:
                            os.eventfd_write(fds[4], 1)
    assert len(tap.events("disconnected")) == len(tap.events("connected")) > 30
    kinds = {event.what for event in tap.recording().events}
    assert {"queue", "damaged"} <= kinds, kinds


def descriptors(stack: contextlib.ExitStack) -> list[int]:
    """Return descriptors of every kind that somebody may send."""
    reading, writing = os.pipe()
    memory = [memory_file.create("anything") for _ in range(2)]
    os.ftruncate(memory[0], 1 << 20)
    event = os.eventfd(0, os.EFD_NONBLOCK)
    null = os.open("/dev/null", os.O_RDWR)
    sockets = [stack.enter_context(sock) for sock in socket.socketpair()]
    for fd in (reading, writing, *memory, event, null):
        stack.callback(os.close, fd)
    return [reading, writing, *memory, event, null, *(sock.fileno() for sock in sockets)]


def start_something(frontend: RawFrontend, memory: int, kick: int, rng: random.Random) -> None:
    """Set up a queue with anything in its ring."""
    os.pwrite(memory, rng.randbytes(1 << 13), 0)
    os.pwrite(memory, bytes([0, 0, rng.randrange(64), 0]), 0x1000)  # an available index that can be
    os.pwrite(memory, bytes(4), 0x1800)
    region = m.SingleRegion(0, 0, 1 << 20, 1 << 32, 0)
    frontend.send(m.Request.ADD_MEM_REG, region, [memory])
    frontend.send(m.Request.SET_VRING_NUM, m.VringState(0, 64))
    frontend.send(m.Request.SET_VRING_ADDR, m.VringAddr(0, 0, 1 << 32, (1 << 32) + 0x1800, (1 << 32) + 0x1000, 0))
    frontend.send(m.Request.SET_VRING_KICK, m.Number(0), [kick])


LARGE = [0, 1, 2, 0xFF, 0x1000, 1 << 20, (1 << 32) - 1, 1 << 63, (1 << 64) - 1]


def send_anything(frontend: RawFrontend, fds: list[int], rng: random.Random) -> None:
    request = rng.choice([2, 5, 5, 8, 9, 9, 10, 12, 12, 13, 14, 16, 18, 21, 34, 37, 37, 38, rng.randrange(64)])
    numbers = [rng.choice(LARGE) for _ in range(rng.choice([0, 1, 1, 2, 5, 5, rng.randrange(34)]))]
    if request == m.Request.SET_MEM_TABLE and numbers:
        numbers[0] = len(numbers) // 4
    payload = b"".join(number.to_bytes(8, "little") for number in numbers)
    if request in (8, 10, 18, 9):
        payload = rng.randrange(3).to_bytes(4, "little") + payload[: rng.choice([4, 4, 36])].ljust(4, b"\0")
    sent = [rng.choice(fds) for _ in range(rng.choice([0, 1, 1, 2, 8]))]
    frontend.send(request, payload, sent, flags=rng.choice([1, 1, 9]))
