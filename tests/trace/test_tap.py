"""The tap between front-ends and back-ends: everything passes, everything is recorded, and nobody breaks it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from pyvirtio import open_driver
from pyvirtio.devices.block import SECTOR
from pyvirtio.drivers.block import BlockDriver
from pyvirtio.drivers.factorial import FactorialDriver
from pyvirtio.errors import DeviceError
from pyvirtio.system.fd_passing import send
from pyvirtio.testing.frontend import RawFrontend, SharedMemory
from pyvirtio.testing.served import served
from pyvirtio.trace.replay import open_device, replay_into
from pyvirtio.trace.requests import requests
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.resume import ResumingTransport
from tests.support.tapped import Tapped, tapped

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from pyvirtio.testing.served import ServerProcess


@pytest.fixture(scope="module")
def server():
    with served("factorial") as server:
        yield server


@pytest.fixture
def image(tmp_path: Path, rng: random.Random) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(rng.randbytes(1 << 20))
    return path


def answers(tap: Tapped, *numbers: int) -> list[int]:
    with open_driver(FactorialDriver, f"vhost-user:{tap.path}") as driver:
        return list(driver.factorials(numbers))


def test_each_step_is_recorded_and_causes_come_before_effects(server: ServerProcess):
    with tapped(server.path) as tap:
        assert answers(tap, 5) == [120]
    # The driver may find the answer before the interrupt comes, and leave.
    steps = [event.what for event in tap.events("descriptors", "available", "kick", "used", "used_index")]
    assert steps == ["descriptors", "available", "kick", "used", "used_index"]
    (request,) = requests(tap.recording().events)
    assert request.data[:4] == (5).to_bytes(4, "little")
    assert request.answer_is_whole
    assert request.answer is not None
    assert request.answer[-1] == 120
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
    assert all(request.is_whole and request.answer is not None for request in found)


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
        assert answers(tap, *range(20))
        outcome = replay_into(open_device(server.path), tap.recording())
    assert (outcome.compared, outcome.skipped, outcome.differences) == (20, 0, [])


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
