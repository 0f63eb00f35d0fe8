"""The journal: a worker may die before any of its stores, and every request is answered exactly once.

The theory of operation in pyvirtio/ring/journal.py makes the claims; here they are tried out, store by store.
"""

from __future__ import annotations

from contextvars import Context
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio.errors import RingError
from pyvirtio.ring import Journal
from pyvirtio.ring.engine import engine
from pyvirtio.ring.journal import MOST_STRIKES, ledger_size, region_size
from pyvirtio.ring.queue import stream_queue
from pyvirtio.spec import split
from pyvirtio.testing import Descriptor, RawDriver
from tests.support.coroutine_calls import Source, Thing
from tests.support.rings import FLAGS_ONLY, Cut, Durable, Fuse, Number, heads_of, memory_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvirtio.ring import Chain
    from pyvirtio.ring.queue import DeviceQueue

pytestmark = pytest.mark.usefixtures("mortal_engine")  # each of them


def answer(queue: DeviceQueue, chains: Sequence[Chain]) -> None:
    """Answer requests with their own first 4 bytes, as a service does it."""
    for chain in chains:
        queue.journal.begin(chain.head, 1)
        chain.written = 0
        chain.write(chain.read(4))
    queue.push(chains)


def unpop(queue: DeviceQueue, chains: Sequence[Chain]) -> list[Chain]:
    """Give requests back, from the newest to the oldest; return those for which that is not possible."""
    return [chain for chain in reversed(chains) if not queue.unpop(chain)][::-1]


def live_in_order(queue: DeviceQueue) -> None:
    for chain in queue.unfinished:
        answer(queue, [chain])
    while chains := queue.pop(3):
        answer(queue, chains)


def live_out_of_order(queue: DeviceQueue) -> None:
    answer(queue, queue.unfinished[::-1])
    first = queue.pop(4)
    answer(queue, first[2:3])
    second = queue.pop(3)
    third = queue.pop(1)
    answer(queue, [*third, *first[:1]])
    answer(queue, second[::-1])
    answer(queue, [*first[3:], *first[1:2]])
    while chains := queue.pop(2):
        answer(queue, chains[::-1])


def live_and_unpop(queue: DeviceQueue) -> None:
    answer(queue, unpop(queue, queue.unfinished))
    first = queue.pop(5)
    if len(first) == 5:
        answer(queue, first[1:2])
        assert unpop(queue, first[2:]) == []
        assert queue.unpop(first[0]) is False  # the one behind it was answered
        answer(queue, first[:1])
    else:
        answer(queue, unpop(queue, first))
    while chains := queue.pop(2):
        answer(queue, chains)


def live_by_calls(queue: DeviceQueue) -> None:
    """An engine calls the method by itself, also for what comes meanwhile; one call is unusual."""
    if not (streams := stream_queue(queue)):
        live_in_order(queue)
        return
    for chain in queue.unfinished:
        answer(queue, [chain])

    def method(reader: Any, writer: Any) -> None:
        number = reader.take(Number)
        writer.put(number)
        if number.value & 7 == 5:
            raise ValueError

    for limit in (3, 1, 64, 64):
        outcome = streams.call_streams(limit, method, 2, lambda: 1)
        if isinstance(outcome, tuple):
            queue.push([outcome[0]])


def live_by_steps(queue: DeviceQueue) -> None:
    """An engine steps coroutines, some of which wait for an operation; one call is unusual."""
    streams, source = stream_queue(queue), new_source()
    if not streams or not source:
        live_in_order(queue)
        return
    waiting: list[bytes] = []

    async def method(reader: Any, writer: Any) -> None:
        number = reader.take(Number)
        if number.value & 1:
            waiting.append(number.pack())
            await source.file.read_into(writer, 4, 0)
        else:
            writer.put(number)
        if number.value & 7 == 5:
            raise ValueError

    try:
        for chain in queue.unfinished:
            answer(queue, [chain])
        for limit in (3, 1, 0, 64, 0, 0):
            outcome = streams.step_streams(limit, method, 2, lambda: 1, 8, Thing(), Thing(), Context())
            if isinstance(outcome, tuple):
                queue.push([outcome[0]])
            if limit != 3:
                source.give(*waiting)
                waiting.clear()
    finally:
        source.give(*waiting)  # what is under way ends, although its process is dead
        source.close()


def new_source() -> Source | None:
    """Return what operations of the native engine wait for; None where it does not run, or has no io_uring."""
    if engine() == "reference":
        return None
    from pyvirtio.ring import native_device

    try:
        return Source(vars(native_device)["_native"])
    except OSError:
        return None


LIVES = {
    "in order": live_in_order,
    "out of order": live_out_of_order,
    "unpop": live_and_unpop,
    "by calls": live_by_calls,
    "by steps": live_by_steps,
}


