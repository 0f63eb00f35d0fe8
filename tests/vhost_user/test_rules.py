"""Single sentences of the protocol (QEMU's docs/interop/vhost-user.rst), each with what follows from it."""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pyvirtio.spec.features import Status
from pyvirtio.system.eventfd import drain
from pyvirtio.testing.frontend import RawFrontend, wait_readable
from pyvirtio.testing.served import served
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.framing import encode
from pyvirtio.vhost_user.vring import QEMU_MMIO_SIZE
from tests.support.hosts import SIZE, VERSION_1, FakeHost, Frontend, negotiated_frontend, unknown_frontend
from tests.support.vhost import no_more_descriptors, odd, open_files

if TYPE_CHECKING:
    from collections.abc import Iterator

R = m.Request
P = m.Protocol
EVERY = sorted(m.TABLE.values(), key=lambda row: row.request)
ALL = sum(P)


@pytest.fixture
def frontend() -> Iterator[Frontend]:
    """A front-end that has negotiated and shared memory."""
    with negotiated_frontend() as frontend:
        yield frontend


@pytest.fixture
def stranger() -> Iterator[Frontend]:
    """A front-end that has said nothing yet."""
    with unknown_frontend() as frontend:
        yield frontend


def test_every_message_of_the_table_has_a_handler(stranger: Frontend):
    assert set(stranger.session._handlers) == set(m.TABLE)


# "With this protocol extension negotiated, the sender can set the need_reply flag to any command."


@pytest.mark.parametrize("number", [P.REPLY_ACK, P.REPLY_ACK | P.CONFIG | P.BACKEND_REQ, ALL])
def test_message_that_chooses_REPLY_ACK_is_acknowledged_itself(stranger: Frontend, number: int):
    assert stranger.tell(R.SET_PROTOCOL_FEATURES, m.Number(number))


def test_message_that_chooses_REPLY_ACK_and_is_refused_is_answered_as_well(stranger: Frontend):
    assert not stranger.tell(R.SET_PROTOCOL_FEATURES, m.Number(P.REPLY_ACK | 1 << 63))


def test_message_that_gives_REPLY_ACK_up_is_acknowledged_and_none_behind_it(frontend: Frontend):
    assert frontend.tell(R.SET_PROTOCOL_FEATURES, m.Number(ALL & ~P.REPLY_ACK))
    frontend.send(R.SET_OWNER)
    assert frontend.replies() == []


def test_nothing_is_acknowledged_that_was_not_asked_for(frontend: Frontend):
    for step in frontend.ring().values():
        frontend.send(*step, flags=0)
    frontend.send(999, flags=0)
    assert frontend.replies() == []


# "For the message types that already solicit a reply, the need_reply bit being set brings no behavioural change."


@pytest.mark.parametrize("row", [row for row in EVERY if row.reply], ids=lambda row: row.request.name)
def test_questions_have_one_reply_whether_or_not_it_is_asked_for(frontend: Frontend, row: m.Message):
    payload = {
        R.GET_CONFIG: m.ConfigHeader(0, 4).pack() + bytes(4),
        R.GET_INFLIGHT_FD: m.Inflight(0, 0, 1, 16).pack(),
    }.get(row.request, bytes(row.sizes[0]))
    seen = set()
    for flags in (0, m.F_NEED_REPLY):
        frontend.send(row.request, payload, flags=flags)
        (frame,) = frontend.replies()
        frame.close_fds()
        seen.add((frame.request, frame.flags, frame.payload))
    assert len(seen) == 1


# "The size and ordering of the fds matches the number and ordering of memory regions."


def test_table_of_regions_may_have_room_for_more_than_it_counts(frontend: Frontend):
    fd = frontend.memory(8 * SIZE)
    for room in range(9):
        for number in range(9):
            table = m.MemoryHeader(number).pack() + b"".join(
                m.MemoryRegion(n * SIZE, SIZE, n * SIZE, n * SIZE).pack() if n < number else bytes(32)
                for n in range(room)
            )
            right = 1 <= number <= room
            assert frontend.tell(R.SET_MEM_TABLE, table, [fd] * number) == right, (room, number)
            assert not right or len(frontend.host.regions) == number


def test_table_of_regions_whose_room_is_no_whole_region(frontend: Frontend):
    table = m.MemoryHeader(1).pack() + m.MemoryRegion(0, SIZE, 0, 0).pack()
    for extra in (1, 16, 31, 33):
        assert not frontend.tell(R.SET_MEM_TABLE, table + bytes(extra), [frontend.memory()])


