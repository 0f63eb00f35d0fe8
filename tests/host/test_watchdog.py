"""Code of a device that does not return, wherever it is, is ended when its patience is; another worker serves on."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pyvirtio.host import slot
from pyvirtio.host.serve import backend
from pyvirtio.testing.frontend import RawFrontend, SharedMemory
from pyvirtio.testing.served import served
from tests.support.slow_devices import HANG, RAISE
from tests.support.vhost import ask, driven, slow, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyvirtio.testing.frontend import RawQueue
    from tests.host.conftest import Record


def number(value: int) -> bytes:
    return value.to_bytes(4, "little")


@pytest.mark.parametrize("device", ["Configured", "ConfiguredLater"])
def test_config_written_that_hangs(record: Record, device: str):
    with served(slow(device), environment=record.environment) as server, driven(server) as queue:
        assert ask(queue, 0) == [0]
        workers = server.workers()
        assert queue.frontend.write_config(0, number(HANG))  # it is acknowledged all the same
        server.wait_for("[worker-hangs]")
        assert ask(queue, 0) == [HANG]
        assert server.workers() != workers
        assert queue.frontend.write_config(0, number(5))
        assert ask(queue, 0) == [5]
        assert server.lines("[worker-hangs]") == 1
    assert record.lines() == [str(HANG), "5"]


@pytest.mark.parametrize("device", ["Configured", "ConfiguredLater"])
def test_config_written_that_raises(record: Record, device: str):
    with served(slow(device), environment=record.environment) as server, driven(server) as queue:
        workers = server.workers()
        assert queue.frontend.write_config(0, number(RAISE))
        server.wait_for("[config-failed]")
        assert ask(queue, 0) == [RAISE]
        assert server.workers() == workers


def test_run_that_blocks_the_event_loop(record: Record):
    with served(slow("Running"), environment=record.environment) as server, driven(server) as queue:
        server.wait_for("[worker-hangs]")
        assert ask(queue, 1, 2) == [2, 4]
        until(lambda: record.lines() == ["run", "run"])


# Loading a successor.


@contextmanager
def driven_backend(spec: str) -> Iterator[RawQueue]:
    """Return a queue of a back-end that is a fork of this process, and so behaves as a test has patched it."""
    with backend(spec) as connection, RawFrontend(connection) as frontend, SharedMemory() as memory:
        frontend.negotiate()
        frontend.share(memory)
        queue = frontend.queue(memory, size=64)
        queue.start()
        yield queue


LOADED = """
import os, time
from pyvirtio.device import Device, Queue
from pyvirtio.spec.struct import Struct, le32

PLACE = os.path.dirname(__file__)

def load(where):
    if os.environ["SLOW_RECORD"] == where:
        loaded = os.path.join(PLACE, "loaded")
        with open(loaded, "a") as file:
            file.write("x")
        if os.path.getsize(loaded) == 2:
            time.sleep(3600)

class Number(Struct):
    value: int = le32()

load("import")

class Mine(Device):
    requests = Queue(Number, Number, size=64)

    def __init__(self):
        load("constructor")

    @requests.each
    def answer(self, request):
        return os.getpid()
"""


@pytest.mark.parametrize("where", ["import", "constructor"])
def test_successor_that_hangs_while_it_is_loaded_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
):
    """The second of three hangs."""
    monkeypatch.setattr(slot, "START_TIME", 1.0)
    monkeypatch.setenv("SLOW_RECORD", where)
    (tmp_path / "mine.py").write_text(LOADED)
    with driven_backend(f"{tmp_path}/mine.py:Mine") as queue:
        (first,) = ask(queue, 0)
        assert first is not None
        os.kill(first, signal.SIGKILL)
        assert ask(queue, 0) != [first]
        assert (tmp_path / "loaded").read_text() == "xxx"


def test_changed_device_that_hangs_while_it_is_loaded_leaves_the_old_one_in_place(tmp_path: Path):
    device = tmp_path / "mine.py"
    device.write_text(LOADED)
    with (
        served(f"{device}:Mine", "--reload", environment={"SLOW_RECORD": "constructor"}) as server,
        driven(server) as queue,
    ):
        pid = ask(queue, 0)
        device.write_text(LOADED + "\n")
        until(lambda: len(server.workers()) == 2)
        assert ask(queue, *range(10)) == 10 * pid
