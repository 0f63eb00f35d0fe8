"""The reader and the writer of a request: the plain ones and the native engine's do the same."""

from __future__ import annotations

import gc
import os
import select
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio.device.streams import MOST_PARTS, Reader, Writer
from pyvirtio.errors import ChainError, LocalError, ShortData
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.spec.struct import Struct, array, be16, chars, le16, le32, le64, nested, raw
from pyvirtio.testing import RawDriver
from tests.support.rings import Number, device_queue, unchecked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from random import Random
    from types import FrameType

    Streams = tuple[Any, Any]
    Open = Callable[..., Streams]

SIZE = 2048  # entries of the queue


class Request:
    """One request, popped: its reader and writer, and what its driver sees."""

    def __init__(self, engine: str, readable: Sequence[bytes], writable: Sequence[int]) -> None:
        # An island behind the ring's region, and the ring's own: pieces lie in both.
        memory = MemoryTable([Region(0, bytearray(1 << 21)), Region(1 << 21, bytearray(1 << 20))])
        self.raw = RawDriver(memory, SIZE)
        queue = device_queue(self.raw)
        buffers = [*map(self.raw.readable, readable), *map(self.raw.writable, writable)]
        self.head = self.raw.chain(buffers)
        self.raw.make_available(self.head)
        (self.chain,) = queue.pop()
        assert (self.chain.streams is not None) == (engine == "native")
        self.reader: Any
        self.writer: Any
        if self.chain.streams:
            self.reader, self.writer = self.chain.streams()
        else:
            self.reader, self.writer = Reader(self.chain), Writer(self.chain)

    @property
    def answer(self) -> bytes:
        """What was written, by the count that the driver gets."""
        return self.raw.answer(self.head)[: self.chain.written]

    def change(self, data: bytes) -> None:
        """Overwrite the first readable buffer, as a hostile driver does."""
        self.raw.poke(self.raw.descriptor(self.head).address, data)


def request(engine: str, readable: Sequence[bytes] = (), writable: Sequence[int] = ()) -> Request:
    return Request(engine, readable, writable)


@pytest.fixture
def file() -> Iterator[int]:
    """A file that holds 64 KiB of numbers."""
    fd = os.memfd_create("file")
    os.write(fd, bytes(number % 251 for number in range(1 << 16)))
    os.lseek(fd, 0, os.SEEK_SET)
    yield fd
    os.close(fd)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


class Pair(Struct):
    """Nested, with text and bytes."""

    left: Number = nested(Number)
    name: str = chars(5)
    rest: bytes = raw(3)
    many: tuple[int, ...] = array(le16(), 3)
    port: int = be16()


class Large(Struct):
    """More than is taken without an object for its bytes."""

    head: int = le64()
    body: bytes = raw(5000)


class Reversed(Struct):
    """Packs and unpacks in a way of its own."""

    value: int = le16()

    def pack(self, order: Any = "little") -> bytes:
        return super().pack("big" if order == "little" else "little")

    @classmethod
    def unpack(cls, data: Any, order: Any = "little") -> Reversed:
        return super().unpack(data, "big" if order == "little" else "little")


class Remembering(Pair):
    """Has state beside its fields."""

    def __init__(self, *_values: object, **_named: object) -> None:
        self.note = "made by its constructor"


PAIR = Pair(Number(7), "name", b"abc", (1, 2, 3), 80)
STRUCTURES = [Number(5), PAIR, Large(3, b"x" * 5000), Reversed(0x1234), Remembering(*PAIR.as_dict().values())]


# Reading.


def test_any_reads_return_each_byte_once_and_in_order(engine: str, rng: Random):
    for _ in range(100):
        pieces = [rng.randbytes(rng.choice((0, 1, 2, 3, 15, 16, 17, 63, 64, 65, 300))) for _ in range(rng.randrange(9))]
        whole = b"".join(pieces)
        reader = request(engine, pieces, [1]).reader
        found = b""
        while len(found) < len(whole):
            assert reader.left == len(whole) - len(found)
            limit = rng.choice((0, 1, 4, 16, 64, 100))
            if rng.random() < 0.7:
                found += (data := reader.read(limit))
            else:
                data = b"".join(map(bytes, reader.views(limit)))
                found += data
            assert len(data) == min(limit, len(whole) - len(found) + len(data))
            if rng.random() < 0.1:
                found += reader.read()
        assert found == whole
        assert (reader.left, reader.read(), reader.read(5), reader.views()) == (0, b"", b"", [])


