"""The parsers of vhost-user without a socket: whatever bytes come, they parse or raise a ProtocolError."""

from __future__ import annotations

import os
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvirtio.errors import DeviceError, ProtocolError
from pyvirtio.testing.frontend import message
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.backend import BackendSession
from pyvirtio.vhost_user.framing import Framer, close_all, encode
from pyvirtio.vhost_user.frontend import FrontendSession
from tests.support.hosts import FakeHost
from tests.support.vhost import open_files

R = m.Request
EVERY = sorted(m.TABLE.values(), key=lambda row: row.request)
SIZE = 1 << 16


def payload_of(row: m.Message) -> bytes:
    return {
        R.SET_MEM_TABLE: m.MemoryHeader(1).pack() + m.MemoryRegion(0, SIZE, SIZE, 0).pack(),
        R.ADD_MEM_REG: m.SingleRegion(0, 0, SIZE, SIZE, 0).pack(),
        R.SET_VRING_NUM: m.VringState(0, 16).pack(),
        R.SET_PROTOCOL_FEATURES: m.Number(sum(m.Protocol)).pack(),
        R.SET_FEATURES: m.Number(1 << 32 | m.F_PROTOCOL_FEATURES).pack(),
        R.GET_CONFIG: m.ConfigHeader(0, 16).pack() + bytes(16),
        R.SET_CONFIG: m.ConfigHeader(0, 16).pack() + bytes(16),
        R.GET_INFLIGHT_FD: m.Inflight(0, 0, 2, 16).pack(),
        R.SET_VRING_ADDR: m.VringAddr(0, 0, SIZE, SIZE + 1024, SIZE + 512, 0).pack(),
    }.get(row.request, bytes(row.payload.nbytes if row.payload else 0))


def make_fds(row: m.Message) -> list[int]:
    if row.request in {R.SET_VRING_KICK, R.SET_VRING_CALL, R.SET_VRING_ERR}:
        return [os.eventfd(0)]
    fds = [os.memfd_create("memory") for _ in range(row.fds[0])]
    for fd in fds:
        os.ftruncate(fd, SIZE)
    return fds


def new_session() -> BackendSession:
    session = BackendSession(FakeHost(), lambda _message: None)
    for row in (m.TABLE[R.SET_PROTOCOL_FEATURES], m.TABLE[R.SET_FEATURES]):
        session.receive(encode(row.request, payload_of(row)))
    return session


def collect(session: BackendSession) -> bytes:
    """Join replies, checking that each is one; close what would be sent along."""
    replies = session.outgoing()
    for reply in replies:
        head = m.Header.unpack(reply.data)
        assert head.flags == m.VERSION | m.F_REPLY
        assert head.size == len(reply.data) - m.Header.nbytes
        close_all(reply.fds)
    return b"".join(reply.data for reply in replies)


def answer(row: m.Message, step: int) -> bytes:
    """Feed a message, asked to be acknowledged, in pieces of ``step`` bytes; return all that comes back."""
    session = new_session()
    data = encode(row.request, payload_of(row), m.F_NEED_REPLY)
    fds, replies = make_fds(row), b""
    for at in range(0, len(data), step):
        assert session.wanted > 0
        session.receive(data[at : at + step], fds)
        replies += collect(session)
        fds = []
    session.close()
    return replies


@pytest.mark.parametrize("row", EVERY, ids=lambda row: row.request.name)
def test_every_message_whole_and_byte_by_byte(row: m.Message):
    before = open_files()
    whole = answer(row, 1000)
    assert len(whole) >= m.Header.nbytes
    assert m.Header.unpack(whole).request == row.request
    for step in (1, 2, 7, 11, 12, 13):
        assert answer(row, step) == whole
    assert open_files() == before


@pytest.mark.parametrize("row", EVERY, ids=lambda row: row.request.name)
def test_every_message_cut_short_at_each_byte(row: m.Message):
    before = open_files()
    data = encode(row.request, payload_of(row), m.F_NEED_REPLY)
    for cut in range(len(data)):
        session = new_session()
        session.receive(data[:cut], make_fds(row))
        assert session.outgoing() == []
        assert session.wanted > 0
        session.close()
    assert open_files() == before


