"""The journal: a worker may die before any of its stores, and every request is answered exactly once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import RingError
from pyvirtio.ring import Journal
from pyvirtio.ring.journal import MAXIMUM_STRIKES, Count, ledger_size, region_size
from pyvirtio.spec import split
from pyvirtio.testing import Descriptor, RawDriver
from tests.support.rings import FLAGS_ONLY, Cut, Durable, Fuse, Number, Served, heads_of, memory_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvirtio.ring import Chain, SplitDeviceQueue

pytestmark = pytest.mark.usefixtures("engine")  # each of them


def live(raw: RawDriver, durable: Durable, fuse: Fuse | None) -> None:
    """A worker's life: each request is answered with 4 bytes of its own."""
    queue = durable.worker(fuse)
    for chain in queue.unfinished:
        answer(queue, [chain])
    first = queue.pop(4)
    answer(queue, first[:1])
    answer(queue, first[1:3])
    answer(queue, first[3:])
    second = queue.pop(3)
    third = queue.pop(1)
    answer(queue, third)
    answer(queue, second[::-1])
    while chains := queue.pop(2):
        answer(queue, chains)


def answer(queue: SplitDeviceQueue, chains: Sequence[Chain]) -> None:
    for chain in chains:
        chain.written = 0
        chain.write(chain.read(4))
    queue.push(chains)


def scene(index: int = 0, *, requests: int = 8) -> tuple[RawDriver, Durable, dict[int, bytes]]:
    raw = RawDriver(memory_of((0x1000, 0x8000)), 8, index=index)
    wanted = {}
    for number in range(requests):
        data = Number(0xABCD0000 + number).pack()
        wanted[raw.chain([raw.table([raw.readable(data), raw.writable(4)])])] = data
    raw.make_available(*wanted)
    return raw, Durable(raw.memory, raw.layout, FLAGS_ONLY), wanted


def check(raw: RawDriver, durable: Durable, wanted: dict[int, bytes]) -> None:
    answers = {head: raw.answer(head) for head in wanted}
    elements = raw.reap()
    assert sorted(element.id for element in elements) == sorted(wanted)  # each exactly once
    assert {element.len for element in elements} == {4}
    assert answers == wanted
    journal = Journal(8, durable.region, durable.ledger)
    assert journal.in_flight() == []
    assert journal.used_index() == raw.used_idx
    assert journal.next_available() == raw.avail_idx


def stores_of_a_life(index: int) -> int:
    raw, durable, wanted = scene(index)
    fuse = Fuse()
    live(raw, durable, fuse)
    check(raw, durable, wanted)
    return fuse.stores


@pytest.mark.parametrize("index", [0, 65531])
def test_death_before_every_store(index: int):
    stores = stores_of_a_life(index)
    assert stores > 60
    for limit in range(stores):
        raw, durable, wanted = scene(index)
        with pytest.raises(Cut):
            live(raw, durable, Fuse(limit))
        live(raw, durable, None)
        check(raw, durable, wanted)


def test_two_deaths_in_a_row():
    """The second one also in the midst of the recovery from the first."""
    stores = stores_of_a_life(65531)
    for limit in range(0, stores, 3):
        for second in range(0, 60, 2):
            raw, durable, wanted = scene(65531)
            with pytest.raises(Cut):
                live(raw, durable, Fuse(limit))
            try:
                live(raw, durable, Fuse(second))
            except Cut:
                live(raw, durable, None)
            check(raw, durable, wanted)


def test_death_again_and_again_makes_progress_or_stops():
    raw, durable, wanted = scene()
    for _ in range(1000):
        try:
            live(raw, durable, Fuse(40))
        except Cut:
            continue
        break
    check(raw, durable, wanted)


@pytest.mark.parametrize("index", [0, 65531])
def test_what_a_driver_writes_into_the_used_ring_does_not_matter_to_recovery(index: int):
    stores = stores_of_a_life(index)
    for limit in range(0, stores, 5):
        raw, durable, wanted = scene(index)
        with pytest.raises(Cut):
            live(raw, durable, Fuse(limit))
        if not Journal(8, durable.region, durable.ledger).was_used:
            continue  # nothing was taken yet: the ring is what counts
        right = raw.used_idx
        raw.used_idx = 0x5555
        queue = durable.worker()
        assert (raw.used_idx - right) & 0xFFFF <= 4  # its own index, perhaps with what was about to be published
        assert queue.unfinished is not None
        live(raw, durable, None)
        check(raw, durable, wanted)


