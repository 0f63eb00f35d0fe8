"""Hostile devices: F1 to F6 of the list of hostile input, against the driver's ring and against `Driver`.

What a device says of used buffers is checked against what is outstanding. A device that lies breaks its queue, with
a typed error; it never costs memory, and never makes the driver wait for ever.
"""

# a test bears its case's number
from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest

from pyvirtio.driver import Driver, RequestQueue
from pyvirtio.errors import DeviceError, NegotiationError, NoAnswer
from pyvirtio.spec.features import RING_FEATURES, Feature
from pyvirtio.spec.struct import Struct, le32, le64
from pyvirtio.testing import RawDevice, ScriptedTransport, lay_out
from tests.support.rings import Number, driver_at, memory_of, rings_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.ring import SplitDriverQueue

BUFFERS = 0x4000


class Config(Struct):
    low: int = le32()
    high: int = le64()


class Client(Driver):
    device_id = 63
    features = 1
    config = Config
    numbers = RequestQueue(Number, Number, size=8)
    bytes_ = RequestQueue(size=8)


def ends(size: int = 8, index: int = 0) -> tuple[SplitDriverQueue, RawDevice]:
    memory = memory_of((0x1000, 0x8000))
    layout = lay_out(size, 0x1000)
    driver = driver_at(rings_at(memory, layout), memory, RING_FEATURES, index)
    return driver, RawDevice(memory, layout)


def add(driver: SplitDriverQueue, token: object) -> int:
    head = driver.add([(BUFFERS, 4)], [(BUFFERS + 4, 4)], token)
    driver.publish()
    return head


def open_client(**options: object) -> tuple[Client, ScriptedTransport]:
    transport = ScriptedTransport(features=RING_FEATURES | 1, queue_sizes=[8, 8], config=bytes(12))
    for name, value in options.items():
        setattr(transport, name, value)
    return Client(transport), transport


def answer_with(data: bytes) -> Callable[[RawDevice], None]:
    def script(device: RawDevice) -> None:
        for head in device.heads():
            device.answer(head, data)

    return script


def broken(driver: SplitDriverQueue, match: str) -> None:
    """The queue is broken: reap says so each time, and nothing can be added."""
    for _ in range(2):
        with pytest.raises(DeviceError, match=match):
            driver.reap()
    with pytest.raises(DeviceError, match=match):
        driver.add([(BUFFERS, 4)], [], "late")


@pytest.mark.parametrize("head", [8, 9, 0xFFFF, 0x10000, 0xFFFFFFFF])
@pytest.mark.parametrize("index", [0, 65535])
def test_F1_used_id_out_of_range(head: int, index: int):
    driver, device = ends(index=index)
    add(driver, "a")
    device.add_used((head, 4))
    broken(driver, f"returned descriptor {head}, which it does not have")


def test_F1_used_id_with_its_upper_half_set():
    # As a number of 16 bits it would be outstanding.
    driver, device = ends()
    head = add(driver, "a")
    device.add_used((0x10000 | head, 4))
    broken(driver, f"returned descriptor {0x10000 | head}")


def test_F1_used_id_not_outstanding():
    driver, device = ends()
    heads = [add(driver, "a"), add(driver, "b")]
    free = next(head for head in range(8) if head not in heads and head > max(heads) + 1)
    device.add_used((free, 4))
    broken(driver, f"returned descriptor {free}, which it does not have")


def test_F1_used_id_that_is_no_head():
    driver, device = ends()
    head = add(driver, "a")
    device.add_used((device.descriptor(head).next, 4))
    broken(driver, "which it does not have")


@pytest.mark.parametrize("at_once", [True, False])
def test_F1_used_id_twice(at_once: bool):
    driver, device = ends()
    head = add(driver, "a")
    add(driver, "b")
    device.add_used((head, 4))
    if not at_once:
        assert driver.reap() == [("a", 4)]
    device.add_used((head, 4))
    if at_once:
        assert driver.reap() == [("a", 4)]  # that answer was a good one
    broken(driver, f"returned descriptor {head}, which it does not have")
    assert driver.outstanding == 1