def test_table_with_another_number_of_descriptors_than_it_counts(frontend: Frontend):
    table = m.MemoryHeader(2).pack() + m.MemoryRegion(0, SIZE, 0, 0).pack() + m.MemoryRegion(SIZE, SIZE, SIZE, 0).pack()
    for number in (1, 3):
        assert not frontend.tell(R.SET_MEM_TABLE, table, [frontend.memory()] * number)


# "User addresses map to the vhost memory region containing that user address."


def test_ring_follows_its_user_addresses_into_another_guest_address(frontend: Frontend):
    frontend.start()
    frontend.host.calls.clear()
    frontend.share(guest=1 << 40)
    frontend.replies()
    assert frontend.host.calls == ["stop 0", "memory", "start 0"]
    assert frontend.host.running[0].descriptor_area == 1 << 40


def test_ring_that_stays_where_it_is_goes_on_in_new_memory(frontend: Frontend):
    frontend.start()
    frontend.host.calls.clear()
    frontend.share()
    frontend.replies()
    assert frontend.host.calls == ["memory"]


def test_ring_whose_memory_is_gone_is_stopped_before_it_is(frontend: Frontend):
    err = frontend.eventfd()
    frontend.start()
    assert frontend.tell(R.SET_VRING_ERR, m.Number(0), [err])
    frontend.host.calls.clear()
    frontend.share(user=1 << 40)
    frontend.replies()
    assert frontend.host.calls == ["stop 0", "memory"]
    assert os.eventfd_read(err) == 1


# "If a file descriptor is passed, the back-end MUST close it without using it otherwise."


def test_REM_MEM_REG_closes_a_descriptor_be_it_refused_or_not(frontend: Frontend):
    region = m.SingleRegion(0, 0, SIZE, SIZE, 0)
    before = open_files()
    fd = frontend.memory()
    assert not frontend.tell(R.REM_MEM_REG, region.replace(guest=4096), [fd])
    assert frontend.tell(R.REM_MEM_REG, region, [fd])
    assert open_files() == before  # one more is ours, and that of the region went


# Addresses of rings.


def test_flag_that_asks_for_a_dirty_log_is_refused_for_none_is_offered(frontend: Frontend):
    request, address = frontend.ring()["addr"]
    for flags in (m.F_LOG, 2, 1 << 31):
        assert not frontend.tell(request, address.replace(flags=flags))


@pytest.mark.parametrize(("part", "by"), [("descriptors", 8), ("available", 1), ("used", 2)])
def test_part_of_a_ring_that_is_not_aligned_is_refused(frontend: Frontend, part: str, by: int):
    request, address = frontend.ring()["addr"]
    assert not frontend.tell(request, address.replace(**{part: getattr(address, part) + by}))


def test_log_address_without_its_flag_has_no_meaning(frontend: Frontend):
    """User Mode Linux sends all ones."""
    request, address = frontend.ring()["addr"]
    assert frontend.tell(request, address.replace(log=(1 << 64) - 1))


def test_sizes_up_to_the_declared_one_or_that_of_QEMUs_virtio_mmio(stranger: Frontend):
    declared = stranger.host.description.queue_sizes
    assert declared[0] < QEMU_MMIO_SIZE
    assert stranger.session._rings.vrings[0].size == declared[0]
    stranger.negotiate()
    assert stranger.tell(R.SET_VRING_NUM, m.VringState(0, QEMU_MMIO_SIZE))
    assert not stranger.tell(R.SET_VRING_NUM, m.VringState(0, 2 * QEMU_MMIO_SIZE))


def test_sizes_of_a_device_that_declares_more(stranger: Frontend):
    host = FakeHost()
    host.description.queue_sizes = (4096,)
    large = Frontend(host)
    large.negotiate()
    assert large.tell(R.SET_VRING_NUM, m.VringState(0, 4096))
    assert not large.tell(R.SET_VRING_NUM, m.VringState(0, 8192))
    large.close()


# "This should only happen in exceptional circumstances": the back-end closes the connection.


def test_in_flight_region_that_cannot_be_made_is_refused_with_an_empty_one(frontend: Frontend):
    for wanted in (m.Inflight(0, 0, 3, 16), m.Inflight(0, 0, 0, 16), m.Inflight(0, 0, 1, 3)):
        frame = frontend.ask(R.GET_INFLIGHT_FD, wanted)
        assert (frame.payload, frame.fds) == (m.Inflight().pack(), [])


