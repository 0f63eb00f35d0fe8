"""The memory balloon: what a driver lends goes back to the host, and what it says is heard."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pyvirtio import Driver, RequestQueue, open_driver, serving
from pyvirtio.devices import balloon
from pyvirtio.devices.balloon import (
    DEFLATE_ON_OOM,
    FREE_PAGE_HINT,
    MOST_PAGES,
    MOST_STATISTICS,
    PAGE,
    PAGE_REPORTING,
    STATS_VQ,
    Balloon,
    Config,
    Stat,
    Statistics,
    Tag,
)
from pyvirtio.drivers.balloon import BalloonDriver
from pyvirtio.errors import LocalError
from pyvirtio.testing.frontend import RawFrontend, SharedMemory
from pyvirtio.testing.frontend_queue import wait_readable
from pyvirtio.testing.served import served
from pyvirtio.testing.watch import watch

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.uapi import Uapi

MEGABYTE = 1 << 20


class Raw(Driver):
    """Sends bytes and shows bytes."""

    device_id = 5
    features = BalloonDriver.features
    config = Config
    inflate = RequestQueue()
    deflate = RequestQueue()
    stats = RequestQueue()
    hints = RequestQueue()
    reports = RequestQueue()


def test_a_driver_lends_what_it_is_asked_for(place):
    with place(lambda: Balloon(4 * MEGABYTE), f"balloon,target={4 * MEGABYTE}") as device:
        with open_driver(BalloonDriver, device) as driver:
            assert (driver.target, driver.actual) == (4 * MEGABYTE, 0)
            driver.settle()
            assert driver.actual == 4 * MEGABYTE
            assert driver.read_config() == Config(4 * MEGABYTE // PAGE, 4 * MEGABYTE // PAGE)
        with open_driver(BalloonDriver, device) as driver:
            assert driver.read_config() == Config(4 * MEGABYTE // PAGE), "a new driver has lent nothing yet"
            memory, arena = driver.transport.memory, driver.transport.arena
            memory.write(page := arena.allocate(PAGE), b"x" * PAGE)
            arena.free(page, PAGE)
            driver.lend(1)
            assert driver._lent == (page,)
            assert memory.read(page, PAGE) == bytes(PAGE), "its memory is another one"


def test_what_is_lent_or_free_goes_back_to_the_host_and_what_is_taken_back_is_usable():
    with open_driver(BalloonDriver, device := Balloon()) as driver:
        memory, arena = driver.transport.memory, driver.transport.arena
        [view] = memory.views(0, 16 * MEGABYTE)
        for address in [arena.allocate(PAGE) for _ in range(512)]:
            memory.write(address, b"x" * PAGE)
            arena.free(address, PAGE)
        before = _resident()
        driver.lend(512)
        assert device.given_back == 512 * PAGE
        assert _resident() <= before - 500 * PAGE
        assert all(memory.read(address, PAGE) == bytes(PAGE) for address in driver._lent)
        driver.take_back(511)
        assert (driver.actual, device.actual) == (PAGE, PAGE)
        driver.report_free(16)
        assert device.given_back == 528 * PAGE
        driver.lend(1)
        assert driver.actual == 2 * PAGE
        view.release()
    assert device.guest_memory.regions == (), "what was its driver's is not kept"


def _resident() -> int:
    """Return the bytes of shared memory that this process has in its memory."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssShmem"))


def test_a_target_is_set_and_reached_while_a_driver_runs():
    async def main() -> None:
        device = Balloon()
        with open_driver(BalloonDriver, device) as driver:
            reaching = asyncio.ensure_future(device.reach(64 * PAGE))
            while driver.target != 64 * PAGE:
                await asyncio.sleep(0)
            assert not reaching.done()
            await driver.inflate.submit(b"".join(n.to_bytes(4, "little") for n in range(1024, 1088)), room=0)
            driver.write_config(actual=64)
            await reaching
            device.target = 0
            assert driver.target == 0

    asyncio.run(main())


def test_statistics_are_asked_for_and_told():
    said = Statistics(memtot=2**40, memfree=5, swap_in=0)

    async def main() -> None:
        device = Balloon()
        with open_driver(BalloonDriver, device) as driver:
            first = driver.offer(Statistics(memfree=1))
            assert not first.done
            asking = asyncio.ensure_future(device.statistics())
            assert await first == b""
            second = driver.offer(said)
            assert await asking == said
            assert not second.done
            again = asyncio.gather(device.statistics(), device.statistics())
            await second
            unknown = Stat(77, 1).pack() + Stat(Tag.CACHES, 3).pack()  # 5.5.6.3.2: it is ignored
            driver.stats.submit(unknown, room=0)
            assert list(await again) == [Statistics(caches=3)] * 2

    asyncio.run(main())


def test_statistics_are_refused_where_the_driver_has_none():
    async def main() -> None:
        device = Balloon()
        with open_driver(Raw, device, features=0), pytest.raises(LocalError, match="STATS_VQ"):
            await device.statistics()

    asyncio.run(main())


