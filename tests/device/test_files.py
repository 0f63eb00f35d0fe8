"""Files of devices: what async methods read into guest memory and write from it, by io_uring and by threads."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import fcntl
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio import Device, Driver, File, Queue, RequestQueue, open_driver, serving
from pyvirtio.device import file_io, files
from pyvirtio.errors import LocalError
from pyvirtio.runtime.in_progress import CANCEL_TIME
from tests.support.runner import Scene, ended, in_loop, rounds, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from pyvirtio.device import Reader, Writer

    Method = Callable[["Storage", Reader, Writer], Awaitable[object]]

pytestmark = pytest.mark.usefixtures("engine")

CONTENT = bytes(range(256)) * 64
FAILURE = b"fail"


class Storage(Device):
    """A file, and a method that a test gives it."""

    device_id = 63
    requests = Queue(size=1024)

    def __init__(self, fd: int, method: Method) -> None:
        self.file = File(fd)
        self.method = method
        self.results: list[object] = []

    @requests.stream
    async def answer(self, reader: Reader, writer: Writer) -> None:
        self.results.append(await self.method(self, reader, writer))

    @requests.failed
    def fail(self, writer: Writer) -> None:
        writer.write(FAILURE[: writer.room])


@pytest.fixture
def disk() -> Iterator[int]:
    """A file with content."""
    fd = os.memfd_create("disk")
    os.pwrite(fd, CONTENT, 0)
    yield fd
    os.close(fd)


class Gate:
    """A file whose reads wait until the gate is opened for them.

    With io_uring it is a pipe, of which that does not mind that it has no places; otherwise a file behind a lock.
    """

    def __init__(self, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_pipe = engine == "native"
        monkeypatch.setattr(files, "_is_cached", lambda _fd: False)
        if self.is_pipe:
            self.fd, self._go = os.pipe2(os.O_DIRECT | os.O_CLOEXEC)  # each write is for one read
            fcntl.fcntl(self._go, fcntl.F_SETPIPE_SZ, 1 << 20)
        else:
            self.fd = os.memfd_create("gate")
            self._go = -1
            os.pwrite(self.fd, b"x" * 4096, 0)
            self.permits = threading.Semaphore(0)
            self.entered = 0
            preadv = os.preadv

            def gated(*arguments: Any) -> int:
                self.entered += 1
                self.permits.acquire()
                return preadv(*arguments)

            monkeypatch.setattr(os, "preadv", gated)

    def open(self, number: int = 1) -> None:
        """Let ``number`` reads have four bytes each."""
        for _ in range(number):
            if self.is_pipe:
                os.write(self._go, b"xxxx")
            else:
                self.permits.release()

    def close(self) -> None:
        """Close it."""
        os.close(self.fd)
        if self.is_pipe:
            os.close(self._go)


@pytest.fixture
def gate(engine: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A file whose reads wait."""
    if engine == "native":
        from pyvirtio.ring import _native

        try:
            _native.Uring(None, lambda: None).close()  # type: ignore[arg-type]  # there is no loop yet
        except OSError as error:
            pytest.skip(f"io_uring cannot be had: {error.strerror}")
    gate = Gate(engine, monkeypatch)
    yield gate
    gate.close()


def one_request(fd: int, method: Method, request: bytes = b"", room: int = 64) -> tuple[bytes, Storage, list[str]]:
    """Have a method answer one request; return what came back, the device, and what was reported."""
    found: list[tuple[bytes, Storage, list[str]]] = []

    async def main() -> None:
        device = Storage(fd, method)
        async with Scene(device) as scene:
            scene.start().submit(request, room=room)
            (answer,) = (await scene.back(1)).values()
            found.append((answer, device, scene.events))

    in_loop(main)
    return found[0]


# Reading, writing, and what can go wrong.


@pytest.mark.parametrize(("length", "offset"), [(64, 0), (64, 1000), (10, 5), (-1, 7), (1000, 0), (0, 9)])
def test_reading_fills_the_room_with_what_is_at_the_offset(disk: int, length: int, offset: int):
    async def read(device: Storage, _reader: Reader, writer: Writer) -> tuple[int, int]:
        return await device.file.read_into(writer, length, offset), writer.room

    answer, device, events = one_request(disk, read)
    number = 64 if length < 0 else min(64, length)
    assert answer == CONTENT[offset : offset + number]
    assert device.results == [(number, 64 - number)]
    assert not events