@pytest.mark.parametrize("limit", [-1, -(2**70), 2**70, 10])
def test_a_limit_beyond_the_end_is_the_end(engine: str, limit: int):
    for whole in ([b"0123456789"], [b"01", b"23456", b"789"]):
        assert request(engine, whole).reader.read(limit) == b"0123456789"
        assert b"".join(request(engine, whole).reader.views(limit)) == b"0123456789"


@pytest.mark.parametrize("limit", ["1", None, 1.5])
def test_a_limit_is_a_whole_number(engine: str, limit: Any):
    for method in ("read", "views"):
        with pytest.raises(TypeError):
            getattr(request(engine, [b"data"]).reader, method)(limit)


@pytest.mark.parametrize("cut", [0, 1, 2, 4, 7])
@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda one: type(one).__name__)
def test_structures_are_taken_and_put(engine: str, structure: Struct, cut: int):
    kind, data = type(structure), structure.pack()
    one = request(engine, [b"before", data[:cut], data[cut:], b"behind"], [3 + cut, len(data), 10])
    assert one.reader.read(6) == b"before"
    taken = one.reader.take(kind)
    assert (type(taken), taken, taken.as_dict()) == (kind, structure, structure.as_dict())
    assert hash(taken) == hash(structure)
    assert one.reader.read() == b"behind"
    one.writer.write(b"123")
    one.writer.put(structure)
    assert one.writer.room == cut + 10
    assert one.answer == b"123" + data


def test_what_was_taken_stays_as_it_was(engine: str):
    one = request(engine, [b"".join(Number(value).pack() for value in range(9))])
    kept = [one.reader.take(Number) for _ in range(9)]
    one.change(b"\xff" * 36)
    assert kept == [Number(value) for value in range(9)]
    assert len(set(map(id, kept))) == 9


def test_a_structure_that_is_longer_than_what_is_left(engine: str):
    for kind, what in ((Number, "Number takes 4 bytes; only 3"), (Large, "Large takes 5008 bytes; only 3")):
        reader = request(engine, [b"a", b"bcd"]).reader
        reader.read(1)
        with pytest.raises(ShortData, match=what):
            reader.take(kind)
        assert reader.left == 0


@pytest.mark.parametrize("kind", [None, 5, "Number", int, tuple])
def test_something_that_is_not_a_structure_cannot_be_taken(engine: str, kind: Any):
    reader = request(engine, [b"abcd"]).reader
    with pytest.raises(AttributeError):
        reader.take(kind)


def test_more_kinds_of_structures_than_anybody_remembers(engine: str):
    kinds: list[Any] = [
        type(f"Number{width}", (Struct,), {"value": le32(), "rest": raw(width)}) for width in range(1, 150)
    ]
    for _ in range(2):
        for kind in kinds:
            one = request(engine, [bytes(range(5 + kind.nbytes))], [kind.nbytes])
            one.writer.put(one.reader.take(kind))
            assert one.answer == bytes(range(kind.nbytes))


# Writing.


def test_any_writes_fill_the_room_in_order(engine: str, rng: Random):
    for _ in range(100):
        rooms = [rng.choice((0, 1, 2, 15, 16, 17, 64, 65, 300)) for _ in range(rng.randrange(1, 9))]
        one = request(engine, [b"x"], rooms)
        expected = b""
        while len(expected) < sum(rooms):
            assert one.writer.room == sum(rooms) - len(expected)
            number = min(one.writer.room, rng.choice((0, 1, 4, 16, 64, 100)))
            data = rng.randbytes(number)
            way = rng.randrange(4)
            if way == 0:
                one.writer.skip(number)
                data = bytes(number)
            elif way == 1:
                at = 0
                for view in one.writer.views(number):
                    view[:] = data[at : at + len(view)]
                    at += len(view)
                assert at == number
                one.writer.advance(number)
            else:
                one.writer.write(data if way == 2 else memoryview(bytearray(data)))
            expected += data
            assert one.answer == expected
        one.writer.write(b"")
        one.writer.skip(0)
        assert (one.writer.room, one.writer.views()) == (0, [])


def test_what_does_not_fit_is_not_written(engine: str):
    one = request(engine, [], [2, 4])
    one.writer.write(b"123")
    uses: list[Callable[[], object]] = [
        lambda: one.writer.write(b"4567"),
        lambda: one.writer.put(Number(5)),
        lambda: one.writer.put(Large()),
        lambda: one.writer.skip(4),
    ]
    for use in uses:
        with pytest.raises(ChainError):
            use()
    for number in (-1, 4, 2**70):
        with pytest.raises(LocalError):
            one.writer.advance(number)
    assert one.writer.room == 3
    assert one.raw.answer(one.head) == b"123" + b"\xee" * 3