def test_F1_good_answers_before_a_bad_one_are_not_lost():
    client, transport = open_client()

    @transport.on_kick
    def script(device: RawDevice) -> None:
        first, *_ = device.heads()
        device.add_used((first, device.write(first, Number(7).pack())), (99, 4))

    with client:
        good, bad = client.numbers.submit_all([Number(1), Number(2)])
        assert good.result() == Number(7)
        with pytest.raises(DeviceError, match="returned descriptor 99"):
            bad.result()
        assert not bad.done
        with pytest.raises(DeviceError, match="returned descriptor 99"):
            client.numbers.submit(Number(3))
        # The other queue lives on.
        transport.on_kick(answer_with(b"ok"))
        assert client.bytes_.call(b"hello", room=4) == b"ok"


def test_F1_awaited():
    client, transport = open_client()
    transport.on_kick(lambda device: device.add_used((99, 4)))

    async def ask() -> None:
        await client.numbers.submit(Number(1))

    with client, pytest.raises(DeviceError, match="returned descriptor 99"):
        asyncio.run(ask())


@pytest.mark.parametrize("length", [5, 8, 0x7FFFFFFF, 0xFFFFFFFF])
def test_F2_used_length_above_the_room(length: int):
    driver, device = ends()
    head = add(driver, "a")
    device.add_used((head, length))
    assert driver.reap() == [("a", 4)]  # clamped
    assert driver.oversized_replies == 1  # and reported
    assert driver.free == 8


def test_F2_used_length_where_nothing_can_be_written():
    driver, device = ends()
    head = driver.add([(BUFFERS, 4)], [], "a")
    driver.publish()
    device.add_used((head, 1))
    assert driver.reap() == [("a", 0)]
    assert driver.oversized_replies == 1


def test_F2_a_driver_reads_no_further_than_its_own_buffer():
    client, transport = open_client()

    @transport.on_kick
    def script(device: RawDevice) -> None:
        for head in device.heads():
            device.write(head, b"\1\0\0\0")
            device.add_used((head, 0xFFFFFFFF))

    with client:
        assert client.numbers.call(Number(1)) == Number(1)
        assert client.bytes_.call(b"x", room=6) == b"\1\0\0\0\0\0"
        assert client.numbers.ring.oversized_replies == 1


def test_F2_an_answer_shorter_than_its_structure():
    client, transport = open_client()
    transport.on_kick(answer_with(b"abc"))
    with client, pytest.raises(DeviceError, match="answered with 3 bytes; Number takes 4"):
        client.numbers.call(Number(1))


@pytest.mark.parametrize("index", [0, 5, 65535])
@pytest.mark.parametrize("jump", [3, 8, 9, 0x7FFF, 0x8000, 0xFFFF])  # two are outstanding
def test_F3_used_index_jumps(jump: int, index: int):
    driver, device = ends(index=index)
    add(driver, "a")
    add(driver, "b")
    device.used_idx += jump
    broken(driver, f"the used index is {jump} ahead; 2 requests are outstanding")
    assert driver.outstanding == 2


def test_F3_used_index_moves_with_nothing_outstanding():
    driver, device = ends()
    device.used_idx = 1
    broken(driver, "the used index is 1 ahead; 0 requests are outstanding")


def test_F3_used_index_goes_back():
    driver, device = ends()
    for _ in range(3):
        device.add_used((add(driver, "a"), 4))
        assert driver.reap() == [("a", 4)]
    device.used_idx -= 1
    broken(driver, "the used index is 65535 ahead")


def test_F3_through_a_driver():
    client, transport = open_client()

    def jump(device: RawDevice) -> None:
        device.used_idx += 9

    transport.on_kick(jump)
    with client, pytest.raises(DeviceError, match="reset the device"):
        client.numbers.call(Number(1))


