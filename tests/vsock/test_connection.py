"""One connection: what each operation does in each state, credits, and the end in good order or not."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvirtio.errors import LocalError
from pyvirtio.vsock import BUFFER, Connection, Header, State
from pyvirtio.vsock.connection import MOST_UNSENT
from pyvirtio.vsock.packets import BOTH, MOST_PAYLOAD, Op, Shutdown, check_cid, check_port

if TYPE_CHECKING:
    from collections.abc import Callable

ROOMY = 1 << 20


def connection(state: State) -> Connection:
    """Return a connection in a state that it came to in the ordinary way; what it had to say is said."""
    made = Connection(1, 2, State.REQUESTED if state is State.REQUESTED else State.OFFERED, lambda _: None)
    if state in (State.ESTABLISHED, State.CLOSING, State.CLOSED):
        made.accept()
    if state is State.CLOSING:
        made.shutdown(BOTH)
    if state is State.CLOSED:
        made.forget()
    while made.next_packet(MOST_PAYLOAD):
        pass
    assert made.state is state
    return made


def header(op: int, length: int = 0, *, flags: int = 0, buf_alloc: int = ROOMY, fwd_cnt: int = 0) -> Header:
    return Header(3, 2, 2, 1, length, 1, op, flags, buf_alloc, fwd_cnt)


def said(one: Connection, most: int = MOST_PAYLOAD) -> list[Op]:
    """Return the operations of all that it has to say."""
    found = []
    while packet := one.next_packet(most):
        found.append(packet[0])
    return [*found, Op.RST] if one.owes_reset else found


# What the specification says of each operation, and what nobody may send.
EXPECTED: dict[State, dict[int, tuple[State, list[Op]]]] = {
    State.OFFERED: {
        Op.RST: (State.CLOSED, []),
        Op.CREDIT_UPDATE: (State.OFFERED, []),
        Op.CREDIT_REQUEST: (State.OFFERED, []),
    },
    State.REQUESTED: {
        Op.RESPONSE: (State.ESTABLISHED, []),
        Op.RST: (State.CLOSED, []),
        Op.CREDIT_UPDATE: (State.REQUESTED, []),
    },
    State.ESTABLISHED: {
        Op.RST: (State.CLOSED, []),
        Op.SHUTDOWN: (State.ESTABLISHED, []),
        Op.RW: (State.ESTABLISHED, []),
        Op.CREDIT_UPDATE: (State.ESTABLISHED, []),
        Op.CREDIT_REQUEST: (State.ESTABLISHED, [Op.CREDIT_UPDATE]),
    },
    State.CLOSING: {
        Op.RST: (State.CLOSED, []),
        Op.SHUTDOWN: (State.CLOSING, []),
        Op.RW: (State.CLOSING, []),
        Op.CREDIT_UPDATE: (State.CLOSING, []),
        Op.CREDIT_REQUEST: (State.CLOSING, [Op.CREDIT_UPDATE]),
    },
    State.CLOSED: {},
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("op", [*Op, 8, 0xFFFF])
def test_each_operation_in_each_state(state: State, op: int):
    one = connection(state)
    one.receive(header(op), b"")
    breach: tuple[State, list[Op]] = State.CLOSED, [] if state is State.CLOSED else [Op.RST]
    assert (one.state, said(one)) == EXPECTED[state].get(op, breach)


def test_what_comes_is_read_in_order_and_the_peer_hears_of_it():
    one = connection(State.ESTABLISHED)
    pieces = [bytes([n]) * (BUFFER // 8) for n in range(8)]
    for piece in pieces:
        one.receive(header(Op.RW, len(piece)), piece)
    assert one.received == BUFFER
    assert said(one) == []
    assert one.read(10) == pieces[0][:10]
    assert b"".join(iter(one.read, b"")) == b"".join(pieces)[10:]
    assert said(one) == [Op.CREDIT_UPDATE]
    assert one.forwarded == BUFFER


@pytest.mark.parametrize("length", [BUFFER + 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_more_than_the_credit_resets(length: int):
    one = connection(State.ESTABLISHED)
    one.receive(header(Op.RW, length), b"x" * min(length, BUFFER))
    assert (one.state, one.was_reset, said(one), one.received) == (State.CLOSED, True, [Op.RST], 0)


def test_a_byte_after_a_full_buffer_resets():
    one = connection(State.ESTABLISHED)
    one.receive(header(Op.RW, BUFFER), b"x" * BUFFER)
    assert one.received == BUFFER
    one.receive(header(Op.RW, 1), b"x")
    assert (one.state, one.received) == (State.CLOSED, 0)


def test_a_length_that_lies_resets():
    one = connection(State.ESTABLISHED)
    one.receive(header(Op.RW, 100), b"x" * 99)
    assert (one.state, said(one)) == (State.CLOSED, [Op.RST])


def test_data_after_the_promise_to_send_none_resets():
    one = connection(State.ESTABLISHED)
    one.receive(header(Op.SHUTDOWN, flags=Shutdown.SEND), b"")
    one.receive(header(Op.RW, 1), b"x")
    assert one.state is State.CLOSED


def test_nothing_is_sent_without_credit_and_it_is_asked_for_once():
    one = connection(State.ESTABLISHED)
    one.receive(header(Op.CREDIT_UPDATE, buf_alloc=0), b"")
    assert one.send(b"hello") == 5
    assert said(one) == [Op.CREDIT_REQUEST]
    one.receive(header(Op.CREDIT_UPDATE, buf_alloc=0), b"")
    assert said(one) == [], "it would go on like that for ever"
    one.receive(header(Op.CREDIT_UPDATE, buf_alloc=3), b"")
    assert one.next_packet(MOST_PAYLOAD) == (Op.RW, 0, b"hel")
    assert said(one) == [Op.CREDIT_REQUEST]
    one.receive(header(Op.CREDIT_UPDATE, buf_alloc=3, fwd_cnt=3), b"")
    assert one.next_packet(1) == (Op.RW, 0, b"l")
    assert one.next_packet(MOST_PAYLOAD) == (Op.RW, 0, b"o")


@pytest.mark.parametrize(("buf_alloc", "fwd_cnt"), [(10, 1), (10, 0xFFFFFFF0), (0, 5), (0xFFFFFFFF, 0x80000000)])
def test_a_peer_that_contradicts_itself_never_gets_more_than_waits(buf_alloc: int, fwd_cnt: int):
    one = connection(State.ESTABLISHED)
    one.receive(header(Op.CREDIT_UPDATE, buf_alloc=buf_alloc, fwd_cnt=fwd_cnt), b"")
    assert 0 <= one.credit <= 0xFFFFFFFF
    assert one.send(bytes(2 * MOST_UNSENT)) == MOST_UNSENT
    assert one.room == 0
    one.receive(header(Op.CREDIT_UPDATE), b"")
    assert Op.RW in said(one)
    assert (one.state, one.unsent) == (State.ESTABLISHED, 0)


def test_an_end_in_good_order_from_here():
    one = connection(State.ESTABLISHED)
    one.receive(header(Op.CREDIT_UPDATE), b"")
    one.send(b"last words")
    one.shutdown(BOTH)
    assert said(one) == [Op.RW, Op.SHUTDOWN]
    one.receive(header(Op.RST), b"")
    assert (one.state, one.was_reset) == (State.CLOSED, False)


@pytest.mark.parametrize("how", [Op.RST, Op.SHUTDOWN])
def test_what_never_reached_the_peer_is_known(how: Op):
    one = connection(State.ESTABLISHED)
    one.send(b"sent")
    assert said(one) == [Op.CREDIT_REQUEST]
    one.receive(header(how, flags=BOTH), b"")
    assert (one.lost, one.unsent, one.state) == (True, 0, State.CLOSED)


def test_an_end_in_good_order_from_there_comes_behind_the_data():
    one = connection(State.ESTABLISHED)
    one.receive(header(Op.RW, 5), b"hello")
    one.receive(header(Op.SHUTDOWN, flags=BOTH), b"")
    assert (one.state, said(one), one.may_send) == (State.ESTABLISHED, [], False)
    assert one.read() == b"hello"
    assert (one.state, one.was_reset, said(one)) == (State.CLOSED, False, [Op.RST])


def test_a_peer_that_does_not_wait_for_our_confirmation_loses_nothing():
    one = connection(State.ESTABLISHED)
    one.receive(header(Op.RW, 5), b"hello")
    one.receive(header(Op.SHUTDOWN, flags=BOTH), b"")
    one.receive(header(Op.RST), b"")
    assert (one.state, one.was_reset, one.may_receive, one.read()) == (State.CLOSED, False, True, b"hello")
    assert not one.may_receive


def test_hints_are_permanent_and_unknown_ones_say_nothing():
    one = connection(State.ESTABLISHED)
    one.receive(header(Op.SHUTDOWN, flags=Shutdown.RECEIVE), b"")
    one.receive(header(Op.SHUTDOWN, flags=0), b"")
    one.receive(header(Op.SHUTDOWN, flags=0xFFFFFFFC), b"")
    assert one.peer_shut == Shutdown.RECEIVE
    assert (one.state, one.may_send, one.may_receive) == (State.ESTABLISHED, False, True)
    one.receive(header(Op.SHUTDOWN, flags=0xFFFFFFFE), b"")
    assert (one.state, said(one)) == (State.CLOSED, [Op.RST])


def test_half_a_shutdown_leaves_the_other_half():
    one = connection(State.ESTABLISHED)
    one.shutdown(Shutdown.SEND)
    assert one.next_packet(MOST_PAYLOAD) == (Op.SHUTDOWN, Shutdown.SEND, b"")
    one.receive(header(Op.RW, 5), b"hello")
    assert (one.read(), one.send(b"no")) == (b"hello", 0)


@pytest.mark.parametrize("cid", [0, 1, 2, 0xFFFFFFFF, 1 << 32, -1])
def test_a_guest_has_no_reserved_cid(cid: int):
    with pytest.raises(LocalError, match="CID"):
        check_cid(cid)


@pytest.mark.parametrize("port", [-1, 0xFFFFFFFF, 1 << 32])
def test_a_port_has_32_bits(port: int):
    with pytest.raises(LocalError, match="port"):
        check_port(port)


PACKETS = st.lists(
    st.tuples(
        st.sampled_from([*Op, 9]),
        st.integers(0, 2 * BUFFER),
        st.integers(0, BUFFER),
        st.integers(0, 7),
        st.integers(0, 0xFFFFFFFF),
        st.integers(0, 0xFFFFFFFF),
        st.sampled_from(["accept", "send", "read", "shut", "close", "speak", ""]),
    ),
    max_size=40,
)


@given(PACKETS, st.sampled_from([State.OFFERED, State.REQUESTED, State.ESTABLISHED]))
def test_memory_and_promises_hold_whatever_the_peer_says(
    packets: list[tuple[int, int, int, int, int, int, str]], start: State
):
    one = connection(start)
    block = bytes(BUFFER)
    acts: dict[str, Callable[[], object]] = {
        "accept": one.accept,
        "send": lambda: one.send(block),
        "read": one.read,
        "shut": lambda: one.shutdown(Shutdown.SEND),
        "close": lambda: one.shutdown(BOTH),
    }
    for op, length, came, flags, buf_alloc, fwd_cnt, act in packets:
        one.receive(header(op, length, flags=flags, buf_alloc=buf_alloc, fwd_cnt=fwd_cnt), block[:came])
        if act in acts:
            acts[act]()
        if act == "speak":
            credit = one.credit
            packet = one.next_packet(1000)
            if packet is not None and packet[0] is Op.RW:
                assert 0 < len(packet[2]) <= min(credit, 1000)
        assert 0 <= one.received <= BUFFER
        assert 0 <= one.unsent <= MOST_UNSENT
        assert len(one._owed) <= len(Op)
        if one.state is State.CLOSED:
            assert (one.room, one.next_packet(1000)) == (0, None)


@given(st.data())
def test_two_ends_carry_every_byte_in_order(data: st.DataObject):
    """Two connections that talk to each other, with reads, writes and delays in any order: nothing is lost."""
    wire: dict[Connection, deque[tuple[Op, int, bytes, int]]] = {}
    ends = [Connection(1, 2, State.REQUESTED, lambda _: None), Connection(2, 1, State.OFFERED, lambda _: None)]
    sent, got = [b"", b""], [b"", b""]
    for end in ends:
        wire[end] = deque()

    def speak(index: int, most: int) -> None:
        if (packet := ends[index].next_packet(most)) and packet[0] is not Op.REQUEST:
            wire[ends[1 - index]].append((*packet, ends[index].forwarded))

    def hear(index: int) -> None:
        if wire[ends[index]]:
            op, flags, payload, forwarded = wire[ends[index]].popleft()
            ends[index].receive(header(op, len(payload), flags=flags, buf_alloc=BUFFER, fwd_cnt=forwarded), payload)

    ends[1].note_credit(header(Op.REQUEST, buf_alloc=BUFFER))
    ends[1].accept()
    for _ in range(data.draw(st.integers(0, 60))):
        index = data.draw(st.integers(0, 1))
        act = data.draw(st.integers(0, 3))
        if act == 0:
            piece = bytes([len(sent[index]) % 251]) * data.draw(st.integers(1, 50_000))
            sent[index] += piece[: ends[index].send(piece)]
        elif act == 1:
            speak(index, data.draw(st.integers(1, MOST_PAYLOAD)))
        elif act == 2:
            hear(index)
        else:
            got[index] += ends[index].read(data.draw(st.integers(1, 70_000)))
    for _ in range(200):  # let it come to rest
        for index in (0, 1):
            speak(index, MOST_PAYLOAD)
            hear(index)
            got[index] += ends[index].read()
    assert [end.state for end in ends] == [State.ESTABLISHED, State.ESTABLISHED]
    assert (got[0], got[1]) == (sent[1], sent[0])
