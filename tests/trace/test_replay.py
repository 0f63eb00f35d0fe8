"""Recordings are played again: to the device they come from, to another one, to a driver, and as a test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyvirtio import Device, Driver, OutgoingQueue, Queue, RequestQueue, Struct, le32, open_driver
from pyvirtio.devices.factorial import Factorial
from pyvirtio.drivers.block import BlockDriver
from pyvirtio.drivers.factorial import FactorialDriver
from pyvirtio.errors import DeviceError, LocalError, NegotiationError
from pyvirtio.testing.served import served
from pyvirtio.trace.events import Event, Recording, beginning, encode
from pyvirtio.trace.messages import message
from pyvirtio.trace.recorded import Recorded, configuration
from pyvirtio.trace.recorder import Recorder, load
from pyvirtio.trace.replay import open_device, replay_into
from pyvirtio.trace.traced_driver import traced, traced_transport
from pyvirtio.vhost_user import messages as m


class Number(Struct):
    value: int = le32()


class News(Device):
    """Answers, and says something by itself."""

    device_id = 63
    requests = Queue(Number, Number, size=8)
    news = OutgoingQueue(size=8)

    @requests.each
    def double(self, request: Number) -> int:
        return 2 * request.value

    async def run(self) -> None:
        await self.news.write(b"hello")


class NewsDriver(Driver):
    device_id = 63
    requests = RequestQueue(Number, Number, size=8)
    news = RequestQueue(size=8)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A recording of a driver that asked for some factorials."""
    path = tmp_path / "run.jsonl"
    with (
        Recorder(str(path)) as recorder,
        traced(FactorialDriver, recorder)(traced_transport(Factorial(), recorder)) as driver,
    ):
        assert list(driver.factorials([5, 6, 20])) == [120, 720, 2432902008176640000]
    return path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyvirtio", "trace", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_the_same_device_answers_the_same(file: Path):
    outcome = replay_into(open_device("factorial"), load(str(file)))
    assert (outcome.compared, outcome.skipped, outcome.differences) == (3, 0, [])


def test_another_answer_is_told_with_its_place(file: Path):
    recorded = load(str(file))
    for event in recorded.events:
        if event.what == "used" and event["data"].endswith("d002"):  # 720
            event.fields["data"] = event["data"][:-4] + "d003"
    (difference,) = replay_into(open_device("factorial"), recorded).differences
    assert difference.number == 1
    assert "they differ from byte 13 on" in str(difference)


def test_a_device_without_the_recorded_queue_is_refused(file: Path):
    recorded = load(str(file))
    for event in recorded.events:
        if event.queue == 0:
            event.queue = 1
    with pytest.raises(NegotiationError, match="queue 1"):
        replay_into(open_device("factorial"), recorded)


def test_a_recording_without_queues_cannot_be_played():
    with pytest.raises(LocalError, match="no queue"):
        replay_into(open_device("factorial"), Recording([encode(beginning(0, 0))]))


def test_a_driver_meets_the_recorded_device(file: Path):
    with open_driver(FactorialDriver, Recorded(file)) as driver:
        assert driver.factorial(20) == 2432902008176640000
        assert driver.factorial(5) == driver.factorial(5) == 120
        with pytest.raises(DeviceError):  # it was never asked
            driver.factorial(7)


def test_a_recorded_disk_is_read_again(tmp_path: Path, rng):
    image, file = tmp_path / "disk.img", tmp_path / "run.jsonl"
    image.write_bytes(rng.randbytes(64 << 10))
    with (
        served(f"block,path={image}", "--trace", str(file)) as server,
        open_driver(BlockDriver, f"vhost-user:{server.path}") as disk,
    ):
        content = disk.read(0, 64 << 10)
        identity = disk.identify()
    assert content == image.read_bytes()
    with open_driver(BlockDriver, Recorded(file)) as disk:
        assert disk.size == 64 << 10
        assert disk.read(0, 64 << 10) == content
        assert disk.identify() == identity


def test_the_configuration_space_is_pieced_together_from_what_drivers_read():
    def reply(offset: int, data: bytes) -> Event:
        payload = m.ConfigHeader(offset, len(data)).pack() + data
        return message(1, "back-end", m.Request.GET_CONFIG, m.F_REPLY | m.VERSION, payload, 0)

    events = [beginning(0, 0), reply(4, b"efgh"), reply(0, b"ab"), reply(250, b"much too far"), reply(0, b"")]
    assert configuration(Recording(map(encode, events))) == b"ab\0\0efgh"


def test_what_a_device_said_by_itself_is_said_again(tmp_path: Path):
    file = tmp_path / "run.jsonl"
    with Recorder(str(file)) as recorder, traced(NewsDriver, recorder)(traced_transport(News(), recorder)) as driver:
        assert driver.requests.call(Number(4)).value == 8
        assert next(iter(driver.news.incoming(room=16, buffers=2, timeout=30))) == b"hello"
    with open_driver(NewsDriver, Recorded(file)) as driver:
        assert next(iter(driver.news.incoming(room=16, buffers=2, timeout=30))) == b"hello"
        assert driver.requests.call(Number(4)).value == 8


def test_a_test_is_made_that_passes_and_fails_for_another_device(file: Path, tmp_path: Path):
    test = tmp_path / "test_recorded.py"
    assert run(str(file), "--test", str(test), "--device", "factorial").returncode == 0
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(test)]
    passed = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert passed.returncode == 0, passed.stdout
    other = tmp_path / "other.py"
    other.write_text(
        "from pyvirtio.devices.factorial import Factorial\n"
        "class Other(Factorial):\n"
        "    def answer(self, reader, writer):\n"
        "        writer.write(b'no')\n"
    )
    environment = {**os.environ, "PYVIRTIO_DEVICE": f"{other}:Other"}
    failed = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert failed.returncode == 1
    assert "were recorded" in failed.stdout


def test_the_command_shows_plays_and_converts(file: Path, tmp_path: Path):
    shown = run(str(file))
    assert shown.returncode == 0
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert "stores available index 3" in shown.stdout
    assert "| " in run(str(file), "--explain").stdout
    played = run(str(file), "--replay", "factorial")
    assert (played.returncode, played.stdout) == (0, "3 answers, 0 of them not as recorded\n")
    assert run(str(file), "--replay", "echo").returncode == 1
    out = tmp_path / "out"
    assert run(str(file), "--pcapng", str(out)).returncode == 0
    assert out.read_bytes()[:4] == bytes.fromhex("0a0d0d0a")
    assert run(str(file), "--perfetto", "-").stdout.startswith('{"displayTimeUnit"')
    assert Path(run(str(file), "--lua").stdout.strip()).is_file()


@pytest.mark.parametrize("arguments", [["/nowhere"], [__file__], ["{file}", "--pcapng", "/nowhere/out"]])
def test_what_cannot_be_done_is_said(file: Path, arguments: list[str]):
    done = run(*(argument.format(file=file) for argument in arguments))
    assert done.returncode == 1
    assert done.stderr.startswith("pyvirtio: ")
    assert "Traceback" not in done.stderr


def test_a_test_needs_a_device(file: Path):
    assert run(str(file), "--test").returncode == 2
