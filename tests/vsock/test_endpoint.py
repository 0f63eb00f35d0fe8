"""All connections of an end: packets find theirs, strangers are refused, and everything is bounded."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvirtio.vsock import BUFFER, MOST_CONNECTIONS, Connection, Endpoint, Header, Ledger, State
from pyvirtio.vsock.endpoint import MOST_RESETS
from pyvirtio.vsock.packets import FIRST_PORT, LAST_PORT, Op, Type

GUEST, HOST = 7, 2
ROOM = 4096


class End:
    """The host's end, and what it offered and said."""

    def __init__(self, *, accepts: bool = True, **options: Any) -> None:
        self.offered: list[Connection] = []
        self.woken = 0
        self._accepts = accepts
        self.endpoint = Endpoint(HOST, GUEST, self._offer, self._wake, **options)

    def _offer(self, connection: Connection) -> None:
        self.offered.append(connection)
        if self._accepts:
            connection.accept()

    def _wake(self) -> None:
        self.woken += 1

    def receive(self, op: int, port: int = 1, *, payload: bytes = b"", **changes: Any) -> None:
        fields = {"src_cid": GUEST, "dst_cid": HOST, "src_port": port, "dst_port": 80, "buf_alloc": BUFFER}
        self.endpoint.receive(Header(**{"len": len(payload), "op": op, **fields, **changes}), payload)

    def said(self) -> list[tuple[Op, int, int]]:
        """Return each packet that it has to say: the operation, its own port, the guest's."""
        found = []
        while packet := self.endpoint.next_packet(ROOM):
            header = Header.unpack(packet)
            assert (header.src_cid, header.dst_cid, len(packet)) == (HOST, GUEST, Header.nbytes + header.len)
            found.append((Op(header.op), header.src_port, header.dst_port))
        return found


def test_a_connection_is_offered_accepted_and_found_again():
    end = End()
    end.receive(Op.REQUEST)
    assert end.said() == [(Op.RESPONSE, 80, 1)]
    end.receive(Op.RW, payload=b"hello")
    assert [one.read() for one in end.offered] == [b"hello"]
    end.receive(Op.RST)
    assert (end.endpoint.connections, end.said()) == ({}, [])


@pytest.mark.parametrize("op", [op for op in [*Op, 8, 0xFFFF] if op not in (Op.REQUEST, Op.RST)])
def test_what_belongs_to_no_connection_is_reset(op: int):
    end = End()
    end.receive(op, payload=b"data")
    assert end.said() == [(Op.RST, 80, 1)]
    assert end.offered == []


def test_a_rst_is_never_answered():
    end = End()
    strange: list[dict[str, Any]] = [{}, {"type": 9}, {"dst_cid": 99}, {"src_cid": 99}]
    for changes in strange:
        end.receive(Op.RST, **changes)
    assert end.said() == []


@pytest.mark.parametrize("kind", [0, Type.SEQPACKET, 3, 0xFFFF])
def test_an_unknown_type_is_reset(kind: int):
    end = End()
    end.receive(Op.REQUEST, type=kind)
    packet = Header.unpack(end.endpoint.next_packet(ROOM))
    assert (packet.op, packet.type, end.offered) == (Op.RST, kind, [])


def test_a_packet_in_somebody_elses_name_is_dropped():
    end = End()
    for cid in (0, 2, 8, GUEST | 1 << 32):
        end.receive(Op.REQUEST, src_cid=cid)
    assert (end.offered, end.said(), end.woken) == ([], [], 0)


def test_a_packet_to_nobody_is_reset_in_their_name():
    end = End()
    end.receive(Op.REQUEST, dst_cid=9)
    packet = Header.unpack(end.endpoint.next_packet(ROOM))
    assert (packet.op, packet.src_cid, packet.dst_cid, end.offered) == (Op.RST, 9, GUEST, [])


def test_a_second_request_from_the_same_port_resets_the_first():
    end = End()
    end.receive(Op.REQUEST)
    end.said()
    end.receive(Op.REQUEST)
    assert end.said() == [(Op.RST, 80, 1)]
    assert end.offered[0].was_reset


