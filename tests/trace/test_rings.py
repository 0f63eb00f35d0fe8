"""Rings read from outside: what changed is told step by step, and nothing that is in them does harm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import NotMapped
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.spec.features import Feature
from pyvirtio.testing.raw_ring import RawRing, lay_out
from pyvirtio.trace.events import Event, check
from pyvirtio.trace.requests import requests
from pyvirtio.trace.rings import MOST_BYTES, RingFollower, RingReader
from pyvirtio.transport import QueueSetup

if TYPE_CHECKING:
    import random

BASE, DATA, SIZE = 0x1000, 0x8000, 8
NEXT, WRITE, INDIRECT = 1, 2, 4


class Watched:
    """A ring that anything can be written into, and somebody who follows it."""

    def __init__(self, *, size: int = SIZE, features: int = 0, position: int = 0, snap: int = 64) -> None:
        self.memory = MemoryTable([Region(BASE, bytearray(0x10000))])
        layout = lay_out(size, base=BASE)
        self.ring = RawRing(self.memory, layout)
        setup = QueueSetup(3, size, layout.descriptors, layout.available, layout.used, features, position=position)
        self.follower = RingFollower(RingReader(self.memory.read, setup, snap), 3)

    def look(self) -> list[Event]:
        events = self.follower.look(7)
        for event in events:
            check(event)
            assert event.at == 7
            assert event.queue == 3
        return events

    def offer(self, *heads: int) -> None:
        for head in heads:
            self.ring.set_avail_ring(self.ring.avail_idx % SIZE, head)
            self.ring.avail_idx = (self.ring.avail_idx + 1) & 0xFFFF

    def use(self, *elements: tuple[int, int]) -> None:
        for element in elements:
            self.ring.set_used_ring(self.ring.used_idx % SIZE, *element)
            self.ring.used_idx = (self.ring.used_idx + 1) & 0xFFFF


def kinds(events: list[Event]) -> list[str]:
    return [event.what for event in events]


def test_a_request_is_told_from_its_descriptors_to_its_answer():
    watched = Watched()
    assert kinds(watched.follower.begin(0)) == ["queue"]
    watched.memory.write(DATA, b"question")
    watched.ring.set_descriptor(2, DATA, 8, NEXT, 5)
    watched.ring.set_descriptor(5, DATA + 16, 6, WRITE, 0)
    assert watched.look() == []
    watched.offer(2)
    described, available = watched.look()
    assert described["chain"] == [[2, DATA, 8, NEXT, 5], [5, DATA + 16, 6, WRITE, 0]]
    assert (described["length"], described["room"]) == (8, 6)
    assert bytes.fromhex(described["data"]) == b"question"
    assert (available["index"], available["heads"]) == (1, [2])
    watched.memory.write(DATA + 16, b"answer")
    watched.use((2, 6))
    used, index = watched.look()
    assert (used["head"], used["written"], bytes.fromhex(used["data"])) == (2, 6, b"answer")
    assert index["index"] == 1


def test_indexes_wrap():
    watched = Watched(position=0xFFFF)
    watched.ring.avail_idx = watched.ring.used_idx = 0xFFFF
    watched.follower.begin(0)
    watched.ring.set_descriptor(0, DATA, 1)
    watched.offer(0, 0)
    assert kinds(watched.look()) == ["descriptors", "descriptors", "available"]


def test_an_indirect_table_is_followed():
    watched = Watched()
    watched.follower.begin(0)
    watched.ring.set_descriptor(0, DATA, 32, INDIRECT, 0)
    watched.memory.write(DATA, (DATA + 64).to_bytes(8, "little") + bytes([4, 0, 0, 0, NEXT, 0, 1, 0]))
    watched.memory.write(DATA + 16, (DATA + 96).to_bytes(8, "little") + bytes([9, 0, 0, 0, WRITE, 0, 0, 0]))
    watched.offer(0)
    described = watched.look()[0]
    assert (described["length"], described["room"], len(described["chain"])) == (4, 9, 3)
    assert described.get("error") is None


def test_content_is_cut_to_what_was_asked_for_and_its_length_stays_known():
    watched = Watched(snap=16)
    watched.follower.begin(0)
    watched.ring.set_descriptor(0, DATA, 1000)
    watched.offer(0)
    described = watched.look()[0]
    assert (described["length"], len(described["data"])) == (1000, 32)


@pytest.mark.parametrize("features", [0, int(Feature.EVENT_IDX)])
def test_a_changed_wish_to_be_notified_is_told(features: int):
    watched = Watched(features=features)
    watched.follower.begin(0)
    watched.look()
    if features:
        watched.ring.used_event, watched.ring.avail_event = 3, 5
    else:
        watched.ring.avail_flags = watched.ring.used_flags = 1
    told = {event.by: event.get("event", event.get("flags")) for event in watched.look()}
    assert told == ({"driver": 3, "device": 5} if features else {"driver": 1, "device": 1})
    assert watched.look() == []


def test_an_answer_that_no_interrupt_announces_is_told_as_late_when_it_is_found_again():
    watched = Watched()
    watched.follower.begin(0)
    watched.ring.set_descriptor(0, DATA, 4, WRITE)
    watched.offer(0)
    watched.look()
    watched.use((0, 4))
    assert watched.follower.look(7, announced=False) == []
    used, _ = watched.follower.look(7, announced=False)
    assert used["late"]
    watched.offer(0)
    watched.use((0, 4))
    assert kinds(watched.follower.look(7, announced=False)) == ["descriptors", "available"]
    used, _ = watched.look()
    assert used.get("late") is None


def test_a_request_that_was_answered_before_it_was_seen_is_late_and_the_next_one_of_its_name_is_not():
    watched = Watched()
    watched.follower.begin(0)
    watched.ring.set_descriptor(3, DATA, 4, WRITE)
    watched.offer(3, 3)
    watched.use((3, 4))
    first, second, available, used, index = watched.look()
    assert (first.get("late"), second.get("late")) == (True, None)
    assert (used["head"], index["index"]) == (3, 1)
    watched.use((3, 4))
    more = watched.look()
    assert kinds(more) == ["used", "used_index"]
    found = requests([first, second, available, used, *more])
    assert [request.is_whole for request in found] == [False, True]
    assert all(request.answer is not None for request in found)


def test_what_is_remembered_of_a_driver_that_names_one_head_for_ever_is_bounded():
    watched = Watched()
    watched.follower.begin(0)
    for _ in range(1000):
        watched.offer(0)
        watched.look()
    assert sum(map(len, watched.follower._outstanding.values())) <= 2 * SIZE


# What is wrong in them.


@pytest.mark.parametrize(
    ("descriptor", "said"),
    [
        ((0, DATA, 1, NEXT, 0), "never ends"),
        ((0, DATA, 1, NEXT, 8), "beyond its table"),
        ((0, DATA, 15, INDIRECT, 0), "indirect table"),
        ((0, DATA, 16 * 9, INDIRECT, 0), "indirect table"),
        ((0, DATA, 16, INDIRECT | NEXT, 0), "indirect descriptor"),
        ((0, 0xFFFF_FFFF_FFFF_FFF0, 32, INDIRECT, 0), "not in guest memory"),
    ],
)
def test_a_chain_that_is_wrong_says_why(descriptor: tuple[int, int, int, int, int], said: str):
    watched = Watched()
    watched.follower.begin(0)
    watched.ring.set_descriptor(*descriptor)
    watched.offer(0)
    assert said in watched.look()[0]["error"]


def test_a_head_beyond_the_table_says_so():
    watched = Watched()
    watched.follower.begin(0)
    watched.offer(9)
    assert "beyond its table" in watched.look()[0]["error"]


def test_an_index_too_far_ahead_is_told_as_missed_and_followed_from_there():
    watched = Watched()
    watched.follower.begin(0)
    watched.ring.avail_idx = 1000
    (missed,) = watched.look()
    assert (missed.what, missed["count"]) == ("missed", 1000)
    watched.offer(0)
    assert kinds(watched.look()) == ["descriptors", "available"]


def test_an_answer_to_nothing_is_damage_where_everything_was_seen():
    watched = Watched()
    watched.follower.begin(0)
    watched.use((4, 1))
    assert kinds(watched.look()) == ["damaged", "used", "used_index"]


def test_a_ring_whose_memory_goes_is_damage_that_is_told_once():
    watched = Watched()
    watched.follower.begin(0)

    def gone(address: int, length: int) -> bytes:
        raise NotMapped(f"{length} bytes at {address:#x}")

    watched.follower.reader.read = gone
    assert kinds(watched.look()) == ["damaged", "damaged"]
    assert watched.look() == []


def test_what_one_look_reads_is_bounded_whatever_the_driver_says():
    watched = Watched(size=1024, snap=1 << 30)
    read = 0

    def count(address: int, length: int) -> bytes:
        nonlocal read
        read += length
        return bytes(length)

    for index in range(1024):
        watched.ring.set_descriptor(index, DATA, 0xFFFF_FFFF, NEXT, (index + 1) % 1024)
    inner = watched.follower.reader.read
    watched.follower.begin(0)
    watched.follower.reader.read = lambda at, n: inner(at, n) if at < DATA else count(at, n)
    watched.ring.avail_idx = 1024
    events = watched.follower.look(7)
    assert read <= 2 * MOST_BYTES
    assert sum(len(event.get("chain", ())) for event in events) <= 4096 + 1024
    assert any("too many" in event.get("error", "") for event in events)


def test_random_rings_do_no_harm(rng: random.Random):
    for _ in range(300):
        watched = Watched(features=rng.choice([0, int(Feature.EVENT_IDX)]))
        memory = watched.memory.view(BASE, 0x400)
        memory[:] = rng.randbytes(len(memory))
        watched.ring.avail_idx, watched.ring.used_idx = rng.randrange(8), 0
        watched.follower.begin(0)
        watched.ring.used_idx = rng.randrange(16)
        watched.look()
        watched.look()
