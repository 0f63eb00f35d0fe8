"""What well-behaved front-ends do: QEMU's sequences, a reset, the status, configuration spaces; and case D28."""

from __future__ import annotations

import itertools
import os
import socket
from typing import TYPE_CHECKING

import pytest

from pyvirtio.testing.frontend import LEGACY, MODERN, RawFrontend, SharedMemory, drain, wait_readable
from pyvirtio.testing.served import served
from pyvirtio.vhost_user import messages as m
from tests.support.odd_devices import CHANGE, FLOOD, KNOB, STATE
from tests.support.vhost import ask, factorials, idle_fds, odd, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvirtio.testing.frontend import RawQueue
    from pyvirtio.testing.served import ServerProcess

R = m.Request


@pytest.fixture(scope="module")
def odd_server() -> Iterator[ServerProcess]:
    with served(odd()) as server:
        yield server


@pytest.fixture
def odd_queue(odd_server: ServerProcess) -> Iterator[RawQueue]:
    with RawFrontend(odd_server.path) as frontend, SharedMemory() as memory:
        frontend.negotiate()
        frontend.share(memory)
        queue = frontend.queue(memory)
        queue.start()
        yield queue


# QEMU.


@pytest.mark.parametrize("features", [MODERN, LEGACY, MODERN | 3 << 28], ids=["modern", "legacy", "all rings"])
def test_the_sequence_of_vhost_user_test_device(server: ServerProcess, unharmed: None, features: int):
    """As QEMU 11 sends it: two boots of a guest in one connection, a reset between them."""
    with RawFrontend(server.path) as frontend, SharedMemory(8 << 20, offset=1 << 20) as memory:
        # At connection.
        assert frontend.number(R.GET_FEATURES) & features == features
        protocol = frontend.number(R.GET_PROTOCOL_FEATURES)
        frontend.send(R.SET_PROTOCOL_FEATURES, m.Number(protocol & (m.Protocol.MQ | m.Protocol.CONFIG)))
        assert frontend.number(R.GET_QUEUE_NUM) == 1
        frontend.send(R.SET_OWNER)
        frontend.number(R.GET_FEATURES)
        frontend.features = features
        queue = frontend.queue(memory, size=128)
        first_call, second_call = os.eventfd(0), os.eventfd(0)
        queue.set_call(first_call)
        queue.set_err()
        base = 0
        for boot in range(2):
            # At DRIVER_OK.
            frontend.accept(features)
            frontend.share(memory)
            queue.set_num()
            queue.set_base(base)
            queue.set_addr()
            queue.set_kick()
            queue.set_call(second_call)
            queue.enable()
            queue.set_call()
            factorials(queue, *range(300))
            # While it runs.
            assert len(frontend.config(0, 12)) == 12
            # At reset.
            queue.enable(0)
            base = queue.stop()
            assert base == 300 * (boot + 1)
        os.close(first_call)
        os.close(second_call)


def test_legacy_frontend_without_protocol_features(server: ServerProcess, unharmed: None):
    with RawFrontend(server.path) as frontend, SharedMemory() as memory:
        frontend.negotiate(features=LEGACY & ~m.F_PROTOCOL_FEATURES, protocol=0)
        frontend.share(memory)
        queue = frontend.queue(memory)
        queue.start()
        factorials(queue, *range(100))
        assert queue.stop() == 100


def test_steps_of_the_setup_in_any_order(server: ServerProcess, unharmed: None):
    steps = ("set_num", "set_base", "set_addr", "set_kick", "set_call", "enable")
    orders = list(itertools.permutations(steps))[::19]
    for order in orders:
        # Whatever completes the queue starts it, and then its size and base stand.
        complete = max(map(order.index, ("set_addr", "set_kick", "enable")))
        if max(map(order.index, ("set_num", "set_base"))) > complete:
            continue
        with RawFrontend(server.path) as frontend, SharedMemory() as memory:
            frontend.negotiate(protocol=m.Protocol.REPLY_ACK)
            frontend.share(memory)
            queue = frontend.queue(memory)
            for step in order:
                assert getattr(queue, step)()
            factorials(queue, 5, 6)