def test_a_stop_does_not_wait_for_a_question(tmp_path: Path):
    watched, path = watch(Balloon()), str(tmp_path / "s")
    with serving(watched.device, path) as server, RawFrontend(path) as frontend, SharedMemory() as memory:
        frontend.negotiate()
        assert frontend.share(memory)
        queue = frontend.queue(memory, index=2)
        queue.start()
        queue.submit(Stat(Tag.MEMFREE, 1).pack(), room=0)
        queue.kick()
        watched.requested.wait()
        assert queue.stop() == 1
        assert queue.answers(1) == [b""]
        assert not server.faults


def test_what_no_balloon_can_have_is_refused():
    for target in (1, -PAGE, PAGE << 32):
        with pytest.raises(LocalError):
            Balloon(target)
    device = Balloon(PAGE, deflate_on_oom=True)
    with pytest.raises(LocalError):
        device.target = 100
    assert device.target == PAGE
    assert device.features & DEFLATE_ON_OOM


def numbers(*pages: int) -> bytes:
    return b"".join(page.to_bytes(4, "little") for page in pages)


def malformed(page: int, end: int) -> dict[str, tuple[str, bytes]]:
    """Return requests by their names; ``page`` and the one behind it are the driver's, ``end`` is no memory."""
    return {
        "B1 half a number": ("inflate", numbers(page)[:2]),
        "B2 a number and a half": ("inflate", numbers(page, page + 1)[:6]),
        "B3 a page beyond memory": ("inflate", numbers(end)),
        "B4 a page far beyond": ("inflate", numbers(2**32 - 1)),
        "B5 good ones, then one beyond": ("inflate", numbers(page, page + 1, end)),
        "B6 more than one request may name": ("inflate", numbers(page) * (MOST_PAGES + 1)),
        "B7 half a number taken back": ("deflate", numbers(page)[:3]),
        "B8 a page beyond memory taken back": ("deflate", numbers(end + 7)),
        "B9 more than may be taken back": ("deflate", numbers(page) * (MOST_PAGES + 1)),
        "B10 a statistic and a bit": ("stats", Stat(Tag.AVAIL, 1).pack() + b"x"),
        "B11 hints that nobody wants": ("hints", numbers(2)),
        "B12 a report of nothing": ("reports", b"x"),
        "B13 too many statistics": ("stats", Stat(Tag.AVAIL, 1).pack() * (MOST_STATISTICS + 1)),
    }


def test_malformed_requests_are_returned_and_give_nothing_back(place):
    device = Balloon()
    with place(lambda: device, "balloon") as where, open_driver(Raw, where) as driver:
        memory, address = driver.transport.memory, driver.transport.arena.allocate(2 * PAGE)
        assert not address % PAGE
        memory.write(address, b"kept" * (PAGE // 2))
        for name, (queue, data) in malformed(address // PAGE, memory.regions[-1].end // PAGE).items():
            assert getattr(driver, queue).call(data, room=0) == b"", name
        assert driver.inflate.call(room=PAGE) == driver.hints.call(room=PAGE) == b""
        assert memory.read(address, 2 * PAGE) == b"kept" * (PAGE // 2)
        assert device.given_back == 0
        again = numbers(address // PAGE) * MOST_PAGES  # B14: one page again and again is one page
        assert driver.inflate.call(again, room=0) == b""
        assert memory.read(address, 2 * PAGE) == bytes(PAGE) + b"kept" * (PAGE // 4)
        assert device.given_back == (PAGE if where is device else 0)


def test_B15_a_request_of_2_GiB_allocates_nothing():
    with served("balloon") as server, RawFrontend(server.path) as frontend, SharedMemory(16 << 20) as memory:
        frontend.negotiate()
        assert frontend.share(memory)
        queue = frontend.queue(memory, index=0, size=256)
        queue.start()
        before = server.memory(server.workers()[0])
        piece = memory.arena.allocate(8 * MEGABYTE)
        queue.ring.add([(piece, 8 * MEGABYTE)] * 256, [], "the request")
        queue.ring.publish()
        queue.kick()
        while not (done := list(queue.ring.reap())):
            assert wait_readable(queue.interrupt_fd)
        assert done == [("the request", 0)]
        assert server.memory(server.workers()[0]) < before + (4 << 20)


@pytest.mark.guest  # it needs what is provisioned for guests
def test_a_balloon_speaks_as_linux_does(uapi: Uapi):
    bits = {"STATS_VQ": STATS_VQ, "DEFLATE_ON_OOM": DEFLATE_ON_OOM, "FREE_PAGE_HINT": FREE_PAGE_HINT}
    assert not uapi.differences(
        "linux/virtio_balloon.h",
        structs={Config: "virtio_balloon_config", Stat: "virtio_balloon_stat"},
        bits={f"VIRTIO_BALLOON_F_{name}": bit for name, bit in (bits | {"REPORTING": PAGE_REPORTING}).items()},
        numbers={"VIRTIO_BALLOON_S_": balloon.Tag},
    )
