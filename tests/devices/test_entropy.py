"""The source of random bytes."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from pyvirtio import Driver, RequestQueue, open_driver
from pyvirtio.devices.entropy import MOST, Entropy
from pyvirtio.drivers.entropy import EntropyDriver
from pyvirtio.errors import NoAnswer
from pyvirtio.testing.frontend import RawFrontend, SharedMemory
from pyvirtio.testing.served import served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Raw(Driver):
    device_id = 4
    requests = RequestQueue()


def test_random_bytes_fill_the_buffer_and_differ(place):
    with place(Entropy, "entropy") as device, open_driver(EntropyDriver, device) as driver:
        first, second = driver.read(64), driver.read(64)
        assert len(first) == len(second) == 64
        assert first != second


def test_a_file_is_a_source_and_where_it_ends_the_guest_waits_until_it_goes_on(place, tmp_path: Path):
    path = tmp_path / "seed"
    path.write_bytes(b"0123456789")
    with (
        place(lambda: Entropy(path), f"entropy,source={path}") as device,
        open_driver(EntropyDriver, device) as driver,
    ):
        assert driver.read(8) == b"01234567"
        assert driver.read(8) == b"89"
        ticket = driver.requests.submit(room=8)
        with pytest.raises(NoAnswer):
            ticket.data(timeout=0.01)
        with path.open("ab") as file:
            file.write(b"ab")
        assert ticket.data() == b"ab"


def test_a_source_that_fails_is_asked_again_and_no_request_is_lost(caplog: pytest.LogCaptureFixture):
    outcomes: Iterator[OSError | bytes] = iter([OSError("broken"), b"", b"good"])

    def source(number: int) -> bytes:
        outcome = next(outcomes)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    with open_driver(EntropyDriver, Entropy(source)) as driver:
        assert driver.read(8) == b"good"
    assert caplog.text.count("[source-failed]") == 1


def test_a_source_that_blocks_holds_up_neither_the_worker_nor_a_stop(tmp_path: Path):
    fifo = tmp_path / "slow"
    os.mkfifo(fifo)
    with (
        open(fifo, "r+b", buffering=0) as writer,
        served(f"entropy,source={fifo}") as server,
        RawFrontend(server.path) as frontend,
        SharedMemory() as memory,
    ):
        frontend.negotiate()
        assert frontend.share(memory)
        queue = frontend.queue(memory)
        queue.start()
        queue.submit(b"", b"", room=4)
        queue.kick()
        base = queue.stop()
        assert base == 0  # both are on the ring as before
        queue.start(base=base)
        queue.kick()
        for answer in (b"abcd", b"efgh"):
            writer.write(answer)
            assert queue.answers(1) == [answer]


def test_a_limit_holds_bytes_back():
    with open_driver(EntropyDriver, Entropy(rate=1000)) as driver:
        before = time.monotonic()
        assert sum(len(driver.read(100)) for _ in range(4)) == 400
        assert time.monotonic() - before >= 0.2  # a burst of 100 is at once


REQUESTS = {
    "E1 one byte": (b"", 1, 1),
    "E2 as much as may be given at once": (b"", MOST, MOST),
    "E3 more than that": (b"", MOST + 1, MOST),
    "E4 a megabyte": (b"", 1 << 20, MOST),
    "E5 sixteen": (b"", 16 << 20, MOST),
    "E6 a request that brings a byte along (5.4.6.1)": (b"x", 8, 0),
    "E7 a page": (b"x" * 4096, 8, 0),
    "E8 a megabyte along": (b"x" * (1 << 20), 1 << 20, 0),
    "E9 no room": (b"x", 0, 0),
    "E10 no room, and a page": (b"x" * 4096, 0, 0),
}


def test_malformed_requests_get_nothing_and_cost_nothing(place):
    with place(Entropy, "entropy") as device, open_driver(Raw, device, memory=64 << 20) as driver:
        for name, (data, room, length) in REQUESTS.items():
            assert len(driver.requests.call(data, room=room)) == length, name
        assert len(driver.requests.call(room=16)) == 16
