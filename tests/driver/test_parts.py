"""Requests and answers in parts: what is put on the ring, and how it is read."""

from __future__ import annotations

import array
from typing import TYPE_CHECKING

import pytest

from pyvirtio.driver import Driver, RequestQueue
from pyvirtio.errors import DeviceError, LocalError
from pyvirtio.spec import split
from pyvirtio.spec.features import RING_FEATURES, Feature
from pyvirtio.spec.struct import Struct, le16, le32, u8
from pyvirtio.testing import RawDevice, ScriptedTransport

if TYPE_CHECKING:
    from collections.abc import Callable


class Header(Struct):
    kind: int = le16()
    flags: int = le16()


class Size(Struct):
    value: int = le32()


class Status(Struct):
    code: int = u8()


class Client(Driver):
    device_id = 63
    plain = RequestQueue(Header, Size)
    followed = RequestQueue(Header, Size, data=True)
    disk = RequestQueue(Header, tail=Status)
    whole = RequestQueue(Header, Size, tail=Status)
    bytes_ = RequestQueue()


@pytest.fixture
def transport() -> ScriptedTransport:
    # Without EVENT_IDX each request is kicked: a raw device does not say at which index it wants the next kick.
    return ScriptedTransport(features=RING_FEATURES & ~Feature.EVENT_IDX, queue_sizes=[16] * len(Client.queues))


@pytest.fixture
def client(transport: ScriptedTransport):
    with Client(transport) as client:
        yield client


def writes(data: bytes, *, at: int = 0, claims: int | None = None) -> Callable[[RawDevice], None]:
    """A device that writes ``data`` into the last buffer but ``at``, and says that it wrote ``claims`` bytes."""

    def script(device: RawDevice) -> None:
        for head in device.heads():
            if claims is None:
                device.answer(head, data)
                continue
            buffers = [buffer for buffer in device.buffers(head) if buffer.flags & split.F_WRITE]
            device.poke(buffers[-1 - at].address, data)
            device.add_used((head, claims))

    return script


def shape(device: RawDevice) -> list[tuple[int, bool]]:
    """The length of each buffer of the one request, and whether the device may write it."""
    (head,) = device.heads()
    return [(buffer.length, bool(buffer.flags & split.F_WRITE)) for buffer in device.buffers(head)]


def test_each_part_of_a_request_has_a_buffer_of_its_own(client: Client, transport: ScriptedTransport):
    client.disk.submit(Header(1), b"x" * 512, b"", bytearray(3), room=513)
    assert shape(transport.devices[2]) == [(4, False), (512, False), (3, False), (512, True), (1, True)]


def test_head_data_and_tail_have_a_buffer_each(client: Client, transport: ScriptedTransport):
    client.whole.submit(Header(1), room=4 + 100 + 1)
    assert shape(transport.devices[3]) == [(4, False), (4, True), (100, True), (1, True)]


def test_the_room_is_what_the_structures_take_unless_told(client: Client, transport: ScriptedTransport):
    client.plain.submit(Header(1))
    client.disk.submit(Header(1))
    client.whole.submit(Header(1))
    assert shape(transport.devices[0]) == [(4, False), (4, True)]
    assert shape(transport.devices[2]) == [(4, False), (1, True)]
    assert shape(transport.devices[3]) == [(4, False), (4, True), (1, True)]


@pytest.mark.parametrize("name", ["followed", "bytes_"])
def test_where_data_may_follow_the_room_must_be_told(client: Client, name: str):
    with pytest.raises(LocalError):
        getattr(client, name).submit(Header(1))


@pytest.mark.parametrize(("name", "room"), [("whole", 4), ("disk", 0), ("followed", 3), ("bytes_", -1), ("plain", -1)])
def test_a_room_that_the_structures_do_not_fit_in_is_refused(client: Client, name: str, room: int):
    with pytest.raises(LocalError):
        getattr(client, name).submit(Header(1), room=room)
    assert getattr(client, name).ring.free == 16


@pytest.mark.parametrize(
    "data",
    [bytearray(b"\1\2\3\4"), memoryview(b"\1\2\3\4"), array.array("I", [0x04030201]), memoryview(b"\0\1\2\3\4")[1:]],
)
def test_data_may_be_any_buffer(client: Client, transport: ScriptedTransport, data: bytes):
    client.bytes_.submit(b"", data, room=1)
    device = transport.devices[4]
    assert device.read(device.heads()[0]) == b"\1\2\3\4"


def test_many_parts_need_no_indirect_table(transport: ScriptedTransport):
    with Client(transport, ring_features=0) as client:
        client.disk.submit(Header(1), b"ab", room=3)
        assert shape(transport.devices[2]) == [(4, False), (2, False), (2, True), (1, True)]
        assert client.disk.ring.free == 12


def test_more_parts_than_the_ring_has_entries_are_refused(client: Client):
    with pytest.raises(LocalError):
        client.bytes_.submit(b"a", *[b"b"] * 16, room=1)


# Answers.


def test_plain_answers_are_structures_or_bytes(client: Client, transport: ScriptedTransport):
    transport.on_kick(writes(b"\7\0\0\0more"))
    assert client.plain.call(Header(1), room=8) == Size(7)
    assert client.bytes_.call(b"x", room=8) == b"\7\0\0\0more"


def test_data_behind_a_structure(client: Client, transport: ScriptedTransport):
    transport.on_kick(writes(b"\7\0\0\0more"))
    answer = client.followed.call(Header(1), room=100)
    assert (answer.head, answer.data, answer.tail) == (Size(7), b"more", None)


def test_head_data_and_tail(client: Client, transport: ScriptedTransport):
    transport.on_kick(writes(b"\7\0\0\0data\2"))
    answer = client.whole.call(Header(1), room=9)
    assert (answer.head, answer.data, answer.tail) == (Size(7), b"data", Status(2))


def test_the_tail_is_in_the_last_bytes_wherever_the_data_ends(client: Client, transport: ScriptedTransport):
    transport.on_kick(writes(b"\5", claims=4))
    answer = client.disk.call(Header(1), room=513)
    assert (len(answer.data), answer.tail) == (4, Status(5))


def test_a_tail_that_was_not_written_is_not_zero(client: Client, transport: ScriptedTransport):
    """The memory has been an earlier answer's, which said that all was well."""
    transport.on_kick(writes(b"\0", claims=1))
    assert client.disk.call(Header(1), room=1).tail == Status(0)
    transport.on_kick(writes(b"", claims=1))
    assert client.disk.call(Header(1), room=1).tail == Status(255)


@pytest.mark.parametrize(("name", "data"), [("plain", b"\7\0\0"), ("followed", b"\7"), ("disk", b""), ("whole", b"\7")])
def test_an_answer_shorter_than_its_structures_is_the_devices_fault(
    client: Client, transport: ScriptedTransport, name: str, data: bytes
):
    transport.on_kick(writes(data))
    with pytest.raises(DeviceError):
        getattr(client, name).call(Header(1), room=16)


def test_the_memory_of_every_part_comes_back(client: Client, transport: ScriptedTransport):
    transport.on_kick(writes(b"\7\0\0\0data\2"))
    for _ in range(100):  # of 40 kB each in 1 MiB
        client.whole.call(Header(1), bytes(20_000), bytes(10_000), room=10_000)
    assert client.whole.ring.free == 16
