"""Cases M14 to M16 of hostile input: what a front-end says of its memory, over a real socket."""

from __future__ import annotations

import fcntl
import os
import socket
from typing import TYPE_CHECKING

import pytest

from pyvirtio.memory.table import MAXIMUM_REGIONS
from pyvirtio.spec.features import Status
from pyvirtio.testing.frontend import RawFrontend, SharedMemory, drain, wait_readable
from pyvirtio.testing.served import served
from pyvirtio.vhost_user import messages as m
from tests.support.vhost import answers_rightly, factorials, idle_fds, until

if TYPE_CHECKING:
    from pathlib import Path

    from pyvirtio.testing.frontend import RawQueue
    from pyvirtio.testing.served import ServerProcess

R = m.Request
PAGE = 4096


def table(*regions: m.MemoryRegion, number: int | None = None) -> bytes:
    return m.MemoryHeader(len(regions) if number is None else number).pack() + b"".join(r.pack() for r in regions)


BAD_REGIONS = {
    "size 0": {"size": 0},
    "size beyond the file": {"size": (1 << 20) + 1},
    "size 2**64 - 1": {"size": (1 << 64) - 1},
    "offset beyond the file": {"offset": PAGE},
    "offset overflow": {"offset": (1 << 64) - 1},
    "offset + size overflow": {"offset": 1 << 63, "size": 1 << 63},
    "guest address overflow": {"guest": (1 << 64) - PAGE},
    "user address overflow": {"user": (1 << 64) - PAGE},
}


@pytest.mark.parametrize("case", BAD_REGIONS)
def test_M14_impossible_region_leaves_the_old_table(
    server: ServerProcess, frontend: RawFrontend, memory: SharedMemory, queue: RawQueue, case: str
):
    before = server.fds()
    with SharedMemory(guest=0, user=0) as good:
        bad = memory.region(**{"guest": 1 << 40, "user": 1 << 40} | BAD_REGIONS[case])
        single = memory.single(**{"guest": 1 << 40, "user": 1 << 40} | BAD_REGIONS[case])
        assert not frontend.tell(R.SET_MEM_TABLE, table(bad), [memory.fd])
        assert not frontend.tell(R.SET_MEM_TABLE, table(good.region(), bad), [good.fd, memory.fd])
        assert not frontend.tell(R.ADD_MEM_REG, single, [memory.fd])
    assert server.fds() == before
    factorials(queue, *range(20))


def test_M14_wrong_number_of_regions(
    server: ServerProcess, frontend: RawFrontend, memory: SharedMemory, queue: RawQueue
):
    regions = [memory.region(guest=n << 32, user=n << 32) for n in range(9)]
    before = server.fds()
    for number in (0, 2, 9, 1 << 31, (1 << 32) - 1):
        assert not frontend.tell(R.SET_MEM_TABLE, table(regions[0], number=number), [memory.fd])
    assert not frontend.tell(R.SET_MEM_TABLE, table(*regions[:8], number=9), [memory.fd] * 8)
    assert not frontend.tell(R.SET_MEM_TABLE, table(*regions[:2])[:-1], [memory.fd] * 2)
    assert server.fds() == before
    factorials(queue, 5)


@pytest.mark.parametrize("name", ["guest", "user"])
def test_M14_overlapping_regions(
    server: ServerProcess, frontend: RawFrontend, memory: SharedMemory, queue: RawQueue, name: str
):
    before = server.fds()
    first = memory.region(guest=0, user=0, size=2 * PAGE)
    for start in (0, PAGE, 2 * PAGE - 1):
        apart = {"guest": 1 << 40, "user": 1 << 40} | {name: start}
        second = memory.region(size=2 * PAGE, **apart)
        for regions in ((first, second), (second, first)):
            assert not frontend.tell(R.SET_MEM_TABLE, table(*regions), [memory.fd] * 2)
        assert not frontend.add(memory, size=PAGE, **apart | {name: getattr(memory, name) + start})
    assert server.fds() == before
    factorials(queue, 5)


