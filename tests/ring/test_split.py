"""Both sides of a split ring: sizes, chains, batches, and who is told when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import LocalError, RingError
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.memory.table import MAXIMUM_REGIONS
from pyvirtio.ring import Chain, Journal, SplitDeviceQueue, SplitDriverQueue, SplitLayout
from pyvirtio.spec import split
from pyvirtio.spec.features import RING_FEATURES, Feature
from pyvirtio.testing import RawDriver, RawRing, RingLayout, lay_out
from tests.support.rings import (
    EVENT_IDX,
    FLAGS_ONLY,
    SUPPRESSIONS,
    Durable,
    Fuse,
    FusedView,
    both_ends,
    device_queue,
    heads_of,
    memory_of,
    rings_at,
    setup_at,
)

if TYPE_CHECKING:
    from pyvirtio.ring.queue import DeviceQueue

pytestmark = pytest.mark.usefixtures("engine")  # each of them

SIZES = [1 << power for power in range(16)]


def round_trip(driver: SplitDriverQueue, device: DeviceQueue, number: int, at: int) -> None:
    """Add ``number`` requests of one descriptor, answer them, reap them."""
    for token in range(number):
        driver.add([], [(at, 1)], token)
    driver.publish()
    chains = device.pop(number)
    assert len(chains) == number
    for chain in chains:
        chain.write(b"x")
    device.push(chains)
    assert driver.reap() == [(token, 1) for token in range(number)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("index", [0, 65535])
def test_every_size_filled_to_the_brim(size: int, index: int):
    driver, device, _memory, at = both_ends(size, index=index)
    for _ in range(2 if size <= 1024 else 1):
        assert driver.free == size
        round_trip(driver, device, size, at)
    for token in range(size):
        driver.add([], [(at, 1)], token)
    with pytest.raises(LocalError, match=f"the queue is full: 0 of {size} descriptors are free"):
        driver.add([], [(at, 1)], "more")
    driver.publish()
    assert sum(len(device.pop(100)) for _ in range(size // 100 + 1)) == size
    assert device.pop() == []


@pytest.mark.parametrize("size", [1, 2, 8, 128])
def test_indexes_wrap(size: int):
    """Each of the 65536 values of the index, and some again."""
    driver, device, memory, at = both_ends(size, index=65536 - 3 * size)
    ring = RawRing(memory, lay_out(size, 0x1000))
    seen = set()
    for _ in range(6):
        round_trip(driver, device, size, at)
        seen.add(ring.used_idx)
        assert ring.used_idx == ring.avail_idx
    assert seen == {(65536 + size * step) & 0xFFFF for step in range(-2, 4)}
    assert driver.free == size


@pytest.mark.long
def test_all_65536_indexes():
    driver, device, _memory, at = both_ends(8192, index=8192)
    for trip in range(2, 11):
        round_trip(driver, device, 8192, at)
        assert device.position == (8192 * trip) & 0xFFFF


@pytest.mark.parametrize("size", [0, 3, 7, 100, 32769, 65536, -8])
def test_sizes_that_no_queue_has(size: int):
    with pytest.raises(LocalError, match=f"a queue of {size} entries"):
        SplitLayout(memory_of((0, 0x200000)), size, 0, 0x100000, 0x180000)


@pytest.mark.parametrize(
    ("part", "address", "message"),
    [
        ("descriptor_area", 0x1008, "the descriptor table at 0x1008 is not aligned to 16 bytes"),
        ("driver_area", 0x2001, "the available ring at 0x2001 is not aligned to 2 bytes"),
        ("device_area", 0x3002, "the used ring at 0x3002 is not aligned to 4 bytes"),
        ("descriptor_area", 0x8F90, "the descriptor table is outside memory"),
        ("driver_area", 0x8FEC, "the available ring is outside memory"),
        ("device_area", 0x8FBC, "the used ring is outside memory"),
        ("descriptor_area", 0, "the descriptor table is outside memory"),
        ("driver_area", 2**64 - 2, "the available ring is outside memory"),
        ("device_area", 0x4FFC, "the used ring is outside memory"),  # over the edge of two regions
    ],
)
def test_parts_that_are_misplaced(part: str, address: int, message: str):
    memory = memory_of((0x1000, 0x4000), (0x5000, 0x4000))
    parts = {"descriptor_area": 0x1000, "driver_area": 0x2000, "device_area": 0x3000, part: address}
    with pytest.raises(RingError, match=message):
        SplitLayout(memory, 8, **parts)


@pytest.mark.parametrize(
    ("part", "address"), [("descriptor_area", 0x8F80), ("driver_area", 0x8FEA), ("device_area", 0x8FB8)]
)
def test_parts_that_just_fit(part: str, address: int):
    parts = {"descriptor_area": 0x1000, "driver_area": 0x2000, "device_area": 0x3000, part: address}
    SplitLayout(memory_of((0x1000, 0x8000)), 8, **parts)


# Chains.

FORMS = ["direct", "indirect", *(f"{number} direct and indirect" for number in (1, 2, 5))]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("readable", "writable"), [(6, 0), (0, 6), (1, 5), (3, 3), (5, 1), (16, 16), (32, 0), (0, 32)])
def test_chains_of_many_buffers(readable: int, writable: int, form: str):
    driver, device, memory, at = both_ends(32)
    table, data = at, at + 1024
    buffers = [(data + 16 * place, 1 + place % 7) for place in range(readable + writable)]
    sent = b""
    for place, (address, length) in enumerate(buffers[:readable]):
        sent += bytes([place]) * length
        memory.write(address, bytes([place]) * length)
    direct = int(form.split(maxsplit=1)[0]) if form[0].isdigit() else 0
    driver.add(
        buffers[:readable],
        buffers[readable:],
        "token",
        indirect=None if form == "direct" else table,
        direct=direct,
    )
    assert 32 - driver.free == (len(buffers) if form == "direct" else direct + 1)
    driver.publish()
    (chain,) = device.pop()
    room = sum(length for _, length in buffers[readable:])
    assert (chain.error, chain.length, chain.room) == (None, len(sent), room)
    assert chain.read(1 << 20) == sent
    answer = bytes(place & 0xFF for place in range(room))
    for place in range(0, room, 5):
        chain.write(answer[place : place + 5])
    device.push([chain])
    assert driver.reap() == [("token", room)]
    assert b"".join(memory.read(*buffer) for buffer in buffers[readable:]) == answer
    assert driver.free == 32


@pytest.mark.parametrize("size", [1, 4])
def test_as_many_buffers_as_entries_and_not_one_more(size: int):
    driver, device, _memory, at = both_ends(size)
    for indirect in (None, at):
        driver.add([(at + 256, 1)] * size, [], "token", indirect=indirect)
        driver.publish()
        (chain,) = device.pop()
        assert len(chain.readable) == size
        device.push([chain])
        assert driver.reap() == [("token", 0)]
        with pytest.raises(LocalError, match=f"a request of {size + 1} buffers; .*1 to {size}"):
            driver.add([(at + 256, 1)] * (size + 1), [], "token", indirect=indirect)
    with pytest.raises(LocalError, match="a request of 0 buffers"):
        driver.add([], [], "token")
    assert driver.free == size


def test_all_direct_with_an_indirect_table_at_hand():
    driver, *_, at = both_ends(8)
    with pytest.raises(LocalError, match="indirect table"):
        driver.add([(at, 1)], [(at, 1)], "token", indirect=at, direct=2)
    assert driver.free == 8


def test_no_indirect_table_without_the_feature():
    driver, device, _memory, at = both_ends(8, RING_FEATURES & ~Feature.INDIRECT_DESC)
    driver.add([(at, 1)], [(at, 1)], "token", indirect=at + 64)
    driver.publish()
    assert driver.free == 6
    assert len(device.pop()) == 1


@pytest.mark.parametrize(("address", "length"), [(-1, 4), (1 << 64, 4), (0x5000, 1 << 32), (0x5000, -1)])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_buffer_that_no_descriptor_can_hold_costs_nothing(address: int, length: int, place: int):
    driver, device, _memory, at = both_ends(8)
    buffers = [(at, 1)] * 3
    buffers[place] = (address, length)
    for indirect in (None, at + 64):
        with pytest.raises(LocalError, match="does not fit"):
            driver.add(buffers, [], "token", indirect=indirect)
    assert (driver.free, driver.outstanding) == (8, 0)
    round_trip(driver, device, 8, at)


def test_buffers_across_509_regions():
    layout = lay_out(8, 0)
    base = 0x10000
    regions = [Region(0, bytearray(layout.end))]
    regions += [Region(base + 16 * number, bytearray(16)) for number in range(MAXIMUM_REGIONS - 1)]
    memory = MemoryTable(regions)
    rings = rings_at(memory, layout)
    driver = SplitDriverQueue(rings, memory, RING_FEATURES)
    device = SplitDeviceQueue(setup_at(layout), memory, journal=Journal.private(8))
    half = 16 * (MAXIMUM_REGIONS - 1) // 2 - 3
    data = bytes(place % 251 for place in range(half))
    memory.write(base + 1, data)
    driver.add([(base + 1, half)], [(base + 1 + half, half)], "token")
    driver.publish()
    (chain,) = device.pop()
    assert len(chain.readable) > 250
    chain.write(chain.read(half))
    device.push([chain])
    assert driver.reap() == [("token", half)]
    assert memory.read(base + 1 + half, half) == data


@pytest.mark.parametrize("start", range(12))
@pytest.mark.parametrize("limit", [0, 1, 3, 4, 5, 9, 100])
def test_reading_from_any_place(start: int, limit: int):
    data = b"abcdefghij"
    pieces = [data[:3], b"", data[3:4], data[4:9], data[9:]]
    for views in (pieces, [data]):
        chain = Chain(0, 0, [memoryview(piece) for piece in views])
        assert chain.read(limit, start) == data[start : start + limit]
        assert chain.length == 10


@pytest.mark.parametrize("step", [1, 2, 3, 7, 10])
def test_writing_in_any_pieces(step: int):
    buffers = [bytearray(size) for size in (3, 0, 1, 5, 1)]
    chain = Chain(0, 0, [], [memoryview(buffer) for buffer in buffers])
    data = b"abcdefghij"
    for at in range(0, 10, step):
        chain.write(data[at : at + step])
    assert b"".join(buffers) == data
    assert chain.written == chain.room == 10
    chain.write(b"")


# Batches.


@pytest.mark.parametrize("limit", [1, 3, 8, 64])
def test_pop_takes_no_more_than_its_limit(limit: int):
    driver, device, _memory, at = both_ends(8)
    heads = [driver.add([(at, 1)], [], token) for token in range(8)]
    driver.publish()
    popped: list[int] = []
    while chains := device.pop(limit):
        assert len(chains) == min(limit, 8 - len(popped))
        popped += heads_of(chains)
    assert popped == heads


def test_nothing_is_popped_before_it_is_published():
    driver, device, _memory, at = both_ends(8)
    driver.add([(at, 1)], [], "token")
    assert not device.has_more()
    assert device.pop() == []
    driver.publish()
    assert device.has_more()
    assert len(device.pop()) == 1


@pytest.mark.parametrize("number", [1, 2, 8])
def test_a_batch_is_published_with_one_store_behind_all_its_elements(number: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYVIRTIO_ENGINE", "reference")  # nobody can watch what C stores
    raw = RawDriver(memory_of((0x1000, 0x8000)), 8, index=65533)
    raw.make_available(*(raw.request(b"x") for _ in range(number)))
    durable = Durable(raw.memory, raw.layout)
    queue = durable.worker()
    chains = queue.pop()
    durable.log.clear()
    queue.push(chains)
    ring = [(name, place) for name, place in durable.log if name.startswith("used")]
    slots = [(65533 + step) % 8 for step in range(number)]
    assert ring == [*(("used I", 2 * slot + half) for slot in slots for half in (0, 1)), ("used H", split.IDX)]


def test_pushing_nothing_changes_nothing():
    _driver, device, memory, _at = both_ends(8)
    before = memory.read(0x1000, 0x1000)
    device.push([])
    assert memory.read(0x1000, 0x1000) == before
    assert not device.needs_interrupt()


def test_the_driver_publishes_with_one_store():
    layout = lay_out(8, 0x1000)
    memory = memory_of((0x1000, 0x8000))
    rings = rings_at(memory, layout)
    log: list[tuple[str, int]] = []
    rings.available = FusedView(rings.available, Fuse(), log, "available")  # type: ignore[assignment]
    driver = SplitDriverQueue(rings, memory, RING_FEATURES)
    for token in range(3):
        driver.add([(layout.end, 1)], [], token)
    assert log == [("available", split.RING + slot) for slot in range(3)]
    log.clear()
    driver.publish()
    assert log == [("available", split.IDX)]


def test_answers_in_any_order():
    driver, device, _memory, at = both_ends(8)
    for token in range(6):
        driver.add([], [(at, 8)], token)
    driver.publish()
    chains = device.pop()
    for chain in chains:
        chain.write(bytes(chains.index(chain)))
    device.push([chains[4]])
    device.push([chains[5], chains[0]])
    assert driver.reap() == [(4, 4), (5, 5), (0, 0)]
    assert driver.outstanding == 3
    driver.add([], [(at, 8)], 6)
    driver.publish()
    device.push([*device.pop(), *chains[3:0:-1]])
    assert driver.reap() == [(6, 0), (3, 3), (2, 2), (1, 1)]
    assert driver.free == 8


# Giving a request back to the ring.


def popped(driver: SplitDriverQueue, device: DeviceQueue, number: int, at: int) -> list[Chain]:
    for token in range(number):
        driver.add([], [(at, 4)], token)
    driver.publish()
    chains = device.pop(number)
    assert len(chains) == number
    return chains


@pytest.mark.parametrize("index", [0, 65533, 65535])
@pytest.mark.parametrize("features", SUPPRESSIONS.values(), ids=SUPPRESSIONS)
def test_unpop_gives_a_whole_tail_back_from_the_newest_to_the_oldest(index: int, features: int):
    driver, device, _memory, at = both_ends(8, features, index=index)
    chains = popped(driver, device, 6, at)
    assert device.unpop(chains[2]) is False  # others came after it
    for number, chain in enumerate(chains[:1:-1], 1):
        assert device.unpop(chain) is True
        assert device.unpop(chain) is False  # it is not in flight any more
        assert device.position == (index + 6 - number) & 0xFFFF
    assert device.journal.in_flight() == heads_of(chains[:2])
    assert device.has_more()
    assert device.enable_kicks()  # and nobody sleeps
    again = device.pop()
    assert heads_of(again) == heads_of(chains[2:])
    device.push([*again[::-1], *chains[:2]])
    assert sorted(driver.reap()) == [(token, 0) for token in range(6)]
    assert not device.enable_kicks()


def test_unpop_leaves_what_is_not_the_tail():
    driver, device, _memory, at = both_ends(8)
    first, second, third = popped(driver, device, 3, at)
    device.push([second])
    assert device.unpop(third)
    assert not device.unpop(first)  # the entry before the position is the second one's, which was answered
    (again,) = device.pop()
    assert again.head == third.head
    device.push([first, again])
    assert sorted(driver.reap()) == [(0, 0), (1, 0), (2, 0)]


def test_unpop_refuses_what_was_begun():
    driver, device, _memory, at = both_ends(8)
    (chain,) = popped(driver, device, 1, at)
    device.journal.begin(chain.head, 1)
    assert not device.unpop(chain)
    device.push([chain])
    assert driver.reap() == [(0, 0)]


def test_unpop_refuses_where_the_driver_has_rewritten_the_slot():
    raw = RawDriver(memory_of((0x1000, 0x8000)), 8)
    heads = [raw.request(b"x", room=1) for _ in range(2)]
    raw.make_available(*heads)
    queue = device_queue(raw)
    chains = queue.pop()
    before = raw.peek(0x1000, 0x8000)
    raw.set_avail_ring(1, 7)
    assert not queue.unpop(chains[1])
    raw.set_avail_ring(1, heads[1])
    assert raw.peek(0x1000, 0x8000) == before
    # Whatever the slot names is given back, and that head alone: a driver can only cheat itself.
    raw.set_avail_ring(1, heads[0])
    assert queue.unpop(chains[0])
    assert heads_of(queue.pop()) == [heads[0]]
    queue.push(chains)
    assert [element.id for element in raw.reap()] == heads


def test_a_record_that_was_taken_out_of_its_batch_can_be_given_back():
    raw = RawDriver(memory_of((0x1000, 0x8000)), 8)
    heads = [raw.request(b"1234", room=4) for _ in range(3)]
    raw.make_available(*heads)
    queue = device_queue(raw)
    batch = queue.pop_records(8, 4, 4)
    assert batch is not None
    queue.push_records(batch, b"done")
    left = [batch.take() for _ in range(len(batch))]
    assert all(queue.unpop(chain) for chain in reversed(left))
    assert queue.position == 1
    assert heads_of(queue.pop()) == heads[1:]


# The same queue in other memory.


def moved(memory: MemoryTable, *more: Region) -> MemoryTable:
    """Return a copy of memory: the same addresses, elsewhere in this process, and perhaps more of them."""
    return MemoryTable([*(Region(region.base, bytearray(region.view)) for region in memory.regions), *more])


def test_a_queue_goes_on_in_other_memory_with_requests_in_flight():
    raw = RawDriver(memory_of((0x1000, 0x8000)), 8, index=65534)
    heads = [raw.request(b"1234", room=4) for _ in range(4)]
    raw.make_available(*heads[:3])
    queue = device_queue(raw)
    batch = queue.pop_records(1, 4, 4)
    (chain,) = queue.pop(1)
    assert batch is not None
    memory = moved(raw.memory, Region(1 << 40, bytearray(64)))
    queue.relocate(rings_at(memory, raw.layout), memory)
    assert queue.memory is memory
    # What was popped keeps the buffers that it had; the ring is in the new memory.
    chain.write(b"old!")
    queue.push([chain])
    queue.push_records(batch, b"old?")
    new = RawRing(memory, raw.layout)
    assert (raw.used_idx, new.used_idx) == (65534, 0)
    assert [new.used_ring(slot).id for slot in (65534, 65535)] == [heads[1], heads[0]]
    assert (raw.answer(heads[0]), raw.answer(heads[1])) == (b"old?", b"old!")
    new.set_avail_ring(1, heads[3])
    new.avail_idx = 2
    third, fourth = queue.pop()
    assert heads_of([third, fourth]) == heads[2:]
    fourth.write(b"new!")
    assert memory.read(raw.descriptor(heads[3] + 1).address, 4) == b"new!"
    assert queue.journal.in_flight() == heads[2:]


def test_a_queue_of_another_size_is_not_the_same_queue():
    raw = RawDriver(memory_of((0x1000, 0x8000)), 8)
    queue = device_queue(raw)
    with pytest.raises(LocalError):
        queue.relocate(rings_at(raw.memory, lay_out(4, 0x1000)), raw.memory)
    raw.make_available(raw.request(b"x"))
    assert len(queue.pop()) == 1


# Who is told when: the exact values in the ring, and the exact answers.


@pytest.mark.parametrize("index", [0, 7, 65533, 65535])
def test_event_idx_kicks(index: int):
    """VIRTIO 1.4, 2.7.10: a kick when the entry with the index avail_event is written, and only then."""
    driver, device, memory, at = both_ends(8, EVENT_IDX, index=index)
    ring = RawRing(memory, lay_out(8, 0x1000))

    def send(number: int) -> bool:
        for _ in range(number):
            driver.add([(at, 1)], [], "token")
        driver.publish()
        return driver.needs_kick()

    assert not device.enable_kicks()
    assert ring.avail_event == index
    assert send(2)
    assert not send(1)  # the device was told, and has not looked since
    device.disable_kicks()
    assert ring.avail_event == index  # nothing to be done
    device.push(device.pop(2))
    assert device.enable_kicks()  # the third is there: no kick comes for it
    assert ring.avail_event == (index + 2) & 0xFFFF
    device.push(device.pop())
    assert not device.enable_kicks()
    assert ring.avail_event == (index + 3) & 0xFFFF
    assert not driver.needs_kick()  # nothing new
    assert send(1)
    assert ring.used_flags == 0


@pytest.mark.parametrize("index", [0, 65533])
def test_flags_kicks(index: int):
    """VIRTIO 1.4, 2.7.10: a kick unless the device set NO_NOTIFY."""
    driver, device, memory, at = both_ends(8, FLAGS_ONLY, index=index)
    ring = RawRing(memory, lay_out(8, 0x1000))

    def send() -> bool:
        driver.add([(at, 1)], [], "token")
        driver.publish()
        return driver.needs_kick()

    assert send()
    assert send()
    device.disable_kicks()
    assert ring.used_flags == split.NO_NOTIFY
    assert not send()
    device.push(device.pop(2))
    assert device.enable_kicks()
    assert ring.used_flags == 0
    device.push(device.pop())
    assert not device.enable_kicks()
    assert not driver.needs_kick()
    assert send()
    assert ring.avail_event == 0


@pytest.mark.parametrize("index", [0, 7, 65533, 65535])
def test_event_idx_calls(index: int):
    """VIRTIO 1.4, 2.7.7: a call when the element with the index used_event is written, and only then."""
    driver, device, memory, at = both_ends(8, EVENT_IDX, index=index)
    ring = RawRing(memory, lay_out(8, 0x1000))
    for token in range(6):
        driver.add([(at, 1)], [], token)
    driver.publish()
    chains = device.pop()
    assert not driver.enable_interrupts()
    assert ring.used_event == index
    device.push(chains[:2])
    assert device.needs_interrupt()
    assert not device.needs_interrupt()  # told already
    device.push(chains[2:3])
    assert not device.needs_interrupt()  # and the driver has not looked since
    driver.disable_interrupts()
    assert ring.used_event == index
    assert len(driver.reap()) == 3
    assert not driver.enable_interrupts()
    assert ring.used_event == (index + 3) & 0xFFFF
    device.push(chains[3:4])
    assert driver.enable_interrupts()
    assert len(driver.reap()) == 1
    # A driver may ask for later: after the second from now.
    ring.used_event = index + 5
    device.push(chains[4:5])
    assert not device.needs_interrupt()
    device.push(chains[5:])
    assert device.needs_interrupt()
    assert ring.avail_flags == 0


@pytest.mark.parametrize("index", [0, 65533])
def test_flags_calls(index: int):
    """VIRTIO 1.4, 2.7.7: a call unless the driver set NO_INTERRUPT."""
    driver, device, memory, at = both_ends(8, FLAGS_ONLY, index=index)
    ring = RawRing(memory, lay_out(8, 0x1000))
    for token in range(6):
        driver.add([(at, 1)], [], token)
    driver.publish()
    chains = device.pop()
    device.push(chains[:2])
    assert device.needs_interrupt()
    assert not device.needs_interrupt()
    driver.disable_interrupts()
    assert ring.avail_flags == split.NO_INTERRUPT
    device.push(chains[2:3])
    assert not device.needs_interrupt()
    assert driver.enable_interrupts()
    assert ring.avail_flags == 0
    assert len(driver.reap()) == 3
    assert not driver.enable_interrupts()
    device.push(chains[3:4])
    assert device.needs_interrupt()


# A full fence, at the places where one has to be.


@pytest.mark.parametrize("features", SUPPRESSIONS.values(), ids=SUPPRESSIONS)
def test_a_fence_stands_between_the_store_and_the_look(features: int, monkeypatch: pytest.MonkeyPatch):
    """Publish, fence, then look whether the other side wants to know; ask to be told, fence, then look once more."""
    events: list[str] = []

    class Watched:
        def __init__(self, view: memoryview, name: str) -> None:
            self.view, self.name = view, name

        def __getitem__(self, place: int) -> int:
            events.append(f"load {self.name} {place}")
            return int(self.view[place])

        def __setitem__(self, place: int, value: int) -> None:
            events.append(f"store {self.name} {place}")
            self.view[place] = value

    for module in ("split_device", "split_driver"):
        monkeypatch.setattr(f"pyvirtio.ring.{module}.full_fence", lambda: events.append("fence"))
        monkeypatch.setattr(f"pyvirtio.ring.{module}.read_barrier", lambda: events.append("order loads"))
        monkeypatch.setattr(f"pyvirtio.ring.{module}.write_barrier", lambda: events.append("order stores"))

    layout = lay_out(8, 0x1000)
    memory = memory_of((0x1000, 0x8000))
    rings = rings_at(memory, layout)
    rings.available = Watched(rings.available, "available")  # type: ignore[assignment]
    rings.used = Watched(rings.used, "used")  # type: ignore[assignment]
    rings.used_pairs = Watched(rings.used_pairs, "element")  # type: ignore[assignment]
    driver = SplitDriverQueue(rings, memory, features)
    device = SplitDeviceQueue(setup_at(layout, features), memory, journal=Journal.private(8))
    device.relocate(rings, memory)
    event_idx = features == EVENT_IDX

    def happened(*wanted: str) -> None:
        assert events == list(wanted)
        events.clear()

    events.clear()
    driver.add([(layout.end, 1)], [], "token")
    driver.publish()
    happened("store available 2", "order stores", "store available 1")
    driver.needs_kick()
    happened("fence", f"load used {split.avail_event_word(8) if event_idx else split.FLAGS}")
    chains = device.pop()
    happened("load available 1", "order loads", "load available 2")
    device.push(chains)
    happened("store element 0", "store element 1", "order stores", "store used 1")
    device.needs_interrupt()
    happened("fence", f"load available {split.used_event_word(8) if event_idx else split.FLAGS}")
    device.enable_kicks()
    happened(f"store used {split.avail_event_word(8) if event_idx else split.FLAGS}", "fence", "load available 1")
    driver.reap()
    happened("load used 1", "order loads", "load element 0", "load element 1")
    driver.enable_interrupts()
    happened(f"store available {split.used_event_word(8) if event_idx else split.FLAGS}", "fence", "load used 1")


def test_a_picture_shows_the_ring():
    driver, device, _memory, at = both_ends(16, index=65535)
    for token in range(10):
        driver.add([(at, 1)], [], token)
    driver.publish()
    device.push(device.pop(1))
    assert driver.describe() == (
        "queue of 16: 6 descriptors free, outstanding heads: 0, 1, 2, 3, 4, 5, 6, 7 …\n"
        "  available: idx 9, flags 0, used_event 65535\n"
        "  used:      idx 0 (seen 65535), flags 0, avail_event 0"
    )


def test_a_layout_of_any_kind_can_be_written_raw():
    """The kit for hostile drivers does not judge; the library does."""
    memory = memory_of((0, 0x10000))
    layout = RingLayout(3, 0x1001, 0x2001, 0x3001, 0x4000)
    raw = RawDriver(memory, layout=layout)
    raw.make_available(raw.request(b"x", room=1))
    assert raw.avail_idx == 1
    with pytest.raises(LocalError):
        device_queue(raw)
