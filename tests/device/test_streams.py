"""A request's memory belongs to the driver again once it is over, and so nobody can use it any more."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio.device import Device, Queue
from pyvirtio.errors import ChainError, LocalError
from pyvirtio.spec.struct import Struct, le16
from tests.support.runner import Scene, in_loop, rounds, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.device import Reader, Writer


class Pair(Struct):
    first: int = le16()
    second: int = le16()


class Keeper(Device):
    """Keeps what it was given, and does with it what a test says."""

    device_id = 63
    requests = Queue(size=16)
    later = Queue(size=16)

    def __init__(self, work: Callable[[Reader, Writer], object] = lambda *_: None) -> None:
        self.work = work
        self.kept: list[tuple[Reader, Writer]] = []

    @requests.stream
    def answer(self, reader: Reader, writer: Writer) -> None:
        self.kept.append((reader, writer))
        self.work(reader, writer)

    @later.stream
    async def answer_later(self, reader: Reader, writer: Writer) -> None:
        await asyncio.sleep(0)
        self.answer(reader, writer)


class Plain(Keeper):
    """Without the queue that needs a loop."""

    def __init__(self, work: Callable[[Reader, Writer], object] = lambda *_: None) -> None:
        super().__init__(work)
        self.queues = [Keeper.requests]


USES: list[Callable[[Reader, Writer], object]] = [
    lambda reader, _: reader.read(),
    lambda reader, _: reader.read(1),
    lambda reader, _: reader.left,
    lambda reader, _: reader.views(),
    lambda reader, _: reader.take(Pair),
    lambda _, writer: writer.write(b"x"),
    lambda _, writer: writer.put(Pair()),
    lambda _, writer: writer.skip(1),
    lambda _, writer: writer.room,
    lambda _, writer: writer.views(),
    lambda _, writer: writer.advance(1),
]


def check_nothing_can_be_used(kept: tuple[Reader, Writer]) -> None:
    for use in USES:
        with pytest.raises(LocalError):
            use(*kept)


@pytest.mark.parametrize("fails", [False, True])
def test_reader_and_writer_are_of_no_use_once_a_plain_method_returned(fails: bool):
    def work(reader: Reader, writer: Writer) -> None:
        writer.write(reader.read())
        if fails:
            raise ValueError

    with Scene(Plain(work)) as scene:
        (head,) = scene.start().submit(b"abcd")
        assert scene.reap() == {head: b"" if fails else b"abcd"}
        check_nothing_can_be_used(scene.device.kept[0])


def test_reader_and_writer_are_of_use_while_an_async_method_awaits_and_not_after_it():
    async def main() -> None:
        async with Scene(Keeper(lambda reader, writer: writer.write(reader.read()))) as scene:
            (head,) = scene.start(1).submit(b"abcd", index=1)
            assert await scene.back(1, index=1) == {head: b"abcd"}
            check_nothing_can_be_used(scene.device.kept[0])

    in_loop(main)


def test_views_that_were_kept_are_released():
    lent: list[memoryview] = []

    def work(reader: Reader, writer: Writer) -> None:
        lent.extend([*reader.views(2), *reader.views(), *writer.views(3)])
        writer.views()[0][:4] = b"done"
        writer.advance(4)

    with Scene(Plain(work)) as scene:
        (head,) = scene.start().submit(b"abcd")
        assert scene.reap() == {head: b"done"}
        assert len(lent) == 3
        for view in lent:
            with pytest.raises(ValueError, match="released"):
                view[0]


def test_views_cover_what_was_asked_across_the_buffers_of_a_chain():
    seen: list[list[bytes]] = []

    def work(reader: Reader, writer: Writer) -> None:
        seen.extend([[bytes(view) for view in reader.views(limit)] for limit in (3, 0, 4, -1)])
        assert [len(view) for view in writer.views(5)] == [4, 1]
        writer.write(b"123")
        assert [len(view) for view in writer.views()] == [1, 4]

    with Scene(Plain(work)) as scene:
        raw = scene.start().raws[0]
        head = raw.chain([raw.readable(b"ab"), raw.readable(b"cdef"), raw.readable(b"gh"), *map(raw.writable, (4, 4))])
        raw.make_available(head)
        scene.kick()
        assert scene.events == []
        assert seen == [[b"ab", b"c"], [], [b"def", b"g"], [b"h"]]


@pytest.mark.parametrize("number", [-1, 5, 1 << 40])
def test_more_than_there_is_room_for_cannot_have_been_written(number: int):
    def work(reader: Reader, writer: Writer) -> None:
        with pytest.raises(LocalError):
            writer.advance(number)

    with Scene(Plain(work)) as scene:
        scene.start().submit(b"abcd")
        assert list(scene.reap().values()) == [b""]
        assert scene.events == []


def test_nothing_is_written_where_there_is_no_room_for_all_of_it():
    def work(reader: Reader, writer: Writer) -> None:
        writer.write(b"a")
        uses: list[Callable[[], None]] = [
            lambda: writer.write(b"1234"),
            lambda: writer.skip(4),
            lambda: writer.put(Pair()),
        ]
        for use in uses:
            with pytest.raises(ChainError):
                use()
        assert writer.room == 3

    with Scene(Plain(work)) as scene:
        scene.start().submit(b"abcd")
        assert list(scene.reap().values()) == [b"a"]
        assert scene.events == []


class Blocked:
    """A thread inside ``os.preadv`` on memory that a request lent, until somebody writes into a pipe."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.threads: list[threading.Thread] = []

    def read_into(self, views: list[memoryview]) -> None:
        thread = threading.Thread(target=os.readv, args=(self.reading, views))
        thread.start()
        self.threads.append(thread)
        wait_until_blocked(thread)

    def release(self) -> None:
        os.write(self.writing, b"late")
        for thread in self.threads:
            thread.join()

    def close(self) -> None:
        self.release()
        os.close(self.reading)
        os.close(self.writing)