def test_reading_ends_at_the_end_of_the_file(disk: int):
    async def read(device: Storage, _reader: Reader, writer: Writer) -> list[int]:
        return [await device.file.read_into(writer, -1, len(CONTENT) - 10 + 10 * time) for time in range(2)]

    answer, device, _ = one_request(disk, read)
    assert (answer, device.results) == (CONTENT[-10:], [[10, 0]])


def test_writing_takes_what_is_left_and_what_was_written_is_there(disk: int):
    async def write(device: Storage, reader: Reader, writer: Writer) -> list[int]:
        numbers = [await device.file.write_from(reader, 3, 100), await device.file.write_from(reader, -1, 200)]
        assert reader.left == 0
        await device.file.sync()
        assert await device.file.read_into(writer, 5, 99) == 5
        return numbers

    answer, device, _ = one_request(disk, write, b"abcdefgh")
    assert device.results == [[3, 5]]
    assert answer == CONTENT[99:100] + b"abc" + CONTENT[103:104]
    assert os.pread(disk, 5, 200) == b"defgh"


def test_more_pieces_than_a_system_call_takes_are_read_in_several(disk: int):
    async def read(device: Storage, _reader: Reader, writer: Writer) -> int:
        return await device.file.read_into(writer, -1, 0)

    async def main() -> None:
        device = Storage(disk, read)
        async with Scene(device, size=2048) as scene:
            raw = scene.start().raws[0]
            head = raw.chain([raw.writable(7) for _ in range(1500)])
            raw.make_available(head)
            scene.kick()
            await until(lambda: raw.used_idx == 1)
            assert raw.answer(head) == CONTENT[: 7 * 1500]
            assert device.results == [7 * 1500]

    in_loop(main)


@pytest.mark.parametrize("way", ["read", "write", "sync"])
def test_what_the_system_refuses_is_raised_inside_the_method_and_nothing_counts_as_written(way: str, tmp_path: Path):
    folder = os.open(tmp_path, os.O_RDONLY)  # nobody reads or writes it
    come, go = os.pipe()  # and this is on no disk

    async def use(device: Storage, reader: Reader, writer: Writer) -> object:
        try:
            if way == "read":
                await device.file.read_into(writer, 8, 0)
            elif way == "write":
                await device.file.write_from(reader, 4, 0)
            else:
                await device.file.sync()
        except OSError as error:
            return error.errno, writer.room
        return None

    _, device, _ = one_request(come if way == "sync" else folder, use, b"1234", 64)
    number = {"read": errno.EISDIR, "write": errno.EBADF, "sync": errno.EINVAL}[way]
    assert device.results == [(number, 64)]
    for fd in (folder, come, go):
        os.close(fd)


def test_what_cannot_be_meant_is_refused(disk: int):
    async def use(device: Storage, reader: Reader, writer: Writer) -> None:
        with pytest.raises(LocalError, match="beginning"):
            await device.file.read_into(writer, 8, -1)
        with pytest.raises(TypeError):
            await device.file.read_into(writer, "8", 0)  # type: ignore[arg-type]
        assert (reader.left, writer.room) == (0, 64)

    _, _, events = one_request(disk, use)
    assert not events
    with pytest.raises(LocalError):
        File(1 << 20)


def test_a_request_that_is_over_is_neither_read_nor_written(disk: int):
    kept: list[Any] = []

    async def keep(device: Storage, reader: Reader, writer: Writer) -> None:
        for old_reader, old_writer in kept:
            with pytest.raises(LocalError, match="over"):
                await device.file.read_into(old_writer, 8, 0)
            with pytest.raises(LocalError, match="over"):
                await device.file.write_from(old_reader, 8, 0)
        kept.append((reader, writer))

    async def main() -> None:
        async with Scene(Storage(disk, keep)) as scene:
            scene.start().submit(b"1")
            await scene.back(1)
            scene.submit(b"2")
            await scene.back(1)
            assert not scene.events

    in_loop(main)


def test_a_file_where_no_device_runs_is_refused(disk: int):
    async def main() -> None:
        with pytest.raises(LocalError, match="device"):
            await File(disk).sync()

    asyncio.run(main())


# Waiting.


async def read_four(device: Storage, _reader: Reader, writer: Writer) -> int:
    return await device.file.read_into(writer, 4, 0)


