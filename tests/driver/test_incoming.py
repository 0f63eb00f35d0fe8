"""Queues on which the device speaks first."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from pyvirtio.driver import Driver, RequestQueue, wait_for_any
from pyvirtio.errors import DeviceError, LocalError, NoAnswer
from pyvirtio.spec.struct import Struct, le16
from pyvirtio.testing import ScriptedTransport


class Event(Struct):
    kind: int = le16()
    code: int = le16()


class Client(Driver):
    device_id = 63
    packets = RequestQueue(size=8)
    events = RequestQueue(response=Event, size=8)
    frames = RequestQueue(response=Event, data=True, size=8)


class Sender:
    """A device that sends when a test says so; it keeps the buffers that it has."""

    def __init__(self, transport: ScriptedTransport, index: int) -> None:
        self.transport, self.index = transport, index
        self.heads: list[int] = []

    @property
    def buffers(self) -> int:
        self.heads += self.transport.devices[self.index].heads()
        return len(self.heads)

    def send(self, *messages: bytes, last: bool = False) -> None:
        """Send into the oldest buffers, or into the newest."""
        assert self.buffers >= len(messages)
        for message in messages:
            self.transport.devices[self.index].answer(self.heads.pop(-1 if last else 0), message)
        self.transport.call(self.index)


@pytest.fixture
def transport() -> ScriptedTransport:
    return ScriptedTransport(queue_sizes=[8, 8, 8])


@pytest.fixture
def client(transport: ScriptedTransport):
    with Client(transport) as client:
        yield client


@pytest.fixture
def sender(transport: ScriptedTransport, client: Client) -> Sender:
    return Sender(transport, 0)


def test_buffers_are_there_before_anybody_asks(client: Client, sender: Sender):
    client.packets.incoming(room=16, buffers=4)
    assert sender.buffers == 4


def test_what_arrives_comes_in_the_order_of_its_arrival(client: Client, sender: Sender):
    incoming = client.packets.incoming(room=16, buffers=4)
    sender.send(b"a")
    sender.send(b"b", last=True)
    sender.send(b"c")
    assert list(itertools.islice(incoming, 3)) == [b"a", b"b", b"c"]


def test_a_buffer_is_posted_for_each_that_was_taken(client: Client, sender: Sender):
    incoming = client.packets.incoming(room=16, buffers=2)
    for number in range(100):
        sender.send(b"%d" % number)
        assert sender.buffers == 1
        assert next(incoming) == b"%d" % number
        assert sender.buffers == 2


def test_a_reader_that_breaks_off_can_go_on(client: Client, sender: Sender):
    client.packets.incoming(room=16, buffers=4)
    sender.send(b"a", b"b", b"c")
    seen = []
    for packet in client.packets.incoming(room=16, buffers=4):
        seen.append(packet)
        break
    seen += itertools.islice(client.packets.incoming(room=16, buffers=4), 2)
    assert seen == [b"a", b"b", b"c"]
    assert sender.buffers == 4


def test_more_buffers_than_the_queue_holds_are_not_posted(client: Client, sender: Sender):
    client.packets.incoming(room=16, buffers=100)
    assert sender.buffers == 8


def test_structures_and_data_are_read_as_declared(client: Client, transport: ScriptedTransport):
    events = client.events.incoming()
    Sender(transport, 1).send(Event(1, 2).pack())
    assert next(events) == Event(1, 2)
    frames = client.frames.incoming(room=100)
    Sender(transport, 2).send(Event(3, 4).pack() + b"data")
    frame = next(frames)
    assert (frame.head, frame.data) == (Event(3, 4), b"data")


def test_a_message_that_is_too_short_does_not_end_the_others(client: Client, transport: ScriptedTransport):
    events = client.events.incoming()
    Sender(transport, 1).send(b"\1", Event(1, 2).pack())
    with pytest.raises(DeviceError):
        next(events)
    assert next(events) == Event(1, 2)


def test_a_blocking_wait_ends_in_time(client: Client, sender: Sender):
    with pytest.raises(NoAnswer):
        next(client.packets.incoming(room=16, timeout=0.01))


def test_an_event_loop_iterates(client: Client, sender: Sender):
    async def main() -> list[bytes]:
        seen = []
        asyncio.get_running_loop().call_soon(sender.send, b"a", b"b")
        async for packet in client.packets.incoming(room=16, buffers=2):
            seen.append(packet)
            if len(seen) == 6:
                break
            if len(seen) % 2 == 0:
                asyncio.get_running_loop().call_soon(sender.send, b"c", b"d")
        return seen

    assert asyncio.run(asyncio.wait_for(main(), 20)) == [b"a", b"b", b"c", b"d", b"c", b"d"]


def test_several_tasks_share_what_arrives(client: Client, sender: Sender):
    async def main() -> list[bytes]:
        incoming = client.packets.incoming(room=16, buffers=4)
        tasks = [asyncio.ensure_future(anext(incoming)) for _ in range(3)]
        await asyncio.sleep(0)
        sender.send(b"a")
        sender.send(b"b", b"c")
        return sorted(await asyncio.gather(*tasks))

    assert asyncio.run(asyncio.wait_for(main(), 20)) == [b"a", b"b", b"c"]


def test_closing_the_driver_ends_the_iteration(client: Client, sender: Sender):
    async def main() -> None:
        incoming = client.packets.incoming(room=16)
        asyncio.get_running_loop().call_soon(client.close)
        with pytest.raises(LocalError):
            await anext(incoming)

    asyncio.run(asyncio.wait_for(main(), 20))


def test_one_can_wait_for_several_queues_and_see_what_came(transport: ScriptedTransport, client: Client):
    packets, events = client.packets.incoming(room=8), client.events.incoming()
    transport.wait((0, 1), 0)  # no interrupt is pending
    with pytest.raises(NoAnswer):
        wait_for_any((client.packets, client.events), 0)
    assert not packets.ready
    Sender(transport, 1).send(Event(3, 4).pack())
    wait_for_any((client.packets, client.events), 0)
    assert (packets.ready, events.ready) == (False, True)
    assert next(events) == Event(3, 4)
    client.close()
    with pytest.raises(LocalError):
        wait_for_any((client.packets, client.events), 0)
