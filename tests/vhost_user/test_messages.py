"""Every case M1 to M13, M17 to M19 and M21 to M25 of hostile input, over a real socket.

After each test the fixture `unharmed` looks whether keeper and worker are.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pyvirtio.testing.frontend import (
    MODERN,
    RawFrontend,
    SharedMemory,
    drain,
    message,
    wait_readable,
)
from pyvirtio.vhost_user import messages as m
from tests.support.vhost import answers_rightly, factorials, open_files, unpack, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pyvirtio.testing.frontend import RawQueue
    from pyvirtio.testing.served import ServerProcess

R = m.Request
EVERY = sorted(m.TABLE.values(), key=lambda row: row.request)

pytestmark = pytest.mark.usefixtures("unharmed")


def name(row: m.Message) -> str:
    return row.request.name


def refuses(frontend: RawFrontend, row: m.Message, payload: bytes, fds: list[int] | None = None) -> None:
    """Check that a message is refused, in the way that there is for it.

    That is a NACK; a reply of its own where the table has one; and the end of the connection for other questions.
    """
    if row.reply is None:
        assert not frontend.tell(row.request, payload, fds or [])
        assert frontend.number(R.GET_FEATURES)
    elif row.refusal is not None:
        assert frontend.ask(row.request, payload, fds or []).payload == row.refusal_of(len(payload))
    else:
        frontend.send(row.request, payload, fds or [])
        assert frontend.is_closed()


# M1 to M6: bytes.


def test_M01_message_cut_short_is_a_clean_disconnect(server: ServerProcess):
    whole = message(R.SET_VRING_NUM, m.VringState(0, 16))
    warnings = len(server.log)
    for cut in range(len(whole)):
        with RawFrontend(server.path) as frontend:
            frontend.send_bytes(whole[:cut])
            frontend.sock.shutdown(socket.SHUT_WR)
            assert frontend.is_closed()
    assert len(server.log) == warnings


def test_M01_cut_with_descriptors(server: ServerProcess, memory: SharedMemory):
    whole = message(R.ADD_MEM_REG, memory.single())
    for cut in (1, 11, 12, 13, len(whole) - 1):
        with RawFrontend(server.path) as frontend:
            frontend.send_bytes(whole[:cut], [memory.fd])
            frontend.sock.shutdown(socket.SHUT_WR)
            assert frontend.is_closed()


class Dribbler(RawFrontend):
    """Sends each message in pieces of one byte, the descriptors with the first."""

    def send_bytes(self, data, fds=()):
        for at in range(len(data)):
            super().send_bytes(data[at : at + 1], fds if not at else ())


def test_M02_one_byte_pieces_work(server: ServerProcess, memory: SharedMemory):
    with Dribbler(server.path) as frontend:
        frontend.negotiate()
        assert frontend.share(memory)
        assert len(frontend.config(0, 16)) == 16
        queue = frontend.queue(memory)
        queue.start()
        factorials(queue, *range(40))
        assert queue.stop() == 40


def test_M02_many_messages_in_one_piece(frontend: RawFrontend):
    frontend.send_bytes(100 * message(R.GET_FEATURES))
    for _ in range(100):
        frame = frontend.receive()
        assert frame is not None
        assert frame.request == R.GET_FEATURES


@pytest.mark.parametrize("size", [m.MAXIMUM_PAYLOAD + 1, 1 << 16, 1 << 31, (1 << 32) - 1])
@pytest.mark.parametrize("request_number", [R.SET_MEM_TABLE, R.GET_FEATURES, 999])
def test_M03_absurd_size_closes(server: ServerProcess, size: int, request_number: int):
    before = server.memory()
    with RawFrontend(server.path) as frontend:
        frontend.send(request_number, size=size)
        assert frontend.is_closed()
        assert server.memory() < before + (4 << 20)


def test_M03_the_largest_size_is_read(frontend: RawFrontend):
    assert not frontend.tell(R.SET_OWNER, bytes(m.MAXIMUM_PAYLOAD))
    assert frontend.tell(R.SET_OWNER)


@pytest.mark.parametrize("row", EVERY, ids=name)
def test_M04_wrong_size_is_refused(server: ServerProcess, row: m.Message):
    right = row.payload.nbytes if row.payload else 0
    sizes = {right - 1, right + row.max_trailing + 1, 0, m.MAXIMUM_PAYLOAD} - {-1, m.MAXIMUM_PAYLOAD + 1}
    for size in sorted(size for size in sizes if not right <= size <= right + row.max_trailing):
        with RawFrontend(server.path) as frontend:
            frontend.negotiate()
            refuses(frontend, row, bytes(size))


UNKNOWN = [0, 6, 7, 19, 20, 22, 23, *range(26, 31), 33, 35, 41, 999, 1 << 31, (1 << 32) - 1]


def test_M05_unknown_request_is_refused_if_asked_else_ignored(frontend: RawFrontend):
    for number in UNKNOWN:
        assert number not in m.TABLE
        assert not frontend.tell(number)
        frontend.send(number, bytes(16))
        assert frontend.number(R.GET_FEATURES)


def test_M05_without_REPLY_ACK_nothing_is_answered(server: ServerProcess):
    with RawFrontend(server.path) as frontend:
        for number in UNKNOWN:
            frontend.send(number, flags=m.VERSION | m.F_NEED_REPLY)
        assert frontend.number(R.GET_FEATURES)


@pytest.mark.parametrize(
    "flags",
    [0, 2, 3, m.VERSION | m.F_REPLY, m.VERSION | 0x10, m.VERSION | 1 << 31],
    ids=["version 0", "version 2", "version 3", "reply", "reserved", "last bit"],
)
def test_M06_wrong_flags_close(frontend: RawFrontend, flags: int):
    frontend.send(R.GET_FEATURES, flags=flags)
    assert frontend.is_closed()


# M7: descriptors.


@pytest.mark.parametrize("row", [row for row in EVERY if row.fds[1] < m.MAXIMUM_FDS], ids=name)
def test_M07_too_many_descriptors_are_closed_and_refused(
    server: ServerProcess, frontend: RawFrontend, memory: SharedMemory, row: m.Message
):
    before = server.fds()
    payload = bytes(row.payload.nbytes if row.payload else 0)
    refuses(frontend, row, payload, [memory.fd] * (row.fds[1] + 1))
    if row.reply is None:
        assert server.fds() == before


@pytest.mark.parametrize("row", [row for row in EVERY if row.fds[0]], ids=name)
def test_M07_too_few_descriptors_are_refused(frontend: RawFrontend, memory: SharedMemory, row: m.Message):
    payload = {
        R.SET_MEM_TABLE: m.MemoryHeader(1).pack() + memory.region().pack(),
        R.ADD_MEM_REG: memory.single().pack(),
        R.SET_INFLIGHT_FD: m.Inflight(4096, 0, 1, 16).pack(),
    }.get(row.request, b"")
    refuses(frontend, row, payload)


def test_M07_more_descriptors_than_any_message_has(server: ServerProcess, memory: SharedMemory):
    for number in (m.MAXIMUM_FDS + 1, 253):
        with RawFrontend(server.path) as frontend:
            frontend.send(R.SET_MEM_TABLE, bytes(8), [memory.fd] * number)
            assert frontend.is_closed()


def test_M07_descriptors_on_every_byte_do_not_pile_up(server: ServerProcess, memory: SharedMemory):
    with RawFrontend(server.path) as frontend:
        frontend.number(R.GET_FEATURES)
        before = len(server.fds())
        whole = message(R.SET_MEM_TABLE, bytes(m.MAXIMUM_PAYLOAD))
        try:
            for at in range(len(whole)):
                frontend.send_bytes(whole[at : at + 1], [memory.fd] * m.MAXIMUM_FDS)
                assert len(server.fds()) <= before + 3 * m.MAXIMUM_FDS
        except BrokenPipeError:
            pass
        assert frontend.is_closed()


def test_M07_one_table_with_fewer_and_more_descriptors_than_regions(
    server: ServerProcess, frontend: RawFrontend, memory: SharedMemory, queue: RawQueue
):
    table = m.MemoryHeader(2).pack() + memory.region().pack() + memory.region(guest=0, user=0).pack()
    before = server.fds()
    for number in (1, 3):
        assert not frontend.tell(R.SET_MEM_TABLE, table, [memory.fd] * number)
        assert server.fds() == before
    factorials(queue, 5)


def test_M07_event_payload_and_descriptor_contradict(
    server: ServerProcess, frontend: RawFrontend, memory: SharedMemory, queue: RawQueue
):
    before = server.fds()
    for request in (R.SET_VRING_KICK, R.SET_VRING_CALL, R.SET_VRING_ERR):
        assert not frontend.tell(request, m.Number(0))
        assert not frontend.tell(request, m.Number(m.NO_FD), [queue.kick_fd])
        assert not frontend.tell(request, m.Number(1 << 9), [queue.kick_fd])
    assert server.fds() == before
    factorials(queue, 5)


# M8 to M13: order, features, queues.


@pytest.mark.parametrize("row", [row for row in EVERY if row.needs and not row.offered_is_enough], ids=name)
def test_M08_message_whose_feature_was_not_negotiated(server: ServerProcess, memory: SharedMemory, row: m.Message):
    payload = bytes(row.payload.nbytes if row.payload else 0)
    with RawFrontend(server.path) as frontend:
        frontend.negotiate(protocol=m.Protocol.REPLY_ACK)
        refuses(frontend, row, payload, [memory.fd] * row.fds[0])


def test_M08_GET_QUEUE_NUM_may_come_before_its_feature(server: ServerProcess):
    with RawFrontend(server.path) as frontend:
        assert frontend.number(R.GET_QUEUE_NUM) == 1


def test_M08_SET_VRING_ENABLE_without_PROTOCOL_FEATURES(server: ServerProcess, memory: SharedMemory):
    with RawFrontend(server.path) as frontend:
        frontend.negotiate(features=MODERN & ~m.F_PROTOCOL_FEATURES)
        frontend.share(memory)
        queue = frontend.queue(memory)
        assert not queue.enable()
        queue.set_up()
        frontend.driver_ok()
        factorials(queue, 5)  # such a queue starts enabled


def test_M09_features_never_offered_are_refused(frontend: RawFrontend, queue: RawQueue):
    offered = frontend.number(R.GET_FEATURES)
    for bit in range(64):
        if not offered >> bit & 1:
            assert not frontend.tell(R.SET_FEATURES, m.Number(MODERN | 1 << bit))
    assert frontend.accept(MODERN)
    factorials(queue, 5)


def test_M09_features_cannot_change_while_a_queue_runs(frontend: RawFrontend, queue: RawQueue):
    assert not frontend.tell(R.SET_FEATURES, m.Number(MODERN | 1))
    factorials(queue, 5)
    queue.stop()
    assert frontend.tell(R.SET_FEATURES, m.Number(MODERN | 1))


def test_M09_protocol_features_never_offered_are_refused(frontend: RawFrontend):
    offered = frontend.number(R.GET_PROTOCOL_FEATURES)
    for bit in range(64):
        if not offered >> bit & 1:
            assert not frontend.tell(R.SET_PROTOCOL_FEATURES, m.Number(offered | 1 << bit))
    assert not frontend.tell(999)  # REPLY_ACK still stands


def test_M10_queue_index_out_of_range(server: ServerProcess, frontend: RawFrontend, queue: RawQueue):
    before = server.fds()
    for index in (1, 2, 255, 256, (1 << 32) - 1):
        queue.index = index
        assert not queue.set_num()
        assert not queue.set_base()
        assert not queue.set_addr()
        assert not queue.enable()
        if index < 256:
            assert not queue.set_kick()
            assert not queue.set_call()
            assert not queue.set_err()
    assert server.fds() == before
    queue.index = 0
    factorials(queue, 5)
    queue.index = 1
    frontend.send(R.GET_VRING_BASE, m.VringState(1, 0))
    assert frontend.is_closed()


@pytest.mark.parametrize("size", [1 << power for power in range(11)])
def test_M11_every_size_up_to_that_of_QEMUs_virtio_mmio(server: ServerProcess, size: int):
    with RawFrontend(server.path) as frontend, SharedMemory(8 << 20) as memory:
        frontend.negotiate(features=MODERN | 1 << 28)
        frontend.share(memory)
        queue = frontend.queue(memory, size=size)
        queue.start()
        if size == 1:  # no room for a request and an answer; a request alone is returned empty
            for _ in range(3):
                assert queue.ask(bytes(36), room=0) == [b""]
            return
        factorials(queue, *range(min(2 * size + 1, 300)), indirect=True)
        factorials(queue, *range(min(2 * size + 1, 300)))


def test_M11_impossible_sizes_are_refused(frontend: RawFrontend, memory: SharedMemory):
    frontend.share(memory)
    queue = frontend.queue(memory)
    for size in (0, 3, 15, 1023, 1025, 2048, 32767, 32768, 32769, 65536, 1 << 31, (1 << 32) - 1):
        assert not queue.set_num(size)
    for base in (1 << 16, (1 << 32) - 1):
        assert not queue.set_base(base)
    queue.start()
    factorials(queue, 5)


def test_M11_size_and_base_while_running(queue: RawQueue):
    factorials(queue, 1, 2, 3)
    assert not queue.set_num(8)
    assert not queue.set_base(0)
    factorials(queue, 5)
    assert queue.stop() == 4
    assert queue.set_num(8)
    assert queue.set_base(4)


def test_M12_size_grows_after_the_addresses_were_set(frontend: RawFrontend):
    with SharedMemory(1 << 13) as memory:
        frontend.share(memory)
        queue = frontend.queue(memory)
        assert queue.set_num()
        assert queue.set_addr()
        assert queue.set_num(1024)  # no longer fits into the region
        assert queue.set_err()
        assert queue.enable()
        assert not queue.set_kick()
        assert drain(queue.err_fd) == 1
        assert queue.set_num()
        assert queue.set_call()
        factorials(queue, 5)


def test_M12_size_grows_beyond_the_in_flight_region(frontend: RawFrontend, memory: SharedMemory):
    frontend.share(memory)
    frame = frontend.ask(R.GET_INFLIGHT_FD, m.Inflight(0, 0, 1, 16))
    assert frontend.tell(R.SET_INFLIGHT_FD, frame.payload, frame.fds)
    frame.close_fds()
    queue = frontend.queue(memory, size=32)
    queue.set_up()
    assert not queue.enable()
    assert drain(queue.err_fd) >= 1


BAD_PLACES: dict[str, Callable[[RawQueue], dict[str, int]]] = {
    "descriptors unaligned": lambda queue: {"descriptors": queue.memory.to_user(queue.descriptors) + 8},
    "available unaligned": lambda queue: {"available": queue.memory.to_user(queue.available) + 1},
    "used unaligned": lambda queue: {"used": queue.memory.to_user(queue.used) + 2},
    "guest addresses": lambda queue: {"descriptors": queue.descriptors},
    "before the region": lambda queue: {"available": queue.memory.user - 2},
    "behind the region": lambda queue: {"used": queue.memory.user + queue.memory.size},
    "tail of descriptors": lambda queue: {"descriptors": queue.memory.user + queue.memory.size - 16 * 15},
    "tail of available": lambda queue: {"available": queue.memory.user + queue.memory.size - 2 * 16 - 4},
    "tail of used": lambda queue: {"used": queue.memory.user + queue.memory.size - 8 * 16 - 4},
    "wraps round": lambda queue: {"descriptors": (1 << 64) - 16},
    "null": lambda queue: {"used": 0},
}


@pytest.mark.parametrize("case", BAD_PLACES)
def test_M13_impossible_addresses_are_refused(queue: RawQueue, case: str):
    assert not queue.set_addr(**BAD_PLACES[case](queue))
    factorials(queue, 5)
    queue.stop()
    assert not queue.set_addr(**BAD_PLACES[case](queue))
    assert queue.set_addr()


def test_M13_addresses_may_end_with_the_region(frontend: RawFrontend, memory: SharedMemory):
    frontend.share(memory)
    queue = frontend.queue(memory)
    end = memory.user + memory.size
    for last in ({"descriptors": end - 16 * 16}, {"available": end - 2 * 16 - 6}, {"used": end - 8 * 16 - 8}):
        assert queue.set_num()
        assert queue.set_addr(**last)


def test_M13_addresses_before_there_is_memory(frontend: RawFrontend, memory: SharedMemory):
    queue = frontend.queue(memory)
    assert not queue.set_addr()
    frontend.share(memory)
    assert queue.set_addr()


# M17 to M22.


@pytest.mark.parametrize(
    "payload",
    [m.Number((1 << 64) - 1).pack(), bytes(16), b"\xff" * 16, m.Number(1).pack() + b"\xff" * 8],
)
def test_M17_dirty_log_is_not_offered_and_refused(
    server: ServerProcess, frontend: RawFrontend, memory: SharedMemory, queue: RawQueue, payload: bytes
):
    before = server.fds()
    assert not frontend.tell(6, payload, [memory.fd])
    assert not frontend.tell(7, b"", [queue.err_fd])
    assert not frontend.tell(R.SET_FEATURES, m.Number(frontend.features | 1 << 26))
    assert server.fds() == before
    factorials(queue, 5)


def test_M18_config_space_is_read_within_its_bounds(frontend: RawFrontend):
    whole = frontend.config(0, 16)
    assert whole[12:] == (20000).to_bytes(4, "little")
    for offset in range(17):
        for length in range(17 - offset):
            assert frontend.config(offset, length) == whole[offset : offset + length]
    for offset, length in ((0, 17), (16, 1), (15, 2), (17, 0), (0, 256), ((1 << 32) - 1, 1)):
        assert frontend.config(offset, length) == b""
    for offset, length in ((0, (1 << 32) - 1), ((1 << 32) - 1, (1 << 32) - 1), (4, (1 << 32) - 4)):
        assert frontend.ask(R.GET_CONFIG, m.ConfigHeader(offset, length)).payload == b""


def test_M18_config_space_is_written_within_its_bounds(frontend: RawFrontend):
    before = frontend.config(0, 16)
    assert not frontend.write_config(0, bytes(17))
    assert not frontend.write_config(16, b"x")
    assert not frontend.write_config((1 << 32) - 1, b"x")
    assert not frontend.write_config(0, b"x", flags=2)
    assert not frontend.tell(R.SET_CONFIG, m.ConfigHeader(0, 4).pack() + b"xx")
    assert frontend.config(0, 16) == before
    assert frontend.write_config(4, b"abcd")
    assert frontend.config(0, 16) == before[:4] + b"abcd" + before[8:]


def test_M18_only_a_migration_writes_what_a_driver_may_not(frontend: RawFrontend):
    before = frontend.config(0, 16)
    frontend.write_config(0, b"x" * 16)
    assert frontend.config(0, 16) == before[:4] + b"x" * 8 + before[12:]
    assert frontend.write_config(0, b"y" * 16, flags=1)
    assert frontend.config(0, 16) == b"y" * 16
    assert frontend.write_config(0, before, flags=1)


def test_M19_ten_thousand_in_flight_regions(server: ServerProcess, frontend: RawFrontend):
    wanted = m.Inflight(0, 0, 1, 128)
    frame = frontend.ask(R.GET_INFLIGHT_FD, wanted)
    frame.close_fds()
    frontend.number(R.GET_FEATURES)  # what was sent along is closed once the next question is answered
    before, memory = server.fds(), server.memory()
    for _ in range(10_000):
        frame = frontend.ask(R.GET_INFLIGHT_FD, wanted)
        assert len(frame.fds) == 1
        frame.close_fds()
    frontend.number(R.GET_FEATURES)
    assert server.fds() == before
    assert server.memory() < memory + (2 << 20)


def test_M19_descriptors_that_replace_each_other(server: ServerProcess, frontend: RawFrontend, memory: SharedMemory):
    queue = frontend.queue(memory)
    frame = frontend.ask(R.GET_INFLIGHT_FD, m.Inflight(0, 0, 1, 128))
    ours, theirs = socket.socketpair()

    def everything() -> None:
        assert frontend.share(memory)
        assert frontend.tell(R.SET_INFLIGHT_FD, frame.payload, frame.fds)
        assert frontend.tell(R.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
        queue.set_call()
        queue.set_err()

    with ours, theirs:
        everything()
        before = server.fds()
        for _ in range(1000):
            everything()
        assert server.fds() == before
    frame.close_fds()


def test_M21_base_of_a_queue_that_never_ran(frontend: RawFrontend, memory: SharedMemory):
    queue = frontend.queue(memory)
    assert queue.stop() == 0
    assert queue.stop() == 0
    assert queue.set_base(7)
    assert queue.stop() == 7
    assert queue.stop() == 7


def test_M21_base_twice_after_it_ran(queue: RawQueue):
    factorials(queue, *range(20))
    assert queue.stop() == 20
    assert queue.stop() == 20
    queue.start(base=20)
    factorials(queue, *range(20))
    assert queue.stop() == 40


def test_M22_in_band_notifications_are_not_offered(frontend: RawFrontend, queue: RawQueue):
    in_band = 1 << 14
    offered = frontend.number(R.GET_PROTOCOL_FEATURES)
    assert not offered & in_band
    assert not frontend.tell(R.SET_PROTOCOL_FEATURES, m.Number(in_band))
    assert not frontend.tell(R.SET_PROTOCOL_FEATURES, m.Number(offered | in_band))
    assert not frontend.tell(35, m.VringState(0, 0))
    factorials(queue, 5)


# M23 to M25: eventfds, and floods.


def eventless_fds(folder: Path) -> list[int]:
    """Return descriptors of many kinds; no event can travel through any of them."""
    epoll = select.epoll()
    os.mkfifo(folder / "fifo")
    fds = [
        os.dup(epoll.fileno()),
        os.open(folder / "file", os.O_RDWR | os.O_CREAT),
        os.open(folder, os.O_RDONLY),
        os.open(folder / "fifo", os.O_PATH),
        os.open("/dev/null", os.O_RDWR),
        os.memfd_create("[eventfd]"),
    ]
    epoll.close()
    return fds


def test_M23_descriptors_that_carry_no_events_are_refused(server: ServerProcess, queue: RawQueue, tmp_path: Path):
    before = server.fds()
    fds = eventless_fds(tmp_path)
    try:
        for fd in fds:
            assert not queue.set_kick(fd)
            assert not queue.set_call(fd)
            assert not queue.set_err(fd)
    finally:
        for fd in fds:
            os.close(fd)
    assert server.fds() == before
    factorials(queue, 5)


def test_M23_the_wrong_end_of_a_pipe_is_refused(server: ServerProcess, queue: RawQueue):
    before = server.fds()
    reading, writing = os.pipe()
    assert not queue.set_kick(writing)
    assert not queue.set_call(reading)
    assert not queue.set_err(reading)
    os.close(reading)
    os.close(writing)
    assert server.fds() == before
    factorials(queue, 5)


def pair_of(kind: str) -> tuple[int, int]:
    """Return a descriptor to read from, and one to write to."""
    if kind == "pipe":
        return os.pipe()
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_M23_interrupts_through_something_other_than_an_eventfd(queue: RawQueue, kind: str):
    """User Mode Linux cannot wait for an eventfd."""
    ours, theirs = pair_of(kind)
    assert queue.set_call(theirs)
    os.close(theirs)
    assert os.read(ours, 64)  # one may have been lost on its way to the descriptor before
    for number in range(1, 5):
        queue.submit((5).to_bytes(36, "little"))
        queue.kick()
        assert wait_readable(ours)
        assert len(os.read(ours, 64)) % 8 == 0
        until(partial(used_is, queue, number))
    os.close(ours)  # nobody reads any more
    queue.submit((5).to_bytes(36, "little"))
    queue.kick()
    until(partial(used_is, queue, 5))
    assert queue.set_call()
    assert unpack(queue.answers(5)) == [120] * 5


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_M23_kicks_through_something_other_than_an_eventfd(queue: RawQueue, kind: str):
    theirs, ours = pair_of(kind)
    assert queue.set_kick(theirs)
    os.close(theirs)
    for _ in range(4):
        queue.submit((5).to_bytes(36, "little"))
        os.write(ours, bytes(8))
        assert unpack(queue.answers(1)) == [120]
    os.close(ours)
    assert queue.set_kick()
    factorials(queue, 5)


def test_M23_no_kick_descriptor_means_polling(queue: RawQueue):
    assert queue.set_kick(-1)
    queue.submit(*(n.to_bytes(36, "little") for n in range(5)))
    assert [answer[0] for answer in queue.answers(5)] == [1, 1, 2, 6, 24]


def test_M23_semaphore_eventfds_work(queue: RawQueue):
    fd = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK)
    assert queue.set_kick(fd)
    os.close(queue.kick_fd)
    queue.kick_fd = fd
    os.eventfd_write(fd, 1000)
    factorials(queue, *range(30))


def fill(fd: int) -> None:
    """Count an eventfd up until it would make a writer wait."""
    drain(fd)
    with contextlib.suppress(BlockingIOError):
        os.eventfd_write(fd, (1 << 64) - 2)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.eventfd_write(fd, 1)


def used_is(queue: RawQueue, index: int) -> bool:
    return bool(queue.rings.used[1] == index)


@pytest.mark.parametrize("blocking", [False, True], ids=["nonblocking", "made blocking again"])
def test_M24_call_descriptor_that_is_full_counts_as_delivered(queue: RawQueue, blocking: bool):
    fill(queue.interrupt_fd)
    os.set_blocking(queue.interrupt_fd, blocking)
    for number in range(1, 6):
        queue.submit((5).to_bytes(36, "little"))
        queue.kick()
        until(partial(used_is, queue, number))
    os.set_blocking(queue.interrupt_fd, False)
    assert [answer[0] for answer in queue.answers(5)] == [120] * 5


def test_M24_error_descriptor_that_is_full_does_not_hold_the_keeper(frontend: RawFrontend, queue: RawQueue):
    fill(queue.err_fd)
    os.set_blocking(queue.err_fd, True)
    with SharedMemory(guest=0, user=0) as other:
        frontend.share(other)  # the ring's memory is gone, which is signalled
    assert frontend.number(R.GET_FEATURES)
    os.set_blocking(queue.err_fd, False)


def test_M24_no_call_descriptor(queue: RawQueue):
    assert queue.set_call(-1)
    queue.submit((5).to_bytes(36, "little"))
    queue.kick()
    until(lambda: queue.rings.used[1] == 1)
    assert len(queue.answers(1)) == 1
    assert queue.set_call()
    factorials(queue, 6)


def test_M25_requests_go_on_in_a_flood_of_questions(frontend: RawFrontend, queue: RawQueue):
    replies = 0
    for _ in range(30):
        frontend.send_bytes(100 * message(R.GET_FEATURES) + 10 * message(999))
        replies += 100
        factorials(queue, 3, 4, 5)
        while replies > 50:
            frame = frontend.receive()
            assert frame is not None
            assert frame.request == R.GET_FEATURES
            replies -= 1
    for _ in range(replies):
        assert frontend.receive()


def test_M25_requests_go_on_in_a_flood_of_changes(frontend: RawFrontend, queue: RawQueue, memory: SharedMemory):
    for _ in range(30):
        for _ in range(20):
            frontend.send(R.SET_VRING_CALL, m.Number(0), [queue.interrupt_fd])
            frontend.send(R.SET_VRING_KICK, m.Number(0), [queue.kick_fd])
            frontend.send(R.SET_CONFIG, m.ConfigHeader(4, 4).pack() + b"abcd")
        queue.submit(*((5).to_bytes(36, "little"),) * 3)
        queue.kick()
        frontend.send(R.SET_MEM_TABLE, m.MemoryHeader(1).pack() + memory.region().pack(), [memory.fd])
        assert [answer[0] for answer in queue.answers(3)] == [120] * 3
    factorials(queue, 5)


# The peer as a whole.


def test_another_frontend_waits_for_its_turn(server: ServerProcess, queue: RawQueue):
    with RawFrontend(server.path) as waiting:
        waiting.send(R.GET_QUEUE_NUM)
        factorials(queue, 5)
        queue.frontend.close()
        frame = waiting.receive()
        assert frame is not None
        assert m.Number.unpack(frame.payload).value == 1


def test_frontends_come_and_go(server: ServerProcess):
    before = open_files()
    for _ in range(20):
        answers_rightly(server.path)
    assert open_files() == before


def test_frontend_that_answers_with_replies(server: ServerProcess):
    with RawFrontend(server.path) as frontend:
        frontend.send(R.GET_FEATURES, flags=m.VERSION | m.F_REPLY)
        assert frontend.is_closed()


def test_error_descriptor_tells_of_a_broken_ring(queue: RawQueue):
    queue.rings.available[1] = 1000
    queue.kick()
    assert wait_readable(queue.err_fd)
    queue.stop()
