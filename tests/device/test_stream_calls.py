"""Requests of any length through a queue: an engine that calls the method by itself does as the service does."""

from __future__ import annotations

import functools
import os
import select
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio.device import Device, Queue, Reader, Writer
from pyvirtio.errors import LocalError
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.ring import SplitLayout
from pyvirtio.runtime.service import TIME_SLICE_NS
from pyvirtio.spec.features import RING_FEATURES, Feature
from pyvirtio.testing import Descriptor, RawDriver
from tests.support.rings import RawQueue, memory_of

if TYPE_CHECKING:
    from collections.abc import Callable

    Method = Callable[[Device, Reader, Writer], Any]


def echo(_device: Device, reader: Reader, writer: Writer) -> None:
    writer.write(reader.read())


def device_of(method: Method, *, repeatable: bool = True, failed: Callable[..., None] | None = None) -> Device:
    """Return a device whose only queue is answered by ``method``."""

    class Streamed(Device):
        device_id = 63
        requests = Queue(size=1024, repeatable=repeatable)

    @functools.wraps(method)
    def answer(device: Device, reader: Reader, writer: Writer) -> Any:
        return method(device, reader, writer)

    answer.__name__ = "answer"
    Streamed.answer = Streamed.requests.stream(answer)  # type: ignore[attr-defined]
    if failed:
        failed.__name__ = "failed"
        Streamed.failed = Streamed.requests.failed(failed)  # type: ignore[attr-defined]
    return Streamed()


def queue_of(method: Method, *, size: int = 256, features: int = RING_FEATURES, **options: Any) -> RawQueue:
    memory = memory_of((0x1000, 0x100000))
    return RawQueue(RawDriver(memory, size), device_of(method, **options), features)


def submit(served: RawQueue, number: int, *, room: int = 8) -> list[int]:
    """Make requests available, each with its number in it; return their heads."""
    heads = [served.raw.request(b"%08d" % at, room=room) for at in range(number)]
    served.raw.make_available(*heads)
    return heads


def check_settled(served: RawQueue, answered: int) -> None:
    journal = served.queue.journal
    assert journal.answered == answered
    assert (journal.in_flight(), journal.oldest_running()) == ([], 0)


@pytest.mark.parametrize("features", [RING_FEATURES, RING_FEATURES & ~Feature.EVENT_IDX])
@pytest.mark.parametrize("number", [1, 31, 32, 33, 64, 100])
def test_all_that_waits_is_answered_in_order(engine: str, number: int, features: int):
    served = queue_of(echo, features=features)
    for _ in range(3):
        heads = submit(served, number)
        assert served.kick() == [(head, 8) for head in heads]
        assert [served.raw.answer(head) for head in heads] == [b"%08d" % at for at in range(number)]
    check_settled(served, 3 * number)
    assert served.interrupts >= 1


def test_each_chain_whatever_its_shape(engine: str, rng):
    served = queue_of(echo)
    raw, expected = served.raw, {}
    for _ in range(40):
        data = [rng.randbytes(rng.randrange(40)) for _ in range(rng.randrange(4))]
        length = sum(map(len, data))
        rooms = [rng.randrange(length + 1), length]
        buffers = [*map(raw.readable, data), *map(raw.writable, rooms)]
        head = raw.chain([raw.table(buffers)] if rng.random() < 0.3 else buffers)
        expected[head] = b"".join(data)
        raw.make_available(head)
    back = served.kick()
    assert [head for head, _ in back] == list(expected)
    assert {head: raw.answer(head)[:length] for head, length in back} == expected
    assert not served.faults


def test_only_what_failed_comes_back_empty_and_all_keep_their_order(engine: str):
    raised = ValueError("no")

    def answer(_device: Device, reader: Reader, writer: Writer) -> None:
        data = reader.read()
        writer.write(b"half")
        if int(data) % 10 == 5:
            raise raised
        writer.write(b"rest")

    served = queue_of(answer)
    heads = submit(served, 100)
    served.raw.set_descriptor(heads[17], 1 << 40, 8, 1, served.raw.descriptor(heads[17]).next)
    failed = {*heads[5::10], heads[17]}
    assert served.kick() == [(head, 0 if head in failed else 8) for head in heads]
    check_settled(served, 100)
    assert served.events.count("method-failed") == 1
    assert served.events.count("request-failed") == 1
    assert served.errors == [raised]