@pytest.mark.parametrize("answer", [5, b"data", None, [1], Number])
def test_only_a_structure_can_be_put(engine: str, answer: Any):
    with pytest.raises(TypeError, match=f"of type {type(answer).__name__}"):
        request(engine, [], [8]).writer.put(answer)


@pytest.mark.parametrize("value", [2**32, -1, "5", None])
def test_a_number_that_does_not_fit_is_not_put(engine: str, value: Any):
    import struct

    one = request(engine, [], [8])
    with pytest.raises(struct.error):
        one.writer.put(unchecked(value))
    assert (one.writer.room, one.raw.answer(one.head)) == (8, b"\xee" * 8)


@pytest.mark.parametrize("data", ["text", None, 5])
def test_only_bytes_can_be_written(engine: str, data: Any):
    with pytest.raises(TypeError):
        request(engine, [], [8]).writer.write(data)


def test_a_writer_goes_on_behind_what_was_written(engine: str):
    one = request(engine, [], [2, 4])
    one.chain.write(b"123")
    _, writer = one.chain.streams() if one.chain.streams else (None, Writer(one.chain))
    writer.write(b"45")
    assert one.answer == b"12345"


# The end.


def test_after_the_end_everything_raises(engine: str, file: int):
    one = request(engine, [b"data"], [8])
    lent = [*one.reader.views(2), *one.writer.views(2)]
    assert one.reader.close()
    assert one.writer.close()
    uses: list[Callable[[], object]] = [
        lambda: one.reader.left,
        one.reader.read,
        lambda: one.reader.take(Number),
        one.reader.views,
        lambda: one.reader.write_to(file),
        lambda: one.writer.room,
        lambda: one.writer.write(b""),
        lambda: one.writer.put(Number(1)),
        lambda: one.writer.skip(1),
        one.writer.views,
        lambda: one.writer.advance(0),
        lambda: one.writer.read_from(file),
    ]
    for use in uses:
        with pytest.raises(LocalError, match="over"):
            use()
    for view in lent:
        with pytest.raises(ValueError, match="released"):
            bytes(view)
    assert one.reader.close()
    assert one.writer.close()


def test_a_view_that_is_used_as_a_buffer_is_in_use(engine: str):
    one = request(engine, [b"data"], [8])
    for stream, view in ((one.reader, one.reader.views()[0]), (one.writer, one.writer.views()[0])):
        in_use = memoryview(view)
        user = pickle_buffer(view)
        assert not stream.close()
        with pytest.raises(LocalError):
            stream.views()
        user.release()
        in_use.release()
        assert stream.close()


def pickle_buffer(view: memoryview) -> Any:
    """Return something that uses the view's memory until it is released."""
    import pickle

    return pickle.PickleBuffer(view)


def test_views_that_were_released_already_are_no_obstacle(engine: str):
    one = request(engine, [b"data"], [8])
    views = one.reader.views(2)
    views.pop().release()
    kept = one.reader.views()
    kept.clear()
    assert one.reader.close()


def test_a_request_that_the_collector_ends_while_views_are_made_has_lent_none(engine: str):
    one = request(engine, [b"data"] * 20)

    class Ender:
        def __del__(self) -> None:
            one.reader.close()

    ender: Any = Ender()
    ender.itself = ender
    thresholds = gc.get_threshold()
    del ender
    gc.set_threshold(1)
    try:
        views = one.reader.views()
    except LocalError:
        views = []
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    assert one.reader.close()
    for view in views:
        with pytest.raises(ValueError, match="released"):
            bytes(view)


# Transfers.


def test_a_file_goes_straight_into_the_guests_memory_and_back(engine: str, file: int, rng: Random):
    content = os.pread(file, 1 << 16, 0)
    for _ in range(30):
        rooms = [rng.choice((1, 3, 64, 512, 4096)) for _ in range(rng.randrange(1, 9))]
        one = request(engine, [rng.randbytes(size) for size in rooms], rooms)
        offset = rng.randrange(1 << 14)
        limit = rng.choice((-1, 0, 1, 100, 5000, 2**70))
        number = sum(rooms) if limit < 0 else min(limit, sum(rooms))
        assert one.writer.read_from(file, limit, offset) == number
        assert one.answer == content[offset : offset + number]
        assert one.writer.room == sum(rooms) - number
        assert one.reader.write_to(file, limit, offset=(1 << 17) + offset) == number
        assert one.reader.left == sum(rooms) - number
        rest = one.reader.read()
        assert os.pread(file, number, (1 << 17) + offset) + rest == b"".join(
            one.raw.peek(b.address, b.length) for b in one.raw.buffers(one.head)[: len(rooms)]
        )
    assert os.lseek(file, 0, os.SEEK_CUR) == 0