def test_running_out_of_descriptors_refuses_what_needs_one(frontend: Frontend):
    frontend.start()
    region = m.SingleRegion(0, 1 << 32, SIZE, 1 << 32, 0)
    for request, payload in (
        (R.ADD_MEM_REG, region.pack()),
        (R.SET_MEM_TABLE, m.MemoryHeader(1).pack() + region.pack()[8:]),
        (R.SET_INFLIGHT_FD, m.Inflight(4096, 0, 1, 16).pack()),
        (R.GET_INFLIGHT_FD, m.Inflight(0, 0, 1, 16).pack()),
    ):
        fds = [os.dup(frontend.memory())] if m.TABLE[request].fds[1] else []
        with no_more_descriptors():
            frontend.session.receive(encode(request, payload, m.F_NEED_REPLY), fds)
        (frame,) = frontend.replies()
        assert frame.payload == (m.TABLE[request].refusal or m.Number(1).pack())
    assert list(frontend.host.running) == [0]


def test_host_that_runs_out_of_something_refuses_the_ring(frontend: Frontend, monkeypatch: pytest.MonkeyPatch):
    def start_queue(_setup: object) -> None:
        raise OSError(24, "Too many open files")

    err = frontend.eventfd()
    assert frontend.tell(R.SET_VRING_ERR, m.Number(0), [err])
    with monkeypatch.context() as patch:
        patch.setattr(frontend.host, "start_queue", start_queue)
        *others, last = frontend.ring().values()
        for message in others:
            assert frontend.tell(*message)
        assert not frontend.tell(*last)
    assert os.eventfd_read(err) == 1
    assert frontend.tell(*last)
    assert list(frontend.host.running) == [0]


# The configuration space.


def ask_config(frontend: Frontend, offset: int, size: int, room: int) -> bytes:
    return frontend.ask(R.GET_CONFIG, m.ConfigHeader(offset, size).pack() + bytes(room)).payload


def test_configuration_is_answered_with_the_exact_length_or_with_none(frontend: Frontend):
    for offset in range(18):
        for size in range(18):
            header = m.ConfigHeader(offset, size).pack()
            right = header + bytes(size) if offset + size <= 16 else b""
            assert ask_config(frontend, offset, size, room=size) == right
            assert ask_config(frontend, offset, size, room=0) == right
            assert ask_config(frontend, offset, size, room=size + 1) == b""


def test_write_of_bytes_that_are_all_read_only_is_refused_unless_it_is_a_migrations(frontend: Frontend):
    write = m.ConfigHeader(12, 4).pack() + b"abcd"  # the last four bytes are the device's own
    assert not frontend.tell(R.SET_CONFIG, write)
    assert bytes(frontend.host.config) == bytes(16)
    assert frontend.tell(R.SET_CONFIG, m.ConfigHeader(12, 4, 1).pack() + b"abcd")
    assert frontend.tell(R.SET_CONFIG, m.ConfigHeader(0, 16).pack() + bytes(16))  # QEMU writes all of it


# "While all vrings are stopped, the device must not send any messages to the front-end."


