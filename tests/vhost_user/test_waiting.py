"""A message that has to wait for the host: those behind it wait, replies stay in order, and a close is clean."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import ProtocolError
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.framing import encode
from tests.support.hosts import SIZE, FakeHost, Frontend, negotiated_frontend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyvirtio.transport import Session

R = m.Request


@pytest.fixture
def frontend() -> Iterator[Frontend]:
    """A front-end with two rings that run, on a host that is late from now on."""
    with negotiated_frontend() as frontend:
        frontend.start(0)
        frontend.start(1)
        frontend.host.late = True
        frontend.host.calls.clear()
        yield frontend
        frontend.close()
        frontend.host.complete_all()


@pytest.fixture
def host(frontend: Frontend) -> FakeHost:
    return frontend.host


def requests(frontend: Frontend) -> list[int]:
    return [frame.request for frame in frontend.replies()]


def send_stop(frontend: Frontend) -> None:
    frontend.send(R.GET_VRING_BASE, m.VringState(0))


def send_table(frontend: Frontend) -> None:
    frontend.share()


def send_config(frontend: Frontend) -> None:
    frontend.send(R.SET_CONFIG, m.ConfigHeader(0, 4).pack() + b"abcd")


def send_reset(frontend: Frontend) -> None:
    frontend.send(R.RESET_DEVICE)


WAITS: dict[str, tuple[Callable[[Frontend], None], R, list[str]]] = {
    "a ring that stops": (send_stop, R.GET_VRING_BASE, ["stop 0"]),
    "a new table of regions": (send_table, R.SET_MEM_TABLE, ["memory"]),
    "a write to the configuration space": (send_config, R.SET_CONFIG, ["config"]),
    "a reset": (send_reset, R.RESET_DEVICE, ["stop 0", "stop 1", "reset"]),
}


def test_session_is_what_a_server_expects(frontend: Frontend):
    session: Session = frontend.session
    assert frontend.host.events is frontend.session
    assert session.wanted > 0


@pytest.mark.parametrize("case", WAITS)
def test_reply_waits_for_the_host_and_nothing_is_read_meanwhile(frontend: Frontend, host: FakeHost, case: str):
    send, request, steps = WAITS[case]
    send(frontend)
    for step in steps:
        assert frontend.replies() == []
        assert frontend.session.wanted == 0
        host.complete(step)
    assert requests(frontend) == [request]
    assert frontend.session.wanted == m.Header.nbytes


@pytest.mark.parametrize("case", WAITS)
def test_messages_that_were_read_already_wait_in_order(frontend: Frontend, host: FakeHost, case: str):
    send, request, steps = WAITS[case]
    send(frontend)
    behind = encode(R.GET_FEATURES) + encode(R.GET_CONFIG, m.ConfigHeader(0, 4).pack() + bytes(4))
    unfinished = encode(R.SET_VRING_NUM, m.VringState(0, 8).pack())[:15]
    frontend.session.receive(behind + encode(R.GET_STATUS) + unfinished)
    assert frontend.replies() == []
    host.complete(*steps)
    assert requests(frontend) == [request, R.GET_FEATURES, R.GET_CONFIG, R.GET_STATUS]
    assert frontend.session.wanted == m.Header.nbytes + m.VringState.nbytes - len(unfinished)


def test_a_second_message_waits_after_the_first_one(frontend: Frontend, host: FakeHost):
    send_stop(frontend)
    frontend.session.receive(encode(R.GET_VRING_BASE, m.VringState(1).pack()) + encode(R.GET_STATUS))
    assert host.calls == ["stop 0"]
    host.complete("stop 0")
    assert requests(frontend) == [R.GET_VRING_BASE]
    assert host.calls == ["stop 0", "stop 1"]
    assert frontend.session.wanted == 0
    host.complete("stop 1")
    assert requests(frontend) == [R.GET_VRING_BASE, R.GET_STATUS]


@pytest.mark.parametrize("order", [("stop 0", "stop 1"), ("stop 1", "stop 0")])
def test_rings_stop_together_in_any_order(frontend: Frontend, host: FakeHost, order: tuple[str, str]):
    host.consumed = {0: 3, 1: 5}
    send_reset(frontend)
    assert host.calls == ["stop 0", "stop 1"]
    host.complete(*order)
    assert host.calls[2:] == ["reset"]
    host.complete("reset")
    assert requests(frontend) == [R.RESET_DEVICE]


def test_what_is_completed_while_a_call_is_under_way_is_answered_at_once(frontend: Frontend, host: FakeHost):
    host.late = False
    send_stop(frontend)
    assert requests(frontend) == [R.GET_VRING_BASE]


def test_regions_that_went_stay_open_until_the_host_has_let_go_of_them(frontend: Frontend, host: FakeHost):
    (old,) = host.regions
    frontend.share()
    os.fstat(old.fd)
    host.complete("memory")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(old.fd)


def test_ring_that_moves_with_its_memory_stops_first_and_starts_last(frontend: Frontend, host: FakeHost):
    frontend.share(guest=SIZE)
    host.complete("stop 1", "stop 0")
    assert requests(frontend) == []
    host.complete("memory")
    assert host.calls == ["stop 0", "stop 1", "memory", "start 0", "start 1"]
    assert host.running[1].descriptor_area == SIZE + 0x1000
    assert requests(frontend) == [R.SET_MEM_TABLE]


# The connection closes.


@pytest.mark.parametrize("case", WAITS)
def test_close_while_waiting_and_the_host_completes_later(frontend: Frontend, host: FakeHost, case: str):
    send, _, _ = WAITS[case]
    send(frontend)
    frontend.session.receive(encode(R.SET_VRING_KICK, m.Number(0).pack()), [os.eventfd(0)])
    frontend.close()
    assert host.events is None
    assert sorted(name for name in host.calls if name.startswith("stop")) == ["stop 0", "stop 1"]
    host.complete_all()
    assert frontend.session.outgoing() == []
    assert not host.running


@pytest.mark.parametrize("done", [0, 1])
def test_close_in_the_middle_of_a_reset_stops_nothing_twice(frontend: Frontend, host: FakeHost, done: int):
    send_reset(frontend)
    host.complete(f"stop {done}")
    frontend.close()
    host.complete(f"stop {1 - done}")
    assert host.calls == ["stop 0", "stop 1", "memory"]


def test_descriptors_stay_open_until_the_host_has_stopped_with_them(frontend: Frontend, host: FakeHost):
    setups, (region,) = list(host.running.values()), host.regions
    frontend.close()
    held = [fd for setup in setups for fd in (setup.kick_fd, setup.interrupt_fd)] + [region.fd]
    for step in ("stop 0", "stop 1", "memory"):
        for fd in held:
            os.fstat(fd)
        host.complete(step)
    for fd in held:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_close_with_replies_that_were_not_sent(frontend: Frontend):
    frontend.send(R.GET_INFLIGHT_FD, m.Inflight(0, 0, 1, 16))
    frontend.close()
    assert frontend.session.outgoing() == []


def test_unanswerable_question_behind_one_that_waits_ends_the_connection(frontend: Frontend, host: FakeHost):
    send_stop(frontend)
    frontend.session.receive(encode(R.GET_VRING_BASE, m.VringState(99).pack()))
    host.complete("stop 0")
    with pytest.raises(ProtocolError):
        frontend.session.outgoing()
    with pytest.raises(ProtocolError):
        frontend.session.receive(b"\0")


def test_next_session_keeps_its_memory_when_the_last_one_lets_go(frontend: Frontend, host: FakeHost):
    frontend.close()
    successor = Frontend(host)
    host.late = False
    successor.share()
    regions = host.regions
    host.complete("stop 0", "stop 1")
    assert host.regions is regions
    assert len(regions) == 1
    successor.close()


@pytest.mark.parametrize("case", WAITS)
def test_server_is_woken_when_a_reply_is_there(frontend: Frontend, host: FakeHost, case: str):
    woken: list[None] = []
    frontend.session.wake = lambda: woken.append(None)
    send, _, steps = WAITS[case]
    send(frontend)
    assert not woken
    host.complete(*steps[:-1])
    woken.clear()
    host.complete(steps[-1])
    assert len(woken) == 1


def test_events_after_the_close_reach_nobody(frontend: Frontend, host: FakeHost):
    session = frontend.session
    frontend.close()
    host.complete_all()
    session.config_changed()
    session.queue_broken(0)
    assert session.outgoing() == []
