"""The code that a successor runs: what the device was started with, or what was last taken over with ``--reload``."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from pyvirtio.testing.served import served
from tests.support.vhost import ask, driven, until

if TYPE_CHECKING:
    from pathlib import Path

    from pyvirtio.testing.frontend import RawQueue
    from pyvirtio.testing.served import ServerProcess

DEVICE = """
from factor_of_mine import FACTOR
from pyvirtio.device import Device, Queue
from pyvirtio.spec.struct import Struct, le32

class Number(Struct):
    value: int = le32()

class Mine(Device):
    requests = Queue(Number, Number, size=64)

    @requests.each
    def answer(self, request):
        return FACTOR * request.value
"""

EDITS = {
    "features": (
        "mine.py",
        DEVICE.replace("    requests", "    features = 1\n    requests").replace("FACTOR *", "3 *"),
    ),
    "queues": ("mine.py", DEVICE.replace("size=64", "size=64, count=2").replace("FACTOR *", "3 *")),
    "syntax": ("mine.py", DEVICE + "\ndef broken(:\n"),
    "answers": ("mine.py", DEVICE.replace("FACTOR *", "3 *")),
    "sibling": ("factor_of_mine.py", "FACTOR = 3\n"),
    "sibling's syntax": ("factor_of_mine.py", "FACTOR = = 3\n"),
}


@pytest.fixture
def device(tmp_path: Path) -> str:
    (tmp_path / "factor_of_mine.py").write_text("FACTOR = 2\n")
    (tmp_path / "mine.py").write_text(DEVICE)
    return f"{tmp_path / 'mine.py'}:Mine"


def succeed(server: ServerProcess, queue: RawQueue) -> None:
    """Kill the worker, wait until it is gone, and check that its successor answers as it did."""
    before = server.workers()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not set(before) & set(server.workers()))
    assert ask(queue, 21) == [42]


@pytest.mark.parametrize("edit", EDITS)
def test_without_reload_a_successor_runs_the_code_of_the_start(tmp_path: Path, device: str, edit: str):
    name, content = EDITS[edit]
    with served(device) as server, driven(server) as queue:
        (tmp_path / name).write_text(content)
        for _ in range(3):
            succeed(server, queue)
        assert server.log[1:] == []


def test_without_reload_a_successor_does_without_the_files(tmp_path: Path, device: str):
    with served(device) as server, driven(server) as queue:
        (tmp_path / "mine.py").unlink()
        (tmp_path / "factor_of_mine.py").unlink()
        succeed(server, queue)


@pytest.mark.parametrize("edit", ["features", "queues"])
def test_with_reload_a_device_that_the_driver_does_not_know_is_refused_for_good(tmp_path: Path, device: str, edit: str):
    name, content = EDITS[edit]
    with served(device, "--reload") as server, driven(server) as queue:
        (tmp_path / name).write_text(content)
        server.wait_for("[device-refused]")
        until(lambda: len(server.workers()) == 1)
        for _ in range(3):
            succeed(server, queue)
        assert server.lines("[device-refused]") == 1


def test_with_reload_a_successor_runs_what_was_taken_over_last(tmp_path: Path, device: str):
    with served(device, "--reload") as server, driven(server) as queue:
        (tmp_path / "factor_of_mine.py").write_text("FACTOR = 3\n")
        server.wait_for("[device-reloaded]")
        (tmp_path / "factor_of_mine.py").write_text("FACTOR = = 2\n")
        server.wait_for("[device-unloadable]")
        for _ in range(3):
            for pid in server.workers():
                with suppress(ProcessLookupError):  # one that was to be replaced is gone by itself
                    os.kill(pid, signal.SIGKILL)
            assert ask(queue, 21) == [63]
