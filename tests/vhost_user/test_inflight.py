"""Case M20 of hostile input, and what the in-flight region is for: a front-end that comes back with it."""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pyvirtio.ring.journal import region_size
from pyvirtio.testing.frontend import RawFrontend, SharedMemory
from pyvirtio.testing.served import served
from pyvirtio.vhost_user import messages as m
from tests.support.odd_devices import WAIT
from tests.support.vhost import answers_rightly, factorials, idle_fds, odd, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyvirtio.testing.served import ServerProcess

R = m.Request


@contextmanager
def region(content: bytes, *, sealed: bool = True) -> Iterator[int]:
    """Yield a memory file as a back-end makes it for GET_INFLIGHT_FD."""
    fd = os.memfd_create("in-flight", os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, content)
        if sealed:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        yield fd
    finally:
        os.close(fd)


def header(*, version: int = 1, entries: int = 16, last: int = 0, used: int = 0) -> bytes:
    """Return the head of a queue's region, as libvhost-user declares it."""
    return bytes(8) + b"".join(number.to_bytes(2, "little") for number in (version, entries, last, used))


SIZE = region_size(16)


@pytest.mark.parametrize(
    ("queues", "size"), [(0, 16), (2, 16), (65535, 16), (1, 0), (1, 3), (1, 65535), (1, 32769), (0, 0)]
)
def test_M20_impossible_regions_are_refused(server: ServerProcess, frontend: RawFrontend, queues: int, size: int):
    before = server.fds()
    with region(bytes(SIZE)) as fd:
        assert not frontend.tell(R.SET_INFLIGHT_FD, m.Inflight(SIZE, 0, queues, size), [fd])
    assert server.fds() == before
    frame = frontend.ask(R.GET_INFLIGHT_FD, m.Inflight(0, 0, queues, size))
    assert (m.Inflight.unpack(frame.payload).size, frame.fds) == (0, [])


def test_M20_region_too_small_or_beyond_its_file(server: ServerProcess, frontend: RawFrontend):
    before = server.fds()
    with region(bytes(SIZE)) as fd:
        for size, offset in (
            (0, 0),
            (SIZE - 1, 0),
            (SIZE + 1, 0),
            (SIZE, 1),
            (SIZE, 1 << 63),
            (SIZE, (1 << 64) - SIZE),
            ((1 << 64) - 1, 0),
        ):
            assert not frontend.tell(R.SET_INFLIGHT_FD, m.Inflight(size, offset, 1, 16), [fd])
        assert server.fds() == before
        assert frontend.tell(R.SET_INFLIGHT_FD, m.Inflight(SIZE, 0, 1, 16), [fd])


def test_M20_file_that_can_shrink_under_the_keeper(server: ServerProcess, frontend: RawFrontend):
    with region(bytes(SIZE), sealed=False) as fd:
        assert not frontend.tell(R.SET_INFLIGHT_FD, m.Inflight(SIZE, 0, 1, 16), [fd])
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        assert frontend.tell(R.SET_INFLIGHT_FD, m.Inflight(SIZE, 0, 1, 16), [fd])


def test_M20_region_that_cannot_be_written(server: ServerProcess, frontend: RawFrontend):
    with region(bytes(SIZE)) as fd:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        assert not frontend.tell(R.SET_INFLIGHT_FD, m.Inflight(SIZE, 0, 1, 16), [fd])


INCONSISTENT = {
    "another version": header(version=2),
    "another size": header(entries=32),
    "size 0": header(entries=0),
    "used index far away": header(used=1000),
    "last head beyond the queue": header(last=16, used=65535),
    "all bits": b"\xff" * SIZE,
}


@pytest.mark.parametrize("case", INCONSISTENT)
def test_M20_region_that_contradicts_itself(
    server: ServerProcess, frontend: RawFrontend, memory: SharedMemory, case: str
):
    before = len(server.fds())
    with region(INCONSISTENT[case].ljust(SIZE, b"\0")) as fd:
        assert frontend.tell(R.SET_INFLIGHT_FD, m.Inflight(SIZE, 0, 1, 16), [fd])
    assert frontend.share(memory)
    queue = frontend.queue(memory)
    queue.start()
    queue.submit(bytes(36))
    queue.kick()
    queue.stop()
    assert queue.rings.used[1] == 0
    assert len(server.fds()) == before + 4  # a region each of both kinds, call and err


def test_M20_every_mark_set_by_a_hostile_frontend(server: ServerProcess, frontend: RawFrontend, memory: SharedMemory):
    content = header() + 16 * (b"\1" + bytes(15))
    with region(content.ljust(SIZE, b"\0")) as fd:
        assert frontend.tell(R.SET_INFLIGHT_FD, m.Inflight(SIZE, 0, 1, 16), [fd])
        assert frontend.share(memory)
        queue = frontend.queue(memory)
        queue.start()
        queue.stop()  # all sixteen are empty chains, and are returned
        assert queue.rings.used[1] == 16
        for _ in range(20):  # scribble while it is used
            queue = frontend.queue(memory)
            queue.start()
            queue.submit(bytes(36))
            queue.kick()
            os.pwrite(fd, os.urandom(SIZE - 16), 16)
            queue.stop()
        assert frontend.number(R.GET_FEATURES)