def wait_until_blocked(thread: threading.Thread) -> None:
    """Wait until a thread sleeps in the kernel, reading from a pipe."""
    while True:
        with open(f"/proc/self/task/{thread.native_id}/syscall") as file:
            number = file.read().split()[0]
        if number in SYSTEM_CALLS:
            return


SYSTEM_CALLS = {"0", "19", "63", "65"}
"""The numbers of ``read`` and ``readv`` on x86-64 and AArch64."""


@pytest.fixture
def blocked():
    blocked = Blocked()
    yield blocked
    blocked.close()


def test_a_request_whose_memory_a_thread_still_reads_into_is_not_returned(blocked: Blocked):
    with Scene(Plain(lambda _, writer: blocked.read_into(writer.views()))) as scene:
        scene.start().submit(b"abcd")
        assert scene.reap() == {}
        assert len(scene.stuck) == 1
        stopped = scene.stop()
        scene.serve()
        assert not stopped.done  # nor may the driver have its memory back
        blocked.release()
        check_nothing_can_be_used(scene.device.kept[0])


def test_an_async_request_whose_memory_a_thread_still_reads_into_is_not_returned(blocked: Blocked):
    async def main() -> None:
        async with Scene(Keeper(lambda _, writer: blocked.read_into(writer.views()))) as scene:
            scene.start(1).submit(b"abcd", index=1)
            await until(lambda: scene.stuck)
            await rounds()
            assert scene.reap(1) == {}
            stopped = scene.stop(1)
            await rounds()
            assert not stopped.done
            blocked.release()

    in_loop(main)


def test_offloaded_work_on_lent_memory_keeps_a_cancelled_request_from_being_returned(blocked: Blocked):
    class Impatient(Device):
        device_id = 63
        patience = 0.02
        requests = Queue(size=16)

        @requests.stream
        async def answer(self, reader: Reader, writer: Writer) -> None:
            await self.offload(os.readv, blocked.reading, writer.views())

    async def main() -> None:
        async with Scene(Impatient()) as scene:
            scene.start().submit(b"abcd")
            await until(lambda: scene.stuck)
            assert scene.reap() == {}
            blocked.release()

    in_loop(main)


def test_a_typed_method_s_request_is_a_copy_that_may_be_kept():
    class Typed(Device):
        device_id = 63
        requests = Queue(Pair, Pair, size=16)

        def __init__(self) -> None:
            self.kept: list[Any] = []

        @requests.each
        def answer(self, request: Pair) -> Pair:
            self.kept.append(request)
            return request

    with Scene(Typed()) as scene:
        scene.start().submit(Pair(1, 2).pack(), Pair(3, 4).pack())
        assert len(scene.reap()) == 2
        scene.memory.write(0, bytes(1 << 16))
        assert scene.device.kept == [Pair(1, 2), Pair(3, 4)]