def test_without_an_offset_the_descriptors_own_position_counts(engine: str, file: int):
    content = os.pread(file, 10, 0)
    one = request(engine, [b"abc"], [4, 6])
    assert one.writer.read_from(file, limit=3) == 3
    assert one.writer.read_from(fd=file, offset=None) == 7
    assert one.answer == content
    assert one.reader.write_to(file) == 3
    assert os.pread(file, 3, 10) == b"abc"


def test_at_the_end_of_a_file_nothing_comes(engine: str, file: int):
    one = request(engine, [], [8])
    assert one.writer.read_from(file, offset=(1 << 16) - 3) == 3
    assert one.writer.read_from(file, offset=1 << 16) == 0
    assert one.writer.room == 5


def test_one_call_takes_no_more_pieces_than_the_system_does(engine: str, file: int):
    one = request(engine, [], [1] * (MOST_PARTS + 3))
    assert one.writer.read_from(file) == MOST_PARTS
    assert one.writer.read_from(file) == 3
    assert one.answer == os.pread(file, MOST_PARTS + 3, 0)


def test_what_the_system_took_counts(engine: str, pipe: tuple[int, int]):
    come, go = pipe
    os.set_blocking(go, False)
    os.set_blocking(come, False)
    data = os.urandom(1 << 18)
    one = request(engine, [data[:5], data[5:]], [64])
    with pytest.raises(BlockingIOError):
        one.writer.read_from(come)
    taken = one.reader.write_to(go)
    assert 0 < taken < len(data)
    assert one.reader.left == len(data) - taken
    with pytest.raises(BlockingIOError):
        one.reader.write_to(go)
    assert os.read(come, 1 << 20) == data[:taken]
    assert one.reader.read() == data[taken:]
    os.write(go, b"short")
    assert one.writer.read_from(come) == 5
    assert (one.writer.room, one.answer) == (59, b"short")


@pytest.mark.parametrize("fd", [-1, 2**31 - 1])
def test_a_descriptor_that_is_not_open(engine: str, fd: int):
    one = request(engine, [b"data"], [4])
    for use in (one.reader.write_to, one.writer.read_from):
        for offset in (None, 0):
            with pytest.raises(OSError, match="Bad file descriptor"):
                use(fd, offset=offset)
    assert (one.reader.left, one.writer.room) == (4, 4)


@pytest.mark.parametrize("arguments", [(), (1, 2, 3, 4), ("0",), (0, "1"), (0, 1, "2"), (1.5,)])
def test_arguments_that_are_wrong(engine: str, arguments: tuple[Any, ...]):
    one = request(engine, [b"data"], [4])
    for use in (one.reader.write_to, one.writer.read_from):
        with pytest.raises(TypeError):
            use(*arguments)
        with pytest.raises(TypeError):
            use(0, size=4)
        with pytest.raises(TypeError):
            use(0, fd=0)


def test_an_offset_before_the_file_is_refused(engine: str, file: int):
    one = request(engine, [b"data"], [4])
    for use in (one.reader.write_to, one.writer.read_from):
        with pytest.raises(LocalError, match="-1"):
            use(file, offset=-1)
    assert (one.reader.left, one.writer.room) == (4, 4)


class Stop(Exception):
    """Raised by a signal handler."""


@pytest.mark.parametrize("raises", [False, True])
def test_a_signal_interrupts_a_transfer_only_if_its_handler_raises(engine: str, pipe: tuple[int, int], raises: bool):
    come, go = pipe
    calls = []

    def handler(_number: int, _frame: FrameType | None) -> None:
        calls.append(1)
        if raises:
            raise Stop
        os.write(go, b"data")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        one = request(engine, [], [8])
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        if raises:
            with pytest.raises(Stop):
                one.writer.read_from(come)
        else:
            assert one.writer.read_from(come) == 4
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert calls
    assert one.answer == (b"" if raises else b"data")


def test_other_threads_run_during_a_transfer_and_the_memory_is_in_use(engine: str, pipe: tuple[int, int]):
    come, go = pipe
    data = os.urandom(1 << 19)
    one = request(engine, [data])
    raised: list[Exception] = []

    def run() -> None:
        try:
            one.reader.write_to(go)
        except LocalError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert select.select([come], [], [], 30)[0]  # it is inside the call, for not all of it fits into the pipe
        assert not one.reader.close()
        assert not one.reader.close()
        found = b""
        while len(found) < len(data):
            found += os.read(come, 1 << 20)
    finally:
        thread.join()
    assert found == data
    assert [type(error) for error in raised] == [LocalError]  # the request is over
    assert one.reader.close()