def test_the_method_for_failed_requests_answers_them(engine: str):
    def answer(_device: Device, reader: Reader, writer: Writer) -> None:
        writer.write(reader.read())
        raise ValueError("no")

    served = queue_of(answer, failed=lambda _device, writer: writer.write(b"sorry"))
    heads = submit(served, 10)
    assert served.kick() == [(head, 5) for head in heads]
    assert {served.raw.answer(head)[:5] for head in heads} == {b"sorry"}


def test_what_a_method_returns_does_not_matter_unless_it_is_to_be_awaited(engine: str):
    async def later() -> None:
        pass

    made: list[Any] = []

    def answer(_device: Device, reader: Reader, writer: Writer) -> Any:
        kind = int(reader.read()) % 5
        writer.write(b"ok")
        if kind == 4:
            made.append(later())
        return (None, 5, [reader, writer], ValueError("returned, not raised"), made and made[-1])[kind]

    served = queue_of(answer)
    heads = submit(served, 20)
    assert served.kick() == [(head, 0 if at % 5 == 4 else 2) for at, head in enumerate(heads)]
    assert served.events == ["method-failed"]
    assert isinstance(served.errors[0], TypeError)
    assert all(one.cr_frame is None for one in made)  # closed, so that nobody warns that it was never awaited


def test_who_ends_the_process_is_to_blame_alone(engine: str):
    def answer(_device: Device, reader: Reader, writer: Writer) -> None:
        if int(reader.read()) == 40:
            raise SystemExit
        writer.write(b"ok")

    served = queue_of(answer)
    heads = submit(served, 60)
    with pytest.raises(SystemExit):
        served.kick()
    journal = served.queue.journal
    assert journal.blame() == 1
    assert [head for head in heads if journal.strikes(head)] == [heads[40]]
    assert heads[40] in journal.in_flight()


def test_readers_and_writers_that_the_method_keeps_are_over_and_nobody_elses(engine: str):
    kept: list[Any] = []

    def answer(_device: Device, reader: Reader, writer: Writer) -> None:
        if not kept or kept[-1] is not reader:
            kept.extend([reader, writer])
        writer.write(reader.read(4))

    served = queue_of(answer)
    submit(served, 70)
    assert len(served.kick()) == 70
    assert len(set(map(id, kept))) == 140
    for one in kept:
        with pytest.raises(LocalError, match="over"):
            one.views()


def test_views_that_were_lent_are_released_when_the_method_returns(engine: str):
    kept: list[memoryview] = []

    def answer(_device: Device, reader: Reader, writer: Writer) -> None:
        kept.extend([*reader.views(), *writer.views()])

    served = queue_of(answer)
    submit(served, 40)
    served.kick()
    assert len(kept) == 80
    for view in kept:
        with pytest.raises(ValueError, match="released"):
            bytes(view)


def test_a_request_whose_memory_is_still_in_use_is_not_given_back(engine: str):
    come, go = os.pipe()
    threads: list[threading.Thread] = []

    def write(reader: Reader) -> None:
        with pytest.raises(LocalError, match="over"):
            reader.write_to(go)

    def answer(_device: Device, reader: Reader, writer: Writer) -> None:
        if reader.left > 8:
            threads.append(threading.Thread(target=write, args=(reader,)))
            threads[-1].start()
            assert select.select([come], [], [], 30)[0]  # the thread is inside the system call
        writer.write(b"ok")

    served = queue_of(answer)
    before = served.raw.request(b"12345678", room=8)
    stuck = served.raw.request(bytes(1 << 18), room=8)
    behind = served.raw.request(b"12345678", room=8)
    served.raw.make_available(before, stuck, behind)
    assert served.kick() == [(before, 2), (behind, 2)]
    assert served.events == ["request-stuck"]
    journal = served.queue.journal
    assert journal.in_flight() == [stuck]
    assert journal.oldest_running()
    left = 1 << 18
    while left:
        left -= len(os.read(come, left))
    threads[0].join()
    os.close(come)
    os.close(go)


