"""Ring states: when a ring is served, and what may be set in which order ("Ring states" of the protocol)."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import pytest

from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.vring import TRANSITIONS, RingEvent, RingState
from tests.support.hosts import SIZE, VERSION_1, Frontend, negotiated_frontend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvirtio.transport import QueueSetup

R = m.Request
STEPS = ("num", "base", "addr", "kick", "call", "enable")
SOME_ORDERS = list(itertools.permutations(STEPS))


@pytest.fixture
def frontend() -> Iterator[Frontend]:
    """A front-end that has negotiated and shared memory."""
    with negotiated_frontend() as frontend:
        yield frontend


def places(setup: QueueSetup) -> tuple[int, int, int, int, int]:
    return setup.size, setup.position, setup.descriptor_area, setup.driver_area, setup.device_area


def is_same_fd(one: int, other: int) -> bool:
    """Return whether what is written into one descriptor arrives at the other."""
    os.eventfd_write(one, 1)
    try:
        return os.eventfd_read(other) > 0
    except BlockingIOError:
        return False
    finally:
        if one >= 0:
            try:  # noqa: SIM105  # it may be read already
                os.eventfd_read(one)
            except BlockingIOError:
                pass


# The table.


def test_every_state_has_a_transition_for_every_event():
    assert {state: set(row) for state, row in TRANSITIONS.items()} == {state: set(RingEvent) for state in RingState}


@pytest.mark.parametrize("state", RingState)
def test_started_and_enabled_are_independent_of_each_other(state: RingState):
    after = TRANSITIONS[state]
    assert after[RingEvent.START].started
    assert not after[RingEvent.STOP].started
    for event in (RingEvent.ENABLE, RingEvent.DISABLE):
        assert after[event].started == state.started
    for event in (RingEvent.START, RingEvent.STOP):
        assert ("ENABLED" in after[event].name) == ("ENABLED" in state.name)


def test_rings_are_initialized_stopped_and_disabled(frontend: Frontend):
    assert [vring.state for vring in frontend.session._rings.vrings] == [RingState.STOPPED_DISABLED] * 2


# Orders.


def set_up(frontend: Frontend, order: tuple[str, ...], *, at: int, size: int, base: int) -> None:
    """Set a ring up in an order, and check that it is served as the last messages say."""
    ring = frontend.ring(at=at, size=size, base=base)
    for step in order:
        assert frontend.tell(*ring[step]), order
    setup = frontend.host.running[0]
    assert places(setup) == (size, base, at, at + 0x400, at + 0x600), order
    assert is_same_fd(ring["kick"][2][0], setup.kick_fd)
    assert is_same_fd(ring["call"][2][0], setup.interrupt_fd)


@pytest.mark.parametrize("first", STEPS)
def test_first_set_up_in_every_order(first: str):
    for order in SOME_ORDERS:
        if order[0] == first:
            frontend = Frontend()
            frontend.negotiate()
            frontend.share()
            frontend.replies()
            set_up(frontend, order, at=0, size=8, base=5)
            frontend.close()


@pytest.mark.parametrize("first", STEPS)
def test_set_up_again_in_every_order_is_served_at_the_new_place(frontend: Frontend, first: str):
    frontend.host.consumed = {0: 3}
    set_up(frontend, STEPS, at=0x3000, size=16, base=0)
    for number, order in enumerate(order for order in SOME_ORDERS if order[0] == first):
        frontend.stop()
        frontend.host.consumed = {}
        set_up(frontend, order, at=0x1000 * (number % 3), size=(4, 8, 16)[number % 3], base=number % 7)


def test_ring_that_was_stopped_goes_on_with_the_kick_descriptor_alone(frontend: Frontend):
    frontend.host.consumed = {0: 3}
    frontend.start()
    before = places(frontend.host.running[0])
    assert frontend.stop() == 3
    os.pwrite(frontend.host.regions[0].fd, (3).to_bytes(2, "little"), 0x402)  # the available index
    assert frontend.tell(*frontend.ring()["kick"])
    assert places(frontend.host.running[0]) == (before[0], 3, *before[2:])


def test_ring_whose_old_place_holds_something_else_waits_for_its_address(frontend: Frontend):
    frontend.host.consumed = {0: 3}
    frontend.start()
    assert frontend.stop() == 3
    os.pwrite(frontend.host.regions[0].fd, (9999).to_bytes(2, "little"), 0x402)
    ring = frontend.ring(at=0x1000)
    assert frontend.tell(*ring["kick"])
    assert frontend.tell(R.SET_VRING_ENABLE, m.VringState(0, 1))
    assert not frontend.host.running
    assert frontend.tell(*ring["addr"])
    assert frontend.host.running[0].descriptor_area == 0x1000


def test_ring_whose_old_memory_is_gone_waits_for_its_address(frontend: Frontend):
    frontend.start()
    frontend.stop()
    frontend.share(guest=SIZE, user=4 * SIZE)
    frontend.replies()
    assert frontend.tell(*frontend.ring()["kick"])
    assert not frontend.host.running


def test_new_size_does_not_serve_the_old_place(frontend: Frontend):
    """It is the first message of a new set-up, whose address may be another."""
    frontend.start()
    frontend.stop()
    ring = frontend.ring(at=0x1000, size=8)
    assert frontend.tell(*ring["kick"])
    frontend.host.calls.clear()
    assert frontend.tell(*ring["num"])
    assert frontend.tell(*ring["base"])
    assert frontend.host.calls == ["stop 0"]
    assert frontend.tell(*ring["addr"])
    assert frontend.host.calls == ["stop 0", "start 0"]


# What may be set while a ring is served.


@pytest.mark.parametrize("message", [(R.SET_VRING_NUM, 8), (R.SET_VRING_BASE, 0)], ids=["size", "base"])
def test_size_and_base_of_a_ring_in_use_are_refused_and_it_goes_on(frontend: Frontend, message: tuple[R, int]):
    frontend.host.consumed = {0: 3}
    frontend.start()
    for _ in range(3):
        assert not frontend.tell(message[0], m.VringState(0, message[1]))
        assert (frontend.host.running[0].size, frontend.host.running[0].position) == (16, 3)
        frontend.host.consumed = {}  # what it has taken once counts, also when it was stopped in between


def test_address_of_a_ring_in_use_moves_it(frontend: Frontend):
    frontend.host.consumed = {0: 3}
    frontend.start()
    assert frontend.tell(*frontend.ring(at=0x2000)["addr"])
    assert places(frontend.host.running[0]) == (16, 3, 0x2000, 0x2400, 0x2600)


def test_descriptors_and_the_same_address_do_not_restart_a_ring(frontend: Frontend):
    frontend.start()
    frontend.host.calls.clear()
    ring = frontend.ring()
    for step in ("kick", "call", "addr", "enable"):
        assert frontend.tell(*ring[step])
    assert frontend.tell(R.SET_VRING_ERR, m.Number(0), [frontend.eventfd()])
    assert frontend.host.calls == ["kick 0", "interrupt 0"]
    for request in (R.SET_VRING_KICK, R.SET_VRING_CALL):
        assert frontend.tell(request, m.Number(m.NO_FD))
    assert (frontend.host.running[0].kick_fd, frontend.host.running[0].interrupt_fd) == (-1, -1)


def test_new_interrupt_descriptor_is_signalled_where_the_ring_is_served_only(frontend: Frontend):
    ring = frontend.ring()
    (call,) = ring["call"][2]
    assert frontend.tell(*ring["call"])
    with pytest.raises(BlockingIOError):
        os.eventfd_read(call)
    for message in ring.values():
        frontend.tell(*message)
    assert os.eventfd_read(call) == 1  # the back-end before this one may not have lived to send it
    assert frontend.tell(*ring["call"])
    assert os.eventfd_read(call) == 1


def test_features_of_a_ring_that_is_served_are_refused(frontend: Frontend):
    frontend.start()
    assert not frontend.tell(R.SET_FEATURES, m.Number(m.F_PROTOCOL_FEATURES))
    assert frontend.tell(R.SET_FEATURES, m.Number(VERSION_1 | m.F_PROTOCOL_FEATURES))
    frontend.stop()
    assert frontend.tell(R.SET_FEATURES, m.Number(m.F_PROTOCOL_FEATURES))


# Enabled and disabled.


def test_disabled_ring_is_not_served_and_may_be_set_up_anew(frontend: Frontend):
    """As User Mode Linux does when its driver is loaded again: it never sends GET_VRING_BASE."""
    frontend.host.consumed = {0: 3}
    frontend.start()
    assert frontend.tell(R.SET_VRING_ENABLE, m.VringState(0, 0))
    assert not frontend.host.running
    for step in ("call", "num", "base", "addr", "kick", "enable"):
        assert frontend.tell(*frontend.ring(at=0x1000)[step])
    assert places(frontend.host.running[0]) == (16, 0, 0x1000, 0x1400, 0x1600)


def test_rings_may_be_enabled_before_the_features_are_settled():
    """QEMU enables the pairs of queues of a network device so early."""
    frontend = Frontend()
    assert frontend.tell(R.SET_PROTOCOL_FEATURES, m.Number(sum(m.Protocol)))
    frontend.share()
    frontend.replies()
    frontend.start()
    assert not frontend.host.running
    assert frontend.tell(R.SET_FEATURES, m.Number(VERSION_1 | m.F_PROTOCOL_FEATURES))
    assert frontend.host.running[0].features == VERSION_1 | m.F_PROTOCOL_FEATURES
    frontend.close()


def test_features_without_PROTOCOL_FEATURES_enable_all_rings_for_good(frontend: Frontend):
    for index in range(2):
        for step, message in frontend.ring(index, at=0x1000 * index).items():
            if step != "enable":
                assert frontend.tell(*message)
    assert not frontend.host.running
    assert frontend.tell(R.SET_FEATURES, m.Number(VERSION_1))
    assert sorted(frontend.host.running) == [0, 1]
    assert not frontend.tell(R.SET_VRING_ENABLE, m.VringState(0, 0))
    for index in range(2):
        frontend.stop(index)
    assert frontend.tell(R.SET_FEATURES, m.Number(VERSION_1 | m.F_PROTOCOL_FEATURES))  # disables none
    assert frontend.tell(*frontend.ring()["kick"])
    assert 0 in frontend.host.running


def test_RESET_OWNER_disables_all_rings_and_forgets_nothing(frontend: Frontend):
    frontend.host.consumed = {0: 3}
    frontend.start()
    before = places(frontend.host.running[0])
    assert frontend.tell(R.RESET_OWNER)
    assert not frontend.host.running
    assert frontend.tell(R.SET_VRING_ENABLE, m.VringState(0, 1))
    assert places(frontend.host.running[0]) == (before[0], 3, *before[2:])


# Broken rings.


def test_broken_ring_is_reported_and_stays_so_until_it_is_set_up_again(frontend: Frontend):
    err = frontend.eventfd()
    assert frontend.tell(R.SET_VRING_ERR, m.Number(0), [err])
    frontend.start()
    frontend.session.queue_broken(0)
    assert os.eventfd_read(err) == 1
    frontend.host.calls.clear()
    ring = frontend.ring()
    for step in ("enable", "kick", "call", "addr"):
        assert frontend.tell(*ring[step])
    assert frontend.tell(R.SET_VRING_ENABLE, m.VringState(0, 0))
    assert frontend.tell(R.SET_VRING_ENABLE, m.VringState(0, 1))
    assert not frontend.tell(*ring["num"])
    assert frontend.host.calls == ["kick 0", "interrupt 0"]
    frontend.stop()
    frontend.start()
    assert frontend.host.calls[2:4] == ["stop 0", "start 0"]


def test_one_ring_that_cannot_run_does_not_keep_the_others_from_it(frontend: Frontend):
    fd = frontend.ask(R.GET_INFLIGHT_FD, m.Inflight(0, 0, 1, 8))
    assert frontend.tell(R.SET_INFLIGHT_FD, fd.payload, fd.fds)
    fd.close_fds()
    assert frontend.tell(R.SET_STATUS, m.Number(11))
    for index in range(2):
        for message in frontend.ring(index, at=0x1000 * index).values():
            assert frontend.tell(*message)
    assert not frontend.tell(R.SET_STATUS, m.Number(15))  # queue 0 is larger than what its in-flight region tracks
    assert list(frontend.host.running) == [1]
