"""The socket of a served device, and how serving begins and ends."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pyvirtio.testing.frontend import RawFrontend
from pyvirtio.testing.served import served
from pyvirtio.vhost_user import messages as m
from tests.support.commands import refused, run
from tests.support.odd_devices import HANG
from tests.support.vhost import answers_rightly, driven, odd, pack

if TYPE_CHECKING:
    from pathlib import Path


def test_socket_is_its_users_own():
    with served("factorial") as server:
        status = os.stat(server.path)
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_and_remove_the_socket(number: signal.Signals):
    with served("factorial") as server:
        workers = server.workers()
        assert server.end(number) == 0
        assert not os.path.exists(server.path)
        assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)


def test_SIGTERM_while_the_device_is_loaded_leaves_nothing(tmp_path: Path):
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    (tmp_path / "slow.py").write_text(f"import signal\nopen({str(begun)!r}, 'w').close()\nsignal.pause()\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "pyvirtio", "serve", f"{tmp_path}/slow.py:Slow", "--socket", str(tmp_path / "s")],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert begun.read_text() == ""
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert not (tmp_path / "s").exists()


def test_it_ends_while_a_frontend_is_connected_and_its_device_hangs():
    with served(odd()) as server, driven(server) as queue:
        queue.submit(*pack(HANG))
        queue.kick()
        assert queue.frontend.number(m.Request.GET_FEATURES)
        assert server.end() == 0
        assert queue.frontend.is_closed()
        assert not os.path.exists(server.path)


def test_stale_socket_is_replaced(tmp_path: Path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with served("factorial", path=path):
        answers_rightly(path)


def test_socket_of_a_keeper_that_was_killed_is_replaced(tmp_path: Path):
    path = str(tmp_path / "s")
    with served("factorial", path=path) as server:
        server.end(signal.SIGKILL)
    with served("factorial", path=path):
        answers_rightly(path)


def test_live_socket_is_refused_and_left_alone():
    with served("factorial") as server:
        refused(run("serve", "factorial", "--socket", server.path), 1, server.path, "already")
        answers_rightly(server.path)


def test_busy_socket_is_refused_and_left_alone():
    with served("factorial") as server, RawFrontend(server.path) as frontend:
        refused(run("serve", "factorial", "--socket", server.path), 1, "already")
        assert frontend.number(m.Request.GET_FEATURES)


def test_plain_file_is_refused_and_left_alone(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("precious")
    refused(run("serve", "factorial", "--socket", str(file)), 1, str(file))
    assert file.read_text() == "precious"
    refused(run("serve", "factorial", "--socket", str(tmp_path)), 1, str(tmp_path))


def test_socket_that_somebody_else_made_meanwhile_is_left_alone(tmp_path: Path):
    path = str(tmp_path / "s")
    with served("factorial", path=path) as server:
        os.unlink(path)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(path)
            assert server.end() == 0
            assert os.path.exists(path)
    os.unlink(path)


@pytest.mark.parametrize("path", ["/nowhere/at/all/s", "/proc/s", "", "x" * 108, "/tmp/" + "ä" * 60])
def test_impossible_places(path: str):
    refused(run("serve", "factorial", "--socket", path), 1)


def test_device_id():
    with served("factorial", "--device-id", "63") as server:
        assert "(virtio id 63)" in server.log[-1]
        assert server.lines("[id-unusable]") == 1
        answers_rightly(server.path)


def test_ready_line_names_device_id_and_socket():
    with served("factorial") as server:
        assert server.log == [f"pyvirtio: Factorial (virtio id 45) is ready on {server.path}"]


@pytest.mark.parametrize(
    ("device", "status", "texts"),
    [
        ("nothing", 2, ["nothing", "factorial", "file.py:Class"]),
        ("nothing.py:Device", 2, ["nothing.py"]),
        ("good.py", 2, ["file.py:Class"]),
        ("good.py:Other", 2, ["Other", "Good"]),
        ("good.py:", 2, ["file.py:Class"]),
        ("syntax.py:Good", 1, ["syntax.py, line 2"]),
        ("raises.py:Good", 1, ["raises.py", "ZeroDivisionError"]),
        ("missing.py:Good", 1, ["missing.py", "no_such_module"]),
        ("good.txt:Good", 1, ["good.txt", ".py"]),
        ("empty.py:Empty", 1, ["Empty", "Queue"]),
        ("nomethod.py:NoMethod", 1, ["requests"]),
        (".:Good", 2, ["."]),
    ],
)
def test_devices_that_cannot_be_served(tmp_path: Path, device: str, status: int, texts: list[str]):
    good = (
        "from pyvirtio.device import Device, Queue\n"
        "class Good(Device):\n    device_id = 38\n    requests = Queue()\n"
        "    @requests.stream\n    def answer(self, reader, writer): pass\n"
    )
    (tmp_path / "good.py").write_text(good)
    (tmp_path / "good.txt").write_text(good)
    (tmp_path / "syntax.py").write_text("x = 1\nclass Good(:\n")
    (tmp_path / "raises.py").write_text("1 / 0\n")
    (tmp_path / "missing.py").write_text("import no_such_module\n")
    (tmp_path / "empty.py").write_text("from pyvirtio.device import Device\nclass Empty(Device):\n    device_id = 38\n")
    (tmp_path / "nomethod.py").write_text(
        "from pyvirtio.device import Device, Queue\n"
        "class NoMethod(Device):\n    device_id = 38\n    requests = Queue()\n"
    )
    result = run("serve", device, "--socket", "s", cwd=tmp_path)
    refused(result, status, *texts)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["factorial"],
        ["--socket", "s"],
        ["factorial", "more", "--socket", "s"],
        ["factorial", "--socket", "s", "--workers", "0"],
        ["factorial", "--socket", "s", "--workers", "-1"],
        ["factorial", "--socket", "s", "--workers", "two"],
        ["factorial", "--socket", "s", "--device-id", "0"],
        ["factorial", "--socket", "s", "--device-id", "x"],
        ["factorial", "--socket", "s", "--trace"],
        ["factorial", "--socket", "s", "--work", "2"],
    ],
)
def test_wrong_usage(arguments: list[str], tmp_path: Path):
    refused(run("serve", *arguments, cwd=tmp_path), 2, "--help")