@contextmanager
def channel(frontend: Frontend) -> Iterator[socket.socket]:
    """Give the back-end a channel of its own."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            assert frontend.tell(R.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
        ours.setblocking(False)
        yield ours


def deliver(frontend: Frontend) -> int:
    """Send what the session has to say besides replies; return how many messages that were."""
    assert frontend.replies() == []
    for message in frontend.sent:
        assert message.socket is not None
        assert (message.data, message.lossy) == (encode(m.CONFIG_CHANGE_MSG), True)
        os.write(message.socket, message.data)
    number = len(frontend.sent)
    frontend.sent.clear()
    return number


def test_change_of_the_configuration_is_told_at_once_while_a_ring_is_started(frontend: Frontend):
    with channel(frontend) as ours:
        frontend.start()
        woken: list[None] = []
        frontend.session.wake = lambda: woken.append(None)
        frontend.session.config_changed()
        assert woken
        assert deliver(frontend) == 1
        assert ours.recv(100) == encode(m.CONFIG_CHANGE_MSG)


def test_change_of_the_configuration_is_told_once_a_ring_is_started(frontend: Frontend):
    with channel(frontend):
        for _ in range(3):
            frontend.session.config_changed()
        assert deliver(frontend) == 0
        frontend.start()
        assert deliver(frontend) == 1
        frontend.stop()
        frontend.session.config_changed()
        assert deliver(frontend) == 0


def test_change_of_the_configuration_is_told_only_where_CONFIG_was_negotiated(frontend: Frontend):
    with channel(frontend):
        frontend.start()
        assert frontend.tell(R.SET_PROTOCOL_FEATURES, m.Number(ALL & ~P.CONFIG))
        frontend.session.config_changed()
        assert deliver(frontend) == 0


def test_replies_that_nobody_asked_for_do_not_fill_the_channel(frontend: Frontend):
    reply = encode(m.CONFIG_CHANGE_MSG, m.Number(0).pack(), m.F_REPLY)
    with channel(frontend) as ours:
        frontend.start()
        for _ in range(10_000):
            ours.send(reply)
            frontend.session.config_changed()
            assert deliver(frontend) == 1
            assert ours.recv(100) == encode(m.CONFIG_CHANGE_MSG)


def test_channel_that_the_front_end_closed_is_closed_here_too(frontend: Frontend):
    frontend.start()
    before = open_files()
    with channel(frontend):
        pass
    frontend.session.config_changed()
    assert deliver(frontend) == 0
    assert open_files() == before


# "... with updated device status as defined in the Virtio specification."


def test_status_has_8_bits(frontend: Frontend):
    assert not frontend.tell(R.SET_STATUS, m.Number(0x100))
    assert frontend.tell(R.SET_STATUS, m.Number(Status.FAILED | 15))
    assert frontend.number(R.GET_STATUS) == Status.FAILED | 15


def test_FEATURES_OK_does_not_stand_after_features_that_were_refused(frontend: Frontend):
    assert not frontend.tell(R.SET_FEATURES, m.Number(1 << 63))
    assert frontend.tell(R.SET_STATUS, m.Number(11))
    assert frontend.number(R.GET_STATUS) == 3
    assert frontend.tell(R.SET_FEATURES, m.Number(VERSION_1))
    assert frontend.tell(R.SET_STATUS, m.Number(11))
    assert frontend.number(R.GET_STATUS) == 11


def test_device_that_gave_a_ring_up_says_that_it_needs_a_reset(frontend: Frontend):
    assert frontend.tell(R.SET_STATUS, m.Number(15))
    frontend.start()
    frontend.session.queue_broken(0)
    assert frontend.number(R.GET_STATUS) == 15 | Status.DEVICE_NEEDS_RESET
    assert frontend.tell(R.SET_STATUS, m.Number(15 | Status.DEVICE_NEEDS_RESET))  # QEMU sends back what it has read
    assert frontend.tell(R.SET_STATUS, m.Number(0))
    assert frontend.number(R.GET_STATUS) == 0


# "Ask the back-end to disable all rings and reset all internal device state to the initial state."


def test_reset_brings_rings_back_to_their_first_state(frontend: Frontend):
    frontend.host.consumed = {0: 3}
    for message in frontend.ring(size=8, base=2).values():
        assert frontend.tell(*message)
    assert frontend.tell(R.RESET_DEVICE)
    assert frontend.host.calls[-2:] == ["stop 0", "reset"]
    ring = frontend.ring()
    assert frontend.tell(*ring["kick"])
    assert frontend.tell(*ring["enable"])
    assert not frontend.host.running
    assert frontend.tell(*ring["addr"])
    setup = frontend.host.running[0]
    assert (setup.size, setup.position) == (16, 0)


# "Each file descriptor will be used for receiving or sending events by reading or writing an 8-byte value."


@pytest.mark.parametrize("kind", ["socket", "pipe", "eventfd"])
def test_events_go_out_through_any_kind_of_descriptor(frontend: Frontend, kind: str):
    if kind == "socket":
        ours, theirs = (sock.detach() for sock in socket.socketpair())
    elif kind == "pipe":
        ours, theirs = os.pipe()
    else:
        ours = theirs = os.eventfd(0)
    frontend.start()
    for request in (R.SET_VRING_CALL, R.SET_VRING_ERR):
        assert frontend.tell(request, m.Number(0), [theirs])
    frontend.session.queue_broken(0)
    assert wait_readable(ours, 0)
    assert drain(ours)
    for fd in {ours, theirs}:
        os.close(fd)


def test_a_device_without_a_configuration_space_does_not_offer_config():
    """QEMU complains of a back-end that offers access to what the device does not have."""
    with served(odd("Plain")) as server, RawFrontend(server.path) as frontend:
        offered = m.Protocol(frontend.number(m.Request.GET_PROTOCOL_FEATURES))
        assert not offered & m.Protocol.CONFIG
        frontend.negotiate()
        assert not frontend.tell(m.Request.SET_PROTOCOL_FEATURES, m.Number(m.Protocol.CONFIG))