@pytest.mark.parametrize("row", EVERY, ids=lambda row: row.request.name)
def test_the_framer_cuts_a_stream_where_it_should(row: m.Message):
    one = encode(row.request, payload_of(row))
    for step in (1, 5, 12, 1000):
        framer = Framer(m.MAXIMUM_PAYLOAD)
        frames = []
        stream = 5 * one
        for at in range(0, len(stream), step):
            frames += framer.feed(stream[at : at + step])
        assert framer.empty
        assert [(frame.request, frame.payload) for frame in frames] == 5 * [(row.request, payload_of(row))]


def test_reading_no_more_than_wanted_keeps_descriptors_with_their_message():
    before = open_files()
    framer = Framer(m.MAXIMUM_PAYLOAD)
    stream = b"".join(encode(R.SET_VRING_KICK, m.Number(n).pack()) for n in range(10))
    frames, at = [], 0
    while at < len(stream):
        wanted = framer.wanted
        fds = [os.eventfd(0)] if framer.empty else []
        frames += framer.feed(stream[at : at + wanted], fds)
        at += wanted
    assert [len(frame.fds) for frame in frames] == [1] * 10
    for frame in frames:
        frame.close_fds()
    assert open_files() == before


numbers = st.one_of(
    st.sampled_from([0, 1, 2, 3, 15, 16, 255, 256, 257, SIZE, 1 << 31, (1 << 32) - 1]), st.integers(0, (1 << 32) - 1)
)
payloads = st.one_of(
    st.binary(max_size=m.MAXIMUM_PAYLOAD),
    st.lists(numbers, max_size=12).map(lambda values: b"".join(value.to_bytes(4, "little") for value in values)),
    st.lists(numbers, max_size=8).map(lambda values: b"".join(value.to_bytes(8, "little") for value in values)),
)
some_messages = st.one_of(
    st.builds(
        message,
        st.one_of(st.sampled_from([int(request) for request in R]), numbers),
        payloads,
        flags=st.one_of(st.sampled_from([m.VERSION, m.VERSION | m.F_NEED_REPLY]), st.integers(0, 31)),
        size=st.one_of(st.none(), st.none(), st.none(), numbers),
    ),
    st.sampled_from(EVERY).map(lambda row: encode(row.request, payload_of(row), m.F_NEED_REPLY)),
    st.binary(max_size=40),
)
kinds = st.lists(st.sampled_from(["memory", "small", "eventfd", "null"]), max_size=3)


def open_one(kind: str) -> int:
    if kind == "eventfd":
        return os.eventfd(0)
    if kind == "null":
        return os.open("/dev/null", os.O_RDWR)
    fd = os.memfd_create("memory")
    os.ftruncate(fd, SIZE if kind == "memory" else 100)
    return fd


@given(stream=st.lists(st.tuples(some_messages, kinds), max_size=30), step=st.integers(1, 400))
def test_any_bytes_and_descriptors_parse_or_raise_a_protocol_error(stream: list[tuple[bytes, list[str]]], step: int):
    before = open_files()
    session = new_session()
    try:
        for data, descriptors in stream:
            fds = [open_one(kind) for kind in descriptors]
            for at in range(0, len(data), step):
                session.receive(data[at : at + step], fds if not at else [])
                collect(session)
            if not data:
                close_all(fds)
    except ProtocolError:
        pass
    finally:
        session.close()
    assert open_files() == before


@given(data=st.binary(max_size=600), step=st.integers(1, 600))
def test_any_bytes_into_the_framer(data: bytes, step: int):
    for replies in (False, True):
        framer = Framer(m.MAXIMUM_PAYLOAD, replies=replies)
        try:
            for at in range(0, len(data), step):
                for frame in framer.feed(data[at : at + step]):
                    assert len(frame.payload) <= m.MAXIMUM_PAYLOAD
                assert 0 < framer.wanted <= m.MAXIMUM_PAYLOAD + m.Header.nbytes
        except ProtocolError:
            pass


@given(row=st.sampled_from(EVERY), request_number=st.one_of(st.none(), numbers), payload=payloads)
def test_any_reply_is_checked_or_raises_a_peer_error(row: m.Message, request_number: int | None, payload: bytes):
    session = FrontendSession()
    session.protocol = m.Protocol.REPLY_ACK
    session.request(row.request, payload_of(row))
    number = row.request if request_number is None else request_number
    (frame,) = session.receive(encode(number, payload[: m.MAXIMUM_PAYLOAD], m.F_REPLY))
    with suppress(ProtocolError, DeviceError):
        session.check(row.request, frame)