def test_M14_descriptors_that_cannot_be_mapped(
    server: ServerProcess, frontend: RawFrontend, memory: SharedMemory, queue: RawQueue, tmp_path: Path
):
    size = 1 << 20
    (tmp_path / "file").write_bytes(bytes(size))
    sealed = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(sealed, size)
    fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    ours, theirs = socket.socketpair()
    fds = [
        sealed,
        *os.pipe(),
        os.eventfd(0),
        os.dup(ours.fileno()),
        os.dup(theirs.fileno()),
        os.open(tmp_path, os.O_RDONLY),
        os.open("/dev/null", os.O_RDWR),
        os.open("/dev/zero", os.O_RDWR),
        os.open(tmp_path / "file", os.O_RDONLY),
        os.open(tmp_path / "file", os.O_WRONLY),
        os.open(tmp_path / "file", os.O_PATH),
    ]
    ours.close()
    theirs.close()
    before = server.fds()
    try:
        for fd in fds:
            assert not frontend.tell(R.SET_MEM_TABLE, table(memory.region()), [fd]), os.readlink(f"/proc/self/fd/{fd}")
            assert not frontend.tell(R.ADD_MEM_REG, memory.single(guest=0, user=0), [fd])
    finally:
        for fd in fds:
            os.close(fd)
    assert server.fds() == before
    factorials(queue, 5)


def test_M14_file_too_large_to_map(server: ServerProcess, frontend: RawFrontend, memory: SharedMemory, queue: RawQueue):
    with SharedMemory(guest=0, user=0) as huge:
        os.ftruncate(huge.fd, 1 << 61)
        assert not frontend.add(huge, size=1 << 61, guest=1 << 61, user=1 << 61)
    factorials(queue, 5)


def test_M14_ordinary_file_with_an_odd_offset(frontend: RawFrontend):
    with SharedMemory(1 << 17, offset=5 * PAGE + 512) as memory:
        assert frontend.share(memory)
        queue = frontend.queue(memory)
        queue.start()
        factorials(queue, *range(20))


def test_M14_file_truncated_before_it_is_mapped(frontend: RawFrontend, queue: RawQueue):
    with SharedMemory(guest=0, user=0) as cut:
        os.ftruncate(cut.fd, cut.size - 1)
        assert not frontend.add(cut)
        os.ftruncate(cut.fd, cut.size)
        assert frontend.add(cut)
    factorials(queue, 5)


@pytest.mark.parametrize("through", ["ring", "buffer"])
def test_M14_file_truncated_after_it_was_mapped(through: str):
    with served("factorial") as server:
        before, workers = idle_fds(server), server.workers()
        with RawFrontend(server.path) as frontend, SharedMemory() as memory, SharedMemory(guest=0, user=0) as other:
            frontend.negotiate()
            assert frontend.share(memory, other)
            queue = frontend.queue(memory)
            queue.start()
            factorials(queue, 5)
            if through == "buffer":
                queue.ring.add([(0, 36)], [(PAGE, 4)], None)
                queue.ring.publish()
                os.ftruncate(other.fd, 0)
            else:
                os.ftruncate(memory.fd, 0)
            # From here on the test does not touch what it cut either.
            queue.kick()
            until(lambda: server.workers() != workers)
            assert frontend.number(R.GET_FEATURES)
            if through == "buffer":
                until(lambda: queue.ring.pending)
                assert queue.ring.reap() == [(None, 0)]
                factorials(queue, 5)
            else:
                assert wait_readable(queue.err_fd)
                assert frontend.number(R.GET_STATUS) & Status.DEVICE_NEEDS_RESET
        answers_rightly(server.path)
        until(lambda: idle_fds(server) == before)  # a worker that died may just be replaced


def test_M15_slots(server: ServerProcess, frontend: RawFrontend):
    assert frontend.number(R.GET_MAX_MEM_SLOTS) == MAXIMUM_REGIONS == 509
    with SharedMemory(512 * PAGE) as memory:
        for number in range(509):
            changes = {"size": PAGE, "offset": number * PAGE}
            assert frontend.add(memory, guest=memory.guest + number * PAGE, user=memory.user + number * PAGE, **changes)
        assert not frontend.add(memory, guest=0, user=0, size=PAGE)
        queue = frontend.queue(memory)
        queue.start()
        factorials(queue, *range(100))
        fds = len(server.fds())
        for number in range(508, 9, -1):
            assert frontend.remove(
                memory, guest=memory.guest + number * PAGE, user=memory.user + number * PAGE, size=PAGE
            )
        assert len(server.fds()) == fds - 499
        factorials(queue, *range(3))


def test_M15_buffers_cross_from_region_to_region(frontend: RawFrontend):
    with SharedMemory(4 * PAGE) as memory:
        for number in range(4):
            changes = {"size": PAGE, "offset": number * PAGE}
            place = number * PAGE
            assert frontend.add(memory, guest=memory.guest + place, user=memory.user + place, **changes)
        queue = frontend.queue(memory)
        queue.start()
        for start in (PAGE, 2 * PAGE, 3 * PAGE):
            edge = memory.guest + start
            memory.table.write(edge - 20, (5).to_bytes(36, "little"))
            queue.ring.add([(edge - 20, 36)], [(edge + 16, 4)], (0, edge + 16, 0, 64))
            queue.ring.publish()
            queue.kick()
            wait_readable(queue.interrupt_fd)
            drain(queue.interrupt_fd)
            while not queue.ring.pending:
                wait_readable(queue.interrupt_fd)
            assert len(queue.ring.reap()) == 1
            assert memory.table.read(edge + 16, 4) == (120).to_bytes(4, "little")


