"""Requests of one shape: what a method is given, what is noted while it runs, and what becomes of odd outcomes."""

from __future__ import annotations

import functools
import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio.ring import record_queue
from pyvirtio.spec.features import RING_FEATURES
from pyvirtio.spec.struct import Struct, chars, le32
from pyvirtio.testing import RawDriver
from tests.support.rings import Number, device_queue, heads_of, memory_of, unchecked

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.ring.queue import RecordQueue
    from pyvirtio.ring.records import RecordBatch

pytestmark = pytest.mark.usefixtures("engine")  # each of them

LATER = 1 << 62
"""A deadline that never comes."""


class Scene:
    """A queue of 128 entries with requests of one number each, and room for one in the answer."""

    def __init__(self, *values: int) -> None:
        self.raw = RawDriver(memory_of((0x1000, 0x10000)), 128)
        self.queue: RecordQueue = device_queue(self.raw, RING_FEATURES)
        self.heads = [self.raw.request(Number(value).pack(), room=4) for value in values]
        self.raw.make_available(*self.heads)

    def batch(self) -> RecordBatch:
        batch = self.queue.pop_records(128, 4, 4)
        assert batch is not None
        return batch

    def call(self, method: Callable[..., object], *, kind: type[Struct] = Number, deadline: int = LATER) -> Any:
        batch, codec = self.batch(), self.queue.codec(kind)
        outcome = self.queue.call_records(batch, method, codec, self.queue.codec(Number), deadline, lambda: 7)
        return outcome, batch

    def answers(self) -> list[int]:
        """What the driver got back, in order of completion."""
        elements = self.raw.reap()
        assert all(element.len == 4 for element in elements)
        return [Number.unpack(self.raw.answer(element.id)).value for element in elements]

    def running(self) -> list[int]:
        """The heads that count as running."""
        journal = self.queue.journal
        before = [journal.strikes(head) for head in range(128)]
        journal.blame()
        return [head for head in range(128) if journal.strikes(head) != before[head]]


def test_a_queue_says_whether_it_deals_in_records():
    queue = Scene().queue
    assert record_queue(queue) is queue


def test_what_a_request_remembers_does_not_survive_into_the_next_one():
    class Cached(Number):
        @functools.cached_property
        def doubled(self) -> int:
            return 2 * self.value

    scene = Scene(1, 2, 3, 4, 5)
    scene.call(lambda request: request.doubled, kind=Cached)
    assert scene.answers() == [2, 4, 6, 8, 10]


def test_each_request_is_an_object_of_its_own():
    class Named(Struct):
        value: int = le32()
        name: str = chars(4)

    raw = RawDriver(memory_of((0x1000, 0x10000)), 64)
    sent = [Named(number, "same" if number < 8 else f"n{number}") for number in range(16)]
    raw.make_available(*(raw.request(one.pack(), room=4) for one in sent))
    queue = device_queue(raw)
    batch = queue.pop_records(64, Named.nbytes, 4)
    kept: list[Any] = []

    def keep(request: Any) -> int:
        kept.append(request)
        return 1

    queue.call_records(batch, keep, queue.codec(Named), queue.codec(Number), LATER, None)
    assert kept == sent
    assert {type(request) for request in kept} == {Named}
    assert [hash(request) for request in kept] == [hash(request) for request in sent]
    assert len({id(request) for request in kept}) == 16


def test_classes_whose_codecs_were_used_are_collected():
    def used() -> weakref.ref[type]:
        class Passing(Struct):
            value: int = le32()
            owner: Any = None

        scene = Scene(1, 2, 3)
        Passing.owner = scene.queue.codec(Passing)  # as an author might, and whatever else leads back
        scene.call(lambda request: request.value, kind=Passing)
        return weakref.ref(Passing)

    classes = [used() for _ in range(20)]
    gc.collect()
    assert [kind() for kind in classes if kind() is not None] == []


def test_a_method_runs_its_own_constructor_of_its_answers():
    """Nothing about the author's classes is replaced."""

    class Checked(Number):
        def __new__(cls, value: int) -> Checked:
            return super().__new__(cls, value + 100)

    before = Checked.__dict__["__new__"], Struct.__dict__["__new__"]
    scene = Scene(1, 2)
    batch = scene.batch()
    codec = scene.queue.codec(Number), scene.queue.codec(Checked)
    scene.queue.call_records(batch, lambda request: Checked(request.value), *codec, LATER, None)
    assert scene.answers() == [101, 102]
    assert (Checked.__dict__["__new__"], Struct.__dict__["__new__"]) == before


# What is noted while a method runs.


def test_only_the_request_inside_the_method_counts_as_running():
    scene, seen = Scene(1, 2, 3), []

    def method(request: Number) -> int:
        seen.append((scene.queue.journal.oldest_running(), scene.running()))
        return request.value

    outcome, batch = scene.call(method)
    assert outcome is batch
    assert seen == [(7, [head]) for head in scene.heads]
    assert scene.queue.journal.oldest_running() == 0