def test_a_loop_in_flight_costs_the_queue_but_no_other_request():
    """A driver changes a descriptor between the death of a worker and the start of the next one."""
    raw, durable, _wanted = scene(requests=3)
    queue = durable.worker()
    heads = heads_of(queue.pop())
    raw.set_descriptor(heads[1], 0, 4, split.F_NEXT, heads[1])
    queue = durable.worker()
    assert heads_of(queue.unfinished) == [heads[0], heads[2]]
    answer(queue, queue.unfinished)
    assert raw.reap() == [(heads[0], 4), (heads[2], 4)]
    for _ in range(2):
        with pytest.raises(RingError, match="longer than the queue"):
            queue.pop()


def test_a_chain_that_broke_the_ring_takes_no_other_with_it_when_the_worker_dies():
    raw, durable, _wanted = scene(requests=3)
    raw.set_descriptor(7, 0, 4, split.F_NEXT, 7)
    raw.make_available(7)
    queue = durable.worker()
    heads = heads_of(queue.pop())
    assert len(heads) == 3  # and dies before it answers one
    queue = durable.worker()
    assert heads_of(queue.unfinished) == heads
    answer(queue, queue.unfinished)
    assert len(raw.reap()) == 3
    with pytest.raises(RingError, match="longer than the queue"):
        queue.pop()


def test_a_chain_that_cannot_be_used_is_still_one_after_a_death():
    raw, durable, _wanted = scene(requests=1)
    head = raw.chain([Descriptor(0, 4)])
    raw.make_available(head)
    durable.worker().pop()
    _good, bad = durable.worker().unfinished
    assert bad.head == head
    assert bad.error


def test_a_head_that_comes_again_after_a_recovery_is_in_flight_again():
    """A publication is finished once: the second death must not finish it again, for its heads are others' by now."""
    for limit in range(stores_of_a_life(0)):
        raw, durable, wanted = scene(requests=1)
        (head,) = wanted
        fuse = Fuse(limit)
        try:
            queue = durable.worker(fuse)
            answer(queue, queue.pop())
        except Cut:
            pass
        queue = durable.worker()
        answer(queue, [*queue.unfinished, *queue.pop()])
        assert [element.id for element in raw.reap()] == [head]
        raw.make_available(head)
        assert heads_of(queue.pop()) == [head]
        assert heads_of(durable.worker().unfinished) == [head]
        # And with nothing pushed between the two deaths.
        raw, durable, wanted = scene(requests=1)
        try:
            queue = durable.worker(Fuse(limit))
            answer(queue, queue.pop())
        except Cut:
            pass
        queue = durable.worker()
        if not queue.unfinished and raw.used_idx:
            raw.make_available(head)
            assert heads_of(queue.pop()) == [head]
            assert heads_of(durable.worker().unfinished) == [head]


# The parts of the journal.


def test_order_of_arrival_is_kept():
    journal = Journal(8)
    for head in (5, 1, 7, 0):
        journal.begin(head)
    assert journal.in_flight() == [5, 1, 7, 0]
    journal.finish([1], 1)
    journal.begin(1)
    assert journal.in_flight() == [5, 7, 0, 1]
    assert [journal.order_of(head) for head in (5, 7, 0, 1)] == [1, 3, 4, 5]


def test_order_of_arrival_goes_on_after_a_death():
    _raw, durable, _wanted = scene(requests=4)
    queue = durable.worker()
    first = heads_of(queue.pop(2))
    queue = durable.worker()
    second = heads_of(queue.pop(2))
    assert heads_of(durable.worker().unfinished) == [*first, *second]


def test_twice_in_flight_is_refused():
    journal = Journal(8)
    journal.begin(3)
    with pytest.raises(RingError, match="while it is in use"):
        journal.begin(3)


@pytest.mark.parametrize("size", [1, 2, 128, 32768])
def test_sizes(size: int):
    assert region_size(size) >= 16 + 16 * size
    assert region_size(size) % 64 == ledger_size(size) % 64 == 0
    journal = Journal(size)
    for head in (0, size - 1):
        assert journal.strikes(head) == 0
    journal.begin(size - 1)
    assert journal.in_flight() == [size - 1]


def test_a_region_that_is_too_small_is_refused():
    with pytest.raises(RingError, match="cannot track a queue of 8 entries"):
        Journal(8, memoryview(bytearray(16 + 16 * 8 - 1)))
    Journal(8, memoryview(bytearray(16 + 16 * 8)))


@pytest.mark.parametrize(("version", "entries"), [(2, 8), (1, 16), (1, 4), (0xFFFF, 8)])
def test_a_region_of_another_version_or_size_is_refused(version: int, entries: int):
    region = memoryview(bytearray(region_size(8)))
    header = region[8:12].cast("H")
    header[0], header[1] = version, entries
    with pytest.raises(RingError, match=f"version {version} for {entries} entries was given to a queue of 8"):
        Journal(8, region)