def test_M15_unknown_region_and_descriptors(server: ServerProcess, frontend: RawFrontend, memory: SharedMemory):
    with SharedMemory(guest=0, user=0) as other:
        assert not frontend.remove(memory)
        assert frontend.add(memory)
        assert frontend.add(other)
        before = server.fds()
        assert not frontend.add(other)
        assert not frontend.tell(R.ADD_MEM_REG, other.single(guest=1 << 40, user=1 << 40), [])
        assert not frontend.tell(R.ADD_MEM_REG, other.single(guest=1 << 40, user=1 << 40), [other.fd] * 2)
        assert not frontend.remove(other, guest=PAGE)
        assert not frontend.remove(other, user=PAGE)
        assert not frontend.remove(other, size=PAGE)
        assert not frontend.remove(other, [other.fd, other.fd])
        assert server.fds() == before
        assert frontend.remove(other, [other.fd], offset=PAGE)  # the offset does not count, the fd is closed
        assert len(server.fds()) == len(before) - 1
        assert not frontend.remove(other)
    queue = frontend.queue(memory)
    queue.start()
    factorials(queue, 5)


@pytest.mark.parametrize("how", ["REM_MEM_REG", "SET_MEM_TABLE"])
def test_M16_region_goes_under_a_live_ring(
    server: ServerProcess, frontend: RawFrontend, memory: SharedMemory, how: str
):
    with SharedMemory(guest=0, user=0) as other:
        assert frontend.add(memory)
        assert frontend.add(other)
        queue = frontend.queue(memory)
        queue.start()
        factorials(queue, *range(20))
        drain(queue.err_fd)
        before = len(server.fds())
        gone = frontend.remove(memory) if how == "REM_MEM_REG" else frontend.share(other)
        assert gone
        assert drain(queue.err_fd) == 1
        assert len(server.fds()) < before
        queue.submit(bytes(36))
        queue.kick()
        assert frontend.number(R.GET_FEATURES)
        assert queue.rings.used[1] == 20
        # Once the region is back, the queue is set up again and goes on.
        assert frontend.add(memory)
        assert queue.stop() == 20
        queue.start(base=20)
        assert len(queue.answers(1)) == 1
        factorials(queue, *range(20))


def test_M16_other_regions_come_and_go_under_a_live_ring(frontend: RawFrontend, memory: SharedMemory, queue: RawQueue):
    with SharedMemory(guest=0, user=0) as other:
        for _ in range(30):
            queue.submit(*((5).to_bytes(36, "little"),) * 8)
            queue.kick()
            assert frontend.add(other)
            assert frontend.remove(other)
            assert [answer[0] for answer in queue.answers(8)] == [120] * 8


def test_M16_buffers_are_in_memory_from_the_acknowledgement_on_and_not_after_it(frontend: RawFrontend, queue: RawQueue):
    def written() -> int:
        queue.ring.add([(0, 36)], [(64, 4)], None)
        queue.ring.publish()
        queue.kick()
        until(lambda: queue.ring.pending)
        ((_, written),) = queue.ring.reap()
        return written

    with SharedMemory(guest=0, user=0) as other:
        for _ in range(50):
            assert frontend.add(other)
            assert written() == 4
            assert frontend.remove(other)
            assert written() == 0
    factorials(queue, 5)


def test_table_of_eight_regions(frontend: RawFrontend):
    with SharedMemory(8 * 16 * PAGE) as memory:
        size = 16 * PAGE
        regions = [
            memory.region(size=size, guest=memory.guest + n * size, user=memory.user + n * size, offset=n * size)
            for n in range(8)
        ]
        assert frontend.tell(R.SET_MEM_TABLE, table(*regions), [memory.fd] * 8)
        queue = frontend.queue(memory)
        queue.start()
        factorials(queue, *range(500))


def test_table_may_change_while_requests_are_under_way(frontend: RawFrontend, memory: SharedMemory, queue: RawQueue):
    for _ in range(50):
        queue.submit(*((6).to_bytes(36, "little"),) * 8)
        queue.kick()
        assert frontend.share(memory)
        assert [int.from_bytes(answer, "little") for answer in queue.answers(8)] == [720] * 8
