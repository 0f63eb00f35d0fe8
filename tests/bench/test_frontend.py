"""The front-end in C: it gets every answer from every back-end, and notices a wrong one."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import DeviceError, LocalError
from pyvirtio_bench.backends import Backend, device_spec, pyvirtio_backend
from pyvirtio_bench.engines import engines
from pyvirtio_bench.workload import CFrontend, Sample, Workload

if TYPE_CHECKING:
    from pathlib import Path

WORKLOADS = [
    Workload(seconds=0, requests=200),
    Workload(in_flight=64, seconds=0, requests=2000),
    Workload(in_flight=64, seconds=0, requests=2000, indirect=True),
    Workload(in_flight=100, seconds=0, requests=2000, queue_size=1024, regions=8),
    Workload(in_flight=512, seconds=0, requests=70_000),  # both indexes wrap
    Workload(seconds=0, requests=200, sustained=True),
    Workload(in_flight=100, seconds=0, requests=70_000, queue_size=1024, sustained=True),
    Workload(in_flight=64, seconds=0, requests=2000, indirect=True, sustained=True),
]


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


@pytest.mark.parametrize("engine", engines())
@pytest.mark.parametrize("device", ["Each", "Batch"])
def test_our_backend_answers(engine: str, device: str, frontend: CFrontend, tmp_path: Path):
    with pyvirtio_backend("ours", device_spec(device), engine_name=engine).running(tmp_path) as socket:
        for workload in WORKLOADS:
            sample = frontend.measure(socket, workload)
            check(sample, workload)
            assert len(sample.memory) == 2, "keeper and worker"


def test_many_regions(frontend: CFrontend, tmp_path: Path):
    workload = Workload(in_flight=64, seconds=0, requests=500, regions=256)
    with pyvirtio_backend("ours", device_spec("Each"), engine_name="reference").running(tmp_path) as socket:
        check(frontend.measure(socket, workload), workload)


def test_several_queues_on_two_workers(frontend: CFrontend, tmp_path: Path):
    workload = Workload(in_flight=16, seconds=0, requests=2000, queues=4)
    with pyvirtio_backend("ours", device_spec("Many"), engine_name="reference", workers=2).running(tmp_path) as socket:
        sample = frontend.measure(socket, workload)
        check(sample, workload)
        assert len(sample.memory) == 3


def test_several_queues_of_the_peer(frontend: CFrontend, peer: Backend, tmp_path: Path):
    workload = Workload(in_flight=16, seconds=0, requests=2000, queues=4)
    with peer.running(tmp_path) as socket:
        check(frontend.measure(socket, workload), workload)


def test_flags_instead_of_event_idx(frontend: CFrontend, tmp_path: Path):
    with pyvirtio_backend("ours", device_spec("Each"), engine_name="reference").running(tmp_path) as socket:
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


@pytest.mark.parametrize(("device", "why"), [("Wrong", r"a wrong answer: \d+! mod"), ("Short", "an answer of 2 bytes")])
def test_a_wrong_answer_is_noticed(device: str, why: str, frontend: CFrontend, tmp_path: Path):
    file = tmp_path / "wrong.py"
    file.write_text(WRONG)
    place = tmp_path / "run"
    place.mkdir()
    with (
        pyvirtio_backend("wrong", f"{file}:{device}", engine_name="reference").running(place) as socket,
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
from pyvirtio_bench.devices import Each
from pyvirtio.runtime import runner
runner.Notifier.notify = lambda self: None  # a back-end that loses every interrupt

class Silent(Each):
    pass
"""


def test_a_lost_interrupt_is_noticed(frontend: CFrontend, tmp_path: Path):
    file = tmp_path / "silent.py"
    file.write_text(SILENT)
    place = tmp_path / "run"
    place.mkdir()
    with pyvirtio_backend("silent", f"{file}:Silent", engine_name="reference").running(place) as socket:
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
    ],
)
def test_wrong_usage(arguments: list[str], frontend: CFrontend):
    done = subprocess.run([frontend.program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage: frontend" in done.stderr


def test_nobody_serves(frontend: CFrontend, tmp_path: Path):
    with pytest.raises(DeviceError, match="nobody serves"):
        frontend.measure(tmp_path / "none", Workload())


def test_a_backend_that_does_not_start_says_why(tmp_path: Path):
    with (
        pytest.raises(LocalError, match=r"'gone' does not start: .*there is no device 'nonsense'"),
        pyvirtio_backend("gone", "nonsense", engine_name="reference").running(tmp_path),
    ):
        pass