def test_what_must_not_be_done_twice_is_published_before_the_next_begins(engine: str):
    seen: list[int] = []

    def answer(_device: Device, reader: Reader, writer: Writer) -> None:
        seen.append(raw.used_idx)
        writer.write(reader.read())

    served = queue_of(answer, repeatable=False)
    raw = served.raw
    submit(served, 40)
    while served.turn():
        pass
    assert seen == list(range(40))


def test_calls_end_at_the_deadline_of_the_systems_clock(engine: str):
    served = queue_of(lambda _device, _reader, _writer: time.sleep(0.001))
    served.clock = served.service._clock = time.monotonic_ns
    submit(served, 100)
    began = time.monotonic_ns()
    assert served.turn()
    assert time.monotonic_ns() - began >= TIME_SLICE_NS
    answered = len(served.raw.reap())
    assert 1 <= answered < 100
    served.serve()
    check_settled(served, 100)


@pytest.mark.parametrize("first", [1, 20, 200])
@pytest.mark.parametrize("features", [RING_FEATURES, RING_FEATURES & ~Feature.EVENT_IDX])
@pytest.mark.parametrize("quiet", [False, True], ids=["interrupts", "no interrupts"])
def test_requests_that_come_meanwhile(engine: str, first: int, features: int, quiet: bool):
    """An engine may go on by itself; everything is answered once and in order, and no interrupt is left out."""
    offered = 0

    def offer(number: int) -> None:
        nonlocal offered
        raw.make_available(*heads[offered : offered + number])
        offered = min(len(heads), offered + number)

    def answer(_device: Device, reader: Reader, writer: Writer) -> None:
        offer(3)
        writer.write(reader.read())

    served = queue_of(answer, size=1024, features=features)
    raw = served.raw
    heads = [raw.request(b"%08d" % at, room=8) for at in range(400)]
    served.settle()
    if quiet:
        raw.avail_flags = 1
        raw.used_event = 0xFFFF
    offer(first)
    assert served.kick() == [(head, 8) for head in heads]
    check_settled(served, 400)
    assert bool(served.interrupts) != quiet


@pytest.mark.parametrize("culprit", [1, 5, 40])
def test_a_head_that_comes_twice_behind_good_requests(engine: str, culprit: int):
    """What came before it is answered; what it breaks stays broken, although it is in flight no more by then."""
    served = queue_of(echo)
    heads = [served.raw.request(b"%08d" % at, room=8) for at in range(60)]
    heads[culprit] = heads[culprit - 1]
    served.raw.make_available(*heads)
    back = [head for head, _ in served.kick()]
    assert back[:culprit] == heads[:culprit]
    assert served.is_broken
    assert served.queue.journal.answered == culprit


def test_memory_is_replaced_while_the_queue_runs(engine: str):
    """The ring and old requests live in the old table; new requests are found in the new one."""
    old = memory_of((0x1000, 0x20000))
    served = RawQueue(RawDriver(old, 256), device_of(echo))
    raw = served.raw
    submit(served, 10)
    assert len(served.kick()) == 10
    memory = MemoryTable([*old.regions, Region(0x100000, bytearray(0x1000))])
    layout = raw.layout
    served.queue.relocate(SplitLayout(memory, 256, layout.descriptors, layout.available, layout.used), memory)
    new = [raw.chain([Descriptor(0x100000 + 16 * n, 8), Descriptor(0x100008 + 16 * n, 8, 2)]) for n in range(20)]
    raw.make_available(*new)
    assert served.kick() == [(head, 8) for head in new]
    assert not served.faults


def test_memory_that_is_replaced_inside_the_method(engine: str):
    """The request that is being answered keeps its buffers."""
    old = memory_of((0x1000, 0x20000))

    def answer(_device: Device, reader: Reader, writer: Writer) -> None:
        memory = MemoryTable([Region(region.base, region.view) for region in old.regions])
        layout = raw.layout
        served.queue.relocate(SplitLayout(memory, 256, layout.descriptors, layout.available, layout.used), memory)
        writer.write(reader.read())

    served = RawQueue(RawDriver(old, 256), device_of(answer))
    raw = served.raw
    heads = submit(served, 50)
    assert served.kick() == [(head, 8) for head in heads]
    assert [raw.answer(head) for head in heads] == [b"%08d" % at for at in range(50)]
    check_settled(served, 50)
