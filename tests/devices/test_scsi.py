"""The SCSI host: what a driver may ask of its units, what a hostile one asks, and units that come and go."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from pyvirtio import Driver, RequestQueue, open_driver
from pyvirtio.devices import scsi
from pyvirtio.devices.scsi import (
    ABORT_TASK,
    AN_QUERY,
    BAD_TARGET,
    CHANGE,
    FAILURE,
    HOTPLUG,
    INCORRECT_LUN,
    NEXUS_RESET,
    OK,
    OVERRUN,
    PARAM_CHANGE,
    QUERY_TASK,
    QUERY_TASK_SET,
    REJECTED,
    REMOVED,
    RESCAN,
    SUCCEEDED,
    TMF,
    TRANSPORT_RESET,
    UNIT_RESET,
    Config,
    Control,
    Event,
    Notification,
    Request,
    Response,
    Scsi,
    TaskManagement,
    pack_address,
    parse_address,
)
from pyvirtio.devices.scsi_unit import Unit
from pyvirtio.drivers.scsi import ScsiDriver, SenseError
from pyvirtio.errors import DeviceError, LocalError
from pyvirtio.scsi import Key, Opcode, Trouble
from pyvirtio.scsi.commands import Cdb6, Cdb10, Cdb12, Cdb16, Inquiry, ModeSense6, ModeSense10, ReadToc, ReportLuns
from pyvirtio.scsi.medium import MOST_BYTES, BlockLimits, Medium
from pyvirtio.testing.frontend import RawFrontend, SharedMemory
from pyvirtio.testing.frontend_queue import wait_readable
from pyvirtio.testing.served import served

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from tests.support.uapi import Uapi

BLOCK = 512
BLOCKS = 4096
DISK, DISC = (0, 0), (1, 0)


@pytest.fixture
def image(tmp_path: Path, rng: random.Random) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(rng.randbytes(BLOCKS * BLOCK))
    return path


def test_a_disk_is_read_and_written_where_it_is(place, image: Path, rng: random.Random):
    with place(lambda: Scsi(image), f"scsi,path={image}") as device, open_driver(ScsiDriver, device) as driver:
        content = bytearray(image.read_bytes())
        assert driver.capacity(DISK) == (BLOCKS, BLOCK)
        for _ in range(100):
            lba, blocks = rng.randrange(BLOCKS - 256), rng.randrange(257)
            place_of = slice(lba * BLOCK, (lba + blocks) * BLOCK)
            if rng.random() < 0.5:
                content[place_of] = data = rng.randbytes(blocks * BLOCK)
                driver.write(DISK, lba, data)
            else:
                assert driver.read(DISK, lba, blocks) == content[place_of]
        driver.flush(DISK)
        assert image.read_bytes() == content


def test_every_length_of_a_command_reads_and_writes(image: Path):
    with open_driver(ScsiDriver, Scsi(image)) as driver:
        reads = (Opcode.READ_6, Opcode.READ_10, Opcode.READ_12, Opcode.READ_16)
        writes = (Opcode.WRITE_6, Opcode.WRITE_10, Opcode.WRITE_12, Opcode.WRITE_16)
        short = Cdb6(0, 0, 8, 2)
        longer = [kind(0, 8, 8, length=2) for kind in (Cdb10, Cdb12, Cdb16)]  # 8: it has to last
        for turn, (read, write, block) in enumerate(zip(reads, writes, [short, *longer], strict=True)):
            data = bytes([turn]) * 2 * BLOCK
            driver.execute(DISK, block.replace(opcode=write), data)
            assert driver.execute(DISK, block.replace(opcode=read), room=2 * BLOCK) == data
            assert image.read_bytes()[8 * BLOCK :][: 2 * BLOCK] == data
        whole = driver.execute(DISK, Cdb6(Opcode.READ_6, 0, 0, 0), room=256 * BLOCK)
        assert whole == image.read_bytes()[: 256 * BLOCK], "a length of 0 is 256 there"
        assert driver.execute(DISK, Cdb10(Opcode.READ_10), room=BLOCK) == b""


def test_requests_in_flight_are_answered_each_with_its_own_blocks(place, image: Path):
    with place(lambda: Scsi(image), f"scsi,path={image}") as device, open_driver(ScsiDriver, device) as driver:
        content = image.read_bytes()
        reads = [driver.submit(DISK, Cdb16(Opcode.READ_16, 0, lba, 1), room=BLOCK) for lba in range(30)]
        assert b"".join(map(driver.check, reads)) == content[: 30 * BLOCK]


def test_units_are_found_and_say_what_they_are(place, tmp_path: Path, image: Path):
    (disc := tmp_path / "disc+1.iso").write_bytes(b"x" * 2048 * 10)
    escaped = str(disc).replace("+", "++")
    command = f"scsi,path={image},cdrom={escaped},readonly"
    with (
        place(lambda: Scsi(image, cdrom=escaped, readonly=True), command) as device,
        open_driver(ScsiDriver, device) as driver,
    ):
        assert driver.units(0) == driver.units(1) == [0]
        with pytest.raises(DeviceError):
            driver.units(2)
        assert driver.inquire(DISK)[0:2] == b"\0\0"
        assert driver.inquire(DISC)[0:2] == b"\5\x80"
        assert driver.inquire((0, 7))[0] == 0x7F
        assert driver.inquire(DISK, 0x80)[4:] == b"disk.img"
        assert driver.inquire(DISK, 0x00)[4:] == bytes((0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2))
        assert driver.inquire(DISC, 0x00)[4:] == bytes((0x00, 0x80, 0x83))
        assert b"PYVIRTIOdisk.img" in driver.inquire(DISK, 0x83)
        contents = driver.execute(DISC, ReadToc(Opcode.READ_TOC, length=255), room=255)
        assert contents[:4] + contents[12:] == bytes.fromhex("0012 0101 00 14 aa 00 0000000a")
        assert driver.execute(DISC, Cdb10(Opcode.READ_CAPACITY_10), room=8) == bytes.fromhex("00000009 00000800")
        assert driver.read(DISC, 9, 1, block_size=2048) == b"x" * 2048
        for address in (DISK, DISC):
            with pytest.raises(SenseError):
                driver.write(address, 0, bytes(2048), block_size=2048 if address == DISC else 512)


def test_space_is_given_back_and_zeros_are_written(place, tmp_path: Path):
    path = tmp_path / "disk.img"
    path.write_bytes(b"\xff" * (2 << 20))
    with place(lambda: Scsi(path), f"scsi,path={path}") as device, open_driver(ScsiDriver, device) as driver:
        limits = BlockLimits.unpack(driver.inquire(DISK, 0xB0)[4:])
        assert limits.max_unmap_blocks == limits.max_write_same == MOST_BYTES // BLOCK
        used = path.stat().st_blocks
        driver.unmap(DISK, 2048, 2048)
        assert path.stat().st_blocks < used
        driver.execute(DISK, Cdb10(Opcode.WRITE_SAME_10, 0, 1, length=1), bytes(BLOCK))
        assert driver.read(DISK, 0, 3) == b"\xff" * BLOCK + bytes(BLOCK) + b"\xff" * BLOCK
        driver.execute(DISK, Cdb16(Opcode.WRITE_SAME_16, 0x09, 0, 2048))  # without data, and it may take no space
        assert driver.read(DISK, 0, 2048) == bytes(2048 * BLOCK)


def test_mode_pages_say_what_may_be_relied_upon():
    medium = Medium("x", BLOCKS, BLOCK)
    short = medium.mode(0x3F, 0, is_long=False, with_descriptor=True)
    assert short[0] == len(short) - 1
    assert short[2:12] == bytes.fromhex("10 08 00001000 00000200")
    assert short[12:15] == bytes.fromhex("08 12 04"), "there is a cache to be flushed"
    assert medium.mode(0x08, 0, is_long=True, with_descriptor=False)[:8] == bytes.fromhex("001a 00 10 0000 0000")
    assert not any(medium.mode(0x48, 0, is_long=False, with_descriptor=False)[6:]), "nothing can be changed"
    assert Medium("x", BLOCKS, BLOCK, readonly=True).mode(8, 0, is_long=False, with_descriptor=False)[2] == 0x90
    large = Medium("x", 1 << 40, BLOCK, physical_size=4096)
    assert large.capacity_10()[:4] == b"\xff" * 4
    assert large.capacity_16()[:14] == ((1 << 40) - 1).to_bytes(8) + BLOCK.to_bytes(4) + bytes((0, 3))


def test_a_host_that_fails_is_told_and_logged_once(caplog: pytest.LogCaptureFixture):
    class Broken(bytearray):
        def __getitem__(self, where):
            raise OSError(5, "worn out")

    with open_driver(ScsiDriver, Scsi({DISK: Unit(Broken(BLOCK * 8))})) as driver:
        for _ in range(3):
            with pytest.raises(SenseError) as found:
                driver.read(DISK, 0, 1)
            assert found.value.key == Key.HARDWARE_ERROR
    assert caplog.text.count("[method-failed]") == 1


# What changes while a driver runs.


def test_units_come_and_go_and_grow_and_the_driver_is_told(image: Path):
    async def main() -> None:
        device = Scsi(image)
        with open_driver(ScsiDriver, device) as driver:
            await device.plug(Unit(bytearray(8 * BLOCK)), 3, 300)
            event = Event.unpack(await anext(driver.events))
            assert event == Event(TRANSPORT_RESET, pack_address((3, 300)), RESCAN)
            found = await driver.submit((3, 300), Cdb10(Opcode.READ_CAPACITY_10), room=8)
            assert found.data[96:] == (7).to_bytes(4) + BLOCK.to_bytes(4)
            with pytest.raises(LocalError):
                await device.plug(Unit(bytearray(BLOCK)), 3, 300)
            (await device.unplug(3, 300)).close()
            assert Event.unpack(await anext(driver.events)).reason == REMOVED
            assert (await driver.submit((3, 300), bytes(6))).head.response == BAD_TARGET

            os.truncate(image, 2 * BLOCKS * BLOCK)
            event = Event.unpack(await anext(driver.events))
            assert (event.event, event.reason) == (PARAM_CHANGE, 0x092A)
            ready = Cdb6(Opcode.TEST_UNIT_READY)
            told = await driver.submit(DISK, ready)
            assert told.data[2] == Key.UNIT_ATTENTION
            assert (await driver.submit(DISK, ready)).head.status == 0, "it is told once"

    asyncio.run(main())


def test_a_disc_that_is_another_one_is_told_by_sense_data_alone(tmp_path: Path):
    (disc := tmp_path / "a+b.iso").write_bytes(bytes(2048 * 4))

    async def main() -> None:
        device = Scsi({DISC: Unit(disc, cdrom=True)})
        with open_driver(ScsiDriver, device) as driver:
            disc.write_bytes(bytes(2048 * 8))
            ready, told = Cdb6(Opcode.TEST_UNIT_READY), b""
            while not told:
                await asyncio.sleep(0)
                told = (await driver.submit(DISC, ready)).data[:18].rstrip(b"\0")
            assert (told[2], told[12]) == (Key.UNIT_ATTENTION, Trouble.MEDIUM_CHANGED >> 8)
            assert not driver.events.ready

    asyncio.run(main())


def test_events_are_for_drivers_that_know_them():
    async def main() -> None:
        device = Scsi()
        with open_driver(ScsiDriver, device, features=0) as driver:
            await device.plug(Unit(bytearray(BLOCK)), 0)
            assert not driver.events.ready

    asyncio.run(main())


def test_management_waits_for_what_runs():
    class Slow(Unit):
        async def execute(self, block, reader, writer):
            begun.set()
            await go_on.wait()
            await super().execute(block, reader, writer)

    async def ask(driver: ScsiDriver, function: int, number: int = 0) -> int:
        request = Control(TMF).pack() + TaskManagement(function, pack_address(DISK), number).pack()
        answer: bytes = await driver.controlq.submit(request, room=1)
        return answer[0]

    async def main() -> None:
        with open_driver(ScsiDriver, Scsi({DISK: Slow(bytearray(BLOCK)), (0, 1): Unit(bytearray(BLOCK))})) as driver:
            assert await ask(driver, QUERY_TASK_SET) == OK
            running = driver.submit(DISK, Cdb6(Opcode.TEST_UNIT_READY))  # it has the id 1
            await begun.wait()
            assert await ask(driver, QUERY_TASK, 1) == await ask(driver, QUERY_TASK_SET) == SUCCEEDED
            assert await ask(driver, QUERY_TASK, 2) == await ask(driver, ABORT_TASK, 2) == OK
            resets = [asyncio.ensure_future(ask(driver, function)) for function in (UNIT_RESET, NEXUS_RESET)]
            abort = asyncio.ensure_future(ask(driver, ABORT_TASK, 1))
            other = await driver.submit((0, 1), Cdb6(Opcode.TEST_UNIT_READY))
            assert other.head.status == 0
            assert not any(one.done() for one in (*resets, abort))
            go_on.set()
            assert await asyncio.gather(*resets, abort) == [OK] * 3
            driver.requests.reap()
            assert running.done
            told = await driver.submit(DISK, Cdb6(Opcode.TEST_UNIT_READY))
            assert told.data[12] == Trouble.RESET_OCCURRED >> 8

    begun, go_on = asyncio.Event(), asyncio.Event()
    asyncio.run(main())


def test_a_path_is_one_file(tmp_path: Path):
    (path := tmp_path / "a+b").write_bytes(bytes(BLOCK))
    with open_driver(ScsiDriver, Scsi(path)) as driver:
        assert driver.capacity(DISK) == (1, BLOCK)


def test_one_file_that_is_missing_leaves_no_other_open(image: Path):
    with pytest.raises(FileNotFoundError):
        Scsi(f"{image}+{image}.missing")


def test_addresses():
    assert parse_address(pack_address((255, 16383))) == (255, 16383)
    assert parse_address(bytes.fromhex("01 02 40 03 00000000")) == (2, 3)  # the other method
    for wrong in ("00 00 40 00 00000000", "01 00 80 00 00000000", "01 00 01 00 00000000", "01 00 40 00 00000001"):
        assert parse_address(bytes.fromhex(wrong)) is None
    for address in ((256, 0), (0, 16384), (-1, 0)):
        with pytest.raises(LocalError):
            Scsi({address: Unit(bytearray(BLOCK))})


# A guest that asks for what it must not.


class Raw(Driver):
    """Sends bytes and shows bytes."""

    device_id = 8
    features = ScsiDriver.features
    config = Config
    controlq = RequestQueue()
    eventq = RequestQueue()
    requests = RequestQueue()


HEAD = Response.nbytes + 96
READ = Cdb10(Opcode.READ_10, 0, 0, length=1)
UNMAPPING = Cdb10(Opcode.UNMAP, length=24)


def ranges(lba: int, blocks: int, number: int = 1) -> bytes:
    length = 16 * number
    return (length + 6).to_bytes(2) + length.to_bytes(2) + bytes(4) + (lba.to_bytes(8) + blocks.to_bytes(4) + bytes(4))


CHECKED = {
    "S1 a command that nobody knows": (b"\xff", b"", 0, Trouble.INVALID_COMMAND),
    "S2 a service action that nobody knows": (
        Cdb16(Opcode.SERVICE_ACTION_IN_16, 5),
        b"",
        32,
        Trouble.INVALID_FIELD_IN_CDB,
    ),
    "S3 a block beyond the end": (READ.replace(lba=BLOCKS), b"", BLOCK, Trouble.LBA_OUT_OF_RANGE),
    "S4 blocks across the end": (READ.replace(lba=BLOCKS - 1, length=2), b"", 2 * BLOCK, Trouble.LBA_OUT_OF_RANGE),
    "S5 a block whose offset overflows": (Cdb16(Opcode.READ_16, 0, 2**64 - 1, 2), b"", BLOCK, Trouble.LBA_OUT_OF_RANGE),
    "S6 a write beyond the end": (
        READ.replace(opcode=Opcode.WRITE_10, lba=BLOCKS),
        bytes(BLOCK),
        0,
        Trouble.LBA_OUT_OF_RANGE,
    ),
    "S7 a page that there is not": (Inquiry(Opcode.INQUIRY, 1, 0xC0, 255), b"", 255, Trouble.INVALID_FIELD_IN_CDB),
    "S8 a page without its flag": (Inquiry(Opcode.INQUIRY, 0, 0x80, 255), b"", 255, Trouble.INVALID_FIELD_IN_CDB),
    "S9 a mode page that there is not": (
        ModeSense10(Opcode.MODE_SENSE_10, 0, 0x1C, length=99),
        b"",
        99,
        Trouble.INVALID_FIELD_IN_CDB,
    ),
    "S10 saved values": (ModeSense6(Opcode.MODE_SENSE_6, 0, 0xC8, 0, 99), b"", 99, Trouble.INVALID_FIELD_IN_CDB),
    "S11 zeros too far": (Cdb16(Opcode.WRITE_SAME_16, 1, 0, 2**32 - 1), b"", 0, Trouble.INVALID_FIELD_IN_CDB),
    "S12 the same, of what is no zero": (
        Cdb10(Opcode.WRITE_SAME_10, length=1),
        b"x" * BLOCK,
        0,
        Trouble.INVALID_FIELD_IN_PARAMETERS,
    ),
    "S13 a range beyond the end": (UNMAPPING, ranges(BLOCKS, 1), 0, Trouble.LBA_OUT_OF_RANGE),
    "S14 a range that is too long": (UNMAPPING, ranges(0, 2**32 - 1), 0, Trouble.INVALID_FIELD_IN_PARAMETERS),
    "S15 fewer ranges than it says": (UNMAPPING, ranges(0, 1, number=9), 0, Trouble.INVALID_FIELD_IN_PARAMETERS),
    "S16 half a head of ranges": (UNMAPPING.replace(length=7), bytes(7), 0, Trouble.PARAMETER_LIST_LENGTH_ERROR),
    "S17 a comparison": (READ.replace(opcode=Opcode.VERIFY_10, flags=2), b"", 0, Trouble.INVALID_FIELD_IN_CDB),
    "S18 a disc's table of a disk": (ReadToc(Opcode.READ_TOC, length=255), b"", 255, Trouble.INVALID_COMMAND),
    "S19 a cache that goes on behind the end": (
        READ.replace(opcode=Opcode.SYNCHRONIZE_CACHE_10, lba=2**32 - 1),
        b"",
        0,
        Trouble.LBA_OUT_OF_RANGE,
    ),
    "S20 a tray that is to open": (Cdb6(Opcode.START_STOP_UNIT, 0, 0, 2), b"", 0, Trouble.INVALID_FIELD_IN_CDB),
}
RESPONDED = {
    "S21 a read with room for half of it": (READ, b"", BLOCK // 2, OVERRUN),
    "S22 a write with half of it": (READ.replace(opcode=Opcode.WRITE_10), bytes(BLOCK // 2), 0, OVERRUN),
    "S23 ranges that did not come": (UNMAPPING, b"", 0, OVERRUN),
    "S24 data both ways": (READ, b"x", BLOCK, FAILURE),
    "S25 no room for an inquiry": (Inquiry(Opcode.INQUIRY, 0, 0, 36), b"", 1, OVERRUN),
    "S26 nor for a list": (ReportLuns(Opcode.REPORT_LUNS, length=2**32 - 1), b"", 0, OVERRUN),
}


def test_malformed_commands_fail_and_touch_nothing(place, image: Path):
    before = image.read_bytes()
    with place(lambda: Scsi(image), f"scsi,path={image}") as device, open_driver(Raw, device) as driver:

        def ask(block, data: bytes, room: int, lun: bytes = pack_address(DISK)) -> tuple[Response, bytes]:
            packed = block if isinstance(block, bytes) else block.pack()
            answer = driver.requests.call(Request(lun).pack() + packed.ljust(32, b"\0") + data, room=HEAD + room)
            assert len(answer) >= HEAD
            return Response.unpack(answer), answer[Response.nbytes :]

        for name, (block, data, room, trouble) in CHECKED.items():
            response, sense = ask(block, data, room)
            assert (response.response, response.status, response.sense_len) == (OK, 2, 18), name
            assert sense[2] & 0x0F == Key.ILLEGAL_REQUEST, name
            assert sense[12:14] == trouble.to_bytes(2), name
            assert response.residual in {room, len(data), 0}, name
        for name, (block, data, room, code) in RESPONDED.items():
            response, _ = ask(block, data, room)
            assert (response.response, response.residual) == (code, len(data) + room), name
        for lun in (pack_address((9, 0)), bytes(8), b"\xc1\x01" + bytes(6)):
            assert ask(READ, b"", BLOCK, lun)[0].response == BAD_TARGET  # S27
        response, sense = ask(READ, b"", BLOCK, pack_address((0, 5)))  # S28: a unit that there is not
        assert sense[12:14] == Trouble.UNIT_NOT_SUPPORTED.to_bytes(2)

        whole = Request(pack_address(DISK)).pack() + READ.pack().ljust(32, b"\0")
        assert driver.requests.call(whole[:50], room=HEAD + BLOCK)[:12] == Response(response=FAILURE).pack()  # S29
        assert driver.requests.call(whole, room=HEAD - 1)[:12] == Response(response=FAILURE).pack()  # S30
        assert driver.requests.call(whole, room=11) == b""  # S31: no room for a response
        assert driver.requests.call(whole, room=HEAD + BLOCK)[HEAD:] == before[:BLOCK]
        driver.write_config(cdb_size=1 << 20, sense_size=1 << 30)  # S32
        assert driver.requests.call(whole + bytes(1 << 20), room=4096)[:12] == Response(response=FAILURE).pack()
        driver.write_config(cdb_size=16, sense_size=20)  # 5.6.4.1: a driver may have it like that
        answer = driver.requests.call(whole[:-16], room=Response.nbytes + 20 + BLOCK)
        assert answer[Response.nbytes + 20 :] == before[:BLOCK]
    assert image.read_bytes() == before


MANAGED = {
    "S33 nothing": (b"", 1, FAILURE),
    "S34 a type that nobody knows": (Control(9).pack() + bytes(20), 1, FAILURE),
    "S35 half a function": (Control(TMF).pack() + bytes(10), 1, FAILURE),
    "S36 a function that nobody knows": (
        Control(TMF).pack() + TaskManagement(99, pack_address(DISK)).pack(),
        1,
        REJECTED,
    ),
    "S37 a target that there is not": (
        Control(TMF).pack() + TaskManagement(UNIT_RESET, pack_address((5, 0))).pack(),
        1,
        BAD_TARGET,
    ),
    "S38 an address that is none": (
        Control(TMF).pack() + TaskManagement(UNIT_RESET, b"\xff" * 8).pack(),
        1,
        BAD_TARGET,
    ),
    "S39 a unit that there is not": (
        Control(TMF).pack() + TaskManagement(UNIT_RESET, pack_address((0, 1))).pack(),
        1,
        INCORRECT_LUN,
    ),
    "S40 events of nobody": (Control(AN_QUERY).pack() + Notification(pack_address((0, 1)), 16).pack(), 5, BAD_TARGET),
    "S41 events that never come": (Control(AN_QUERY).pack() + Notification(pack_address(DISK), 0x7F).pack(), 5, OK),
}


def test_malformed_control_requests_are_told(place, image: Path):
    with place(lambda: Scsi(image), f"scsi,path={image}") as device, open_driver(Raw, device) as driver:
        for name, (data, room, code) in MANAGED.items():
            if data:
                assert driver.controlq.call(data, room=room) == bytes(room - 1) + bytes((code,)), name
        assert driver.controlq.call(room=1) == bytes((FAILURE,))
        assert driver.controlq.call(Control(TMF).pack() + TaskManagement(0, pack_address(DISK)).pack(), room=0) == b""


@pytest.mark.long
def test_S42_a_read_of_2_GiB_allocates_nothing(tmp_path: Path):
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(4 << 30)
    with served(f"scsi,path={path}") as server, RawFrontend(server.path) as frontend, SharedMemory(16 << 20) as memory:
        frontend.negotiate()
        assert frontend.share(memory)
        queue = frontend.queue(memory, index=2, size=256)
        queue.start()
        header, target = memory.arena.allocate(64), memory.arena.allocate(8 << 20)
        command = Cdb16(Opcode.READ_16, 0, 0, 254 * (8 << 20) // BLOCK).pack().ljust(32, b"\0")
        memory.table.write(header, Request(pack_address(DISK)).pack() + command)
        pieces = [(target, HEAD), *[(target, 8 << 20)] * 254]  # the same place again and again
        before = server.memory(server.workers()[0])
        queue.ring.add([(header, Request.nbytes + 32)], pieces, "the request")
        queue.ring.publish()
        queue.kick()
        while not (done := list(queue.ring.reap())):
            assert wait_readable(queue.interrupt_fd)
        assert done == [("the request", 254 * (8 << 20) + HEAD)]
        assert server.memory(server.workers()[0]) < before + (4 << 20)


@pytest.mark.guest  # it needs what is provisioned for guests
def test_a_host_speaks_as_linux_does(uapi: Uapi):
    names = {"OK": OK, "OVERRUN": OVERRUN, "BAD_TARGET": BAD_TARGET, "FAILURE": FAILURE}
    names |= {"FUNCTION_SUCCEEDED": SUCCEEDED, "FUNCTION_REJECTED": REJECTED, "INCORRECT_LUN": INCORRECT_LUN}
    functions = ("ABORT_TASK", "ABORT_TASK_SET", "CLEAR_ACA", "CLEAR_TASK_SET", "QUERY_TASK", "QUERY_TASK_SET")
    theirs = {"I_T_NEXUS_RESET": NEXUS_RESET, "LOGICAL_UNIT_RESET": UNIT_RESET}
    theirs |= {name: getattr(scsi, name) for name in functions}
    events = {"TRANSPORT_RESET": TRANSPORT_RESET, "PARAM_CHANGE": PARAM_CHANGE, "TMF": TMF, "AN_QUERY": AN_QUERY}
    assert not uapi.differences(
        "linux/virtio_scsi.h",
        structs={
            Config: "virtio_scsi_config",
            Request: "virtio_scsi_cmd_req",
            Response: "virtio_scsi_cmd_resp",
            Event: "virtio_scsi_event",
        },
        bits={"VIRTIO_SCSI_F_HOTPLUG": HOTPLUG, "VIRTIO_SCSI_F_CHANGE": CHANGE},
        numbers={
            **{f"VIRTIO_SCSI_S_{name}": code for name, code in names.items()},
            **{f"VIRTIO_SCSI_T_TMF_{name}": code for name, code in theirs.items()},
            **{f"VIRTIO_SCSI_T_{name}": code for name, code in (events | {"AN_SUBSCRIBE": scsi.AN_SUBSCRIBE}).items()},
            "VIRTIO_SCSI_EVT_RESET_RESCAN": RESCAN,
            "VIRTIO_SCSI_EVT_RESET_REMOVED": REMOVED,
            "VIRTIO_SCSI_SENSE_DEFAULT_SIZE": Config().sense_size,
            "VIRTIO_SCSI_CDB_DEFAULT_SIZE": Config().cdb_size,
        },
        renamed={"id": "tag", "residual": "resid"},
        beginnings=[Request, Response],
    )
