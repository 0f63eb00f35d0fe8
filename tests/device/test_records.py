"""Requests of one shape: a batch method, one call a record, and chains give the same answers."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio.device import Device, Queue, Reader, RecordArray, Writer
from pyvirtio.devices.factorial import EXACT, WRAPPED, Factorial, Request, Response
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.ring import SplitLayout
from pyvirtio.ring.split_records import SplitRecordQueue
from pyvirtio.runtime.records import BACK_OFF
from pyvirtio.spec.features import RING_FEATURES, Feature
from pyvirtio.spec.struct import Struct, chars, le32
from pyvirtio.testing import Descriptor, RawDriver
from tests.support.rings import Number, RawQueue, memory_of, unchecked

if TYPE_CHECKING:
    from collections.abc import Sequence


class Tripler(Device):
    """Triples a number, in any way that is asked for; fails at 13."""

    device_id = 63
    requests = Queue(Number, Number, size=256)

    def __init__(self) -> None:
        super().__init__()
        self.singles = 0
        self.batches: list[int] = []

    @requests.each
    def triple(self, request: Number) -> Number:
        self.singles += 1
        if request.value == 13:
            raise ValueError("13")
        return Number(3 * request.value)

    @requests.batch
    def triple_all(self, requests: RecordArray) -> Any:
        values = requests["value"]
        self.batches.append(len(values))
        if 13 in values:
            raise ValueError("13 is among them")
        return 3 * values


def serve(
    device: Device, values: Sequence[bytes], *, room: int = 4, features: int = RING_FEATURES
) -> tuple[RawQueue, dict[int, bytes]]:
    """Have ``device`` answer; gives the answer to each, and b"" where it came back empty."""
    served = RawQueue(RawDriver(memory_of((0x1000, 0x20000)), 256), device, features)
    heads = [served.raw.request(value, room=room) for value in values]
    served.raw.make_available(*heads)
    back = served.kick()
    assert [head for head, _ in back] == heads
    return served, {at: served.raw.answer(head)[:length] for at, (head, length) in enumerate(back)}


def numbers(*values: int) -> list[bytes]:
    return [Number(value).pack() for value in values]


def test_the_same_answers_whichever_way(engine: str):
    device = Tripler()
    values = list(range(20, 120))
    served, answers = serve(device, numbers(*values))
    assert [Number.unpack(answers[at]).value for at in range(100)] == [3 * value for value in values]
    assert served.queue.journal.answered == 100
    assert served.queue.journal.in_flight() == []
    assert served.interrupts >= 1
    assert sum(device.batches) + device.singles == 100
    assert device.batches


def test_few_requests_are_no_batch(engine: str):
    device = Tripler()
    few = SplitRecordQueue.batch_pays_from - 1
    serve(device, numbers(*range(few)))
    assert (device.batches, device.singles) == ([], few)


def test_only_the_culprit_of_a_batch_comes_back_empty(engine: str):
    device = Tripler()
    served, answers = serve(device, numbers(*range(1, 31)))
    assert [at for at, answer in answers.items() if not answer] == [12]
    assert all(Number.unpack(answers[at]).value == 3 * (at + 1) for at in range(30) if at != 12)
    assert served.queue.journal.answered == 30


def test_mixed_shapes_keep_their_order(engine: str):
    values = numbers(*range(20, 40))
    values[9] = b"xy"  # too short
    values[15] += b"more than it takes"
    device = Tripler()
    _, answers = serve(device, values)
    assert [at for at, answer in answers.items() if not answer] == [9]
    assert Number.unpack(answers[15]).value == 3 * 35


def test_no_room_for_the_answer(engine: str):
    _, answers = serve(Tripler(), numbers(*range(20, 40)), room=3)
    assert set(answers.values()) == {b""}


class Reticent(Tripler):
    """Does not want batches."""

    requests = Queue(Number, Number, size=256)

    @requests.stream
    def one(self, reader: Reader, writer: Writer) -> None:
        self.singles += 1
        writer.put(Number(3 * reader.take(Number).value))

    @requests.batch
    def all(self, requests: RecordArray) -> Any:
        self.batches.append(1)
        return NotImplemented


def test_not_implemented_leaves_it_to_the_other_method_for_a_while(engine: str):
    Reticent.queues = Reticent.queues[-1:]
    device = Reticent()
    served, answers = serve(device, numbers(*range(100)))
    assert [Number.unpack(answers[at]).value for at in range(100)] == [3 * value for value in range(100)]
    assert device.singles == 100
    asked = len(device.batches)
    assert asked == 1
    for _ in range(BACK_OFF // 2):
        heads = [served.raw.request(value, room=4) for value in numbers(1, 2, 3)]
        served.raw.make_available(*heads)
        assert len(served.kick()) == 3
    assert len(device.batches) == asked


@pytest.mark.parametrize(
    "wrong", [None, [1, 2], "array of another length", "array that does not fit", "array of two fields"]
)
def test_a_batch_method_that_gives_something_else(engine: str, wrong: object):
    import numpy as np

    class Wrong(Tripler):
        requests = Queue(Number, Number, size=256)

        @requests.each
        def one(self, request: Number) -> Number:
            return Number(3 * request.value)

        @requests.batch
        def many(self, requests: RecordArray) -> Any:
            values = requests["value"]
            found = {
                "array of another length": values[1:],
                "array that does not fit": values.astype("<u8") << 40,
                "array of two fields": np.zeros(len(values), [("a", "<u2"), ("b", "<u2")]),
            }
            return found.get(str(wrong), wrong)

    Wrong.queues = Wrong.queues[-1:]
    served, answers = serve(Wrong(), numbers(*range(20)))
    assert [Number.unpack(answers[at]).value for at in range(20)] == [3 * value for value in range(20)]
    assert len(served.faults) == 1


def test_an_import_error_of_the_author_s_own_is_reported_and_the_batch_method_is_tried_again(engine: str):
    """It is not taken for a missing NumPy."""

    class Importing(Tripler):
        requests = Queue(Number, Number, size=256)
        triple = requests.each(Tripler.triple)

        @requests.batch
        def many(self, requests: RecordArray) -> Any:
            if not self.batches:
                self.batches.append(0)
                raise ImportError("a module of the author's")
            return self.triple_all(requests)

    Importing.queues = Importing.queues[-1:]
    device = Importing()
    served, answers = serve(device, numbers(*range(20, 40)))
    assert [Number.unpack(answers[at]).value for at in range(20)] == [3 * value for value in range(20, 40)]
    assert served.events == ["method-failed"]
    assert [type(error) for error in served.errors] == [ImportError]
    heads = [served.raw.request(value, room=4) for value in numbers(*range(20, 40))]
    for _ in range(BACK_OFF + 1):
        served.raw.make_available(*heads)
        assert len(served.kick()) == 20
    assert len(device.batches) > 1


class Pair(Struct):
    """Two numbers."""

    first: int = le32()
    second: int = le32()


def test_an_answer_of_two_fields(engine: str):
    import numpy as np

    class Splitter(Device):
        device_id = 63
        requests = Queue(Number, Pair, size=256)

        @requests.each
        def split(self, request: Number) -> Pair:
            return Pair(request.value >> 4, request.value & 15)

        @requests.batch
        def split_all(self, requests: RecordArray) -> Any:
            values = requests["value"]
            pairs = np.empty(len(values), Pair.numpy_dtype())
            pairs["first"], pairs["second"] = values >> 4, values & 15
            return pairs

    _, answers = serve(Splitter(), numbers(*range(100)), room=8)
    assert [Pair.unpack(answers[at]) for at in range(100)] == [Pair(n >> 4, n & 15) for n in range(100)]


@pytest.mark.parametrize(
    "answer", [None, Pair(1, 2), unchecked(1 << 32), unchecked(-1), 1 << 32, -1, 1.5, ValueError("no"), SystemExit]
)
def test_unusual_answers_of_a_typed_method(engine: str, answer: object):
    class Unusual(Device):
        device_id = 63
        requests = Queue(Number, Number, size=256)

        @requests.each
        def one(self, request: Number) -> Any:
            if request.value != 5:
                return Number(request.value)
            if isinstance(answer, Exception):
                raise answer
            if answer is SystemExit:
                raise SystemExit
            return answer

    if answer is SystemExit:
        with pytest.raises(SystemExit):
            serve(Unusual(), numbers(*range(10)))
        return
    _, answers = serve(Unusual(), numbers(*range(10)))
    assert [at for at, found in answers.items() if not found] == [5]


def test_a_number_will_do_where_the_response_is_one(engine: str):
    class Plain(Device):
        device_id = 63
        requests = Queue(Number, Number, size=256)

        @requests.each
        def one(self, request: Number) -> int:
            return request.value + 1

    _, answers = serve(Plain(), numbers(*range(1000, 1100)))
    assert [Number.unpack(answers[at]).value for at in range(100)] == list(range(1001, 1101))


class Named(Struct):
    """A number and a name."""

    value: int = le32()
    name: str = chars(8)


def test_requests_that_the_method_keeps_stay_as_they_were(engine: str):
    """A request whose method does not keep it may be filled with the next one; others may not."""
    kept: list[Named] = []

    class Keeper(Device):
        device_id = 63
        requests = Queue(Named, Number, size=256)

        @requests.each
        def one(self, request: Named) -> int:
            if request.value % 3 == 0:
                kept.append(request)
            assert {request: 1}[Named(request.value, request.name)]
            return len(request.name)

    sent = [Named(n, "same" if n < 50 else f"n{n}") for n in range(100)]
    _, answers = serve(Keeper(), [one.pack() for one in sent])
    assert kept == sent[::3]
    assert [Number.unpack(answers[at]).value for at in range(100)] == [len(one.name) for one in sent]


class Refilled:
    """A device whose driver submits 20 more requests whenever the device is called, until there were ``total``."""

    def __init__(self, total: int, *, features: int = RING_FEATURES) -> None:
        self.kept: list[Any] = []
        self.calls: list[int] = []
        refilled = self

        class Doubler(Device):
            device_id = 63
            requests = Queue(Number, Number, size=256)

            @requests.each
            def one(self, request: Number) -> int:
                refilled.calls.append(1)
                refilled.make_available(20)
                return 2 * request.value

            @requests.batch
            def many(self, requests: RecordArray) -> Any:
                refilled.calls.append(len(requests["value"]))
                refilled.kept.append(requests)
                refilled.make_available(20)
                return 2 * requests["value"]

        self.served = RawQueue(RawDriver(memory_of((0x1000, 0x40000)), 1024), Doubler(), features)
        raw = self.served.raw
        self.heads = [raw.request(Number(value).pack(), room=4) for value in range(total)]
        self.offered = 0

    def make_available(self, number: int) -> None:
        """Submit so many."""
        self.served.raw.make_available(*self.heads[self.offered : self.offered + number])
        self.offered = min(len(self.heads), self.offered + number)

    def answers(self) -> list[int]:
        """Give what came back, in the order of the requests."""
        back = [(element.id, element.len) for element in self.served.raw.reap()]
        assert back == [(head, 4) for head in self.heads]
        return [Number.unpack(self.served.raw.answer(head)).value for head in self.heads]


@pytest.mark.parametrize("first", [3, 20, 200])
@pytest.mark.parametrize("features", [RING_FEATURES, RING_FEATURES & ~Feature.EVENT_IDX])
@pytest.mark.parametrize("quiet", [False, True], ids=["interrupts", "no interrupts"])
def test_requests_that_come_meanwhile(engine: str, first: int, features: int, quiet: bool):
    """An engine may go on by itself; everything is answered once and in order, and no interrupt is left out."""
    refilled = Refilled(400, features=features)
    served = refilled.served
    served.settle()
    if quiet:
        served.raw.avail_flags = 1
        served.raw.used_event = 0xFFFF
    refilled.make_available(first)
    while served.turn():
        pass
    assert refilled.answers() == [2 * value for value in range(400)]
    assert served.queue.journal.answered == 400
    assert served.queue.journal.oldest_running() == 0
    assert served.queue.journal.in_flight() == []
    assert sum(refilled.calls) == 400
    assert bool(served.interrupts) != quiet


def test_a_batch_that_the_device_keeps_stays_as_it_was(engine: str):
    refilled = Refilled(400)
    refilled.served.raw.used_event = 0xFFFF
    refilled.make_available(100)
    while refilled.served.turn():
        pass
    found = [int(value) for requests in refilled.kept for value in requests["value"]]
    assert found == sorted(set(found))
    assert len(found) == sum(number for number in refilled.calls if number > 1)
    assert found


@pytest.mark.parametrize("culprit", [5, 25, 150])
def test_a_head_that_comes_twice_behind_good_requests(engine: str, culprit: int):
    """What came before it is answered, also where an engine had gone on by itself."""
    refilled = Refilled(200)
    refilled.served.raw.used_event = 0xFFFF
    refilled.heads[culprit] = refilled.heads[culprit - 1]
    refilled.make_available(20)
    while refilled.served.turn():
        pass
    back = [element.id for element in refilled.served.raw.reap()]
    assert back[: culprit - 1] == refilled.heads[: culprit - 1]
    assert refilled.served.is_broken == (len(back) < 200)


def test_calls_end_at_the_deadline_of_the_systems_clock(engine: str):
    served = RawQueue(RawDriver(memory_of((0x1000, 0x20000)), 256), Tripler())
    served.raw.make_available(*(served.raw.request(value, room=4) for value in numbers(*range(20, 40))))
    batch = served.queue.pop_records(20, 4, 4)
    codec, method = served.queue.codec(Number), Tripler().triple
    assert batch is not None
    left = []
    for deadline in (time.monotonic_ns() - 1, 0, time.monotonic_ns() + 60_000_000_000):
        assert served.queue.call_records(batch, method, codec, codec, deadline, None) is batch
        left.append(len(batch))
    assert left == [19, 18, 0]


def test_the_factorial_devices_batches(engine: str):
    values = [0, 5, 12, 13, 33, 34, 35, 2**32 - 1, *range(60)]
    requests = [Request(value, "hello").pack() for value in values]
    _, answers = serve(Factorial(), requests)
    assert [Response.unpack(answers[at]).ret for at in range(len(values))] == [WRAPPED[min(n, 34)] for n in values]
    _, answers = serve(Factorial(), requests[:2], room=40, features=RING_FEATURES | EXACT)
    assert [len(answers[at]) for at in (0, 1)] == [13, 13]
    _, answers = serve(Factorial(), requests, room=100, features=RING_FEATURES | EXACT)
    assert len(answers[1]) == 13


def test_who_died_in_a_batch(engine: str):
    class Fatal(Tripler):
        requests = Queue(Number, Number, size=256)

        @requests.each
        def one(self, request: Number) -> Number:
            return Number(request.value)

        @requests.batch
        def many(self, requests: RecordArray) -> Any:
            raise SystemExit

    Fatal.queues = Fatal.queues[-1:]
    device = Fatal()
    served = RawQueue(RawDriver(memory_of((0x1000, 0x20000)), 256), device)
    heads = [served.raw.request(value, room=4) for value in numbers(*range(20))]
    served.raw.make_available(*heads)
    journal = served.queue.journal
    with pytest.raises(SystemExit):
        served.kick()
    assert journal.blame() == 1
    assert [journal.strikes(head) for head in heads] == [1] * 20
    assert journal.in_flight() == heads


def test_numpy_is_not_imported_for_a_few_requests():
    import subprocess

    program = (
        "import sys\n"
        "from pyvirtio.connect import open_driver\n"
        "from pyvirtio.devices.factorial import Factorial\n"
        "from pyvirtio.drivers.factorial import FactorialDriver\n"
        "with open_driver(FactorialDriver, Factorial()) as driver:\n"
        "    list(driver.factorials([5, 13]))\n"
        "print('numpy' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_memory_is_replaced_while_the_queue_runs(engine: str):
    """The ring and old requests live in the old table; new requests are found in the new one."""
    device = Tripler()
    old = memory_of((0x1000, 0x20000))
    served = RawQueue(RawDriver(old, 256), device)
    raw = served.raw
    heads = [raw.request(value, room=4) for value in numbers(*range(20, 40))]
    raw.make_available(*heads)
    popped = served.queue.pop_records(10, 4, 4) or served.queue.pop(10)
    memory = MemoryTable([*old.regions, Region(0x100000, bytearray(0x1000))])
    layout = raw.layout
    served.queue.relocate(SplitLayout(memory, 256, layout.descriptors, layout.available, layout.used), memory)
    new = [raw.chain([Descriptor(0x100000 + 16 * n, 4), Descriptor(0x100008 + 16 * n, 4, 2)]) for n in range(20)]
    raw.make_available(*new)
    if isinstance(popped, list):
        served.queue.push(popped)
    else:
        served.queue.push_records(popped, bytes(4 * len(popped)))
    back = served.kick()
    assert [head for head, _ in back] == [*heads, *new]
    assert [length for _, length in back[len(popped) :]] == [4] * (40 - len(popped))
    assert not served.faults
