"""Compares an engine with the reference engine on damaged rings: the same chains, errors, memory and journal.

Two worlds hold the same bytes, one engine each. A case damages a well-formed ring in a few places, lets both pop,
answer and push, and compares everything that a driver, a device or the next worker could see.

    python -m tests.support.differ native SEED CASES
    python -m tests.support.differ race SEED CASES
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import sys
from typing import TYPE_CHECKING, Any

from pyvirtio.errors import RingError
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.ring import Journal
from pyvirtio.ring.engine import device_queue
from pyvirtio.ring.journal import ledger_size, region_size
from pyvirtio.ring.split_records import SplitRecordQueue
from pyvirtio.spec import split
from pyvirtio.spec.features import Feature
from pyvirtio.testing import RingLayout, lay_out
from pyvirtio.testing.ring_fuzzer import EDGES
from tests.support.coroutine_calls import Coroutines, Mirror, Source
from tests.support.rings import rings_at, setup_at
from tests.support.stream_calls import Calls, Failed, mirror

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvirtio.ring import Chain
    from pyvirtio.ring.queue import RecordQueue

# The ring, and buffers behind it; a neighbour; a hole; an island; and the very end of the address space.
REGIONS = ((0x1000, 0x440), (0x1440, 0x100), (0x1600, 0x80), (2**64 - 0x80, 0x80))
REQUEST, RESPONSE = 8, 4
_NEXT, _WRITE, _INDIRECT = split.F_NEXT, split.F_WRITE, split.F_INDIRECT
_INDEXES = (0, 1, 65530)


def _layout(size: int) -> RingLayout:
    """Place a ring with room for one descriptor behind its table."""
    layout = lay_out(size, REGIONS[0][0])
    return RingLayout(size, layout.descriptors, layout.available + 64, layout.used + 64, layout.end + 64)


class World:
    """Memory, a ring in it, its journal, and the engine under test or the reference engine."""

    def __init__(self, size: int, features: int, engine: str) -> None:
        self.buffers = [bytearray(length) for _, length in REGIONS]
        memory = MemoryTable([Region(base, buffer) for (base, _), buffer in zip(REGIONS, self.buffers, strict=True)])
        layout = _layout(size)
        setup = setup_at(layout, features)
        self.region, self.ledger = bytearray(region_size(size)), bytearray(ledger_size(size))
        self.journal = Journal(size, memoryview(self.region), memoryview(self.ledger))
        os.environ["PYVIRTIO_ENGINE"] = engine
        self.queue: Any = device_queue(setup, memory, journal=self.journal)
        assert (engine == "reference") == (type(self.queue) is SplitRecordQueue)

    def restart(self, image: Sequence[bytearray], index: int) -> None:
        """Start again with these bytes."""
        for buffer, data in zip(self.buffers, image, strict=True):
            buffer[:] = data
        self.region[:] = bytes(len(self.region))
        self.ledger[:] = bytes(len(self.ledger))
        self.journal.start(index, index)
        self.journal.last_sequence = 0
        queue = self.queue
        queue._broken = None
        queue._next_available = queue._used_index = queue._interrupted_at = index
        queue._in_flight = 0
        if hasattr(queue, "_push_state"):
            queue._push_state()

    def relocate(self) -> None:
        """Map the same memory once more."""
        memory = MemoryTable([Region(base, buffer) for (base, _), buffer in zip(REGIONS, self.buffers, strict=True)])
        self.queue.relocate(rings_at(memory, _layout(self.queue.size)), memory)

    def state(self) -> tuple[object, ...]:
        """Return everything that others can see."""
        return (
            *map(bytes, self.buffers),
            bytes(self.region),
            bytes(self.ledger),
            self.queue.position,
            self.queue.backlog(),
        )


class Pair:
    """Two worlds that must stay alike."""

    def __init__(self, rng: random.Random, size: int, features: int, engine: str, source: Source | None) -> None:
        self.rng = rng
        self.size = size
        self.layout = _layout(size)
        self.reference = World(size, features, "reference")
        self.tested = World(size, features, engine)
        self.records = 0
        self.whole = 0
        self.calls = 0
        self.broken = 0
        self.unpopped = 0
        self.parked = 0
        self.handed_over = 0
        self.source = source

    # Making a ring.

    def image(self, index: int) -> list[bytearray]:
        """Make up a ring whose requests are well-formed, mostly of one shape, and available."""
        rng, size, layout = self.rng, self.size, self.layout
        image = [bytearray(rng.randbytes(length)) for _, length in REGIONS]
        main, start = image[0], REGIONS[0][0]
        free = [(layout.end, REGIONS[0][0] + REGIONS[0][1] - 64), (0x1440, 0x1500), (0x1600, 0x1640)]
        uniform = rng.random() < 0.8
        shape = rng.randrange(3)
        slots = list(range(size))
        rng.shuffle(slots)
        # Behind the table stands what would pass for a descriptor.
        struct.pack_into("<QIHH", main, 16 * size, rng.choice(free)[0], RESPONSE, rng.choice((0, _WRITE)), 0)
        heads = []
        while slots:
            kind = shape if uniform else rng.randrange(4)
            low, high = rng.choice(free)
            place = rng.randrange(low, high)
            buffers = [
                (place, REQUEST if uniform else rng.randrange(20), 0),
                (rng.randrange(low, high), RESPONSE if uniform else rng.randrange(12), _WRITE),
            ]
            if kind == 3:
                buffers.insert(0, (rng.randrange(low, high), rng.randrange(8), 0))
            if kind == 1:
                table = rng.randrange(0x1440, 0x1500)
                data = b"".join(
                    struct.pack("<QIHH", address, length, flags | (_NEXT if not at else 0), 1)
                    for at, (address, length, flags) in enumerate(buffers)
                )
                image[1][table - 0x1440 : table - 0x1440 + 32] = data
                buffers = [(table, 32, _INDIRECT)]
            if len(buffers) > len(slots):
                break
            taken = [slots.pop() for _ in buffers]
            for at, (address, length, flags) in enumerate(buffers):
                more = at + 1 < len(buffers)
                struct.pack_into(
                    "<QIHH",
                    main,
                    layout.descriptors - start + 16 * taken[at],
                    address,
                    length,
                    flags | (_NEXT if more else 0),
                    taken[at + 1] if more else 0,
                )
            heads.append(taken[0])
        for slot, head in enumerate(heads):
            place = layout.available - start + 4 + 2 * ((index + slot) % size)
            struct.pack_into("<H", main, place, head)
        struct.pack_into("<HH", main, layout.available - start, rng.choice((0, 0, 1)), (index + len(heads)) & 0xFFFF)
        return image

    def damage(self, image: list[bytearray]) -> None:
        """Change a few bytes where they hurt."""
        rng, layout, main = self.rng, self.layout, image[0]
        for _ in range(rng.choice((0, 1, 1, 2, 4))):
            kind = rng.randrange(7)
            entry = 16 * rng.randrange(self.size)
            if kind == 0:
                main[rng.randrange(layout.used - REGIONS[0][0])] = rng.randrange(256)
            elif kind == 1:
                struct.pack_into("<H", main, entry + 12, rng.randrange(8))
            elif kind == 2:
                struct.pack_into("<I", main, entry + 8, rng.choice(EDGES))
            elif kind == 3:
                struct.pack_into("<Q", main, entry, rng.choice(_ADDRESSES) + rng.randrange(-17, 17) & 2**64 - 1)
            elif kind == 4:
                struct.pack_into("<H", main, entry + 14, rng.randrange(self.size + 1))
            elif kind == 5:
                slot = rng.randrange(self.size)
                place = layout.available - REGIONS[0][0] + 4 + 2 * slot
                struct.pack_into("<H", main, place, rng.choice((rng.randrange(self.size), self.size, 0xFFFF)))
            else:
                image[1][rng.randrange(len(image[1]))] = rng.randrange(8)

    # Comparing.

    def case(self, image: list[bytearray], index: int) -> None:
        """Let both engines loose on a ring."""
        self.reference.restart(image, index)
        self.tested.restart(image, index)
        by_records = self.rng.random() < 0.6
        way = self.rng.choice((None, None, self._call_streams, self._step_streams))
        by_calls = way if self.tested.queue.has_streams else None
        for _ in range(3):
            if not (by_calls and by_calls()) and not self._step(by_records):
                break
        one, other = self.reference.queue, self.tested.queue
        assert (one.needs_interrupt(), one.enable_kicks()) == (other.needs_interrupt(), other.enable_kicks())
        self._alike()

    def _step(self, by_records: bool) -> bool:
        one, other = self.reference.queue, self.tested.queue
        limit = self.rng.choice((1, 2, 3, 64))
        batch = other.pop_records(limit, REQUEST, RESPONSE) if by_records else None
        if batch is not None:
            self._answer_batch(batch)
            return True
        expected, error = _pop(one, limit)
        found, other_error = _pop(other, limit)
        assert error == other_error
        self.broken += error is not None
        assert list(map(_seen, found)) == list(map(_seen, expected))
        for chain, twin in zip(expected, found, strict=True):
            answer = self.rng.randbytes(min(chain.room, self.rng.randrange(9)))
            chain.write(answer)
            twin.write(answer)
        self._alike()
        self._unpop(expected, found)
        if self.rng.random() < 0.1:
            self.reference.relocate()
            self.tested.relocate()
        one.push(expected)
        other.push(found)
        self._alike()
        return bool(found)

    def _unpop(self, expected: list[Chain], found: list[Chain]) -> None:
        """Have both give back what they can of the last chains, some of which were begun, and one that is not last."""
        one, other = self.reference.queue, self.tested.queue
        for _ in range(self.rng.choice((0, 0, 1, 2))):
            at = self.rng.choice((0, len(found) - 1)) if found else -1
            if at < 0:
                break
            if self.rng.random() < 0.2:
                one.journal.begin(expected[at].head, 1)
                other.journal.begin(found[at].head, 1)
            was_given_back = one.unpop(expected[at])
            assert other.unpop(found[at]) == was_given_back
            self._alike()
            if was_given_back:
                self.unpopped += 1
                del expected[at], found[at]

    def _answer_batch(self, batch: Any) -> None:
        one, other = self.reference.queue, self.tested.queue
        number = len(batch)
        self.records += number
        self.whole += 1
        # With a head that comes twice an engine is broken already; the reference engine looks one further.
        chains, _ = _pop(one, number + _is_broken(other))
        assert len(chains) == number
        assert [chain.error for chain in chains] == [None] * number
        assert b"".join(chain.read(REQUEST) for chain in chains) == bytes(batch.requests)
        self._alike()
        first = self.rng.randrange(1, number + 1)
        for part in filter(None, (chains[:first], chains[first:])):
            answers = self.rng.randbytes(RESPONSE * len(part))
            if self.rng.random() < 0.2:  # one by one
                for at, chain in enumerate(part):
                    twin = batch.take()
                    assert _seen(twin) == _seen(chain)
                    answer = answers[RESPONSE * at : RESPONSE * (at + 1)]
                    chain.write(answer)
                    twin.write(answer)
                    one.push([chain])
                    other.push([twin])
            else:
                for at, chain in enumerate(part):
                    chain.write(answers[RESPONSE * at : RESPONSE * (at + 1)])
                other.push_records(batch, answers)
                one.push(part)
            self._alike()
        assert len(batch) == 0

    def _call_streams(self) -> bool:
        """Let the engine call a method, and do the same with the reference engine; return whether it was called."""
        one, other = self.reference.queue, self.tested.queue
        calls = Calls(self.rng)
        outcome = other.call_streams(self.rng.choice((1, 2, 64)), calls.method, 2, lambda: 1)
        self.calls += len(calls.made)
        chains = []
        for call in calls.made:
            ((chain,), error) = _pop(one, 1)
            assert error is None
            one.journal.begin(chain.head, 1)
            mirror(call, chain)
            chains.append(chain)
        if _is_broken(other):  # by a head that comes twice, of which the reference engine has to learn now
            assert _pop(one, 1)[1]
        unusual = [chains.pop()] if isinstance(outcome, tuple) else []
        if chains:
            one.push(chains)
        self._alike()
        if isinstance(outcome, tuple):
            twin, raised, is_closed = outcome
            assert (type(raised), is_closed) == (Failed, True)
            assert _seen(twin) == _seen(unusual[0])
            one.push(unusual)
            other.push([twin])
            self._alike()
        return bool(calls.made)

    def _step_streams(self) -> bool:
        """Let the engine step coroutines, and do the same with the reference engine; return whether any was begun."""
        calls = Coroutines(self.rng, self.source)
        mirror = Mirror(self.reference.queue, calls)
        for limit in (self.rng.choice((1, 2, 64)), 0, 0, 0, 0):
            self._step_once(calls, mirror, limit)
            while self.tested.queue.has_ready():
                self._step_once(calls, mirror, 0)
            if not self.tested.queue.parked_count():
                break
            self.parked += len(calls.waiting)
            calls.give()
            mirror.catch_up()
        assert not mirror.chains
        assert self.tested.queue.parked() == []
        self.calls += len(calls.rooms)
        return bool(calls.rooms)

    def _step_once(self, calls: Coroutines, mirror: Mirror, limit: int) -> None:
        one, other = self.reference.queue, self.tested.queue
        outcome = other.step_streams(limit, calls.answer, 2, lambda: 1, self.size, *calls.arguments())
        mirror.catch_up()
        if limit and _is_broken(other):
            assert _pop(one, 1)[1]
        answered = mirror.take_ended()
        if isinstance(outcome, tuple):
            twin = outcome[0]
            unusual = [answered.pop()] if len(outcome) == 5 else []
            if answered:
                one.push(answered)
            self._alike()
            self._finish(calls, *outcome)
            mirror.catch_up()
            answered = unusual or mirror.take_ended()
            assert [chain.head for chain in answered] == [twin.head]
            other.push([twin])
        if answered:
            one.push(answered)
        self._alike()

    def _finish(self, calls: Coroutines, _twin: Chain, *rest: Any) -> None:
        """Deal with what is unusual as the service does."""
        if len(rest) == 4:
            raised, is_closed, since, is_cancelled = rest
            assert (type(raised), is_closed, since, is_cancelled) == (Failed, True, 1, False)
            return
        work, awaited, reader, writer, since, is_cancelled = rest
        assert (since, is_cancelled) == (1, False)
        self.handed_over += 1
        calls.finish(work, awaited)
        assert reader.close() & writer.close()

    def _alike(self) -> None:
        assert self.tested.state() == self.reference.state()


_ADDRESSES = (0, 2**63, 2**64 - 1, *(base for base, _ in REGIONS), *(base + length for base, length in REGIONS))


def _is_broken(queue: Any) -> bool:
    return bool(queue._broken) or (hasattr(queue, "_ring") and queue._ring.duplicate is not None)


def _pop(queue: RecordQueue, limit: int) -> tuple[list[Chain], str | None]:
    try:
        return queue.pop(limit), None
    except RingError as error:
        return [], str(error)


def _seen(chain: Chain) -> tuple[object, ...]:
    views = [b"".join(map(bytes, part)) for part in (chain.readable, chain.writable)]
    read = chain.read(1 << 40), chain.read(5, 3)
    return chain.head, chain.sequence, chain.length, chain.room, chain.written, str(chain.error), views, read


def compare(engine: str, seed: object, cases: int) -> dict[str, int]:
    """Run ``cases`` cases; return how many of what there were.

    Raises:
        AssertionError: the engines differ; the message says in which case.
    """
    forced = os.environ.get("PYVIRTIO_ENGINE")
    try:
        return _compare(engine, random.Random(str(seed)), cases)
    finally:
        if forced is None:
            os.environ.pop("PYVIRTIO_ENGINE", None)
        else:
            os.environ["PYVIRTIO_ENGINE"] = forced


def _compare(engine: str, rng: random.Random, cases: int) -> dict[str, int]:
    every = int(Feature.INDIRECT_DESC | Feature.EVENT_IDX | Feature.VERSION_1)
    source = source_of(engine)
    pairs = [
        Pair(rng, size, features, engine, source)
        for size in (1, 2, 4, 8, 8, 16)
        for features in (every, every & ~Feature.EVENT_IDX, every & ~Feature.INDIRECT_DESC)
    ]
    image: list[bytearray] = []
    for case in range(cases):
        if case % 20 == 0:  # a fresh ring, of another queue; in between, the same one with other damage
            pair = rng.choice(pairs)
            index = rng.choice(_INDEXES)
            image = pair.image(index)
        hurt = [bytearray(part) for part in image]
        pair.damage(hurt)
        try:
            pair.case(hurt, index)
        except BaseException as error:
            error.add_note(f"case {case}, queue of {pair.size}, from index {index}")
            raise
    return {
        "cases": cases,
        "batches": sum(pair.whole for pair in pairs),
        "records": sum(pair.records for pair in pairs),
        "calls": sum(pair.calls for pair in pairs),
        "broken": sum(pair.broken for pair in pairs),
        "unpopped": sum(pair.unpopped for pair in pairs),
        "parked": sum(pair.parked for pair in pairs),
        "handed over": sum(pair.handed_over for pair in pairs),
        "io_uring": source is not None,
    }


def source_of(engine: str) -> Source | None:
    """Return what operations wait for; None where there are none, or no io_uring."""
    if engine == "reference":
        return None
    from pyvirtio.ring import _native

    try:
        return Source(_native)
    except OSError:
        return None


def race(seed: object, cases: int) -> int:
    """Let the native engine pop while another process writes into the ring all the time; return how much it popped.

    There is nothing to compare with. What is looked for is a crash, which a sanitizer would report.
    """
    rng = random.Random(str(seed))
    size, start = 16, 0x1000
    shared = mmap.mmap(-1, 0x1000)
    memory = MemoryTable([Region(start, shared), Region(start + 0x1000, mmap.mmap(-1, 0x1000))])
    layout = lay_out(size, start)
    child = os.fork()
    if not child:
        _scribble(shared, layout.used - start)
    popped = 0
    source = source_of("native")
    try:
        every = int(Feature.INDIRECT_DESC | Feature.EVENT_IDX | Feature.VERSION_1)
        for _ in range(cases):
            setup = setup_at(layout, every, rng.getrandbits(16))
            queue = device_queue(setup, memory, journal=Journal.private(size))
            shared[layout.available - start + 2 : layout.available - start + 4] = struct.pack(
                "<H", queue.position + rng.randrange(size + 1) & 0xFFFF
            )
            batch: Any = queue.pop_records(size, REQUEST, RESPONSE)
            if batch is not None:
                popped += len(batch)
                bytes(batch.requests)
                queue.push_records(batch, bytes(RESPONSE * len(batch)))
            if rng.random() < 0.5:
                calls = Calls(rng)
                outcome: Any = queue.call_streams(size, calls.method, 2, lambda: 1)  # type: ignore[attr-defined]
                popped += len(calls.made)
                if isinstance(outcome, tuple):
                    queue.push([outcome[0]])
            elif source:
                popped += _step_all(queue, rng, source)
            chains, _ = _pop(queue, size)
            for chain in chains:
                popped += 1
                chain.read(64)
                chain.write(b"answer"[: min(6, chain.room)])
            queue.push(chains)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return popped


def _step_all(queue: Any, rng: random.Random, source: Source) -> int:
    """Have coroutines answer what waits, until all have ended; return how many there were."""
    calls = Coroutines(rng, source)
    limit = queue.size
    while True:
        outcome = queue.step_streams(limit, calls.answer, 2, lambda: 1, queue.size, *calls.arguments())
        if isinstance(outcome, tuple):
            if len(outcome) == 7:
                calls.finish(*outcome[1:3])
            queue.push([outcome[0]])
        if not queue.parked_count():
            return len(calls.rooms)
        if not queue.has_ready():
            calls.give()
        limit = 0


def _scribble(shared: mmap.mmap, upto: int) -> None:
    rng = random.Random(1)
    while True:
        entry = 16 * rng.randrange(16)
        struct.pack_into(
            "<QIHH",
            shared,
            entry,
            rng.randrange(0x1000, 0x3100),
            rng.choice((4, 8, 16, 32, 48, 1 << 31)),
            rng.choice((0, 1, 2, 3, 4, rng.randrange(8))),
            rng.randrange(17),
        )
        place = rng.randrange(256, upto - 4, 2)
        if place != 256 + 2:
            shared[place : place + 2] = struct.pack("<H", rng.randrange(17))


if __name__ == "__main__":
    if sys.argv[1] == "race":
        print({"popped": race(sys.argv[2], int(sys.argv[3]))})
    else:
        print(compare(sys.argv[1], sys.argv[2], int(sys.argv[3])))
