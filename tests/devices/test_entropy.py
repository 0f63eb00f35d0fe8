"""The source of random bytes."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from pyvirtio import Driver, RequestQueue, open_driver
from pyvirtio.devices.entropy import MOST, Entropy
from pyvirtio.drivers.entropy import EntropyDriver
from pyvirtio.errors import DeviceError
from pyvirtio.testing.served import served

if TYPE_CHECKING:
    from pathlib import Path


class Raw(Driver):
    device_id = 4
    requests = RequestQueue()


def test_random_bytes_fill_the_buffer_and_differ(place):
    with place(Entropy, "entropy") as device, open_driver(EntropyDriver, device) as driver:
        first, second = driver.read(64), driver.read(64)
        assert len(first) == len(second) == 64
        assert first != second


def test_a_file_is_a_source_until_it_ends(place, tmp_path: Path):
    path = tmp_path / "seed"
    path.write_bytes(b"0123456789")
    with (
        place(lambda: Entropy(path), f"entropy,source={path}") as device,
        open_driver(EntropyDriver, device) as driver,
    ):
        assert driver.read(8) == b"01234567"
        assert driver.read(8) == b"89"
        with pytest.raises(DeviceError):
            driver.read(8)


def test_a_source_that_blocks_holds_up_no_other_request(tmp_path: Path):
    fifo = tmp_path / "slow"
    os.mkfifo(fifo)
    with (
        open(fifo, "r+b", buffering=0) as writer,
        served(f"entropy,source={fifo}") as server,
        open_driver(EntropyDriver, f"vhost-user:{server.path}") as driver,
    ):
        tickets = [driver.requests.submit(room=4) for _ in range(3)]
        for answer in (b"abcd", b"efgh", b"ijkl"):
            writer.write(answer)
            while not (done := [ticket for ticket in tickets if ticket.done]):
                driver.requests.reap()
            assert [ticket.data() for ticket in done] == [answer]
            tickets.remove(done[0])


def test_a_limit_holds_bytes_back():
    with open_driver(EntropyDriver, Entropy(rate=1000)) as driver:
        before = time.monotonic()
        assert sum(len(driver.read(100)) for _ in range(4)) == 400
        assert time.monotonic() - before >= 0.2  # a burst of 100 is at once


@pytest.mark.parametrize(
    ("data", "room", "length"),
    [
        (b"", 1, 1),
        (b"", 1 << 20, MOST),  # as much as may be given at once, and no more
        (b"x", 8, 0),  # a request brings nothing along (5.4.6.1)
        (b"x" * 4096, 8, 0),
        (b"x", 0, 0),
    ],
)
def test_malformed_requests_get_nothing_and_cost_nothing(place, data: bytes, room: int, length: int):
    with place(Entropy, "entropy") as device, open_driver(Raw, device) as driver:
        assert len(driver.requests.call(data, room=room)) == length
        assert len(driver.requests.call(room=16)) == 16
