"""``--reload``: the changed device takes over once it is loaded, and whatever is wrong with it the old one goes on."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from pyvirtio.testing.served import served
from pyvirtio.vhost_user import messages as m
from tests.support.odd_devices import CHANGE, HANG, STATE, WAIT
from tests.support.vhost import ODD_DEVICES, ask, driven, fds_at_rest, is_running, pack, unpack, until

if TYPE_CHECKING:
    from pathlib import Path

R = m.Request

DEVICE = """
import os, signal
from pyvirtio.device import Device, Queue
from pyvirtio.spec.struct import Struct, le32

class Number(Struct):
    value: int = le32()

class Mine(Device):
    device_id = 38
    patience = 2.0
    requests = Queue(Number, Number, size=64)

    @requests.each
    def answer(self, request):
        if request.value == 1000003:
            signal.pause()
        if request.value == 1000004:
            with open(os.environ["ODD_BEGUN"], "wb", buffering=0) as begun:
                begun.write(b"!")
            with open(os.environ["ODD_PIPE"], "rb", buffering=0) as pipe:
                return Number(int(pipe.read()))
        return Number({factor} * request.value)
"""


def test_reload_of_an_edited_file_changes_the_answers_and_nothing_else(tmp_path: Path):
    device = tmp_path / "mine.py"
    device.write_text(DEVICE.format(factor=2))
    with served(f"{device}:Mine", "--reload", "-v") as server, driven(server) as queue:
        before = server.fds()
        assert ask(queue, 21) == [42]
        for round_number, factor in enumerate((3, 4, 5), start=1):
            device.write_text(DEVICE.format(factor=factor))
            server.wait_for("[device-reloaded]", count=round_number)
            assert ask(queue, *range(20)) == [factor * n for n in range(20)]
        assert fds_at_rest(server, queue) == before


def test_reload_with_a_syntax_error_keeps_the_old_code_and_logs_one_line(tmp_path: Path):
    device = tmp_path / "mine.py"
    device.write_text(DEVICE.format(factor=2))
    with served(f"{device}:Mine", "--reload") as server, driven(server) as queue:
        device.write_text(DEVICE.format(factor=3) + "\ndef broken(:\n")
        line = server.wait_for("[device-unloadable]")
        assert "mine.py, line" in line
        assert ask(queue, 21) == [42]
        device.write_text(DEVICE.format(factor=3))
        until(lambda: ask(queue, 21) == [63])
        assert server.lines("[device-unloadable]") == 1
        assert not server.lines("Traceback")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("requests = Queue(Number, Number, size=64)", "requests = Queue(Number, Number, size=64, count=2)"),
        ("device_id = 38", "device_id = 37"),
        ("device_id = 38", "device_id = 38\n    features = 1"),
        ("device_id = 38", "device_id = 38\n    config = Number()"),
    ],
    ids=["queues", "id", "features", "config space"],
)
def test_reload_that_would_change_what_the_driver_knows_is_refused(tmp_path: Path, change: str, why: str):
    device = tmp_path / "mine.py"
    device.write_text(DEVICE.format(factor=2))
    with served(f"{device}:Mine", "--reload") as server, driven(server) as queue:
        device.write_text(DEVICE.format(factor=3).replace(change, why))
        server.wait_for("[device-refused]")
        assert ask(queue, 21) == [42]
        device.write_text(DEVICE.format(factor=3))
        until(lambda: ask(queue, 21) == [63])


def test_reload_while_requests_are_in_flight(tmp_path: Path):
    device, pipe, begun = (tmp_path / name for name in ("mine.py", "pipe", "begun"))
    os.mkfifo(pipe)
    os.mkfifo(begun)
    device.write_text(DEVICE.format(factor=2))
    environment = {"ODD_PIPE": str(pipe), "ODD_BEGUN": str(begun)}
    with served(f"{device}:Mine", "--reload", "-v", environment=environment) as server, driven(server) as queue:
        queue.submit(*pack(1, WAIT, 2, 3))
        queue.kick()
        assert begun.read_bytes() == b"!"
        device.write_text(DEVICE.format(factor=3))
        # The old code is asked to finish, does not for as long as it may take, and the new code has to answer.
        server.wait_for("[device-reloaded]")
        assert begun.read_bytes() == b"!"
        pipe.write_bytes(b"99")
        answers = unpack(queue.answers(4))
        assert answers[1:] == [99, 6, 9]
        assert answers[0] in (2, 3)  # it was answered by the old code, and perhaps not published
        assert ask(queue, 21) == [63]


def test_reload_loses_no_change_of_the_config_space(tmp_path: Path):
    """The old code changes it while it is on its way out."""
    device, pipe, begun = (tmp_path / name for name in ("mine.py", "pipe", "begun"))
    os.mkfifo(pipe)
    os.mkfifo(begun)
    source = CONFIGURED.format(device=str(ODD_DEVICES), remark="")
    device.write_text(source)
    environment = {"ODD_PIPE": str(pipe), "ODD_BEGUN": str(begun)}
    with served(f"{device}:Mine", "--reload", "-v", environment=environment) as server, driven(server) as queue:
        queue.submit(*pack(WAIT, CHANGE))
        queue.kick()
        assert begun.read_bytes() == b"!"
        device.write_text(CONFIGURED.format(device=str(ODD_DEVICES), remark=f"open({str(begun)!r}, 'wb').close()"))
        assert begun.read_bytes() == b""  # the new code is there, and the old one about to be asked to leave
        pipe.write_bytes(b"5")
        assert unpack(queue.answers(2)) == [5, 101]
        server.wait_for("[device-reloaded]")
        assert ask(queue, STATE) == [101]
        assert queue.frontend.config(4, 4) == (101).to_bytes(4, "little")


CONFIGURED = """
import importlib.util
{remark}
spec = importlib.util.spec_from_file_location("odd", {device!r})
odd = importlib.util.module_from_spec(spec)
spec.loader.exec_module(odd)