def test_F4_device_never_answers():
    client, transport = open_client()
    with client:
        tickets = client.numbers.submit_all([Number(value) for value in range(3)])
        with pytest.raises(NoAnswer) as caught:
            tickets[0].result(timeout=0)
        describe = str(caught.value)
        for line in (
            "queue of 8: 5 descriptors free, outstanding heads: 0, 1, 2",
            "available: idx 3, flags 0, used_event 0",
            "used:      idx 0 (seen 0), flags 0, avail_event 0",
        ):
            assert line in describe
        # The request stays on the ring, and a later call can still succeed.
        device = transport.devices[0]
        for head in device.heads():
            device.answer(head, Number(head).pack())
        assert [ticket.result(timeout=0) for ticket in tickets] == [Number(0), Number(1), Number(2)]


def test_F4_device_calls_and_calls_and_never_answers():
    client, transport = open_client()
    with client:
        ticket = client.numbers.submit(Number(1))
        transport.call()  # beside the call that followed the kick: a call without an answer is no answer
        with pytest.raises(NoAnswer):
            ticket.result(timeout=0)


def test_F4_a_full_queue_that_is_never_answered(monkeypatch: pytest.MonkeyPatch):
    client, _transport = open_client(features=RING_FEATURES & ~Feature.INDIRECT_DESC)
    with client:
        for value in range(4):
            client.numbers.submit(Number(value))
        with pytest.raises(NoAnswer, match="queue of 8: 0 descriptors free"):
            client.numbers.submit(Number(4))


def test_F5_config_changes_during_a_read():
    client, transport = open_client()
    generations = itertools.chain([1, 2, 2, 3, 3, 3], itertools.repeat(3))

    def generation() -> int:
        found = next(generations)
        transport.config[:] = Config(found, found).pack()
        return found

    transport.generations = generation
    with client:
        config = client.read_config()
        assert config == Config(3, 3)
    # 1 and 2 are unlike, 2 and 3 are unlike, 3 and 3 are alike.
    assert next(generations) == 3


def test_F5_config_that_always_changes():
    client, transport = open_client()
    counter = itertools.count()
    transport.generations = counter.__next__
    with client, pytest.raises(DeviceError, match="changed during 100 attempts"):
        client.read_config()
    assert next(counter) == 200


def test_F5_needs_reset_during_a_read():
    client, transport = open_client()
    transport.generations = itertools.count().__next__
    transport.wants_reset = True
    with client, pytest.raises(DeviceError, match="asks to be reset"):
        client.read_config()


def refused(match: str, driver: type[Driver] = Client, **options: object) -> None:
    """Opening ends with a NegotiationError, and with the transport closed."""
    transport = ScriptedTransport(features=RING_FEATURES | 1, queue_sizes=[8, 8], config=bytes(12))
    for name, value in options.items():
        setattr(transport, name, value)
    with pytest.raises(NegotiationError, match=match):
        driver(transport)
    assert transport.closed
    assert not transport.running


@pytest.mark.parametrize("features", [0, 1, RING_FEATURES & ~Feature.VERSION_1, 1 << 63])
def test_F6_features_without_version_1(features: int):
    refused("it does not offer VERSION_1", features=features)


def test_F6_features_ok_refused():
    refused("the device refused the features", agrees=False)


@pytest.mark.parametrize("size", [0, 3, 65536, -1])
@pytest.mark.parametrize("queue", [0, 1])
def test_F6_queue_size(size: int, queue: int):
    sizes = [8, 8]
    sizes[queue] = size
    refused(f"offers {size} entries for queue {queue}", queue_sizes=sizes)


def test_F6_queue_missing():
    refused("offers 0 entries for queue 1", queue_sizes=[8])


def test_F6_required_feature_missing():
    class Needy(Client):
        required = 0b110

    refused("does not offer feature bits 0x6", Needy)


def test_F6_only_what_was_offered_and_wanted_is_accepted():
    client, transport = open_client(features=(1 << 64) - 1)
    with client:
        assert transport.accepted == client.negotiated == RING_FEATURES | 1