def test_a_hundred_thousand_requests_make_no_more_connections_than_there_may_be():
    end = End(accepts=False)
    for port in range(100_000):
        end.receive(Op.REQUEST, port)
    assert len(end.endpoint.connections) == len(end.offered) == MOST_CONNECTIONS
    assert len(end.said()) == MOST_RESETS
    for one in end.offered:
        one.accept()
    assert len(end.said()) == MOST_CONNECTIONS


def test_what_closed_connections_have_left_unread_takes_their_place():
    end = End(most=2)
    for port in (1, 2):
        end.receive(Op.REQUEST, port)
        end.receive(Op.RW, port, payload=b"unread")
        end.receive(Op.SHUTDOWN, port, flags=3)
        end.receive(Op.RST, port)
    assert end.endpoint.connections == {}
    end.said()
    end.receive(Op.REQUEST, 3)
    assert end.said() == [(Op.RST, 80, 3)]
    assert end.offered[0].read() == b"unread"
    end.receive(Op.REQUEST, 4)
    assert end.said() == [(Op.RESPONSE, 80, 4)]
    end.offered[1].reset()
    end.receive(Op.REQUEST, 5)
    assert end.said() == [(Op.RESPONSE, 80, 5)]


def test_connections_take_turns():
    end = End()
    for port in (1, 2, 3):
        end.receive(Op.REQUEST, port)
    end.said()
    for one in end.offered:
        one.send(bytes(2 * ROOM))
    assert [port for _, _, port in end.said()] == [1, 2, 3] * 3


def test_ports_of_ones_own_are_free_ones_and_go_round():
    end = End(first_port=LAST_PORT)
    made = [end.endpoint.connect(5) for _ in range(2)]
    assert [one.local_port for one in made if one] == [LAST_PORT, FIRST_PORT]
    end.endpoint._next_port = LAST_PORT
    third = end.endpoint.connect(5)
    assert third is not None
    assert third.local_port == FIRST_PORT + 1
    assert {op for op, _, _ in end.said()} == {Op.REQUEST}
    assert End(most=0).endpoint.connect(5) is None


def test_all_are_forgotten_without_a_word():
    end = End()
    for port in (1, 2):
        end.receive(Op.REQUEST, port)
    end.receive(Op.RW, 3)
    end.endpoint.forget_all()
    assert (end.said(), end.endpoint.connections) == ([], {})
    assert all(one.was_reset for one in end.offered)


def test_what_a_dead_process_had_is_reset_by_the_next():
    memory = memoryview(bytearray(1024))
    dead = End()
    dead.endpoint.ledger = Ledger(memory)
    for port in range(200):  # more than the ledger has room for
        dead.receive(Op.REQUEST, port)
    dead.receive(Op.RST, 0)
    end = End()
    end.endpoint.ledger = ledger = Ledger(memory)
    end.receive(Op.REQUEST, 1)  # the guest's request comes again
    end.endpoint.reset_unknown(ledger.take())
    words = end.said()
    assert len(words) == 127
    assert {(op, port) for op, _, port in words} == {(Op.RST, port) for port in range(2, 128)} | {(Op.RESPONSE, 1)}


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0xFFFFFFF0, 0xFFFFFFFF)), max_size=50))
def test_a_ledger_notes_exactly_what_there_is(steps: list[tuple[bool, int, int]]):
    memory = memoryview(bytearray(8 * 8))
    ledger, noted = Ledger(memory), set[tuple[int, int]]()
    for is_new, local_port, peer_port in steps:
        ports = local_port, peer_port
        if is_new and ports not in noted and len(noted) < 8:
            ledger.add(ports)
            noted.add(ports)
        elif not is_new:
            ledger.discard(ports)
            noted.discard(ports)
        assert ledger.take() == [], "its own are nobody else's"
    assert set(Ledger(memory).take()) == noted


def test_an_established_state_needs_both_ends():
    end = End()
    made = end.endpoint.connect(5)
    assert made is not None
    end.receive(Op.RESPONSE, 5, dst_port=made.local_port)
    assert made.state is State.ESTABLISHED
