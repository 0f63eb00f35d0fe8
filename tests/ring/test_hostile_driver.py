"""Hostile drivers: D1 to D29 of the list of hostile input, against the ring and against a served device.

Whatever a driver writes, pop gives chains or raises RingError; a broken ring retires the queue, a chain that
cannot be used comes back with length 0, and what was asked before is still answered.
"""

# a test bears its case's number
from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

import pytest

from pyvirtio.connect.in_process import InProcessTransport
from pyvirtio.device import Device, Queue, Reader, Writer
from pyvirtio.errors import ChainError, RingError, ShortData
from pyvirtio.memory import MemoryTable
from pyvirtio.runtime.service import TIME_SLICE_NS
from pyvirtio.spec import split
from pyvirtio.spec.features import RING_FEATURES, Feature
from pyvirtio.testing import Descriptor, RawDriver, lay_out
from pyvirtio.testing.raw_driver import FILL
from tests.support.rings import (
    EVENT_IDX,
    FLAGS_ONLY,
    Doubler,
    Echo,
    Number,
    RawQueue,
    device_queue,
    heads_of,
    memory_of,
    rings_at,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Attack = Callable[[RawDriver], object]
    Regions = tuple[tuple[int, int], ...]

pytestmark = pytest.mark.usefixtures("engine")  # each of them

NEXT, WRITE, INDIRECT = split.F_NEXT, split.F_WRITE, split.F_INDIRECT
FOUR = Number(4).pack()
FLAT: Regions = ((0x1000, 0x8000),)


def new_raw(size: int = 8, *, index: int = 0, regions: Regions = FLAT) -> RawDriver:
    return RawDriver(memory_of(*regions), size, index=index)


def retires(attack: Attack, match: str, *, features: int = RING_FEATURES, keeps_earlier: bool = True) -> None:
    """The attack breaks the ring: pop raises from then on, the service retires the queue and looks no further."""
    raw = new_raw()
    queue = device_queue(raw, features)
    earlier = raw.request(FOUR, room=4)
    raw.make_available(earlier)
    attack(raw)
    popped = queue.pop() if keeps_earlier else []
    assert heads_of(popped) == [earlier] * keeps_earlier
    for _ in range(2):
        with pytest.raises(RingError, match=re.escape(match)):
            queue.pop()
    queue.push(popped)
    assert raw.reap() == [(earlier, 0)] * keeps_earlier

    served = RawQueue(new_raw(), features=features)
    raw = served.raw
    assert served.double(21) == 42
    earlier = raw.request(FOUR, room=4)
    raw.make_available(earlier)
    attack(raw)
    assert served.kick() == [(earlier, 4)] * keeps_earlier
    assert served.is_broken
    assert [match in fault for fault in served.faults] == [True]
    # Retired is retired: nothing is looked at any more, and nobody is told again.
    at, used = served.queue.position, raw.used_idx
    raw.avail_idx += 1
    assert served.kick() == []
    assert (served.queue.position, raw.used_idx, len(served.faults)) == (at, used, 1)


def returned_empty(
    attack: Callable[[RawDriver], int],
    match: str,
    *,
    features: int = RING_FEATURES,
    regions: Regions = FLAT,
) -> None:
    """The attack makes one chain that cannot be used: it comes back with length 0, and everything else goes on."""
    raw = new_raw(regions=regions)
    queue = device_queue(raw, features)
    head = attack(raw)
    good = raw.request(FOUR, room=4)
    raw.make_available(head, good)
    bad_chain, good_chain = queue.pop()
    with pytest.raises(ChainError, match=re.escape(match)):
        raise bad_chain.error or AssertionError("the chain was accepted")
    assert (bad_chain.readable, bad_chain.writable, bad_chain.length, bad_chain.room) == ((), (), 0, 0)
    assert good_chain.error is None
    good_chain.write(b"good")
    queue.push([bad_chain, good_chain])
    assert raw.reap() == [(head, 0), (good, 4)]

    served = RawQueue(new_raw(regions=regions), features=features)
    raw = served.raw
    head = attack(raw)
    before = raw.peek(raw.memory.regions[0].base, 0x1000)[raw.layout.end - raw.memory.regions[0].base :]
    raw.make_available(head)
    assert served.kick() == [(head, 0)]
    assert raw.peek(raw.memory.regions[0].base, 0x1000)[raw.layout.end - raw.memory.regions[0].base :] == before
    assert [match in fault for fault in served.faults] == [True]
    assert not served.is_broken
    assert served.queue.journal.in_flight() == []
    assert served.double(21) == 42


class Reads:
    """Notes each look at a descriptor in the shared table, and lets a test change memory right after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shared: list[int] = []
        self.private = 0
        self.then: Callable[[int], object] = lambda _index: None
        self._real = split.DESCRIPTOR
        monkeypatch.setattr(split, "DESCRIPTOR", self)

    def unpack_from(self, buffer: bytes | memoryview, offset: int = 0) -> tuple[int, ...]:
        found = self._real.unpack_from(buffer, offset)
        if isinstance(buffer, memoryview):
            self.shared.append(offset // 16)
            self.then(offset // 16)
        else:
            self.private += 1
        return found

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, engine: str) -> Reads:
    if engine == "native":
        monkeypatch.setenv("PYVIRTIO_ENGINE", "reference")  # nobody can watch what C reads
    return Reads(monkeypatch)


def self_loop(raw: RawDriver) -> None:
    raw.set_descriptor(7, raw.layout.end, 4, NEXT, 7)
    raw.make_available(7)


def long_loop(raw: RawDriver) -> None:
    for index in range(8):
        raw.set_descriptor(index, raw.layout.end, 4, NEXT, (index + 1) % 8)
    raw.make_available(6)


def loop_behind_a_start(raw: RawDriver) -> None:
    raw.set_descriptor(5, raw.layout.end, 4, NEXT, 6)
    raw.set_descriptor(6, raw.layout.end, 4, NEXT | WRITE, 7)
    raw.set_descriptor(7, raw.layout.end, 4, NEXT | WRITE, 6)
    raw.make_available(5)


def loop_in_a_table(raw: RawDriver) -> None:
    entries = [Descriptor(raw.layout.end, 4, NEXT, 1), Descriptor(raw.layout.end, 4, NEXT, 0)]
    table = raw.readable(b"".join(entry.pack() for entry in entries))
    raw.make_available(raw.chain([table._replace(flags=INDIRECT)]))


@pytest.mark.parametrize("attack", [self_loop, loop_behind_a_start])
def test_D01_chain_loops(attack: Attack):
    retires(attack, "longer than its table, which has 8")


def test_D01_chain_loops_round_the_whole_table(reads: Reads):
    raw = new_raw()
    queue = device_queue(raw)
    long_loop(raw)
    with pytest.raises(RingError, match="longer than its table, which has 8"):
        queue.pop()
    assert reads.shared == [6, 7, 0, 1, 2, 3, 4, 5]  # each descriptor once, then no further


def test_D01_chain_loops_in_an_indirect_table():
    retires(loop_in_a_table, "longer than its table, which has 2")


def test_D02_chain_longer_than_the_queue():
    # Only with an indirect table can it be longer without a loop: 4 direct ones, then 5 of at most 8.
    def attack(raw: RawDriver) -> None:
        direct = [raw.readable(b"data") for _ in range(4)]
        table = raw.table([raw.readable(b"data") for _ in range(5)])
        raw.make_available(raw.chain([*direct, table]))

    retires(attack, "a chain of more than 8 buffers")


def test_D02_a_chain_as_long_as_the_queue_is_fine():
    served = RawQueue(new_raw(), Echo())
    raw = served.raw
    direct = [raw.readable(b"data") for _ in range(4)]
    table = raw.table([raw.writable(4) for _ in range(4)])
    head = raw.chain([*direct, table])
    raw.make_available(head)
    assert served.kick() == [(head, 16)]
    assert raw.answer(head) == b"data" * 4


@pytest.mark.parametrize("beyond", [8, 9, 0x7FFF, 0x8000, 0xFFFF])
def test_D03_next_out_of_range(beyond: int, reads: Reads):
    def attack(raw: RawDriver) -> None:
        raw.set_descriptor(7, raw.layout.end, 4, NEXT, beyond)
        raw.make_available(7)

    retires(attack, f"continues at {beyond}; its table has 8")
    assert max(reads.shared) == 7  # nothing was read there


def test_D03_next_out_of_range_in_an_indirect_table():
    def attack(raw: RawDriver) -> None:
        entries = [Descriptor(raw.layout.end, 4, NEXT, 2), Descriptor(raw.layout.end, 4)]
        table = raw.readable(b"".join(entry.pack() for entry in entries))
        raw.make_available(raw.chain([table._replace(flags=INDIRECT)]))

    retires(attack, "continues at 2; its table has 2")


def test_D03_next_means_nothing_without_its_flag():
    served = RawQueue(new_raw(), Echo())
    served.raw.set_descriptor(7, served.raw.layout.end, 0, 0, 0xFFFF)
    served.raw.make_available(7)
    assert served.kick() == [(7, 0)]
    assert not served.is_broken


@pytest.mark.parametrize("head", [8, 9, 0x8000, 0xFFFF])
def test_D04_head_out_of_range(head: int, reads: Reads):
    raw = new_raw()
    raw.make_available(head)
    with pytest.raises(RingError, match=f"descriptor {head} was made available"):
        device_queue(raw).pop()
    assert reads.shared == []  # rejected before the table is read

    retires(lambda raw: raw.make_available(head), f"descriptor {head} was made available; the queue has 8")


@pytest.mark.parametrize("ahead", [8, 9, 0x7FFF, 0xFFFE])  # and one is there already
def test_D05_available_index_too_far_ahead(ahead: int):
    def attack(raw: RawDriver) -> None:
        raw.avail_idx += ahead

    retires(attack, f"the available index is {ahead + 1} ahead", keeps_earlier=False)


def test_D05_as_far_ahead_as_the_queue_is_long_is_fine():
    served = RawQueue(new_raw(), Echo())
    heads = [served.raw.chain([served.raw.readable(b"")]) for _ in range(8)]
    served.raw.make_available(*heads)
    assert heads_of(device_queue(served.raw).pop()) == heads
    assert served.kick() == [(head, 0) for head in heads]


def test_D05_no_spin(reads: Reads):
    served = RawQueue(new_raw())
    served.raw.avail_idx = 0x8000
    assert not served.turn()
    assert not served.turn()
    assert reads.shared == []
    assert len(served.faults) == 1


@pytest.mark.parametrize("index", [0, 5, 0xFFFE, 0xFFFF])
@pytest.mark.parametrize("back", [1, 7, 8, 0x7FFF])
def test_D06_available_index_goes_backwards(back: int, index: int):
    served = RawQueue(new_raw(index=index))
    assert served.double(1) == 2
    served.raw.avail_idx -= back
    with pytest.raises(RingError, match=f"{0x10000 - back} ahead"):
        device_queue(served.raw, position=served.raw.used_idx).pop()
    assert served.kick() == []
    assert served.is_broken
    assert [f"{0x10000 - back} ahead" in fault for fault in served.faults] == [True]


def test_D07_the_same_head_twice_at_once():
    def attack(raw: RawDriver) -> None:
        earlier = raw.avail_ring(raw.avail_idx - 1)
        raw.make_available(earlier)

    retires(attack, "was made available while it is in use")


def test_D07_a_head_while_it_is_in_flight():
    raw = new_raw()
    queue = device_queue(raw)
    head, other = raw.request(FOUR, room=4), raw.request(FOUR, room=4)
    raw.make_available(head, other)
    chains = queue.pop()
    raw.make_available(head)
    with pytest.raises(RingError, match="while it is in use"):
        queue.pop()
    queue.push(chains)  # what is in flight can still be returned, once
    assert raw.reap() == [(head, 0), (other, 0)]


def test_D07_the_same_head_again_after_its_return_is_fine():
    served = RawQueue(new_raw())
    head = served.raw.request(FOUR, room=4)
    for _ in range(3):
        served.raw.make_available(head)
        assert served.kick() == [(head, 4)]


def test_D07_more_in_flight_than_the_queue_holds():
    raw = new_raw()
    queue = device_queue(raw)
    raw.make_available(*(raw.chain([raw.readable(b"x")]) for _ in range(8)))
    chains = queue.pop()
    assert len(chains) == 8
    raw.make_available(0)
    with pytest.raises(RingError, match="1 ahead, and 8 requests are in flight"):
        queue.pop()
    queue.push(chains)
    assert len(raw.reap()) == 8


def test_D07_chains_that_share_descriptors():
    served = RawQueue(new_raw(), Echo())
    raw = served.raw
    tail = raw.writable(4)
    for index in (0, 1):
        raw.set_descriptor(index, *raw.readable(b"data")._replace(flags=NEXT, next=7))
    raw.set_descriptor(7, *tail)
    raw.make_available(0, 1, 7)  # each is a chain of its own: the device need not care
    assert served.kick() == [(0, 4), (1, 4), (7, 0)]


OUTSIDE = {
    "below": (0, 4),
    "just below": (0xFFF, 1),
    "just behind": (0x9000, 1),
    "half behind": (0x8FFE, 4),
    "far": (1 << 40, 4),
    "most of the address space": (0x1000, 0xFFFFF000),
}


@pytest.mark.parametrize("where", OUTSIDE)
@pytest.mark.parametrize("form", ["direct", "indirect"])
@pytest.mark.parametrize("kind", ["readable", "writable"])
def test_D08_address_outside_every_region(where: str, form: str, kind: str):
    address, length = OUTSIDE[where]

    def attack(raw: RawDriver) -> int:
        # Between good buffers, which must not be touched.
        good = [raw.readable(FOUR), raw.writable(4), raw.writable(4)]
        good.insert(1, Descriptor(address, length, WRITE if kind == "writable" else 0))
        return raw.chain([raw.table(good)] if form == "indirect" else good)

    returned_empty(attack, f"{length} bytes at {address:#x} are not in guest memory")


@pytest.mark.parametrize(
    ("address", "length"),
    [(2**64 - 1, 1), (2**64 - 1, 2), (2**64 - 4, 0xFFFFF000), (2**64 - 0x8000, 0x9000), (2**63, 0xFFFFF000)],
)
def test_D09_address_and_length_overflow(address: int, length: int):
    # In 64 bits, 2**64 - 0x8000 + 0x9000 is 0x1000, where memory begins.
    def attack(raw: RawDriver) -> int:
        return raw.chain([raw.readable(FOUR), Descriptor(address, length, WRITE)])

    returned_empty(attack, "are not in guest memory")


HOLE = ((0x1000, 0x1000), (0x2000, 0x1000), (0x4000, 0x1000))  # two that touch, a hole, a third


def test_D10_buffer_spans_two_regions():
    served = RawQueue(new_raw(regions=HOLE), Echo())
    raw = served.raw
    raw.poke(0x1FFD, b"across")
    head = raw.chain([Descriptor(0x1FFD, 6), Descriptor(0x1FFF, 6, WRITE)])
    raw.make_available(head)
    (chain,) = device_queue(raw, position=0).pop()
    assert [len(view) for view in chain.readable] == [3, 3]
    assert [len(view) for view in chain.writable] == [1, 5]
    assert served.kick() == [(head, 6)]
    # The echo read b"across" first: the two buffers overlap.
    assert raw.peek(0x1FFD, 8) == b"ac" + b"across"


@pytest.mark.parametrize("kind", [0, WRITE])
@pytest.mark.parametrize(("address", "length"), [(0x2FFE, 4), (0x2000, 0x2001), (0x1FFF, 0x3000), (0x3FFF, 2)])
def test_D10_buffer_spans_a_hole(address: int, length: int, kind: int):
    def attack(raw: RawDriver) -> int:
        return raw.chain([Descriptor(address, length, kind)])

    returned_empty(attack, "are not in guest memory", regions=HOLE)


@pytest.mark.parametrize("part", ["descriptors", "available", "used"])
def test_D11_buffer_overlaps_the_ring(part: str):
    served = RawQueue(new_raw(index=3), Echo())
    raw = served.raw
    at = getattr(raw.layout, part)
    data = b"\x55" * 64
    head = raw.chain([raw.readable(data), Descriptor(at, 64, WRITE)])
    raw.make_available(head)
    while served.turn():
        pass
    # The device's own indexes are not in the ring: this answer is published where it belongs.
    assert raw.used_idx == 4
    if part != "used":
        assert raw.used_ring(3) == (head, 64)
    # With the available ring overwritten, its index is 0x5555: not to be trusted.
    assert served.is_broken == (part == "available")


@pytest.mark.parametrize("part", ["descriptors", "available", "used"])
def test_D11_the_ring_as_a_request(part: str):
    served = RawQueue(new_raw(), Echo())
    raw = served.raw
    head = raw.chain([Descriptor(getattr(raw.layout, part), 16), raw.writable(16)])
    raw.make_available(head)
    assert served.kick() == [(head, 16)]


@pytest.mark.parametrize("address", [0x2000, 0, 0x9000, 2**64 - 1])  # inside memory and outside
def test_D12_length_zero(address: int):
    served = RawQueue(new_raw(), Echo())
    raw = served.raw
    empty = Descriptor(address, 0)
    head = raw.chain([empty, raw.readable(b"data"), empty, empty._replace(flags=WRITE), raw.writable(4)])
    raw.make_available(head)
    assert served.kick() == [(head, 4)]
    assert raw.answer(head) == b"data"
    lone = raw.chain([empty])
    raw.make_available(lone)
    assert served.kick() == [(lone, 0)]
    assert served.faults == []


@pytest.mark.parametrize("form", ["direct", "indirect"])
def test_D13_chain_of_more_than_4_gib(form: str):
    def attack(raw: RawDriver) -> int:
        buffers = [Descriptor(0x1000, 0x80000000), Descriptor(0x1000, 0x80000001, WRITE)]
        return raw.chain([raw.table(buffers)] if form == "indirect" else buffers)

    returned_empty(attack, f"a chain of {2**32 + 1} bytes; 2**32 is the most")


def test_D13_exactly_4_gib_is_a_matter_of_memory():
    def attack(raw: RawDriver) -> int:
        return raw.chain([Descriptor(0x1000, 0x80000000), Descriptor(0x1000, 0x80000000, WRITE)])

    returned_empty(attack, "are not in guest memory")


@pytest.mark.parametrize("form", ["direct", "indirect", "across"])
def test_D14_readable_behind_writable(form: str):
    def attack(raw: RawDriver) -> None:
        first, second = raw.writable(4), raw.readable(FOUR)
        buffers = {
            "direct": [first, second],
            "indirect": [raw.table([first, second])],
            "across": [first, raw.table([second])],
        }[form]
        raw.make_available(raw.chain(buffers, at=[6, 7][: len(buffers)]))

    retires(attack, "a device-readable descriptor behind a device-writable one")


def test_D15_only_readable_buffers():
    served = RawQueue(new_raw())
    raw = served.raw
    raw.make_available(raw.request(FOUR))
    (chain,) = device_queue(raw, position=0).pop()
    with pytest.raises(ChainError, match="an answer of 4 bytes; the driver left room for 0"):
        chain.write(b"1234")
    assert served.kick() == [(0, 0)]
    assert raw.peek(raw.descriptor(0).address, 4) == FOUR  # never written
    assert "left room for 0" in served.faults[0]
    assert served.double(3) == 6


def test_D15_too_little_room_and_nothing_is_written():
    served = RawQueue(new_raw())
    raw = served.raw
    head = raw.chain([raw.readable(FOUR), raw.writable(2), raw.writable(1)])
    raw.make_available(head)
    assert served.kick() == [(head, 0)]
    assert raw.answer(head) == bytes([FILL]) * 3


@pytest.mark.parametrize("data", [b"", b"\1", b"\1\2\3"])
@pytest.mark.parametrize("room", [0, 4])
def test_D16_request_too_short(data: bytes, room: int):
    raised: list[Exception] = []

    class Careful(Device):
        device_id = 63
        requests = Queue(size=8)

        @requests.stream
        def answer(self, reader: Reader, writer: Writer) -> None:
            try:
                reader.take(Number)
            except ShortData as error:
                raised.append(error)
                raise

    for device in (Doubler(), Careful()):
        served = RawQueue(new_raw(), device)
        raw = served.raw
        head = raw.chain([raw.readable(data), raw.writable(room)])
        raw.make_available(head)
        assert served.kick() == [(head, 0)]
        assert f"Number takes 4 bytes; only {len(data)} came" in served.faults[0]
        assert not served.is_broken
    assert [type(error) for error in raised] == [ShortData]  # a typed error for the device's author


def test_D16_request_too_short_and_only_writable():
    served = RawQueue(new_raw())
    head = served.raw.request(room=4)
    served.raw.make_available(head)
    assert served.kick() == [(head, 0)]
    assert served.raw.answer(head) == bytes([FILL]) * 4


def test_D17_indirect_not_negotiated():
    def attack(raw: RawDriver) -> None:
        raw.make_available(raw.request(FOUR, room=4, indirect=True))

    retires(attack, "INDIRECT_DESC was not negotiated", features=RING_FEATURES & ~Feature.INDIRECT_DESC)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("more", [0, NEXT, WRITE])
def test_D18_indirect_inside_an_indirect_table(place: int, more: int):
    def attack(raw: RawDriver) -> None:
        inner = raw.table([raw.readable(FOUR)])
        buffers = [raw.readable(FOUR) for _ in range(3)]
        buffers[place] = inner._replace(flags=INDIRECT | more, next=0)
        raw.make_available(raw.chain([raw.table(buffers)]))

    retires(attack, "an indirect descriptor inside an indirect table")


def test_D18_an_indirect_table_that_refers_to_itself():
    def attack(raw: RawDriver) -> None:
        table = raw.table([Descriptor(0, 0)])
        raw.poke(table.address, table.pack())
        raw.make_available(raw.chain([table]))

    retires(attack, "an indirect descriptor inside an indirect table")


@pytest.mark.parametrize("length", [0, 1, 15, 17, 31, 33, 0xFFFFFFFF])
def test_D19_length_of_an_indirect_table(length: int):
    def attack(raw: RawDriver) -> None:
        table = raw.table([raw.readable(FOUR)])
        raw.make_available(raw.chain([table._replace(length=length)]))

    retires(attack, f"an indirect table of {length} bytes")


@pytest.mark.parametrize("entries", [9, 10, 0xFFFFFFF])
def test_D20_indirect_table_longer_than_the_queue(entries: int):
    def attack(raw: RawDriver) -> None:
        table = raw.table([raw.readable(FOUR)])
        raw.make_available(raw.chain([table._replace(length=16 * entries)]))

    retires(attack, f"an indirect table of {entries} descriptors; the queue has 8")


def test_D20_an_indirect_table_as_long_as_the_queue_is_fine():
    served = RawQueue(new_raw(), Echo())
    raw = served.raw
    head = raw.chain([raw.table([raw.readable(b"ab")] * 4 + [raw.writable(2)] * 4)])
    raw.make_available(head)
    assert served.kick() == [(head, 8)]


@pytest.mark.parametrize("address", [0, 0x8FF8, 0x9000, 1 << 63, 2**64 - 16, 2**64 - 1])
def test_D21_indirect_table_that_is_not_in_memory(address: int):
    def attack(raw: RawDriver) -> int:
        return raw.chain([Descriptor(address, 32, INDIRECT)])

    returned_empty(attack, f"32 bytes at {address:#x} are not in guest memory")


@pytest.mark.parametrize("address", [0x1FF8, 0x1FF1, 0x1FE8, 0x1FFF])
def test_D21_indirect_table_across_regions_is_gathered(address: int):
    served = RawQueue(new_raw(regions=HOLE), Echo())
    raw = served.raw
    table = raw.table([raw.readable(b"data"), raw.writable(4)])
    raw.poke(address, raw.peek(table.address, table.length))
    head = raw.chain([table._replace(address=address)])
    raw.make_available(head)
    assert served.kick() == [(head, 4)]
    assert raw.answer(head) == b"data"


def test_D21_indirect_table_across_a_hole():
    def attack(raw: RawDriver) -> int:
        return raw.chain([Descriptor(0x2FF8, 32, INDIRECT)])

    returned_empty(attack, "are not in guest memory", regions=HOLE)


def test_D22_indirect_and_next():
    def attack(raw: RawDriver) -> None:
        table = raw.table([raw.readable(FOUR)])
        raw.set_descriptor(6, *table._replace(flags=INDIRECT | NEXT, next=7))
        raw.set_descriptor(7, *raw.writable(4))
        raw.make_available(6)

    retires(attack, "both indirect and continued")


@pytest.mark.parametrize("direct", [1, 2, 3, 6])
def test_D22_direct_descriptors_followed_by_one_indirect(direct: int):
    served = RawQueue(new_raw(), Echo())
    raw = served.raw
    buffers = [raw.readable(bytes([65 + place])) for place in range(4)] + [raw.writable(1) for _ in range(4)]
    head = raw.chain([*buffers[:direct], raw.table(buffers[direct:])])
    raw.make_available(head)
    assert served.kick() == [(head, 4)]
    assert raw.answer(head) == b"ABCD"


@pytest.mark.parametrize("before", [0, 1])
def test_D23_write_flag_of_the_referring_descriptor_is_ignored(before: int):
    served = RawQueue(new_raw(), Echo())
    raw = served.raw
    buffers = [raw.readable(b"da"), raw.readable(b"ta"), raw.writable(4)]
    table = raw.table(buffers[before:])
    head = raw.chain([*buffers[:before], table._replace(flags=INDIRECT | WRITE)])
    raw.make_available(head)
    assert served.kick() == [(head, 4)]
    assert raw.answer(head) == b"data"


def test_D24_descriptor_changed_after_it_was_read(reads: Reads):
    served = RawQueue(new_raw(), Echo())
    raw = served.raw

    def spoil(index: int) -> None:
        raw.set_descriptor(index, 2**64 - 1, 0xFFFFFFFF, NEXT | INDIRECT, 0xFFFF)

    reads.then = spoil
    head = raw.chain([raw.readable(b"da"), raw.readable(b"ta"), raw.writable(2), raw.writable(2)], at=[5, 0, 7, 3])
    places = [raw.descriptor(index).address for index in (7, 3)]
    raw.make_available(head)
    assert served.kick() == [(head, 4)]
    assert reads.shared == [5, 0, 7, 3]  # each once
    assert b"".join(raw.peek(place, 2) for place in places) == b"data"


class RestlessMemory(MemoryTable):
    """Memory that a driver changes behind every copy that the device takes."""

    reads = 0

    def read(self, address: int, length: int) -> bytes:
        data = super().read(address, length)
        RestlessMemory.reads += 1
        self.write(address, b"\xff" * length)
        return data


def test_D24_indirect_table_changed_while_it_is_followed(reads: Reads):
    plain = memory_of((0x1000, 0x8000))
    raw = RawDriver(plain, 8)
    memory = RestlessMemory(plain.regions)
    RestlessMemory.reads = 0
    table = raw.table([raw.readable(b"data"), raw.writable(4)])
    head = raw.chain([table])
    raw.make_available(head)
    # The length of the table, too, may be another one by the time that it is read.
    reads.then = lambda index: raw.set_descriptor(index, table.address, 1 << 20, INDIRECT)
    queue = device_queue(raw)
    queue.relocate(rings_at(memory, raw.layout), memory)
    (chain,) = queue.pop()
    assert (chain.error, chain.length, chain.room) == (None, 4, 4)
    assert (reads.shared, RestlessMemory.reads, reads.private) == ([head], 1, 2)  # one copy, and then only the copy
    assert plain.read(table.address, 32) == b"\xff" * 32


def test_D24_request_changed_while_it_is_answered():
    """Each byte of a request is read once: what a device checked is what it uses."""

    class Nosy(Device):
        device_id = 63
        requests = Queue(size=8)

        @requests.stream
        def answer(self, reader: Reader, writer: Writer) -> None:
            size = reader.take(Number)
            raw.poke(place, b"\xff" * 4)
            writer.write(b"x" * size.value)

    served = RawQueue(new_raw(), Nosy())
    raw = served.raw
    head = raw.request(FOUR, room=8)
    place = raw.descriptor(head).address
    raw.make_available(head)
    assert served.kick() == [(head, 4)]


@pytest.mark.parametrize("index", [0, 65530])
@pytest.mark.parametrize("garbage", [0, 1, 7, 0x7FFF, 0x8000, 0xFFFF])
def test_D25_used_event_garbage(garbage: int, index: int):
    served = RawQueue(new_raw(index=index))
    served.settle()
    served.raw.used_event = garbage
    for value in range(20):
        calls = served.interrupts
        assert served.double(value) == 2 * value
        # Exactly the call that was asked for: when the used index leaves `garbage` behind.
        assert served.interrupts - calls == ((served.raw.used_idx - 1) & 0xFFFF == garbage)
    assert served.interrupts <= 1


@pytest.mark.parametrize("garbage", [0, 1, 2, 3, 0xFFFF, 0xFFFE, 0x8000])
def test_D25_flags_garbage_means_its_lowest_bit(garbage: int):
    served = RawQueue(new_raw(index=65534), features=FLAGS_ONLY)
    served.settle()
    served.raw.avail_flags = garbage
    served.raw.used_event = 0xFFFF  # means nothing here
    for value in range(4):
        assert served.double(value) == 2 * value
    assert served.interrupts == (0 if garbage & 1 else 4)


def test_D25_flags_mean_nothing_with_event_idx():
    served = RawQueue(new_raw(), features=EVENT_IDX)
    served.settle()
    served.raw.avail_flags = 1
    served.raw.used_event = 0
    assert served.double(1) == 2
    assert served.interrupts == 1


@pytest.mark.parametrize("features", [EVENT_IDX, FLAGS_ONLY])
def test_D25_the_first_answer_after_a_start_interrupts_whatever_the_driver_says(features: int):
    """What the driver was told before the start may be lost, and what it asked for be stale."""
    served = RawQueue(new_raw(index=5), features=features)
    served.raw.avail_flags, served.raw.used_event = 1, 0x8000
    for value in range(3):
        assert served.double(value) == 2 * value
        assert served.interrupts == 1


@pytest.mark.parametrize("features", [EVENT_IDX, FLAGS_ONLY])
@pytest.mark.parametrize("index", [0, 65533])
def test_D26_driver_rewrites_what_the_device_wrote(features: int, index: int):
    served = RawQueue(new_raw(index=index), features=features)
    raw = served.raw
    for value in range(12):
        at = (index + value) & 0xFFFF
        raw.poke(raw.layout.used, b"\xa5" * split.used_size(8))
        head = raw.request(Number(value).pack(), room=4)
        raw.make_available(head)
        while served.turn():
            pass
        assert raw.used_idx == (at + 1) & 0xFFFF  # its own index, not what stood there
        assert raw.used_ring(at) == (head, 4)
        assert Number.unpack(raw.answer(head)).value == 2 * value
        raw.used_event = raw.used_idx
        raw._free.extend(raw._chains.pop(head))
    assert not served.is_broken


def test_D26_driver_rewrites_the_rings_while_requests_are_in_flight():
    raw = new_raw()
    queue = device_queue(raw)
    heads = [raw.request(FOUR, room=4) for _ in range(4)]
    raw.make_available(*heads)
    chains = queue.pop()
    raw.poke(raw.layout.descriptors, b"\xff" * (raw.layout.end - raw.layout.descriptors))
    raw.avail_idx = 4
    for chain in chains:
        chain.write(b"done")
    queue.push(chains)
    assert [raw.used_ring(slot) for slot in range(4)] == [(head, 4) for head in heads]
    assert raw.used_idx == 4


@pytest.mark.parametrize("features", [EVENT_IDX, FLAGS_ONLY])
def test_D27_kicks_without_work(features: int, reads: Reads):
    readings = 0

    def clock() -> int:
        nonlocal readings
        readings += 1
        return 0

    served = RawQueue(new_raw(), features=features, clock=clock)
    assert served.double(1) == 2
    before = served.raw.peek(0x1000, 0x8000)
    calls, looks, readings = served.interrupts, len(reads.shared), 0
    for _ in range(1000):
        assert not served.turn()
    assert (served.interrupts, len(reads.shared)) == (calls, looks)
    assert readings == 1000  # a turn looks once, and ends
    assert served.raw.peek(0x1000, 0x8000) == before


def test_D27_a_driver_that_refills_gets_one_turn_at_a_time():
    now = 0

    def clock() -> int:
        return now

    class Greedy(Device):
        device_id = 63
        requests = Queue(size=8)

        @requests.stream
        def answer(self, reader: Reader, writer: Writer) -> None:
            nonlocal now
            now += TIME_SLICE_NS // 10
            raw.make_available((raw.avail_ring(raw.avail_idx - 1) + 1) % 8)  # another one for each that is answered

    served = RawQueue(new_raw(), Greedy(), clock=clock)
    raw = served.raw
    for index in range(8):
        raw.set_descriptor(index, raw.layout.end, 4)
    raw.make_available(0)
    assert served.turn()  # there is more to do, and it came back all the same
    assert len(raw.reap()) == 10
    assert served.turn()
    assert len(raw.reap()) == 10


def test_D28_requests_before_the_queue_starts_are_served_after():
    device = Doubler()
    transport = InProcessTransport(device)
    raw = RawDriver(transport.memory, 8)
    head = raw.request(Number(21).pack(), room=4)
    raw.make_available(head)
    transport.accept_features(RING_FEATURES)
    transport.start_queue(raw.setup(0, RING_FEATURES, position=0))
    assert (raw.used_idx, raw.reap()) == (0, [])  # nothing is consumed before DRIVER_OK
    transport.run()
    try:
        assert raw.reap() == []
        transport.kick(0)
        assert raw.reap() == [(head, 4)]
        assert transport.wait((0,), 0)
    finally:
        transport.close()


def test_D28_a_queue_goes_on_where_its_record_says():
    raw = new_raw(index=65535)
    heads = [raw.request(FOUR, room=4) for _ in range(3)]
    raw.make_available(*heads)
    assert heads_of(device_queue(raw, position=65535).pop()) == heads
    assert heads_of(device_queue(raw, position=1).pop()) == heads[2:]


def test_D29_the_library_counts_what_was_written():
    class Liar(Device):
        device_id = 63
        requests = Queue(size=8)

        @requests.stream
        def answer(self, reader: Reader, writer: Writer) -> None:
            for piece in (b"12", b"", b"345"):
                writer.write(piece)
            with pytest.raises(ChainError, match="an answer of 5 bytes; the driver left room for 3"):
                writer.write(b"67890")
            assert not hasattr(writer, "written")

    served = RawQueue(new_raw(), Liar())
    raw = served.raw
    head = raw.chain([raw.writable(1), raw.writable(3), raw.writable(4)])
    raw.make_available(head)
    assert served.kick() == [(head, 5)]
    assert raw.answer(head) == b"12345" + bytes([FILL]) * 3
    assert served.faults == []


def test_D29_a_device_that_fails_half_way_reports_nothing_written():
    class Fails(Device):
        device_id = 63
        requests = Queue(size=8)

        @requests.stream
        def answer(self, reader: Reader, writer: Writer) -> None:
            writer.write(b"half")
            raise ZeroDivisionError

    served = RawQueue(new_raw(), Fails())
    head = served.raw.request(room=8)
    served.raw.make_available(head)
    assert served.kick() == [(head, 0)]
    assert "ZeroDivisionError" in served.faults[0]


def test_other_queues_live_on_and_the_device_asks_for_a_reset():
    device = Doubler()
    transport = InProcessTransport(device)
    transport.accept_features(RING_FEATURES)
    bad = RawDriver(transport.memory, 8)
    good = RawDriver(transport.memory, layout=lay_out(8, 0x100000), arena=bad.arena)
    transport.start_queue(bad.setup(0, RING_FEATURES))
    transport.start_queue(good.setup(1, RING_FEATURES))
    transport.run()
    try:
        self_loop(bad)
        head = good.request(struct.pack("<I", 21), room=4)
        good.make_available(head)
        transport.kick(0)
        assert transport.needs_reset()
        transport.kick(1)
        assert good.reap() == [(head, 4)]
        assert good.answer(head) == struct.pack("<I", 42)
        assert bad.reap() == []
    finally:
        transport.close()


def test_a_flood_of_bad_chains_does_not_flood_the_log():
    served = RawQueue(new_raw())
    for address in range(1000):
        served.raw.set_descriptor(0, (1 << 40) + address, 4)
        served.raw.make_available(0)
        assert served.kick() == [(0, 0)]
    assert len(served.faults) == 100