# D28.


def test_D28_kick_before_anything_is_set_up(frontend: RawFrontend, memory: SharedMemory):
    frontend.share(memory)
    queue = frontend.queue(memory)
    queue.submit((5).to_bytes(36, "little"))
    queue.kick()
    queue.start()
    assert unpack(queue.answers(1)) == [120]


def test_D28_kick_before_enable(frontend: RawFrontend, memory: SharedMemory):
    frontend.share(memory)
    queue = frontend.queue(memory)
    queue.set_up()
    frontend.driver_ok()
    queue.submit((5).to_bytes(36, "little"))
    queue.kick()
    assert queue.stop() == 0  # nothing was consumed, not even the kick
    assert queue.rings.used[1] == 0
    assert drain(queue.kick_fd) == 1
    queue.kick()
    queue.set_up()
    assert queue.enable()
    assert unpack(queue.answers(1)) == [120]


def test_D28_kick_while_disabled(frontend: RawFrontend, queue: RawQueue):
    for round_number in range(1, 20):
        assert queue.enable(0)
        queue.submit((5).to_bytes(36, "little"))
        queue.kick()
        assert frontend.number(R.GET_FEATURES)
        assert queue.rings.used[1] == round_number - 1
        assert queue.enable(1)
        assert unpack(queue.answers(1)) == [120]


def test_D28_kick_before_DRIVER_OK(frontend: RawFrontend, memory: SharedMemory):
    frontend.share(memory)
    frontend.tell(R.SET_STATUS, m.Number(11))
    queue = frontend.queue(memory)
    queue.set_up()
    queue.enable()
    queue.submit((5).to_bytes(36, "little"))
    queue.kick()
    assert frontend.number(R.GET_STATUS) == 11
    assert queue.rings.used[1] == 0
    assert drain(queue.kick_fd) == 1
    queue.kick()
    frontend.driver_ok()
    assert unpack(queue.answers(1)) == [120]


def test_D28_no_kick_at_all_before_the_start(frontend: RawFrontend, memory: SharedMemory):
    """A driver that had no kick descriptor yet made its requests available; they are found."""
    frontend.share(memory)
    queue = frontend.queue(memory)
    queue.submit((5).to_bytes(36, "little"))
    queue.start()
    assert unpack(queue.answers(1)) == [120]


# Status and reset.


def test_status_is_what_was_set(frontend: RawFrontend):
    assert frontend.number(R.GET_STATUS) == 0
    for status in (1, 3, 11, 15, 0):
        assert frontend.tell(R.SET_STATUS, m.Number(status))
        assert frontend.number(R.GET_STATUS) == status


@pytest.mark.parametrize("how", ["RESET_DEVICE", "SET_STATUS"])
def test_reset_stops_everything_and_the_device_comes_up_again(
    frontend: RawFrontend, memory: SharedMemory, queue: RawQueue, how: str
):
    factorials(queue, *range(20))
    before = frontend.config(0, 16)
    frontend.write_config(4, b"abcd")
    assert frontend.tell(R.RESET_DEVICE) if how == "RESET_DEVICE" else frontend.tell(R.SET_STATUS, m.Number(0))
    assert frontend.number(R.GET_STATUS) == 0
    # QEMU sets the status to 0 when a machine is paused, too: what its driver wrote stays.
    assert frontend.config(4, 4) == (before[4:8] if how == "RESET_DEVICE" else b"abcd")
    queue.submit(bytes(36))
    queue.kick()
    assert frontend.number(R.GET_FEATURES)
    assert queue.rings.used[1] == 20
    again = frontend.queue(memory)
    again.start()
    factorials(again, *range(20))


def test_reset_owner_stops_all_queues_and_keeps_the_connection(frontend: RawFrontend, queue: RawQueue):
    factorials(queue, 5)
    assert frontend.tell(R.RESET_OWNER)
    queue.submit((5).to_bytes(36, "little"))
    queue.kick()
    assert frontend.number(R.GET_FEATURES)
    assert queue.rings.used[1] == 1
    assert queue.enable()
    assert unpack(queue.answers(1)) == [120]


