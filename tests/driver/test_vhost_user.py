"""A driver over vhost-user: the back-end's own messages, its end, and back-ends that know less."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvirtio import open_driver
from pyvirtio.driver import Driver, RequestQueue
from pyvirtio.drivers.echo import EchoDriver
from pyvirtio.errors import DeviceError, LocalError, NegotiationError, NoAnswer, ProtocolError
from pyvirtio.spec.struct import Struct, le32
from pyvirtio.testing.served import served
from pyvirtio.vhost_user import connection
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.client import VhostUserTransport
from pyvirtio.vhost_user.framing import encode
from pyvirtio.vhost_user.frontend import BackendChannel
from tests.support.backend_peer import ALL, MODERN, BackendPeer

IOTLB_MSG, SHARED_OBJECT_LOOKUP = 1, 8


class Config(Struct):
    value: int = le32()


class Client(Driver):
    device_id = 63
    config = Config
    bytes_ = RequestQueue(size=8)
    others = RequestQueue(size=8)


@pytest.fixture
def peer():
    with BackendPeer(config=b"\1\0\0\0") as peer:
        yield peer


@pytest.fixture
def client(peer: BackendPeer, request: pytest.FixtureRequest):
    with Client(VhostUserTransport(peer.frontend)) as client:
        yield client
    # pytest keeps what a fixture gave, and a driver keeps its memory, whose mapping holds a descriptor.
    request.node.funcargs.clear()


def answer(peer: BackendPeer, index: int = 0) -> None:
    """Answer what is there with what was asked."""
    device = peer.device(index)
    for head in device.heads():
        device.answer(head, device.read(head))
    peer.interrupt(index)


def enabled(peer: BackendPeer) -> list[int]:
    return [m.VringState.unpack(payload).queue for payload in peer.payloads(m.Request.SET_VRING_ENABLE)]


# What the back-end knows.


def test_without_mq_the_driver_knows_how_many_queues_there_are():
    """ "Front-ends must not rely on the MQ feature for devices with a fixed number of virtqueues." """
    with BackendPeer(protocol=ALL & ~m.Protocol.MQ) as peer, Client(VhostUserTransport(peer.frontend)):
        assert enabled(peer) == [0, 1]
        assert not peer.payloads(m.Request.GET_QUEUE_NUM)


def test_with_mq_the_backend_says_how_many_queues_there_are():
    with BackendPeer(queues=1) as peer, pytest.raises(NegotiationError, match="others"):
        Client(VhostUserTransport(peer.frontend))


def test_without_protocol_features_queues_are_enabled_from_the_start():
    """Ring states: SET_VRING_ENABLE is there only where PROTOCOL_FEATURES was negotiated."""
    with BackendPeer(features=MODERN) as peer, Client(VhostUserTransport(peer.frontend)) as client:
        ticket = client.others.submit(b"x", room=1)
        peer.on[m.Request.GET_FEATURES] = lambda: None
        client.transport._ask(m.Request.GET_FEATURES)  # type: ignore[attr-defined]  # so everything before it has been read
        assert not enabled(peer)
        answer(peer, 1)
        assert ticket.result() == b"x"
        with pytest.raises(LocalError):
            client.read_config()


# What the back-end says by itself.


def test_a_changed_configuration_is_acknowledged_while_the_driver_waits_blocking(client: Client, peer: BackendPeer):
    ticket = client.bytes_.submit(b"x", room=1)
    acknowledged: list[tuple[int, int]] = []

    def backend() -> None:
        peer.say(m.CONFIG_CHANGE_MSG, ack=True)
        acknowledged.append(peer.acknowledgement())
        answer(peer)

    thread = threading.Thread(target=backend)
    thread.start()
    assert ticket.result() == b"x"
    thread.join()
    assert acknowledged == [(m.CONFIG_CHANGE_MSG, 0)]


def test_a_changed_configuration_is_acknowledged_while_a_ticket_is_awaited(client: Client, peer: BackendPeer):
    async def main() -> tuple[int, int]:
        ticket = asyncio.ensure_future(wait(client))
        peer.say(m.CONFIG_CHANGE_MSG, ack=True)
        acknowledgement = await asyncio.to_thread(peer.acknowledgement)
        answer(peer)
        assert await ticket == b"x"
        return acknowledgement

    assert asyncio.run(asyncio.wait_for(main(), 20)) == (m.CONFIG_CHANGE_MSG, 0)


async def wait(client: Client) -> bytes:
    return bytes(await client.bytes_.submit(b"x", room=1))


def test_a_backend_that_wants_its_acknowledgement_before_it_replies_gets_it(client: Client, peer: BackendPeer):
    """And the reply is taken for old, for the configuration changed while it was read."""
    replies = 0

    def change_first() -> None:
        nonlocal replies
        replies += 1
        if replies == 1:
            peer.say(m.CONFIG_CHANGE_MSG, ack=True)
            assert peer.acknowledgement() == (m.CONFIG_CHANGE_MSG, 0)

    peer.on[m.Request.GET_CONFIG] = change_first
    assert client.read_config() == Config(1)
    assert replies == 2


@pytest.mark.parametrize("request_", [IOTLB_MSG, 3, 4, 5, 6, 7, SHARED_OBJECT_LOOKUP, 1000])
def test_what_was_not_negotiated_is_refused(client: Client, peer: BackendPeer, request_: int):
    peer.say(request_, bytes(24), ack=True)
    client.transport.process_events()
    assert peer.acknowledgement() == (request_, 1)
    assert client.read_config() == Config(1)


def test_descriptors_of_a_refused_message_are_closed(client: Client, peer: BackendPeer):
    read, write = os.pipe()
    peer.say(SHARED_OBJECT_LOOKUP, bytes(16), fds=[write, write])
    os.close(write)
    client.transport.process_events()
    assert peer.acknowledgement() == (SHARED_OBJECT_LOOKUP, 1)
    assert os.read(read, 1) == b""  # no writer is left
    os.close(read)


def test_a_backend_may_close_its_channel(client: Client, peer: BackendPeer):
    assert peer.channel is not None
    peer.channel.close()
    client.transport.process_events()
    assert client.read_config() == Config(1)


def test_a_channel_that_is_closed_before_its_acknowledgement_harms_nothing(client: Client, peer: BackendPeer):
    peer.say(m.CONFIG_CHANGE_MSG, ack=True)
    peer.say(m.CONFIG_CHANGE_MSG, ack=True)
    assert peer.channel is not None
    peer.channel.close()
    for _ in range(3):
        client.transport.process_events()
    assert client.read_config() == Config(1)


def test_what_is_not_vhost_user_on_the_channel_ends_the_connection(client: Client, peer: BackendPeer):
    ticket = client.bytes_.submit(b"x", room=1)
    assert peer.channel is not None
    peer.channel.sendall(b"\xff" * 64)
    for ask in (ticket.result, client.read_config, client.transport.process_events, ticket.result):
        with pytest.raises(DeviceError):
            ask()


@given(st.lists(st.tuples(st.integers(0, 12), st.binary(max_size=40), st.booleans())), st.data())
def test_the_channel_takes_a_stream_in_any_pieces(messages, data):
    """Each message that asks for it is acknowledged, in order, however the bytes come."""
    stream = b"".join(encode(number, payload, m.F_NEED_REPLY if ack else 0) for number, payload, ack in messages)
    channel, replies, at = BackendChannel(), b"", 0
    while at < len(stream):
        upto = at + data.draw(st.integers(1, channel.wanted))
        replies += channel.receive(stream[at:upto])
        at = upto
    expected = b""
    for number, payload, ack in messages:
        understood = number == m.CONFIG_CHANGE_MSG and not payload
        if ack or number == SHARED_OBJECT_LOOKUP:
            expected += encode(number, m.Number(0 if understood else 1).pack(), m.F_REPLY)
    assert replies == expected
    assert channel.config_changes == sum(
        number == m.CONFIG_CHANGE_MSG and not payload for number, payload, _ in messages
    )


@given(st.binary(max_size=60))
def test_the_channel_survives_any_bytes(data):
    channel = BackendChannel()
    with suppress(ProtocolError):
        channel.receive(data)
    channel.close()


# Its end.


def test_a_blocking_wait_ends_with_the_backend(client: Client, peer: BackendPeer):
    ticket = client.bytes_.submit(b"x", room=1)
    peer.hang_up()
    with pytest.raises(DeviceError):
        ticket.result()


def test_an_answer_before_the_backends_end_counts(client: Client, peer: BackendPeer):
    done, waiting = client.bytes_.submit_all([b"x", b"y"], room=1)
    device = peer.device()
    device.answer(device.heads()[0], b"!")
    peer.hang_up()
    assert done.result() == b"!"
    with pytest.raises(DeviceError):
        waiting.result()


def test_awaited_tickets_end_with_the_backend(client: Client, peer: BackendPeer):
    async def main() -> list[object]:
        tasks = [asyncio.create_task(wait(client)) for _ in range(3)]
        await asyncio.sleep(0)
        peer.hang_up()
        return [type(error) for error in await asyncio.gather(*tasks, return_exceptions=True)]

    assert asyncio.run(asyncio.wait_for(main(), 20)) == [DeviceError] * 3


@pytest.mark.parametrize("index", [0, 1])
def test_waits_end_where_the_backend_serves_a_queue_no_more(client: Client, peer: BackendPeer, index: int):
    """They lasted for their whole time-out, though SET_VRING_ERR is for just that."""

    async def main() -> list[object]:
        tasks = [asyncio.create_task(wait(client)) for _ in range(3)]
        await asyncio.sleep(0)
        peer.report_broken(index)
        return [type(error) for error in await asyncio.gather(*tasks, return_exceptions=True)]

    ticket = client.bytes_.submit(b"x", room=1)
    assert asyncio.run(asyncio.wait_for(main(), 20)) == [DeviceError] * 3
    with pytest.raises(DeviceError):
        ticket.result()


def test_a_ring_that_the_backend_finds_broken_ends_the_driver():
    with served("echo") as server, open_driver(EchoDriver, f"vhost-user:{server.path}") as driver:
        driver.requests.ring._available_index += 1000  # more than the queue has entries: VIRTIO 1.4, 2.7.13.3
        ticket = driver.requests.submit(b"x", room=1)
        with pytest.raises(DeviceError):
            ticket.result()


def test_awaited_tickets_end_when_another_call_meets_the_end(client: Client, peer: BackendPeer):
    """The back-end lives on, and says what makes no sense: nobody else would notice."""

    async def main() -> list[object]:
        tasks = [asyncio.create_task(wait(client)) for _ in range(3)]
        await asyncio.sleep(0)
        peer.on[m.Request.GET_CONFIG] = lambda: b"\1"
        with pytest.raises(DeviceError):
            client.read_config()
        return [type(error) for error in await asyncio.gather(*tasks, return_exceptions=True)]

    assert asyncio.run(asyncio.wait_for(main(), 20)) == [DeviceError] * 3


def test_what_nobody_asked_for_ends_the_connection(client: Client, peer: BackendPeer):
    peer.send(encode(m.Request.GET_FEATURES, bytes(8), m.F_REPLY))
    with pytest.raises(DeviceError):
        client.transport.process_events()


def test_a_late_reply_is_not_taken_for_the_next_ones(
    client: Client, peer: BackendPeer, monkeypatch: pytest.MonkeyPatch
):
    late = threading.Event()
    peer.on[m.Request.GET_CONFIG] = lambda: bytes(late.wait(10) and 0)
    monkeypatch.setattr(connection, "ANSWER_TIME", 0.05)
    with pytest.raises(NoAnswer):
        client.read_config()
    late.set()
    monkeypatch.undo()
    with pytest.raises(NoAnswer):
        client.read_config()


def test_a_refusal_does_not_end_the_connection(client: Client, peer: BackendPeer):
    peer.on[m.Request.SET_CONFIG] = lambda: m.Number(1).pack()
    with pytest.raises(DeviceError):
        client.write_config(value=5)
    assert client.read_config() == Config(1)
