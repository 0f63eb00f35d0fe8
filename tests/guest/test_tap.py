"""A real guest, and the tap between its front-end and a back-end: ours, and QEMU's storage daemon."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvirtio import open_driver
from pyvirtio.devices.block import Header
from pyvirtio.drivers.block import BlockDriver
from pyvirtio.testing.served import served
from pyvirtio.trace.pcapng import pcapng
from pyvirtio.trace.replay import open_device, replay_into
from pyvirtio.trace.requests import requests
from pyvirtio.vm import VhostUserDevice
from tests.support.guests import guest, unremarkable
from tests.support.peers import NEW, Peers, listening, storage_daemon
from tests.support.tapped import Tapped, tapped

if TYPE_CHECKING:
    import random

    from pyvirtio.vm import Guest

pytestmark = pytest.mark.guest

SIZE = 1 << 20
READ, WRITE = 0, 1
AGAIN = "for n in $(seq 30); do {} || exit 1; done"


@pytest.fixture
def image(tmp_path: Path, rng: random.Random) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(rng.randbytes(SIZE))
    return path


def disk_at(path: str, queues: int = 1) -> VhostUserDevice:
    return VhostUserDevice(Path(path), id=2, queues=queues, size=128, config_size=60)


def work(machine: Guest, image: Path) -> None:
    """Have the guest read the disk, and write a piece of it: again and again, for the tap may come late for some."""
    before = image.read_bytes()
    assert machine.run(AGAIN.format("dd if=/dev/vda bs=4096 skip=$((8 * n)) count=1 2>/dev/null | md5sum")).lines
    writing = "printf seen | dd of=/dev/vda bs=512 seek=9 conv=notrunc,fsync 2>/dev/null"
    assert machine.run(AGAIN.format(writing)).returncode == 0
    after = image.read_bytes()
    assert after == before[: 512 * 9] + b"seen" + before[512 * 9 + 4 :]


def check(tap: Tapped, image: Path, front_end: str) -> None:
    """Check that what the guest did is in the recording, and right."""
    recording = tap.recording()
    found = [request for request in requests(recording.events) if request.is_whole and request.answer_is_whole]
    content = image.read_bytes()
    written = [request for request in found if Header.unpack(request.data[:16]).as_dict()["type"] == WRITE]
    assert any(b"seen" in request.data for request in written)
    reads = 0
    for request in found:
        header = Header.unpack(request.data[:16])
        start = 512 * header.as_dict()["sector"]
        if header.as_dict()["type"] == READ and not start <= 512 * 9 < start + request.room:
            assert (request.answer or b"")[:-1] == content[start : start + request.room - 1]
            reads += 1
    assert reads > 0
    assert not tap.events("damaged", "missed")
    kinds = {event.what for event in recording.events}
    assert {"kick", "interrupt", "available", "used_index", "queue", "connected"} <= kinds
    assert list(pcapng(recording)), front_end


@pytest.mark.parametrize("arch", ["um", "x86_64"])
def test_a_guest_and_our_back_end_are_seen_from_between(image: Path, arch: str):
    with served(f"block,path={image}") as server, tapped(server.path) as tap:
        with guest(disk_at(tap.path), arch=arch) as machine, unremarkable(machine):
            work(machine, image)
        check(tap, image, arch)


@pytest.mark.parametrize("arch", ["um", "x86_64"])
def test_a_guest_and_qemus_storage_daemon_are_seen_from_between(image: Path, arch: str):
    with listening() as listener, storage_daemon(Peers.of(NEW), listener, image), tapped(listener.path) as tap:
        with guest(disk_at(tap.path), arch=arch) as machine, unremarkable(machine):
            work(machine, image)
        check(tap, image, arch)


def test_what_was_asked_of_the_storage_daemon_can_be_asked_again(image: Path):
    with listening() as listener, storage_daemon(Peers.of(NEW), listener, image, queues=2):
        with tapped(listener.path) as tap, open_driver(BlockDriver, f"vhost-user:{tap.path}", queues=2) as disk:
            disk.write(0, b"x" * 4096)
            assert disk.read(0, 8192)[:4096] == b"x" * 4096
        outcome = replay_into(open_device(listener.path), tap.recording())
    assert outcome.compared >= 2
    assert not outcome.differences
