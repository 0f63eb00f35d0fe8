"""Sequences of messages that nobody would send, to a host that answers when it likes."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvirtio.vhost_user import messages as m
from tests.support.hosts import SIZE, VERSION_1, FakeHost, Frontend
from tests.support.vhost import open_files

if TYPE_CHECKING:
    from collections.abc import Callable

R = m.Request
Step = tuple[str, int, int]

F_BOTH = VERSION_1 | m.F_PROTOCOL_FEATURES


def tables(frontend: Frontend, number: int) -> None:
    frontend.share(guest=SIZE * (number % 3), user=SIZE * (1 + number % 2))


def ring_message(name: str) -> Callable[[Frontend, int, int], None]:
    def send(frontend: Frontend, index: int, number: int) -> None:
        ring = frontend.ring(index, at=0x1000 * (number % 4), size=(4, 8, 16, 1024)[number % 4], base=number % 3)
        frontend.send(*ring[name])

    return send


STEPS: dict[str, Callable[[Frontend, int, int], None]] = {
    **{name: ring_message(name) for name in ("num", "base", "addr", "kick", "call", "enable")},
    "disable": lambda frontend, index, _: frontend.send(R.SET_VRING_ENABLE, m.VringState(index, 0)),
    "stop": lambda frontend, index, _: frontend.send(R.GET_VRING_BASE, m.VringState(index)),
    "no kick": lambda frontend, index, _: frontend.send(R.SET_VRING_KICK, m.Number(index | m.NO_FD)),
    "no call": lambda frontend, index, _: frontend.send(R.SET_VRING_CALL, m.Number(index | m.NO_FD)),
    "memory": lambda frontend, _, number: tables(frontend, number),
    "no memory": lambda frontend, _, number: frontend.send(
        R.REM_MEM_REG, m.SingleRegion(0, SIZE * (number % 3), SIZE, SIZE * (1 + number % 2), 0)
    ),
    "features": lambda frontend, _, number: frontend.send(R.SET_FEATURES, m.Number((F_BOTH, VERSION_1)[number % 2])),
    "status": lambda frontend, _, number: frontend.send(R.SET_STATUS, m.Number((0, 11, 15, 15)[number % 4])),
    "config": lambda frontend, _, number: frontend.send(R.SET_CONFIG, m.ConfigHeader(number % 8, 4).pack() + bytes(4)),
    "reset": lambda frontend, _, __: frontend.send(R.RESET_DEVICE),
    "reset owner": lambda frontend, _, __: frontend.send(R.RESET_OWNER),
    "question": lambda frontend, _, __: frontend.send(R.GET_STATUS),
}
EVENTS: dict[str, Callable[[Frontend, int, int], None]] = {
    "broken": lambda frontend, index, _: frontend.session.queue_broken(index),
    "changed": lambda frontend, _, __: frontend.session.config_changed(),
    "used": lambda frontend, index, number: frontend.host.consumed.update({index: number % 4}),
}
steps = st.tuples(st.sampled_from([*STEPS, *EVENTS]), st.integers(0, 1), st.integers(0, 11))


def complete_all(host: FakeHost, data: st.DataObject) -> None:
    """Complete what is pending, and what that leads to, in any order."""
    while host.pending:
        host.complete(data.draw(st.sampled_from(sorted(host.pending))))


@pytest.mark.parametrize("late", [False, True], ids=["at once", "later"])
@given(sequence=st.lists(steps, max_size=40), data=st.data())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_each_message_is_answered_once_and_the_host_is_asked_only_for_what_can_be_done(
    sequence: list[Step], late: bool, data: st.DataObject
):
    before = open_files()
    host = FakeHost(late=late)
    frontend = Frontend(host)
    try:
        frontend.send(R.SET_PROTOCOL_FEATURES, m.Number(sum(m.Protocol)))
        assert len(frontend.replies()) == 1
        for name, index, number in sequence:
            if name in EVENTS:
                EVENTS[name](frontend, index, number)
                continue
            STEPS[name](frontend, index, number)
            assert (frontend.session.wanted == 0) == bool(host.pending)
            if host.pending:
                assert frontend.replies() == []
            complete_all(host, data)
            assert len(frontend.replies()) == 1
        frontend.send(R.GET_VRING_BASE, m.VringState(0))
        if data.draw(st.booleans()):
            complete_all(host, data)
    finally:
        frontend.close()
        host.complete_all()
    assert not host.running
    assert open_files() == before


@given(sequence=st.lists(steps, max_size=30))
def test_the_last_set_up_counts_whatever_came_before(sequence: list[Step]):
    with closing(Frontend()) as frontend:
        start_after(frontend, sequence)


def start_after(frontend: Frontend, sequence: list[Step]) -> None:
    frontend.send(R.SET_PROTOCOL_FEATURES, m.Number(sum(m.Protocol)))
    for name, index, number in sequence:
        {**STEPS, **EVENTS}[name](frontend, index, number)
    # As QEMU at the end of one driver and at the start of the next.
    for index in range(2):
        frontend.send(R.GET_VRING_BASE, m.VringState(index))
    frontend.send(R.SET_STATUS, m.Number(0))
    frontend.send(R.SET_FEATURES, m.Number(F_BOTH))
    frontend.replies()
    frontend.share()
    frontend.replies()
    frontend.start(1)
    setup = frontend.host.running[1]
    assert (setup.size, setup.position, setup.descriptor_area) == (16, 0, 0x1000)
    assert os.fstat(setup.kick_fd)
