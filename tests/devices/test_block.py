"""The disk: what its driver may ask, what a hostile one asks, and what its content is on."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import pytest

from pyvirtio import Driver, RequestQueue, open_driver
from pyvirtio.devices import block
from pyvirtio.devices.block import (
    DISCARD,
    FLUSH,
    GET_ID,
    IN,
    MOST_RANGES,
    MOST_SECTORS,
    OUT,
    SECTOR,
    SYNC,
    UNMAP,
    WRITE_ZEROES,
    ZEROED,
    Block,
    Header,
    Range,
)
from pyvirtio.devices.block import DISCARDED as DISCARDING
from pyvirtio.drivers.block import BlockDriver
from pyvirtio.errors import DeviceError, LocalError
from pyvirtio.storage import open_storage
from pyvirtio.testing.frontend import RawFrontend, SharedMemory
from pyvirtio.testing.frontend_queue import wait_readable
from pyvirtio.testing.served import served

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from tests.support.uapi import Uapi

SECTORS = 4096
OK, IO_ERROR, UNSUPPORTED = b"\0", b"\1", b"\2"


class Raw(Driver):
    """Sends bytes and shows bytes."""

    device_id = 2
    features = BlockDriver.features
    requests = RequestQueue()


@pytest.fixture
def image(tmp_path: Path, rng: random.Random) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(rng.randbytes(SECTORS * SECTOR))
    return path


def test_a_disk_is_read_and_written_where_it_is(place, image: Path, rng: random.Random):
    with place(lambda: Block(image), f"block,path={image}") as device, open_driver(BlockDriver, device) as disk:
        content = bytearray(image.read_bytes())
        assert disk.size == len(content)
        for _ in range(100):
            sector, number = rng.randrange(SECTORS - 256), rng.randrange(257)
            offset, length = sector * SECTOR, number * SECTOR
            if rng.random() < 0.5:
                content[offset : offset + length] = data = rng.randbytes(length)
                disk.write(offset, data)
            else:
                assert disk.read(offset, length) == content[offset : offset + length]
        disk.flush()
        assert image.read_bytes() == content


def test_requests_in_flight_are_answered_each_with_its_own_sectors(place, image: Path):
    with place(lambda: Block(image), f"block,path={image}") as device, open_driver(BlockDriver, device) as disk:
        content = image.read_bytes()
        tickets = [disk.submit_read(sector * SECTOR, SECTOR) for sector in range(60)]
        assert [disk.check(ticket) for ticket in tickets] == [
            content[start : start + SECTOR] for start in range(0, 60 * SECTOR, SECTOR)
        ]


def test_every_queue_of_several_works(place, image: Path):
    command = f"block,path={image},queues=3"
    with (
        place(lambda: Block(image, queues=3), command, "--workers", "3") as device,
        open_driver(BlockDriver, device, queues=8) as disk,
    ):
        assert len(disk.all_of(BlockDriver.requests)) == 3
        for sector in range(9):
            disk.write(sector * SECTOR, bytes([sector + 1]) * SECTOR)
        assert disk.read(0, 9 * SECTOR) == b"".join(bytes([sector + 1]) * SECTOR for sector in range(9))


def test_zeroed_sectors_read_as_zeros_and_a_hole_gives_space_back(place, tmp_path: Path):
    path = tmp_path / "disk.img"
    path.write_bytes(b"\xff" * (2 << 20))
    with place(lambda: Block(path), f"block,path={path}") as device, open_driver(BlockDriver, device) as disk:
        disk.write_zeroes(SECTOR, SECTOR)
        assert disk.read(0, 3 * SECTOR) == b"\xff" * SECTOR + bytes(SECTOR) + b"\xff" * SECTOR
        used = path.stat().st_blocks
        disk.write_zeroes(0, 1 << 20, unmap=True)
        disk.discard(1 << 20, 1 << 20)
        assert disk.read(0, 1 << 20) == bytes(1 << 20)
        assert path.stat().st_blocks < used


def test_a_disk_says_who_it_is(image: Path):
    with open_driver(BlockDriver, Block(image)) as disk:
        assert disk.identify() == "disk.img"
    with open_driver(BlockDriver, Block(image, serial="twenty characters it has and more")) as disk:
        assert disk.identify() == "twenty characters it"


def test_a_readonly_disk_is_not_written(place, image: Path):
    image.chmod(0o400)
    before = image.read_bytes()
    with (
        place(lambda: Block(image, readonly=True), f"block,path={image},readonly") as device,
        open_driver(BlockDriver, device) as disk,
    ):
        assert disk.is_readonly
        assert not disk.negotiated & (DISCARD | WRITE_ZEROES)
        with pytest.raises(DeviceError, match="IOERR"):  # 5.2.6.2
            disk.write(0, bytes(SECTOR))
        with pytest.raises(LocalError):
            disk.discard(0, SECTOR)
        assert disk.read(0, SECTOR) == before[:SECTOR]
    assert image.read_bytes() == before


# What the content is on.


@pytest.mark.parametrize("kind", ["bytearray", "mmap", "class"])
def test_any_object_with_a_byte_interface_is_a_disk(kind: str):
    class Striped:
        """A disk that nobody stores: each sector holds its number."""

        def __len__(self) -> int:
            return SECTORS * SECTOR

        def __getitem__(self, where: slice) -> bytes:
            sectors = range(where.start // SECTOR, where.stop // SECTOR)
            return b"".join(number.to_bytes(8, "little").ljust(SECTOR, b"\0") for number in sectors)

    if kind == "class":
        with open_driver(BlockDriver, Block(Striped(), readonly=True)) as disk:
            assert disk.read(7 * SECTOR, SECTOR)[0] == 7
        return
    content = bytearray(SECTORS * SECTOR) if kind == "bytearray" else mmap.mmap(-1, SECTORS * SECTOR)
    with open_driver(BlockDriver, Block(content)) as disk:
        disk.write(SECTOR, b"x" * SECTOR)
        disk.flush()
        assert content[SECTOR : 2 * SECTOR] == b"x" * SECTOR
        disk.write_zeroes(0, 1 << 20)
        assert disk.read(SECTOR, SECTOR) == bytes(SECTOR)


def test_an_object_that_cannot_be_written_is_refused_unless_readonly():
    with pytest.raises(LocalError, match="readonly"):
        Block(bytes(SECTOR))


def test_a_disk_without_the_page_cache_reads_and_writes(tmp_path: Path, rng: random.Random):
    path = tmp_path / "disk.img"
    path.write_bytes(content := rng.randbytes(1 << 20))
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("this file system has no O_DIRECT")
    with open_driver(BlockDriver, Block(path, direct=True)) as disk:
        block = disk.read_config().as_dict()["blk_size"]
        assert disk.read(block, 8 * block) == content[block : 9 * block]
        disk.write(0, b"y" * block)
        disk.write_zeroes(block, block)
        assert path.read_bytes()[: 2 * block] == b"y" * block + bytes(block)


def test_a_file_that_grew_or_shrank_is_told_and_no_guest_reads_beyond(image: Path):
    device = Block(image)
    with open_driver(BlockDriver, device) as disk:
        os.truncate(image, 2 * SECTORS * SECTOR)
        device.resize()
        assert disk.size == 2 * SECTORS * SECTOR
        assert disk.read(disk.size - SECTOR, SECTOR) == bytes(SECTOR)
        os.truncate(image, SECTOR)
        with pytest.raises(DeviceError, match="IOERR"):  # nobody has noticed yet; the file has
            disk.read(SECTOR, SECTOR)
        device.resize()
        assert disk.size == SECTOR


def test_a_served_file_that_grew_is_noticed(image: Path):
    with served(f"block,path={image}") as server, open_driver(BlockDriver, f"vhost-user:{server.path}") as disk:
        os.truncate(image, 2 * SECTORS * SECTOR)
        while disk.size != 2 * SECTORS * SECTOR:  # the test's own time limit ends this
            disk.read(0, SECTOR)
        assert disk.read(disk.size - SECTOR, SECTOR) == bytes(SECTOR)


def test_a_limit_holds_requests_back_and_loses_none(image: Path):
    with open_driver(BlockDriver, Block(image, iops=100)) as disk:
        tickets = [disk.submit_read(0, SECTOR) for _ in range(30)]  # a burst of 10 is at once, 20 take 0.2 s
        assert not tickets[-1].done
        assert {disk.check(ticket) for ticket in tickets} == {image.read_bytes()[:SECTOR]}


def test_a_limit_holds_up_no_stop(image: Path):
    with served(f"block,path={image},iops=1") as server, RawFrontend(server.path) as frontend, SharedMemory() as memory:
        frontend.negotiate()
        assert frontend.share(memory)
        queue = frontend.queue(memory, size=64)
        queue.start()
        queue.submit(*[Header(IN, sector=sector).pack() for sector in range(20)], room=SECTOR + 1)
        queue.kick()
        first = queue.answers(1)
        base = queue.stop()
        queue.start(base=base)
        content = image.read_bytes()
        queue.kick()
        answers = first + queue.answers(base - 1)
        assert answers == [content[at * SECTOR : (at + 1) * SECTOR] + OK for at in range(base)]


# A guest that asks for what it must not.

MALFORMED = {
    "H1 beyond the end": (Header(IN, sector=SECTORS), b"", SECTOR, IO_ERROR),
    "H2 across the end": (Header(IN, sector=SECTORS - 1), b"", 2 * SECTOR, IO_ERROR),
    "H3 a sector whose offset overflows": (Header(IN, sector=2**64 - 1), b"", SECTOR, IO_ERROR),
    "H4 a read of part of a sector": (Header(IN), b"", 100, IO_ERROR),
    "H5 a write of part of a sector": (Header(OUT), b"x" * 100, 0, IO_ERROR),
    "H6 a write beyond the end": (Header(OUT, sector=SECTORS), b"x" * SECTOR, 0, IO_ERROR),
    "H7 a type that nobody knows": (Header(0xFFFF), b"", 16, UNSUPPORTED),
    "H8 a legacy type": (Header(2), b"", 16, UNSUPPORTED),
    "H9 ranges that are cut": (Header(DISCARDING), b"x" * 15, 0, IO_ERROR),
    "H10 no range": (Header(ZEROED), b"", 0, IO_ERROR),
    "H11 too many ranges": (Header(ZEROED), Range(0, 1).pack() * (MOST_RANGES + 1), 0, IO_ERROR),
    "H12 a range that is too long": (Header(ZEROED), Range(0, MOST_SECTORS + 1).pack(), 0, IO_ERROR),
    "H13 a range beyond the end": (Header(DISCARDING), Range(SECTORS, 1).pack(), 0, IO_ERROR),
    "H14 a good range, then one beyond": (Header(ZEROED), Range(0, 1).pack() + Range(2**64 - 1, 1).pack(), 0, IO_ERROR),
    "H15 unmap on a discard": (Header(DISCARDING), Range(0, 1, UNMAP).pack(), 0, UNSUPPORTED),  # 5.2.6.2
    "H16 an unknown flag": (Header(ZEROED), Range(0, 1, 0x80).pack(), 0, UNSUPPORTED),
    "H17 data with a flush": (Header(SYNC), b"x" * SECTOR, 0, OK),
    "H18 room for half an identity": (Header(GET_ID), b"", 10, OK),
}


def test_malformed_requests_fail_and_touch_nothing(place, image: Path):
    before = image.read_bytes()
    with place(lambda: Block(image), f"block,path={image}") as device, open_driver(Raw, device) as driver:
        for name, (header, data, room, status) in MALFORMED.items():
            answer = driver.requests.call(header, data, room=room + 1)
            assert (len(answer), answer[-1:]) == (room + 1, status), name
        assert driver.requests.call(Header(IN).pack()[:15], room=513)[-1:] == IO_ERROR  # H19: the header is cut
        assert driver.requests.call(Header(IN), room=0) == b""  # H20: no room for a status
        assert driver.requests.call(Header(IN), room=513) == before[:SECTOR] + OK
    assert image.read_bytes() == before


@pytest.mark.long
def test_H21_a_read_of_2_GiB_allocates_nothing(tmp_path: Path):
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(4 << 30)
    with served(f"block,path={path}") as server, RawFrontend(server.path) as frontend, SharedMemory(16 << 20) as memory:
        frontend.negotiate()
        assert frontend.share(memory)
        queue = frontend.queue(memory, size=256)
        queue.start()
        header, target = memory.arena.allocate(16), memory.arena.allocate(8 << 20)
        memory.table.write(header, Header(IN).pack())
        memory.table.write(target, b"\xff" * 16)
        pieces = [(target, 8 << 20)] * 254 + [(target, 1)]  # the same place again and again
        before = server.memory(server.workers()[0])
        queue.ring.add([(header, 16)], pieces, "the request")
        queue.ring.publish()
        queue.kick()
        while not (done := list(queue.ring.reap())):
            assert wait_readable(queue.interrupt_fd)
        assert done == [("the request", 254 * (8 << 20) + 1)]
        assert server.memory(server.workers()[0]) < before + (4 << 20)


def test_what_cannot_be_opened_or_driven_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        open_storage(tmp_path / "missing")
    with pytest.raises(LocalError):
        open_driver(BlockDriver, Block(bytearray(SECTOR)), queues=0)


def test_flush_is_refused_where_it_was_not_negotiated():
    with open_driver(BlockDriver, Block(bytearray(SECTOR)), features=0) as disk:
        assert not disk.negotiated & FLUSH
        with pytest.raises(LocalError, match="flush"):
            disk.flush()


def test_a_chain_with_the_status_alone_is_no_read_of_nothing(image: Path):
    with open_driver(Raw, Block(image)) as driver:
        assert driver.requests.call(Header(IN), room=1) == OK


@pytest.mark.guest  # it needs what is provisioned for guests
def test_a_disk_speaks_as_linux_does(uapi: Uapi):
    same = dict.fromkeys(block.Config().as_dict())
    names = {**{name: name for name in same}, "topology": "physical_block_exp", "writeback": "wce", "unused0": "unused"}
    offsets = [f"__builtin_offsetof(struct virtio_blk_config, {theirs})" for theirs in names.values()]
    found = uapi.evaluate("linux/virtio_blk.h", [*offsets, "sizeof(struct virtio_blk_config)"])
    assert found == [*map(block.Config.offset_of, names), block.Config.nbytes]
    features = ("SEG_MAX", "RO", "BLK_SIZE", "FLUSH", "MQ", "DISCARD", "WRITE_ZEROES")
    ours = {"IN": IN, "OUT": OUT, "FLUSH": SYNC, "GET_ID": GET_ID, "DISCARD": DISCARDING, "WRITE_ZEROES": ZEROED}
    assert not uapi.differences(
        "linux/virtio_blk.h",
        structs={Range: "virtio_blk_discard_write_zeroes", block.Geometry: "virtio_blk_geometry"},
        bits={f"VIRTIO_BLK_F_{name}": getattr(block, name) for name in features},
        numbers={f"VIRTIO_BLK_T_{name}": number for name, number in ours.items()}
        | {
            f"VIRTIO_BLK_S_{name}": status[0]
            for name, status in {"OK": OK, "IOERR": IO_ERROR, "UNSUPP": UNSUPPORTED}.items()
        },
    )