def test_others_go_on_while_one_waits_and_each_is_answered_when_its_own_is_there(gate: Gate):
    async def some(device: Storage, reader: Reader, writer: Writer) -> None:
        if reader.read() == b"wait":
            await read_four(device, reader, writer)
        else:
            writer.write(b"now")

    async def main() -> None:
        async with Scene(Storage(gate.fd, some)) as scene:
            waiting = scene.start().submit(b"wait", b"wait")
            quick = scene.submit(b"go", b"go")
            assert list(await scene.back(2)) == quick
            await rounds()
            assert not scene.reap()
            assert len(scene.runner._services[0]._running) == 2  # type: ignore[attr-defined]
            gate.open(2)
            assert await scene.back(2) == dict.fromkeys(waiting, b"xxxx")
            assert not scene.events

    in_loop(main)


def test_more_wait_than_an_io_uring_has_room_for(gate: Gate):
    async def main() -> None:
        number = 600
        async with Scene(Storage(gate.fd, read_four), size=2048) as scene:
            scene.start().submit(*[b"r"] * number)
            await rounds()
            done = 0
            while done < number:
                gate.open(100)
                done += len(await scene.back(100))
            assert not scene.events

    in_loop(main)


def test_no_more_are_in_progress_than_the_queue_declares(gate: Gate):
    class Small(Storage):
        requests = Queue(size=4)
        answer = requests.stream(Storage.answer)

    Small.queues = Small.queues[-1:]

    async def main() -> None:
        device = Small(gate.fd, read_four)
        async with Scene(device, size=64) as scene:
            scene.start().submit(*[b"r"] * 10)
            await rounds()
            assert len(scene.runner._services[0]._running) == 4  # type: ignore[attr-defined]
            gate.open(4)
            assert len(await scene.back(4)) == 4
            assert len(device.results) == 4
            gate.open(6)
            assert len(await scene.back(6)) == 6

    in_loop(main)


def test_a_stop_waits_for_what_was_begun_and_begins_nothing_more(gate: Gate):
    async def main() -> None:
        async with Scene(Storage(gate.fd, read_four)) as scene:
            scene.start().submit(b"1", b"2")
            await rounds()
            stopped = scene.stop()
            await rounds()
            assert not stopped.done
            scene.submit(b"3")
            gate.open(2)
            assert await ended(stopped) == 2
            assert len(scene.reap()) == 2

    in_loop(main)


# Cancelling.


class Impatient(Storage):
    """Has a patience of almost nothing."""

    patience = 0.05


def test_what_takes_too_long_is_cancelled_and_fails_once_its_memory_is_free(gate: Gate):
    seen: list[str] = []

    async def read(device: Storage, reader: Reader, writer: Writer) -> None:
        if reader.read() == b"quick":
            return
        try:
            await read_four(device, reader, writer)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def main() -> None:
        async with Scene(Impatient(gate.fd, read)) as scene:
            late = scene.start().submit(b"late")
            if not gate.is_pipe:  # a thread that reads cannot be cancelled: it is waited for
                await asyncio.sleep(0.1)
                assert not scene.reap()
                gate.open()
            assert await scene.back(1) == {late[0]: FAILURE}
            assert (seen, scene.events) == (["cancelled"], ["request-failed"])
            quick = scene.submit(b"quick")
            assert await scene.back(1) == {quick[0]: b""}

    in_loop(main)


def test_a_coroutine_that_is_cancelled_may_clean_up_with_operations(gate: Gate, disk: int):
    async def read(device: Storage, reader: Reader, writer: Writer) -> None:
        try:
            await read_four(device, reader, writer)
        finally:
            await File(disk).sync()
            await device.file.read_into(writer, 4, 0)
            device.results.append("clean")

    async def main() -> None:
        device = Impatient(gate.fd, read)
        async with Scene(device) as scene:
            scene.start().submit(b"r")
            await asyncio.sleep(0.1)
            gate.open(2)
            assert list((await scene.back(1)).values()) == [FAILURE]
            assert device.results == ["clean"]
            gate.open()

    in_loop(main)