class Mine(odd.Odd):
    pass
"""


def test_reload_of_a_file_beside_the_device(tmp_path: Path):
    (tmp_path / "factor_of_mine.py").write_text("FACTOR = 2\n")
    device = tmp_path / "mine.py"
    device.write_text("from factor_of_mine import FACTOR\n" + DEVICE.format(factor="FACTOR"))
    with served(f"{device}:Mine", "--reload") as server, driven(server) as queue:
        assert ask(queue, 21) == [42]
        (tmp_path / "factor_of_mine.py").write_text("FACTOR = 3\n")
        until(lambda: ask(queue, 21) == [63])


def test_worker_that_dies_is_followed_while_its_file_is_broken(tmp_path: Path):
    """The file is broken and the worker killed: the next one runs the old code until the file is mended."""
    device = tmp_path / "mine.py"
    device.write_text(DEVICE.format(factor=2))
    with served(f"{device}:Mine", "--reload") as server, driven(server) as queue:
        device.write_text("class Mine(:\n")
        server.wait_for("[device-unloadable]")
        for pid in server.workers():
            with suppress(ProcessLookupError):  # the one with the broken code ends by itself
                os.kill(pid, signal.SIGKILL)
        assert ask(queue, 21) == [42]
        device.write_text(DEVICE.format(factor=3))
        until(lambda: ask(queue, 21) == [63])


def test_keeper_killed_after_a_failed_reload_leaves_no_worker_behind(tmp_path: Path):
    device = tmp_path / "mine.py"
    device.write_text(DEVICE.format(factor=2))
    with served(f"{device}:Mine", "--reload") as server, driven(server) as queue:
        device.write_text("class Mine(:\n")
        server.wait_for("[device-unloadable]")
        until(lambda: len(server.workers()) == 1)
        queue.submit(*pack(HANG))
        queue.kick()
        pids = server.workers()
        server.end(signal.SIGKILL)
        until(lambda: not any(is_running(pid) for pid in pids))