def test_any_bytes_in_a_frontends_region(rng):
    """It came over a socket: it makes a queue, or is refused with a RingError."""
    outcomes = set()
    for _ in range(1000):
        _raw, durable, _wanted = scene()
        durable.worker().pop(rng.randrange(9))
        for _ in range(rng.choice((1, 4, 50))):
            durable.region[rng.randrange(len(durable.region))] = rng.getrandbits(8)
        if rng.random() < 0.5:
            durable.ledger[:] = bytes(len(durable.ledger))  # the keeper died, too
        try:
            queue = durable.worker()
        except RingError:
            outcomes.add("refused")
            continue
        outcomes.add("taken")
        heads = heads_of(queue.unfinished)
        assert len(set(heads)) == len(heads) <= 8
        try:
            for _ in range(20):
                queue.push(queue.pop())
        except RingError:
            outcomes.add("broken later")
    assert outcomes == {"refused", "taken", "broken later"}


@pytest.mark.parametrize("used", [9, 0x8000, 0xFFFF])
def test_a_region_that_published_more_than_the_queue_holds_is_refused(used: int):
    _raw, durable, _wanted = scene()
    durable.worker()
    durable.region[:16].cast("H")[7] = -used & 0xFFFF
    with pytest.raises(RingError, match=f"says that {used} requests of 8 were published at once"):
        durable.worker()


def test_the_keeper_died_too():
    """A new ledger and the front-end's old region: the ring's own used index is believed."""
    raw, durable, wanted = scene(65531)
    queue = durable.worker()
    answer(queue, queue.pop(3))
    queue.pop(2)
    durable.ledger[:] = bytes(len(durable.ledger))
    live(raw, durable, None)
    check(raw, durable, wanted)


def test_strikes_fall_on_what_was_running():
    journal = Journal(8)
    journal.start(0, 0)
    orders = [journal.begin(head) for head in (4, 2, 6)]
    assert journal.blame() == 0  # nothing was running
    journal.running(orders[1], 1, since=7)
    assert journal.numbers[Count.RUNNING_SINCE] == 7
    assert journal.blame() == 1
    assert [journal.strikes(head) for head in (4, 2, 6)] == [0, 1, 0]
    assert journal.blame() == 0  # one death, one strike
    journal.running(orders[0], 3, since=7)
    assert journal.blame() == 2
    for _ in range(5):
        journal.running(orders[1], 1, since=7)
        journal.blame()
    assert journal.strikes(2) == MAXIMUM_STRIKES
    journal.finish([2], 1)
    assert journal.strikes(2) == 0


@pytest.mark.parametrize(("repeatable", "strikes"), [(True, MAXIMUM_STRIKES), (False, 1)])
def test_a_request_with_too_many_strikes_comes_back_empty(repeatable: bool, strikes: int):
    raw = RawDriver(memory_of((0x1000, 0x8000)), 8)
    served = Served(raw)
    served.service._repeatable = repeatable
    heads = [raw.request(Number(value).pack(), room=4) for value in range(2)]
    raw.make_available(*heads)
    queue, journal = served.queue, served.queue.journal
    chains = queue.pop()
    for _ in range(strikes):
        journal.running(chains[1].order, 1, since=0)
        journal.blame()
    queue.unfinished = chains
    calls = served.calls
    served.service.resume()
    assert raw.reap() == [(heads[0], 4), (heads[1], 0)]
    assert served.calls == calls + 1
    assert "ended the worker" in served.faults[0]
    assert served.double(4) == 8


def test_the_difference_between_the_indexes_survives():
    """A front-end may let the available index run ahead of the used one before a queue starts."""
    for limit in range(40):
        raw = RawDriver(memory_of((0x1000, 0x8000)), 8)
        raw.avail_idx = 65530
        durable = Durable(raw.memory, raw.layout)
        heads = [raw.request(b"1234", room=4) for _ in range(3)]
        raw.make_available(*heads)
        journal = Journal(8, durable.region, durable.ledger)
        journal.start(0, 65530)
        try:
            queue = durable.worker(Fuse(limit))
            answer(queue, queue.pop(2))
        except Cut:
            pass
        queue = durable.worker()
        for chain in queue.unfinished:
            answer(queue, [chain])
        answer(queue, queue.pop())
        assert [element.id for element in raw.reap()] == heads
        assert queue.next_available == raw.avail_idx