def test_one_that_ignores_its_cancellation_is_stuck(gate: Gate, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pyvirtio.runtime.in_progress.CANCEL_TIME", CANCEL_TIME / 50)
    is_over = False

    async def read(device: Storage, reader: Reader, writer: Writer) -> None:
        while not is_over:
            try:
                await read_four(device, reader, writer)
            except asyncio.CancelledError:
                device.results.append("ignored")

    async def main() -> None:
        nonlocal is_over
        device = Impatient(gate.fd, read)
        async with Scene(device) as scene:
            scene.start().submit(b"r")
            await until(lambda: scene.stuck)
            assert not scene.reap()
            is_over = True
            gate.open(2)
            await scene.back(1)

    in_loop(main)


@pytest.mark.parametrize("way", ["reset", "close", "break"])
def test_at_the_end_everything_is_cancelled_and_nothing_is_answered(gate: Gate, way: str):
    async def main() -> None:
        seen: list[str] = []

        async def read(device: Storage, reader: Reader, writer: Writer) -> None:
            try:
                await read_four(device, reader, writer)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        async with Scene(Storage(gate.fd, read)) as scene:
            scene.start().submit(*[b"r"] * 5)
            await rounds()
            if way == "reset":
                reset = scene.runner.reset()
                gate.open(0 if gate.is_pipe else 5)
                await ended(reset)
            elif way == "break":
                scene.raws[0].make_available(*[0] * 200)
                scene.kick()
                gate.open(0 if gate.is_pipe else 5)
                await until(lambda: scene.broken)
            else:
                gate.open(0 if gate.is_pipe else 5)
        assert seen == ["cancelled"] * 5 or not gate.is_pipe
        assert not file_io._by_loop
        assert scene.raws[0].used_idx == 0

    in_loop(main)


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.02])
def test_asyncio_timeout_ends_its_own_block_and_the_method_goes_on(gate: Gate, seconds: float):
    async def read(device: Storage, reader: Reader, writer: Writer) -> str:
        try:
            async with asyncio.timeout(seconds):
                await read_four(device, reader, writer)
        except TimeoutError:
            writer.write(b"late")
            return "late"
        return "in time"

    async def main() -> None:
        device = Storage(gate.fd, read)
        async with Scene(device) as scene:
            for _ in range(3):
                scene.start() if not scene.runner._services else None
                scene.submit(b"r")
                if not gate.is_pipe:
                    await asyncio.sleep(0.05)
                    gate.open()
                assert list((await scene.back(1)).values()) == [b"late"]
            assert device.results == ["late"] * 3
            assert not scene.events

    in_loop(main)


# What coroutines may rely on, whether they are parked or not.


def test_operations_can_be_awaited_by_tasks_and_together(disk: int, gate: Gate):
    async def many(device: Storage, _reader: Reader, writer: Writer) -> list[object]:
        task = asyncio.create_task(wrapped(device.file.read_into(writer, 4, 0)))
        other = File(disk)
        found: list[object] = [await asyncio.gather(task, other.sync(), other.sync())]
        async with asyncio.TaskGroup() as group:
            inner = group.create_task(wrapped(device.file.read_into(writer, 4, 0)))
        found.append([inner.result()])
        found.append([await asyncio.wait_for(device.file.read_into(writer, 4, 0), 20)])
        return found

    async def wrapped(operation: Awaitable[int]) -> int:
        return await operation

    async def main() -> None:
        device = Storage(gate.fd, many)
        async with Scene(device) as scene:
            scene.start().submit(b"r", room=12)
            gate.open(3)
            assert list((await scene.back(1)).values()) == [b"x" * 12]
            assert device.results == [[[4, None, None], [4], [4]]]
            assert not scene.events

    in_loop(main)


def test_a_coroutine_keeps_its_context_and_its_task_and_others_do_not_see_them(gate: Gate):
    variable: contextvars.ContextVar[bytes] = contextvars.ContextVar("variable", default=b"nobody's")

    async def work(device: Storage, reader: Reader, writer: Writer) -> tuple[bytes, bool, set[bytes]]:
        name, task = reader.read(), asyncio.current_task()
        before = variable.get()
        if name != b"none":
            variable.set(name)
        seen = set()
        for _ in range(3):
            await device.file.read_into(writer, 4, 0)
            seen.add(variable.get())
        return before, asyncio.current_task() is task, seen

    async def main() -> None:
        device = Storage(gate.fd, work)
        async with Scene(device) as scene:
            scene.start().submit(b"a", b"none", b"c", b"none", b"e", room=12)
            gate.open(15)
            await scene.back(5)
            mine = [(b"nobody's", True, {name}) for name in (b"a", b"c", b"e")]
            assert sorted(map(str, device.results)) == sorted(
                map(str, [*mine, *[(b"nobody's", True, {b"nobody's"})] * 2])
            )

    in_loop(main)