@pytest.fixture(params=LIVES)
def live(request: pytest.FixtureRequest) -> Callable[[Durable, Fuse | None], None]:
    """What a worker does until nothing is left to do, or until it dies."""

    def run(durable: Durable, fuse: Fuse | None) -> None:
        LIVES[request.param](durable.worker(fuse))

    return run


if TYPE_CHECKING:
    Life = Callable[[Durable, Fuse | None], None]


def scene(index: int = 0, *, requests: int = 8) -> tuple[RawDriver, Durable, dict[int, bytes]]:
    raw = RawDriver(memory_of((0x1000, 0x8000)), 8, index=index)
    wanted = {}
    for number in range(requests):
        data = Number(0xABCD0000 + number).pack()
        wanted[raw.chain([raw.table([raw.readable(data), raw.writable(4)])])] = data
    raw.make_available(*wanted)
    return raw, Durable(raw.memory, raw.layout, FLAGS_ONLY), wanted


def check(raw: RawDriver, durable: Durable, wanted: dict[int, bytes], answered: int | None = None) -> None:
    answers = {head: raw.answer(head) for head in wanted}
    elements = raw.reap()
    assert sorted(element.id for element in elements) == sorted(wanted)  # each exactly once
    assert {element.len for element in elements} == {4}
    assert answers == wanted
    journal = durable.journal()
    assert journal.in_flight() == []
    assert journal.oldest_running() == 0
    assert journal.used_index() == raw.used_idx
    assert journal.position() == raw.avail_idx
    assert journal.answered == len(wanted) if answered is None else answered


def stores_of_a_life(live: Life, index: int) -> int:
    raw, durable, wanted = scene(index)
    fuse = Fuse()
    live(durable, fuse)
    check(raw, durable, wanted)
    return fuse.stores


@pytest.mark.parametrize("index", [0, 65531])
def test_death_before_every_store(live: Life, index: int):
    stores = stores_of_a_life(live, index)
    assert stores > 60
    for limit in range(stores):
        raw, durable, wanted = scene(index)
        with pytest.raises(Cut):
            live(durable, Fuse(limit))
        live(durable, None)
        check(raw, durable, wanted)


def test_two_deaths_in_a_row(live: Life):
    """The second one also in the midst of the recovery from the first."""
    stores = stores_of_a_life(live, 65531)
    for limit in range(0, stores, 3):
        for second in range(0, 60, 2):
            raw, durable, wanted = scene(65531)
            with pytest.raises(Cut):
                live(durable, Fuse(limit))
            try:
                live(durable, Fuse(second))
            except Cut:
                live(durable, None)
            check(raw, durable, wanted)


def test_death_again_and_again_makes_progress_or_stops(live: Life):
    raw, durable, wanted = scene()
    for _ in range(1000):
        try:
            live(durable, Fuse(40))
        except Cut:
            continue
        break
    check(raw, durable, wanted)


def test_only_what_was_inside_the_method_is_to_blame(live: Life):
    """Before whichever store a worker dies: whoever gets a strike was begun and is in flight."""
    for limit in range(stores_of_a_life(live, 0)):
        _raw, durable, _wanted = scene()
        with pytest.raises(Cut):
            live(durable, Fuse(limit))
        journal = durable.journal()
        running = journal.oldest_running()
        assert journal.blame() == bool(running)
        blamed = {head for head in range(8) if journal.strikes(head)}
        assert bool(blamed) == bool(running)
        assert blamed <= set(journal.in_flight())
        live(durable, None)
        assert not any(map(durable.journal().strikes, range(8)))


@pytest.mark.parametrize("index", [0, 65531])
def test_what_a_driver_writes_into_the_used_ring_does_not_matter_to_recovery(live: Life, index: int):
    stores = stores_of_a_life(live, index)
    for limit in range(0, stores, 5):
        raw, durable, wanted = scene(index)
        with pytest.raises(Cut):
            live(durable, Fuse(limit))
        if not durable.journal().was_used:
            continue  # nothing was taken yet: the ring is what counts
        right = raw.used_idx
        raw.used_idx = 0x5555
        durable.worker()
        assert (raw.used_idx - right) & 0xFFFF <= 4  # its own index, perhaps with what was about to be published
        live(durable, None)
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
        with pytest.raises(RingError, match="longer than its table"):
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
    with pytest.raises(RingError, match="longer than its table"):
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
    for limit in range(stores_of_a_life(lambda durable, fuse: live_in_order(durable.worker(fuse)), 0)):
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
    journal = Journal.private(8)
    for head in (5, 1, 7, 0):
        journal.track(head)
    assert journal.in_flight() == [5, 1, 7, 0]
    journal.commit([1], 1)
    journal.track(1)
    assert journal.in_flight() == [5, 7, 0, 1]
    assert [journal.sequence_of(head) for head in (5, 7, 0, 1)] == [1, 3, 4, 5]


