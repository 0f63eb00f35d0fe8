"""Runs of our own are recorded: in one process, by `pyvirtio serve --trace`, by `pyvirtio factorial --trace`."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pyvirtio import Device, Driver, OutgoingQueue, Queue, RequestQueue, Struct, le32, open_driver
from pyvirtio.connect.in_process import InProcessTransport
from pyvirtio.drivers.block import BlockDriver
from pyvirtio.drivers.factorial import FactorialDriver
from pyvirtio.ring import SplitDriverQueue
from pyvirtio.ring.engine import engine as engine_name
from pyvirtio.testing.served import served
from pyvirtio.trace.events import Recording, check
from pyvirtio.trace.recorder import Recorder, load
from pyvirtio.trace.requests import requests
from pyvirtio.trace.traced_driver import traced, traced_transport
from tests.support.odd_devices import CRASH
from tests.support.vhost import ask, driven, odd

if TYPE_CHECKING:
    from pathlib import Path

CYCLE = ["descriptors", "available", "kick", "pop", "used", "used_index", "interrupt", "reap"]


class Number(Struct):
    value: int = le32()


class Double(Device):
    device_id = 63
    requests = Queue(Number, Number, size=8)

    @requests.each
    def double(self, request: Number) -> int:
        return 2 * request.value


class Later(Device):
    device_id = 63
    requests = Queue(Number, Number, size=8)
    news = OutgoingQueue(size=8)

    @requests.each
    async def double(self, request: Number) -> int:
        await asyncio.sleep(0)
        return 2 * request.value

    async def run(self) -> None:
        await self.news.write(b"hello")


class DoubleDriver(Driver):
    device_id = 63
    requests = RequestQueue(Number, Number, size=8)


class LaterDriver(DoubleDriver):
    news = RequestQueue(size=8)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


def whats(recording: Recording, queue: int = 0) -> list[str]:
    return [event.what for event in recording.events if event.queue == queue]


def test_a_request_is_recorded_in_the_order_of_causes(file: Path):
    with Recorder(str(file)) as recorder:
        transport = traced_transport(Double(), recorder)
        with traced(DoubleDriver, recorder)(transport) as driver:
            assert driver.requests.call(Number(21)).value == 42
    recording = load(str(file))
    for event in recording.events:
        check(event)
    steps = [what for what in whats(recording) if what in CYCLE]
    assert steps[-len(CYCLE) :] == CYCLE
    (request,) = requests(recording.events)
    assert (request.data, request.answer) == ((21).to_bytes(4, "little"), (42).to_bytes(4, "little"))
    assert recording.device_id() == 63


def test_many_requests_in_flight_and_several_rounds_of_the_ring(file: Path, rng):
    numbers = [rng.randrange(2**31) for _ in range(100)]
    with (
        Recorder(str(file)) as recorder,
        traced(DoubleDriver, recorder)(traced_transport(Double(), recorder)) as driver,
    ):
        for start in range(0, 100, 5):
            tickets = driver.requests.submit_all([Number(n) for n in numbers[start : start + 5]])
            assert [ticket.result().value for ticket in tickets] == [2 * n for n in numbers[start : start + 5]]
    found = requests(load(str(file)).events)
    assert [int.from_bytes(request.data, "little") for request in found] == numbers
    assert [int.from_bytes(request.answer or b"", "little") for request in found] == [2 * n for n in numbers]


def test_coroutines_and_a_device_that_speaks_first_are_recorded(file: Path):
    with Recorder(str(file)) as recorder, traced(LaterDriver, recorder)(traced_transport(Later(), recorder)) as driver:
        assert driver.requests.call(Number(4)).value == 8
        assert next(iter(driver.news.incoming(room=16, buffers=2, timeout=30))) == b"hello"
    recording = load(str(file))
    spoken = [event for event in recording.events if event.what == "used" and event.queue == 1]
    assert [bytes.fromhex(event["data"]) for event in spoken] == [b"hello"]


def test_what_is_not_traced_has_nothing_of_it_in_its_way():
    with open_driver(DoubleDriver, Double()) as driver:
        transport = driver.transport
        assert isinstance(transport, InProcessTransport)
        assert type(transport.runner).__module__ == "pyvirtio.runtime.runner"
        assert type(driver.requests.ring) is SplitDriverQueue
        name = type(transport.runner._services[0].queue).__name__
        assert name == {"native": "NativeDeviceQueue", "reference": "SplitRecordQueue"}[engine_name()]
    program = (
        "import sys; from pyvirtio.host import serve; from pyvirtio.connect import open_driver; "
        "print([name for name in sys.modules if name.startswith('pyvirtio.trace')])"
    )
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_serve_records_messages_rings_and_the_device(file: Path):
    with (
        served("factorial", "--trace", str(file)) as server,
        open_driver(FactorialDriver, f"vhost-user:{server.path}") as driver,
    ):
        assert driver.factorial(5) == 120
    recording = load(str(file))
    # A device that is looking anyway is not kicked.
    steps = {"descriptors", "available", "pop", "used", "used_index"}
    assert {"device", "connected", "message", "disconnected", *steps} <= {event.what for event in recording.events}
    assert recording.device_id() == 45
    (request,) = requests(recording.events)
    assert request.answer is not None
    assert request.answer[-1] == 120


def test_several_workers_write_one_recording_and_a_killed_one_loses_nothing_of_it(file: Path, tmp_path: Path):
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with (
        served(f"block,path={image},queues=2", "--workers", "2", "--trace", str(file)) as server,
        open_driver(BlockDriver, f"vhost-user:{server.path}", queues=2) as disk,
    ):
        disk.write(0, b"a" * 512)
        for pid in server.workers():
            os.kill(pid, signal.SIGKILL)
        for _ in range(20):
            disk.check(disk.submit_write(512, b"b" * 512))
    recording = load(str(file))
    found = requests(recording.events)
    assert {request.queue for request in found} == {0, 1}
    assert len([request for request in found if request.answer is not None]) >= 21
    assert not recording.cut


def test_a_request_in_which_workers_die_is_one_request_of_the_recording(file: Path):
    with served(odd(), "--trace", str(file)) as server, driven(server) as queue:
        assert ask(queue, 1, CRASH, 2) == [2, None, 4]
    recording = load(str(file))
    found = requests(recording.events)
    assert [int.from_bytes(request.data, "little") for request in found] == [1, CRASH, 2]
    assert [request.written for request in found] == [4, 0, 4]
    assert whats(recording).count("queue") == 1
    assert not [event for event in recording.events if event.what in ("damaged", "missed")]


@pytest.mark.parametrize("options", [[], ["--wrap32"]])
def test_factorial_shows_each_step_and_what_it_means_in_80_columns(options: list[str]):
    command = [sys.executable, "-m", "pyvirtio", "factorial", "5", "6", "--trace", *options]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = output.splitlines()
    assert max(map(len, lines)) <= 80
    places = [
        next(number for number, line in enumerate(lines) if re.search(pattern, line))
        for pattern in (
            "SET_OWNER",
            "sets up queue 0",
            "writes .* descriptors",
            "stores available index 1",
            r"driver +q0 kicks",
            "pops request",
            "used element",
            "stores used index",
            r"device +q0 interrupts",
            "takes the answer",
        )
    ]
    assert places == sorted(places)
    assert sum("| The head is in the available ring" in line for line in lines) == 1
    wrapped = " mod 2**32" if options else ""
    assert lines[-2:] == [f"5!{wrapped} = 120", f"6!{wrapped} = 720"]


def test_factorial_records_the_steps_that_it_shows_and_takes_no_number_for_a_file(file: Path):
    command = [sys.executable, "-m", "pyvirtio", "factorial", "5", "--trace"]
    output = subprocess.run([*command, str(file)], check=True, capture_output=True, text=True).stdout
    assert output.endswith("5! = 120\n")
    (request,) = requests(load(str(file)).events)
    assert request.answer is not None
    refused = subprocess.run([*command, "6"], check=False, capture_output=True, text=True)
    assert (refused.returncode, "./6" in refused.stderr) == (2, True)


def test_factorial_shows_the_steps_with_somebody_elses_back_end():
    with served("factorial") as server:
        command = [sys.executable, "-m", "pyvirtio", "factorial", "5", "--trace", "--socket", server.path]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "used element (0, " in output
    assert output.endswith("5! = 120\n")


def test_a_recording_that_cannot_be_written_is_refused(tmp_path: Path):
    command = [sys.executable, "-m", "pyvirtio", "serve", "factorial", "--socket", str(tmp_path / "s"), "--trace"]
    done = subprocess.run([*command, "/nowhere/x"], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
