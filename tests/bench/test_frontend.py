"""The front-end in C: it gets every answer from every back-end, and notices a wrong one."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import DeviceError, LocalError, ProvisionError
from pyvirtio.ring.engine import ENGINES, obstacle
from pyvirtio_bench.backends import Backend, c_peer
from pyvirtio_bench.storage import BLOCK, DAEMON, NEWEST, daemon
from pyvirtio_bench.workload import CFrontend, Sample, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pyvirtio.vm.launch import GuestBuilder

SPAN = 64 * BLOCK
WORKLOADS = [
    Workload(seconds=0, requests=200),
    Workload(64, seconds=0, requests=2000),
    Workload(64, seconds=0, requests=2000, indirect=True),
    Workload(100, seconds=0, requests=2000, queue_size=1024, regions=8),
    Workload(512, seconds=0, requests=70_000),  # both indexes wrap
    Workload(1, sustained=True, seconds=0, requests=200),
    Workload(100, sustained=True, seconds=0, requests=70_000, queue_size=1024),
    Workload(1024, sustained=True, seconds=0, requests=2000, indirect=True),
]
ECHOES = [
    Workload(32, load="echo", size=16, seconds=0, requests=2000),
    Workload(128, sustained=True, load="echo", size=1512, seconds=0, requests=2000),
    Workload(1024, sustained=True, load="echo", size=64, seconds=0, requests=3000, indirect=True),
]
READS = [
    Workload(1, load="read", size=BLOCK, span=SPAN, seconds=0, requests=200),
    Workload(32, sustained=True, load="read", size=BLOCK, span=SPAN, seconds=0, requests=2000, indirect=True),
    Workload(4, load="read", size=32 * BLOCK, span=SPAN, seconds=0, requests=100, sequential=True, regions=8),
]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(b"".join(number.to_bytes(8, "little").ljust(BLOCK, b"x") for number in range(SPAN // BLOCK)))
    return path


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder for the sockets of back-ends, which count what is in it."""
    folder = tmp_path / "run"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def peer(peer_program: Path) -> Backend:
    return c_peer(peer_program, "factorial")


def available(engine: str) -> str:
    if engine == "native" and obstacle() is not None:
        pytest.skip(f"the native engine is not here: {obstacle()}")
    return engine


def check(sample: Sample, workload: Workload) -> None:
    assert sample.requests >= workload.requests
    assert min(sample.wall, sample.frontend) > 0
    if workload.sustained:
        assert (sample.p50, sample.p99) == (None, None)
    else:
        assert (sample.p99 or 0) >= (sample.p50 or 0) > 0
    assert all(process.before > 0 and process.after > 0 for process in sample.memory)


@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
def test_the_c_peer_answers(workload: Workload, frontend: CFrontend, peer: Backend, tmp_path: Path):
    with peer.running(tmp_path) as socket:
        sample = frontend.measure(socket, workload)
        check(sample, workload)
        assert len(sample.memory) == 1
        check(frontend.measure(socket, workload), workload)  # it serves the next one, too


@pytest.mark.parametrize("engine", list(ENGINES))
def test_our_factorial_answers(engine: str, frontend: CFrontend, ours: Callable[..., Backend], place: Path):
    with ours("factorial", available(engine)).running(place) as socket:
        for workload in WORKLOADS:
            sample = frontend.measure(socket, workload)
            check(sample, workload)
            assert len(sample.memory) == 2, "keeper and worker"


@pytest.mark.parametrize("engine", list(ENGINES))
def test_our_echo_answers(engine: str, frontend: CFrontend, ours: Callable[..., Backend], place: Path):
    with ours("echo", available(engine)).running(place) as socket:
        for workload in ECHOES:
            check(frontend.measure(socket, workload), workload)


def test_the_peers_echo_answers(frontend: CFrontend, peer_program: Path, place: Path):
    with c_peer(peer_program, "echo").running(place) as socket:
        for workload in ECHOES:
            check(frontend.measure(socket, workload), workload)


@pytest.mark.parametrize("options", ["readonly", "readonly,direct"])
def test_our_disk_answers(options: str, frontend: CFrontend, ours: Callable[..., Backend], image: Path, place: Path):
    with ours(f"block,path={image},{options}").running(place) as socket:
        for workload in READS:
            check(frontend.measure(socket, workload), workload)


def test_the_peers_disk_answers(frontend: CFrontend, peer_program: Path, image: Path, place: Path):
    with c_peer(peer_program, "block", str(image)).running(place) as socket:
        for workload in READS:
            check(frontend.measure(socket, workload), workload)