def test_order_of_arrival_goes_on_after_a_death():
    _raw, durable, _wanted = scene(requests=4)
    queue = durable.worker()
    first = heads_of(queue.pop(2))
    queue = durable.worker()
    second = heads_of(queue.pop(2))
    unfinished = durable.worker().unfinished
    assert heads_of(unfinished) == [*first, *second]
    assert [chain.sequence for chain in unfinished] == [1, 2, 3, 4]


def test_twice_in_flight_is_refused():
    journal = Journal.private(8)
    journal.track(3)
    with pytest.raises(RingError, match="while it is in use"):
        journal.track(3)


def test_what_was_begun_or_is_not_in_flight_is_not_released():
    journal = Journal.private(8)
    assert not journal.release(3)
    journal.track(3)
    journal.begin(3, 1)
    assert not journal.release(3)
    journal.end(3)
    assert journal.release(3)
    assert journal.in_flight() == []


def test_the_oldest_running_request_is_found_in_any_order_of_begin_and_end():
    journal = Journal.private(8)
    assert journal.oldest_running() == 0
    for head, now in ((1, 30), (2, 10), (3, 20)):
        journal.track(head)
        journal.begin(head, now)
    assert journal.oldest_running() == 10
    journal.end(2)
    assert journal.oldest_running() == 20
    journal.commit([3], 1)
    assert journal.oldest_running() == 30
    journal.commit([1], 2)
    assert journal.oldest_running() == 0


@pytest.mark.parametrize("size", [1, 2, 128, 32768])
def test_sizes(size: int):
    assert region_size(size) >= 16 + 16 * size
    assert region_size(size) % 64 == ledger_size(size) % 64 == 0
    journal = Journal.private(size)
    for head in (0, size - 1):
        assert journal.strikes(head) == 0
        journal.begin(head, 1)
    assert journal.blame() == 1
    assert {head for head in range(size) if journal.strikes(head)} == {0, size - 1}
    journal.track(size - 1)
    assert journal.in_flight() == [size - 1]


def test_a_region_that_is_too_small_is_refused():
    ledger = memoryview(bytearray(ledger_size(8)))
    with pytest.raises(RingError, match="cannot track a queue of 8 entries"):
        Journal(8, memoryview(bytearray(16 + 16 * 8 - 1)), ledger)
    Journal(8, memoryview(bytearray(16 + 16 * 8)), ledger)


@pytest.mark.parametrize(("version", "entries"), [(2, 8), (1, 16), (1, 4), (0xFFFF, 8)])
def test_a_region_of_another_version_or_size_is_refused(version: int, entries: int):
    region = memoryview(bytearray(region_size(8)))
    header = region[8:12].cast("H")
    header[0], header[1] = version, entries
    with pytest.raises(RingError, match=f"version {version} for {entries} entries was given to a queue of 8"):
        Journal(8, region, memoryview(bytearray(ledger_size(8))))


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
    live_in_order(durable.worker())
    check(raw, durable, wanted, answered=5)  # the new ledger knows of these only


def test_strikes_fall_on_what_was_running():
    journal = Journal.private(8)
    journal.start(0, 0)
    for head in (4, 2, 6):
        journal.track(head)
    assert journal.blame() == 0  # nothing was running
    journal.begin(2, 7)
    assert journal.blame() == 1
    assert [journal.strikes(head) for head in (4, 2, 6)] == [0, 1, 0]
    assert journal.blame() == 0  # one death, one strike
    journal.begin(6, 8)
    journal.begin(2, 7)
    assert journal.blame() == 2
    assert [journal.strikes(head) for head in (4, 2, 6)] == [0, 2, 1]
    for _ in range(MOST_STRIKES):
        journal.begin(2, 7)
        journal.blame()
    assert journal.strikes(2) == MOST_STRIKES
    journal.commit([2], 1)
    assert journal.strikes(2) == 0


def test_strikes_stay_with_a_request_that_is_given_back():
    _raw, durable, _wanted = scene(requests=1)
    queue = durable.worker()
    (chain,) = queue.pop()
    queue.journal.begin(chain.head, 1)
    durable.journal().blame()
    queue = durable.worker()
    assert queue.unpop(*queue.unfinished)
    (chain,) = queue.pop()
    assert queue.journal.strikes(chain.head) == 1


def test_a_successor_does_not_look_as_if_it_were_hanging():
    """The dead worker's request was begun long ago; the next worker has not begun it."""
    _raw, durable, _wanted = scene(requests=2)
    queue = durable.worker()
    for chain in queue.pop():
        queue.journal.begin(chain.head, 1)
    assert durable.worker().journal.oldest_running() == 0


def test_the_difference_between_the_indexes_survives():
    """A front-end may let the available index run ahead of the used one before a queue starts."""
    for limit in range(40):
        raw = RawDriver(memory_of((0x1000, 0x8000)), 8)
        raw.avail_idx = 65530
        durable = Durable(raw.memory, raw.layout)
        heads = [raw.request(b"1234", room=4) for _ in range(3)]
        raw.make_available(*heads)
        durable.journal().start(0, 65530)
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
        assert queue.position == raw.avail_idx