def test_one_that_cancels_its_own_task_takes_nobody_along(gate: Gate):
    async def work(device: Storage, reader: Reader, writer: Writer) -> str:
        name = reader.read()
        if name == b"reckless":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            return "reckless"
        await read_four(device, reader, writer)
        return "fine"

    async def main() -> None:
        device = Storage(gate.fd, work)
        async with Scene(device) as scene:
            scene.start().submit(b"fine", b"reckless", b"fine", b"reckless", b"fine")
            gate.open(3)
            await scene.back(5)
            assert sorted(map(str, device.results)) == ["fine"] * 3 + ["reckless"] * 2
            assert not scene.events

    in_loop(main)


def test_two_operations_on_one_stream_at_a_time_are_refused(gate: Gate):
    async def both(device: Storage, _reader: Reader, writer: Writer) -> int:
        first = asyncio.ensure_future(device.file.read_into(writer, 4, 0))
        await asyncio.sleep(0)
        with pytest.raises(LocalError, match="at a time"):
            await device.file.read_into(writer, 4, 0)
        gate.open()
        return await first

    answer, device, events = one_request(gate.fd, both)
    assert (answer, device.results, events) == (b"xxxx", [4], [])


def test_a_request_that_ends_during_an_operation_is_not_given_back(gate: Gate):
    async def leave(device: Storage, _reader: Reader, writer: Writer) -> None:
        if gate.is_pipe:
            device.results.append(device.file.read_into(writer, 4, 0))
        else:
            device.results.append(asyncio.ensure_future(device.file.read_into(writer, 4, 0)))
            await until(lambda: gate.entered)

    async def main() -> None:
        device = Storage(gate.fd, leave)
        async with Scene(device) as scene:
            scene.start().submit(b"r")
            await until(lambda: scene.stuck if gate.is_pipe else gate.entered)
            assert not scene.reap() or not gate.is_pipe
            gate.open()
            await rounds()
            device.results.clear()

    if gate.is_pipe:  # threads are the author's own business there: the views are released, and so nothing is stuck
        in_loop(main)


# Ways to run a device.


class StorageDriver(Driver):
    device_id = 63
    requests = RequestQueue()


async def read_at(device: Storage, reader: Reader, writer: Writer) -> int:
    return await device.file.read_into(writer, -1, int.from_bytes(reader.read(), "little"))


@pytest.mark.parametrize("cached", [True, False])
def test_a_device_in_a_thread_and_one_in_the_driver_s_own_process(
    disk: int, cached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(files, "_is_cached", lambda _fd: cached)
    device = Storage(disk, read_at)

    def check(driver: StorageDriver) -> None:
        tickets = [driver.requests.submit(bytes([n]), room=100) for n in range(20)]
        assert [ticket.data() for ticket in tickets] == [CONTENT[n : n + 100] for n in range(20)]

    with open_driver(StorageDriver, device) as driver:
        check(driver)
    path = str(tmp_path / "s")
    with serving(Storage(disk, read_at), path), open_driver(StorageDriver, f"vhost-user:{path}") as driver:
        check(driver)

    async def in_one_loop() -> None:
        with open_driver(StorageDriver, Storage(disk, read_at)) as driver:
            answers = await asyncio.gather(*[driver.requests.submit(bytes([n]), room=100) for n in range(20)])
            assert answers == [CONTENT[n : n + 100] for n in range(20)]

    asyncio.run(in_one_loop())


@pytest.mark.parametrize("reason", [errno.ENOSYS, errno.EPERM])
def test_without_io_uring_threads_wait_and_one_line_says_so(
    gate: Gate, engine: str, reason: int, monkeypatch: pytest.MonkeyPatch
):
    if engine == "reference":
        pytest.skip("it never asks for io_uring")
    from pyvirtio.ring import _native

    def refuse(*_: object) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(_native, "Uring", refuse)
    fd = os.memfd_create("disk")
    os.pwrite(fd, CONTENT, 0)

    async def main() -> None:
        device = Storage(fd, read_four)
        async with Scene(device) as scene:
            scene.start().submit(*[b"r"] * 10)
            assert set((await scene.back(10)).values()) == {CONTENT[:4]}
            assert scene.events == ["io-uring-missing"]

    in_loop(main)
    os.close(fd)