def test_a_call_that_is_cut_off_by_the_deadline_is_published_while_it_counts_as_running():
    """Not in between: a device that must not be asked twice is not, whenever the process ends."""
    scene = Scene(1, 2, 3)
    _, batch = scene.call(lambda request: request.value, deadline=0)
    assert len(batch) == 2
    assert scene.answers() == [1]
    assert scene.running() == []


@pytest.mark.parametrize("outcome", [ValueError("no"), unchecked(2**32), "text", None], ids=repr)
def test_an_unusual_outcome_belongs_to_the_next_record_which_counts_as_running(outcome: object):
    def method(request: Number) -> Any:
        if request.value < 3:
            return request.value
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    scene = Scene(1, 2, 3, 4)
    found, batch = scene.call(method)
    assert found is outcome
    assert scene.answers() == [1, 2]
    assert scene.running() == [scene.heads[2]]
    left = [batch.take() for _ in range(len(batch))]
    assert heads_of(left) == scene.heads[2:]
    assert [chain.sequence for chain in left] == [3, 4]


def test_what_ends_the_process_leaves_its_request_running():
    def method(request: Number) -> int:
        if request.value == 2:
            raise SystemExit
        return request.value

    scene = Scene(1, 2, 3)
    with pytest.raises(SystemExit):
        scene.call(method)
    assert scene.running() == [scene.heads[1]]


def batched(scene: Scene, method: Callable[[Any], Any]) -> RecordBatch:
    batch = scene.batch()
    scene.queue.answer_records(batch, method, 128, LATER, lambda: 7)
    return batch


def test_all_requests_of_a_batch_count_as_running_while_its_method_does():
    scene, seen = Scene(*range(20)), []

    def method(requests: Any) -> bytes:
        seen.append((scene.queue.journal.oldest_running(), scene.running()))
        return bytes(memoryview(requests).cast("B"))

    assert len(batched(scene, method)) == 0
    assert seen == [(7, scene.heads)]
    assert scene.answers() == list(range(20))
    assert scene.running() == []


@pytest.mark.parametrize("error", [ImportError("the author's own"), ValueError("no")], ids=repr)
def test_a_batch_method_that_fails_leaves_its_records_as_they_were(error: Exception):
    def method(requests: Any) -> bytes:
        raise error

    scene = Scene(1, 2, 3)
    batch = scene.batch()
    with pytest.raises(type(error)) as raised:
        scene.queue.answer_records(batch, method, 128, LATER, None)
    assert raised.value is error
    assert scene.running() == []
    assert len(batch) == 3
    scene.queue.push_records(batch, b"".join(Number(value).pack() for value in (4, 5, 6)))
    assert scene.answers() == [4, 5, 6]


@pytest.mark.parametrize("answers", [b"123", bytes(16)])
def test_answers_of_another_number_are_refused(answers: bytes):
    scene = Scene(1, 2, 3)
    batch = scene.batch()
    with pytest.raises(ValueError, match=r"answers of 4 bytes"):
        scene.queue.push_records(batch, answers)
    assert len(batch) == 3
    assert scene.answers() == []


def test_a_batch_method_that_declines_leaves_its_records_as_they_were():
    scene = Scene(1, 2, 3)
    batch = batched(scene, lambda requests: None)
    assert len(batch) == 3
    assert scene.running() == []
    assert scene.answers() == []


def test_the_requests_of_a_batch_are_private_and_cannot_be_written():
    scene = Scene(1, 2, 3)
    batch = scene.batch()
    requests = memoryview(batch.requests)
    scene.raw.poke(scene.raw.descriptor(scene.heads[0]).address, Number(99).pack())
    assert bytes(requests) == bytes(batch.requests) == b"".join(Number(value).pack() for value in (1, 2, 3))
    assert requests.readonly
    assert requests.contiguous
    codec = scene.queue.codec(Number)
    scene.queue.call_records(batch, lambda request: request.value, codec, codec, LATER, None)
    assert scene.answers() == [1, 2, 3]  # what was seen once is what everybody sees


def test_a_method_cannot_get_at_the_batch_that_it_answers(engine: str):
    if engine == "reference":
        pytest.skip("plain Python stays within its lists in any case")
    scene = Scene(1, 2, 3)
    batch, codec = scene.batch(), scene.queue.codec(Number)
    attempts: list[Callable[[], object]] = [
        lambda: scene.queue.push_records(batch, bytes(12)),
        lambda: scene.queue.call_records(batch, method, codec, codec, LATER, None),
        lambda: scene.queue.answer_records(batch, method, 128, LATER, None),
        batch.take,
    ]

    def method(request: Number) -> int:
        for attempt in attempts:
            with pytest.raises((TypeError, IndexError)):
                attempt()
        return request.value

    assert scene.queue.call_records(batch, method, codec, codec, LATER, None) is batch
    assert scene.answers() == [1, 2, 3]