def test_the_storage_daemon_answers(frontend: CFrontend, builder: GuestBuilder, image: Path, place: Path):
    try:
        program = NEWEST.program(builder)
    except ProvisionError as error:
        pytest.skip(f"{DAEMON} is out of reach here: {error}")
    with daemon(program, image, aio="threads", direct=False).running(place) as socket:
        for workload in READS:
            check(frontend.measure(socket, workload), workload)


def test_a_wrong_block_is_noticed(frontend: CFrontend, ours: Callable[..., Backend], image: Path, place: Path):
    image.write_bytes(bytes(SPAN))
    with (
        ours(f"block,path={image},readonly").running(place) as socket,
        pytest.raises(DeviceError, match="a wrong answer"),
    ):
        frontend.measure(socket, READS[1])


def test_many_regions(frontend: CFrontend, ours: Callable[..., Backend], place: Path):
    workload = Workload(64, seconds=0, requests=500, regions=256)
    with ours("factorial").running(place) as socket:
        check(frontend.measure(socket, workload), workload)


def test_flags_instead_of_event_idx(frontend: CFrontend, ours: Callable[..., Backend], place: Path):
    with ours("factorial").running(place) as socket:
        command = [
            str(frontend.program),
            "--socket",
            str(socket),
            "--in-flight=16",
            "--seconds=0",
            "--requests=500",
            "--no-event-idx",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        check(Sample.parse(done.stdout), Workload(requests=500))


WRONG = """
from pyvirtio import Device, Queue
from pyvirtio.devices.factorial import Request, Response

class Wrong(Device):
    device_id = 45
    compute = Queue(Request, Response)

    @compute.each
    def answer(self, request):
        return Response(7)

class Short(Device):
    device_id = 45
    compute = Queue(Request, Response)

    @compute.stream
    def answer(self, reader, writer):
        writer.write(b"xy")
"""


@pytest.mark.parametrize(("device", "why"), [("Wrong", "a wrong answer"), ("Short", "an answer of 2 bytes")])
def test_a_wrong_answer_is_noticed(
    device: str, why: str, frontend: CFrontend, ours: Callable[..., Backend], tmp_path: Path, place: Path
):
    file = tmp_path / "wrong.py"
    file.write_text(WRONG)
    with (
        ours(f"{file}:{device}").running(place) as socket,
        pytest.raises(DeviceError, match=why),
    ):
        frontend.measure(socket, Workload(seconds=0, requests=100))


def test_silence_is_noticed(frontend: CFrontend, peer: Backend, tmp_path: Path):
    with peer.running(tmp_path) as socket:
        [pid] = [process.pid for process in frontend.measure(socket, WORKLOADS[0]).memory]
        os.kill(pid, signal.SIGSTOP)
        try:
            command = [str(frontend.program), "--socket", str(socket), "--timeout=1"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert done.returncode == 1
        assert "does not answer" in done.stderr


SILENT = """
from pyvirtio import Device
from pyvirtio.devices.factorial import Factorial
from pyvirtio.runtime import runner
runner.Notifier.notify = lambda self: None  # a back-end that loses every interrupt

class Silent(Factorial):
    pass
"""


def test_a_lost_interrupt_is_noticed(frontend: CFrontend, ours: Callable[..., Backend], tmp_path: Path, place: Path):
    file = tmp_path / "silent.py"
    file.write_text(SILENT)
    with ours(f"{file}:Silent").running(place) as socket:
        command = [str(frontend.program), "--socket", str(socket), "--timeout=1"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "all answers are there, and in 1 s no interrupt came" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--socket=x", "--in-flight=0"],
        ["--socket=x", "--queue-size=100"],
        ["--socket=x", "--in-flight=100", "--queue-size=128"],
        ["--socket=x", "--seconds=0"],
        ["--socket=x", "y"],
        ["--nonsense"],
        ["--socket=x", "--load=nonsense"],
        ["--socket=x", "--load=echo", "--bytes=8"],
        ["--socket=x", "--load=read", "--bytes=512", "--span=4096"],
        ["--socket=x", "--load=read"],
    ],
)
def test_wrong_usage(arguments: list[str], frontend: CFrontend):
    done = subprocess.run([frontend.program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage: frontend" in done.stderr


def test_nobody_serves(frontend: CFrontend, tmp_path: Path):
    with pytest.raises(DeviceError, match="nobody serves"):
        frontend.measure(tmp_path / "none", Workload())


def test_a_backend_that_does_not_start_says_why(ours: Callable[..., Backend], tmp_path: Path):
    with (
        pytest.raises(LocalError, match=r"'ours' does not start: .*there is no device 'nonsense'"),
        ours("nonsense").running(tmp_path),
    ):
        pass