def test_an_in_flight_region_of_ones_own_is_used(frontend: RawFrontend, memory: SharedMemory):
    frame = frontend.ask(R.GET_INFLIGHT_FD, m.Inflight(0, 0, 1, 16))
    sent = m.Inflight.unpack(frame.payload)
    assert (sent.size, sent.offset, sent.queues, sent.queue_size) == (SIZE, 0, 1, 16)
    assert os.fstat(frame.fds[0]).st_size == SIZE
    assert frontend.tell(R.SET_INFLIGHT_FD, sent, frame.fds)
    frontend.share(memory)
    queue = frontend.queue(memory)
    queue.start()
    factorials(queue, *range(40))
    assert os.pread(frame.fds[0], 16, 0)[8:12] == bytes([1, 0, 16, 0])
    assert os.pread(frame.fds[0], 2, 14) == (40).to_bytes(2, "little")
    frame.close_fds()


@pytest.mark.parametrize("padding", [b"", bytes(m.INFLIGHT_PADDING)], ids=["by the letter", "as QEMU"])
def test_a_frontend_that_pads_its_structure_gets_replies_of_the_same_length(frontend: RawFrontend, padding: bytes):
    frame = frontend.ask(R.GET_INFLIGHT_FD, m.Inflight(0, 0, 1, 16).pack() + padding)
    assert m.Inflight.unpack(frame.payload).size == SIZE
    assert frame.payload[m.Inflight.nbytes :] == padding
    assert frontend.tell(R.SET_INFLIGHT_FD, frame.payload, frame.fds)
    frame.close_fds()
    refused = frontend.ask(R.GET_INFLIGHT_FD, m.Inflight(0, 0, 0, 16).pack() + padding)
    assert (refused.payload, refused.fds) == (m.Inflight().pack() + padding, [])


@pytest.mark.long
def test_reconnecting_frontend_brings_its_region_with_requests_in_flight(tmp_path: Path):
    """The device is killed in the first of ten requests; each is answered once, to the second connection."""
    pipe, begun, record = (tmp_path / name for name in ("pipe", "begun", "record"))
    os.mkfifo(pipe)
    os.mkfifo(begun)
    environment = {"ODD_PIPE": str(pipe), "ODD_BEGUN": str(begun), "ODD_RECORD": str(record)}
    with served(odd(), environment=environment) as server, SharedMemory() as memory:
        before = idle_fds(server)
        with RawFrontend(server.path) as frontend:
            frontend.negotiate()
            frame = frontend.ask(R.GET_INFLIGHT_FD, m.Inflight(0, 0, 1, 64))
            assert frontend.tell(R.SET_INFLIGHT_FD, frame.payload, frame.fds)
            frontend.share(memory)
            queue = frontend.queue(memory, size=64)
            queue.start()
            queue.submit(*pack(7))
            queue.kick()
            assert unpack(queue.answers(1)) == [14]
            queue.submit(*pack(WAIT, *range(1, 10)))
            queue.kick()
            assert begun.read_bytes() == b"!"
            # The connection goes away, and the worker with it: the keeper waits a second for it, and no longer.
            frontend.sock.close()
            with RawFrontend(server.path) as again:
                again.negotiate()
                assert again.tell(R.SET_INFLIGHT_FD, frame.payload, frame.fds)
                again.share(memory)
                queue.frontend = again
                queue.start(base=queue.rings.used[1])
                assert begun.read_bytes() == b"!"
                pipe.write_bytes(b"1234")
                queue.submit(*pack(*range(10, 20)))
                queue.kick()
                assert unpack(queue.answers(20)) == [1234, *(2 * n for n in range(1, 20))]
                assert queue.rings.used[1] == 21
                assert queue.stop() == 21
        frame.close_fds()
        assert idle_fds(server) == before
    times = Counter(map(int, record.read_text().split()))
    assert times.pop(WAIT) == 2
    assert times == Counter([7, *range(1, 20)])


def test_frontend_without_a_region_goes_on_from_the_base(tmp_path: Path):
    """The same without INFLIGHT_SHMFD, in one connection: what was not answered is made available again.

    The queue stops while the device's method waits. Its worker is ended when its patience is, and the next one gives
    back to the ring what is not answered.
    """
    pipe, begun = tmp_path / "pipe", tmp_path / "begun"
    os.mkfifo(pipe)
    os.mkfifo(begun)
    with (
        served(odd("TwoSeconds"), environment={"ODD_PIPE": str(pipe), "ODD_BEGUN": str(begun)}) as server,
        RawFrontend(server.path) as frontend,
        SharedMemory() as memory,
    ):
        frontend.negotiate()
        frontend.share(memory)
        queue = frontend.queue(memory, size=64)
        queue.start()
        queue.submit(*pack(1, WAIT, 2, 3))
        queue.kick()
        assert begun.read_bytes() == b"!"
        base = queue.stop()
        assert base == queue.rings.used[1]
        queue.start(base=base)
        assert begun.read_bytes() == b"!"
        pipe.write_bytes(b"99")
        assert unpack(queue.answers(4)) == [2, 99, 4, 6]


def test_a_region_does_not_outlive_its_connection(server: ServerProcess, unharmed: None):
    with RawFrontend(server.path) as frontend:
        frontend.negotiate()
        with region(header(version=2).ljust(SIZE, b"\0")) as fd:
            assert frontend.tell(R.SET_INFLIGHT_FD, m.Inflight(SIZE, 0, 1, 16), [fd])
    answers_rightly(server.path)
