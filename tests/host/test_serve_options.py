"""What `pyvirtio serve` takes: sockets of a manager, options of a device, and the questions that a manager asks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pyvirtio.testing.frontend import RawFrontend, SharedMemory
from pyvirtio.testing.served import ServerProcess, served
from pyvirtio.testing.signals import interruptible
from tests.support.commands import refused, run
from tests.support.vhost import answers_rightly, ask, driven, factorials

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMAND = [sys.executable, "-m", "pyvirtio", "serve"]


# Where it serves.


@contextmanager
def served_on(sock: socket.socket, path: str = "") -> Iterator[tuple[ServerProcess, subprocess.Popen[str]]]:
    """Serve the factorial device on a socket that this process has opened."""
    with interruptible():
        process = subprocess.Popen(
            [*COMMAND, "factorial", "--fd", str(sock.fileno())],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[sock.fileno()],
        )
    server = ServerProcess(path, process)
    try:
        server.wait_for(" is ready on ")
        yield server, process
    finally:
        server.end()


def test_listening_socket_of_a_manager(tmp_path: Path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with served_on(listener, path) as (server, _):
            for _ in range(3):
                answers_rightly(path)
            assert server.end() == 0
    assert os.path.exists(path)  # it is the manager's
    os.unlink(path)


def test_connected_socket_of_a_manager_and_the_end_when_it_closes():
    ours, theirs = socket.socketpair()
    with theirs, served_on(theirs) as (server, process):
        theirs.close()
        with RawFrontend(ours) as frontend, SharedMemory() as memory:
            frontend.negotiate()
            frontend.share(memory)
            queue = frontend.queue(memory)
            queue.start()
            factorials(queue, 5, 12)
            workers = server.workers()
        assert process.wait(60) == 0
        assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)


def test_descriptor_that_is_not_such_a_socket():
    with socket.socket(socket.AF_INET) as internet, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        for fd in (internet.fileno(), datagrams.fileno(), 0, 999):
            refused(run("serve", "factorial", "--fd", str(fd), fds=[internet.fileno(), datagrams.fileno()]), 1, str(fd))


def test_socket_path_is_another_name_for_socket(tmp_path: Path):
    path = str(tmp_path / "s")
    process = subprocess.Popen(
        [*COMMAND, "factorial", "--socket-path", path], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    server = ServerProcess(path, process)
    server.wait_for(" is ready on ")
    answers_rightly(path)
    assert server.end() == 0
    assert not os.path.exists(path)


@pytest.mark.parametrize("arguments", [[], ["--socket", "s", "--fd", "3"], ["--fd", "-1"], ["--fd", "x"]])
def test_no_place_to_serve_or_two_is_wrong_usage(tmp_path: Path, arguments: list[str]):
    refused(run("serve", "factorial", *arguments, cwd=tmp_path), 2, "--help")


def test_of_servers_that_race_for_a_path_one_serves_it(tmp_path: Path):
    path = str(tmp_path / "s")
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        command = [*COMMAND, "factorial", "--socket", path]
        processes = [
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(4)
        ]
        servers = [ServerProcess(path, process) for process in processes]
        for server in servers:
            server.wait_for("pyvirtio: ")  # it is ready, or says why not
        ready = [server for server in servers if server.lines(" is ready on ")]
        assert len(ready) == 1
        answers_rightly(path)
        assert sorted(process.wait(60) for process in processes if process.pid != ready[0].keeper) == [1, 1, 1]
        assert [server.end() for server in servers if server not in ready] == [1, 1, 1]
        assert ready[0].end() == 0
        assert not os.path.exists(path)


# What it says of a device.


def test_capabilities_are_what_a_manager_expects():
    result = run("serve", "factorial", "--print-capabilities", "--device-id", "2")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {"type": "block", "features": []}


OPTIONS = """
from pathlib import Path
from pyvirtio.device import Device, Queue
from pyvirtio.spec.struct import Struct, le32

class Number(Struct):
    value: int = le32()

class Mine(Device):
    requests = Queue(Number, Number, size=64)

    def __init__(self, path: Path, *, count: int = 1, flag: bool = False, name: str = "none"):
        self.numbers = [len(str(path)), count, flag, len(name)]

    @requests.each
    def answer(self, request):
        return self.numbers[request.value]
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(OPTIONS)
    return f"{tmp_path / 'mine.py'}:Mine"


def test_options_reach_the_devices_constructor(mine: str):
    with served(f"{mine},path=a,,b,count=3,flag=on") as server, driven(server) as queue:
        assert ask(queue, 0, 1, 2, 3) == [len("a,b"), 3, 1, len("none")]
    with served(f"{mine},path=x,count=2K,flag,name=") as server, driven(server) as queue:
        assert ask(queue, 0, 1, 2, 3) == [1, 2048, 1, 0]