# The configuration space.


def test_device_tells_of_its_changed_config_space(odd_queue: RawQueue):
    frontend = odd_queue.frontend
    with frontend.open_channel() as channel:
        for number in range(101, 111):
            assert ask(odd_queue, CHANGE) == [number]
            told = channel.recv(12, socket.MSG_WAITALL)
            assert m.Header.unpack(told) == m.Header(m.CONFIG_CHANGE_MSG, m.VERSION, 0)
            assert frontend.config(4, 4) == number.to_bytes(4, "little")


def test_device_that_floods_the_keeper_with_changes(odd_queue: RawQueue):
    odd_queue.submit(FLOOD.to_bytes(4, "little"))
    odd_queue.kick()
    for _ in range(100):
        assert odd_queue.frontend.number(R.GET_FEATURES)
    assert unpack(odd_queue.answers(1)) == [3000]


@pytest.mark.parametrize("kind", ["full", "closed", "made blocking again"])
def test_channel_that_nobody_reads_holds_nothing_up(odd_queue: RawQueue, kind: str):
    frontend = odd_queue.frontend
    ours, theirs = socket.socketpair()
    with ours, theirs:
        frontend.tell(R.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
        if kind == "closed":
            ours.close()
        if kind == "made blocking again":
            ask(odd_queue, CHANGE)
            ours.recv(12, socket.MSG_WAITALL)
            theirs.setblocking(True)
        ask(odd_queue, FLOOD)
        assert frontend.number(R.GET_FEATURES)
        assert ask(odd_queue, 5) == [10]


def test_M07_channel_that_is_no_socket(odd_server: ServerProcess, odd_queue: RawQueue):
    read_fd, write_fd = os.pipe()
    before = odd_server.fds()
    for fd in (read_fd, write_fd, odd_queue.kick_fd, odd_queue.memory.fd):
        assert not odd_queue.frontend.tell(R.SET_BACKEND_REQ_FD, fds=[fd])
    assert odd_server.fds() == before
    os.close(read_fd)
    os.close(write_fd)


def test_drivers_writes_reach_the_device_and_only_where_it_allows(odd_queue: RawQueue):
    frontend = odd_queue.frontend
    assert frontend.write_config(0, (77).to_bytes(4, "little") + b"\xff" * 4)
    assert ask(odd_queue, KNOB, STATE) == [77, 100]
    assert frontend.config(0, 8) == (77).to_bytes(4, "little") + (100).to_bytes(4, "little")


def test_one_frontends_config_space_is_not_the_nexts(odd_server: ServerProcess):
    for _ in range(2):
        with RawFrontend(odd_server.path) as frontend, SharedMemory() as memory:
            frontend.negotiate()
            frontend.share(memory)
            queue = frontend.queue(memory)
            queue.start()
            assert ask(queue, KNOB, STATE) == [0, 100]
            assert frontend.config(0, 8) == bytes(4) + (100).to_bytes(4, "little")
            frontend.write_config(0, (77).to_bytes(4, "little"))
            assert ask(queue, KNOB, CHANGE) == [77, 101]


def test_four_queues_at_once():
    with served(odd("Four")) as server:
        before = idle_fds(server)
        with RawFrontend(server.path) as frontend, SharedMemory() as memory:
            frontend.negotiate()
            assert frontend.number(R.GET_QUEUE_NUM) == 4
            frontend.share(memory)
            queues = [frontend.queue(memory, index) for index in range(4)]
            for queue in queues:
                queue.start()
            for queue in queues:
                queue.submit(*(n.to_bytes(4, "little") for n in range(8)))
                queue.kick()
            for queue in reversed(queues):
                assert unpack(queue.answers(8)) == [2 * n for n in range(8)]
            queues[1].rings.available[1] = 1000
            queues[1].kick()
            assert wait_readable(queues[1].err_fd)
            for queue in (queues[0], queues[2], queues[3]):
                assert ask(queue, 21) == [42]
        assert idle_fds(server) == before
