"""Our driver of a disk, and QEMU's storage daemon behind it: 7.2 and the newest that is to be had."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

from pyvirtio import open_driver
from pyvirtio.devices.block import SECTOR, SEG_MAX, SYNC, Header
from pyvirtio.drivers.block import BlockDriver
from pyvirtio.errors import DeviceError, LocalError
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.client import WANTED
from pyvirtio.vhost_user.resume import ResumingTransport
from tests.support.peers import Listener, Peers, listening, storage_daemon

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.guest

SIZE = 4 << 20
PIECE = 4096


@pytest.fixture
def image(tmp_path: Path, rng: random.Random) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(rng.randbytes(SIZE))
    return path


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as listener:
        yield listener


def test_it_is_read_and_written_through_several_queues(
    peers: Peers, listener: Listener, image: Path, rng: random.Random
):
    content = bytearray(image.read_bytes())
    with (
        storage_daemon(peers, listener, image, queues=4),
        open_driver(BlockDriver, f"vhost-user:{listener.path}", queues=8) as disk,
    ):
        assert len(disk.all_of(BlockDriver.requests)) == 4
        assert disk.size == SIZE
        assert not disk.is_readonly
        assert disk.identify() == "vhost_user_blk"
        assert disk.read(0, 1 << 20) == content[: 1 << 20]
        tickets = []
        for place in rng.sample(range(SIZE // PIECE), 300):
            content[place * PIECE : (place + 1) * PIECE] = data = rng.randbytes(PIECE)
            tickets.append(disk.submit_write(place * PIECE, data))
        for ticket in tickets:
            disk.check(ticket)
        disk.flush()
        assert image.read_bytes() == content
        assert b"".join(disk.read(at, 1 << 20) for at in range(0, SIZE, 1 << 20)) == content
        with pytest.raises(DeviceError, match="IOERR"):
            disk.read(SIZE, SECTOR)


def test_zeroes_are_written_and_discarded_space_is_given_back(peers: Peers, listener: Listener, image: Path):
    with storage_daemon(peers, listener, image), open_driver(BlockDriver, f"vhost-user:{listener.path}") as disk:
        before, used = image.read_bytes(), image.stat().st_blocks
        disk.write_zeroes(SECTOR, SECTOR)
        assert disk.read(0, 3 * SECTOR) == before[:SECTOR] + bytes(SECTOR) + before[2 * SECTOR : 3 * SECTOR]
        disk.write_zeroes(1 << 20, 1 << 20, unmap=True)
        assert disk.read(1 << 20, 1 << 20) == bytes(1 << 20)
        disk.discard(2 << 20, 1 << 20)
        disk.flush()
        assert image.stat().st_blocks <= used - (1 << 20) // SECTOR


def test_its_size_changes_and_the_driver_is_told(new_peers: Peers, listener: Listener, image: Path):
    """Not with 7.2, which goes on to say what the size was at its start."""
    with (
        storage_daemon(new_peers, listener, image) as daemon,
        open_driver(BlockDriver, f"vhost-user:{listener.path}") as disk,
    ):
        before = disk.transport.config_generation()
        daemon.resize(2 * SIZE)
        assert disk.size == 2 * SIZE
        assert disk.transport.config_generation() == before + 1
        disk.write(2 * SIZE - PIECE, b"x" * PIECE)
        daemon.resize(SIZE)
        assert disk.size == SIZE
        with pytest.raises(DeviceError, match="IOERR"):
            disk.read(SIZE, PIECE)


def test_a_readonly_export_is_not_written(peers: Peers, listener: Listener, image: Path):
    before = image.read_bytes()
    with (
        storage_daemon(peers, listener, image, writable=False),
        open_driver(BlockDriver, f"vhost-user:{listener.path}") as disk,
    ):
        assert disk.is_readonly
        assert disk.read(0, PIECE) == before[:PIECE]
        with pytest.raises(DeviceError, match="IOERR"):
            disk.write(0, bytes(PIECE))
    assert image.read_bytes() == before


def test_a_driver_that_wants_no_feature_of_the_disk_reads_it(peers: Peers, listener: Listener, image: Path):
    with (
        storage_daemon(peers, listener, image),
        open_driver(BlockDriver, f"vhost-user:{listener.path}", features=0) as disk,
    ):
        assert not disk.negotiated & SEG_MAX
        assert disk.read(SIZE - PIECE, PIECE) == image.read_bytes()[-PIECE:]
        with pytest.raises(LocalError, match="flush"):
            disk.flush()


# It is killed, and started again.


def test_what_was_in_flight_when_it_was_killed_is_answered_by_the_next_one(
    peers: Peers, listener: Listener, image: Path, rng: random.Random
):
    content = bytearray(image.read_bytes())
    with (
        storage_daemon(peers, listener, image, queues=2) as first,
        open_driver(BlockDriver, f"vhost-user:{listener.path}", queues=2, reconnect=60) as disk,
    ):
        # It does not track requests in flight: the driver has to know by itself what to offer again.
        assert isinstance(disk.transport, ResumingTransport)
        assert disk.transport.protocol & m.Protocol.INFLIGHT_SHMFD == 0
        assert disk.transport.protocol == WANTED
        for place in rng.sample(range(SIZE // PIECE), 40):  # so that the rings are not at their beginning
            assert disk.read(place * PIECE, PIECE) == content[place * PIECE : (place + 1) * PIECE]
        os.kill(first.process.pid, signal.SIGSTOP)
        places = rng.sample(range(SIZE // PIECE), 200)
        written = {place: rng.randbytes(PIECE) for place in places[:100]}
        writes = [disk.submit_write(place * PIECE, data) for place, data in written.items()]
        reads = {place: disk.submit_read(place * PIECE, PIECE) for place in places[100:]}
        first.kill()
        with storage_daemon(peers, listener, image, queues=2):
            for ticket in writes:
                disk.check(ticket)
            for place, ticket in reads.items():
                assert disk.check(ticket) == content[place * PIECE : (place + 1) * PIECE]
            for place, data in written.items():
                content[place * PIECE : (place + 1) * PIECE] = data
            disk.flush()
            assert image.read_bytes() == content
            assert disk.size == SIZE


def test_it_is_killed_again_and_again_under_load_and_nothing_is_lost(
    peers: Peers, listener: Listener, image: Path, rng: random.Random
):
    """Thirty-two writers in an event loop, each of which reads back what it wrote; the daemon dies five times."""
    stopped = False
    rounds = [0] * 32

    async def writer(disk: BlockDriver, number: int) -> None:
        while not stopped:
            data = rng.randbytes(PIECE)
            await (write := disk.submit_write(number * PIECE, data))
            disk.check(write)
            await (read := disk.submit_read(number * PIECE, PIECE))
            assert disk.check(read) == data
            rounds[number] += 1

    async def main(disk: BlockDriver) -> None:
        nonlocal stopped
        tasks = [asyncio.create_task(writer(disk, number)) for number in range(len(rounds))]
        for _ in range(5):
            with storage_daemon(peers, listener, image) as daemon:
                goal = sum(rounds) + 100
                while sum(rounds) < goal:
                    await disk.submit(Header(SYNC))
                daemon.kill()
        with storage_daemon(peers, listener, image):
            stopped = True
            await asyncio.gather(*tasks)

    with storage_daemon(peers, listener, image) as first:
        disk = open_driver(BlockDriver, f"vhost-user:{listener.path}", reconnect=60)
        first.kill()
    with disk:
        asyncio.run(main(disk))
    assert min(rounds) > 0