def test_help_lists_the_options(mine: str):
    result = run("serve", f"{mine},help")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line.partition("=")[0] for line in lines] == ["path", "count", "flag", "name"]
    assert "on|off" in lines[2]
    assert run("serve", "factorial,help").returncode == 0


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ("", ["path"]),
        ("path=x,size=3", ["size", "count"]),
        ("path=x,count=three", ["count", "three"]),
        ("path=x,flag=maybe", ["flag", "maybe"]),
        ("path=x,path=y", ["path", "twice"]),
        ("path=x,", []),
        ("path=x,=", []),
    ],
)
def test_wrong_options_are_wrong_usage(tmp_path: Path, mine: str, options: str, texts: list[str]):
    refused(run("serve", f"{mine},{options}" if options else mine, "--socket", "s", cwd=tmp_path), 2, *texts)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("question", [["nothing,help"], ["nothing", "--print-capabilities"]])
def test_question_about_an_unknown_device_is_wrong_usage(question: list[str]):
    refused(run("serve", *question), 2, "nothing", "factorial")


# What cannot be served.


LIMITS = """
from pyvirtio.device import Device, Queue
from pyvirtio.spec.struct import Struct, le32

class Number(Struct):
    value: int = le32()

class Large(Struct):
LARGE

class Mine(Device):
    requests = Queue(Number, Number, QUEUE)

    @requests.each
    def answer(self, request):
        return 2 * request.value

BODY
"""


def limits(folder: Path, body: str = "", queue: str = "size=64") -> str:
    """Write a device whose class and queue are as told; return what `pyvirtio serve` calls it."""
    large = "\n".join(f"    field_{number}: int = le32()" for number in range(65))
    text = LIMITS.replace("LARGE", large).replace("QUEUE", queue).replace("BODY", textwrap.indent(body, "    "))
    (folder / "mine.py").write_text(text)
    return f"{folder / 'mine.py'}:Mine"


@pytest.mark.parametrize("patience", ["1e9", "1e300", "None", "1"])
def test_any_time_is_a_patience(tmp_path: Path, patience: str):
    with served(limits(tmp_path, f"patience = {patience}")) as server, driven(server) as queue:
        assert ask(queue, 1, 2) == [2, 4]
        assert queue.stop() == 2


@pytest.mark.parametrize("patience", ["0", "-1", "'x'", "float('nan')", "float('inf')", "-1e300"])
def test_what_is_no_time_is_no_patience(tmp_path: Path, patience: str):
    device = limits(tmp_path, f"patience = {patience}")
    refused(run("serve", device, "--socket", "s", cwd=tmp_path), 1, "patience")


@pytest.mark.parametrize(("queue", "numbers"), [("size=2048", ["2048", "1024"]), ("count=257", ["257", "256"])])
def test_queues_that_no_frontend_can_have(tmp_path: Path, queue: str, numbers: list[str]):
    refused(run("serve", limits(tmp_path, queue=queue), "--socket", "s", cwd=tmp_path), 1, *numbers)


REFUSED = {
    "patience of an instance": ("def __init__(self):\n    self.patience = 0", "patience"),
    "configuration space of 260 bytes": ("config = Large()", "260"),
    "configuration space of an instance": ("def __init__(self):\n    self.config = Large()", "260"),
    "async batch method": ("@requests.batch\nasync def batch(self, requests): ...", "async def"),
    "generator method": (
        "more = Queue(Number, Number)\n@more.each\ndef generate(self, request):\n    yield 1",
        "generator",
    ),
    "async generator method": (
        "more = Queue(Number, Number)\n@more.each\nasync def generate(self, request):\n    yield 1",
        "generator",
    ),
    "async config_written": ("async def config_written(self): ...", "config_written"),
    "plain run": ("def run(self): ...", "run"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_definition_that_cannot_work_is_refused(tmp_path: Path, case: str):
    body, text = REFUSED[case]
    refused(run("serve", limits(tmp_path, body), "--socket", "s", cwd=tmp_path), 1, text)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "size", [64, 1024], ids=["that the device declares", "that QEMU's virtio-mmio gives every queue"]
)
def test_queue_of_a_size(tmp_path: Path, size: int):
    with served(limits(tmp_path)) as server, RawFrontend(server.path) as frontend, SharedMemory() as memory:
        frontend.negotiate()
        frontend.share(memory)
        queue = frontend.queue(memory, size=size)
        assert not queue.set_num(2048)
        assert not queue.set_num(4096)
        queue.start()
        assert ask(queue, 21) == [42]


# What its worker is spared.

IMPORTS = """
import sys
from pyvirtio.device import Device, Queue
from pyvirtio.spec.struct import Struct, le32

class Number(Struct):
    value: int = le32()

class Plain(Device):
    requests = Queue(Number, Number, size=64)

    @requests.each
    def answer(self, request):
        return sum(name in sys.modules for name in ("asyncio", "numpy", "concurrent.futures"))

class Later(Plain):
    async def answer(self, request):
        return Plain.answer(self, request)
"""


def test_only_a_device_with_coroutines_pays_for_an_event_loop(tmp_path: Path):
    (tmp_path / "mine.py").write_text(IMPORTS)
    with served(f"{tmp_path}/mine.py:Plain") as server, driven(server) as queue:
        assert ask(queue, 0) == [0]
    with served(f"{tmp_path}/mine.py:Later") as server, driven(server) as queue:
        assert ask(queue, 0)[0]
