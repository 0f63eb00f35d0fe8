"""The host's ends: who is there, who is not any more, and what does not fit."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import termios
from typing import TYPE_CHECKING

import pytest

from pyvirtio.ends import End, Outlet, SocketEnd, end_of, split_list
from pyvirtio.ends.pty import PtyEnd
from pyvirtio.ends.sockets import UnixEnd
from pyvirtio.errors import UsageError
from tests.support.runner import in_loop, rounds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

from contextlib import asynccontextmanager, contextmanager


@contextmanager
def opened(path: str) -> Iterator[int]:
    """Open a terminal as somebody else does."""
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


@asynccontextmanager
async def reading(end: End) -> AsyncIterator[list[bytes]]:
    """Read from an end all the time; yield what came."""
    came: list[bytes] = []

    async def read() -> None:
        while True:
            came.append(await end.read())

    task = asyncio.create_task(read())
    try:
        yield came
    finally:
        task.cancel()
        await asyncio.wait([task])
        end.close()


async def until(condition: object) -> None:
    """Wait for what the kernel or a timer has a part in."""
    assert callable(condition)
    while not condition():
        await asyncio.sleep(0.001)


# Pseudo-terminals.


def test_a_terminal_is_there_as_long_as_somebody_has_it_open(tmp_path: Path) -> None:
    async def main() -> None:
        end = PtyEnd(tmp_path / "tty")
        changes: list[bool] = []
        end.changed = lambda: changes.append(end.is_open)
        end.open()
        async with reading(end) as came:
            assert end.put(b"lost") == 4
            for _ in range(2):
                with opened(str(tmp_path / "tty")) as fd:
                    assert end.put(b"\x03raw\n") == 5  # at once, before anybody had a look
                    await until(lambda fd=fd: readable(fd))
                    assert os.read(fd, 100) == b"\x03raw\n"
                    os.write(fd, b"typed\r")
                    await until(lambda: came)
                    assert came.pop() == b"typed\r"
                await until(lambda: not end.is_open)
            assert changes == [True, False, True, False]
        assert not (tmp_path / "tty").is_symlink()

    in_loop(main)


def readable(fd: int) -> bool:
    import select

    return bool(select.select([fd], [], [], 0)[0])


def test_a_terminal_tells_its_size() -> None:
    async def main() -> None:
        end = PtyEnd()
        end.open()
        async with reading(end):
            with opened(end.path) as fd:
                termios.tcsetwinsize(fd, (43, 132))
                await until(lambda: end.size == (132, 43))

    in_loop(main)


def test_a_terminal_that_nobody_reads_has_no_room_until_somebody_does() -> None:
    async def main() -> None:
        end = PtyEnd()
        end.open()
        async with reading(end):
            with opened(end.path) as fd:
                while end.put(bytes(1000)):
                    pass
                room = asyncio.create_task(end.room())
                await rounds()
                assert not room.done()
                while readable(fd):
                    os.read(fd, 65536)
                    await asyncio.sleep(0)
                await room
                assert end.put(b"x") == 1
                while end.put(bytes(1000)):
                    pass
                room = asyncio.create_task(end.room())
            await room  # it has hung up
            assert end.put(bytes(1000)) == 1000

    in_loop(main)


def test_a_link_is_taken_over_when_it_leads_nowhere_or_on_demand(tmp_path: Path) -> None:
    link = tmp_path / "tty"
    link.symlink_to("/nowhere")
    first, second = PtyEnd(link), PtyEnd(link)
    first.open()
    assert os.readlink(link) == first.path
    second.open()
    assert os.readlink(link) == first.path
    second.open(take_over=True)
    assert os.readlink(link) == second.path
    first.close()
    assert os.readlink(link) == second.path
    second.close()
    assert not link.is_symlink()
    link.write_text("precious")
    third = PtyEnd(link)
    with pytest.raises(FileExistsError, match="symbolic link"):
        third.open()
    third.close()


# Sockets.


def test_one_client_after_the_other(tmp_path: Path) -> None:
    async def main() -> None:
        end = UnixEnd(tmp_path / "s")
        end.open()
        async with reading(end) as came:
            for word in (b"one", b"two"):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(tmp_path / "s"))
                    await until(lambda: end.is_open)
                    client.send(word)
                    await until(lambda: came)
                    assert came.pop() == word
                    end.put(word)
                    assert client.recv(100) == word
                await until(lambda: not end.is_open)
                assert end.put(b"to nobody") == 9

    in_loop(main)


def test_a_client_that_hangs_up_while_it_is_waited_for_ends_the_wait(tmp_path: Path) -> None:
    async def main() -> None:
        end = UnixEnd(tmp_path / "s")
        end.open()
        async with reading(end):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "s"))
                await until(lambda: end.is_open)
                while end.put(bytes(65536)):
                    pass
                room = asyncio.create_task(end.room())
                await rounds()
                assert not room.done()
            await room
            assert end.put(b"gone") == 4

    in_loop(main)


def test_a_socket_is_taken_over_when_nobody_listens_or_on_demand(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    first, second = UnixEnd(path), UnixEnd(path)
    first.open()
    inode = path.stat().st_ino
    second.open()
    assert path.stat().st_ino == inode
    second.open(take_over=True)
    second.open(take_over=True)
    first.close()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    second.close()
    assert not path.exists()


def test_a_socket_on_which_a_stranger_listens_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listens = f"import socket; s = socket.socket(socket.AF_UNIX); s.bind({str(path)!r}); s.listen(); print(); input()"
    with subprocess.Popen(
        [sys.executable, "-uc", listens], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as stranger:
        assert stranger.stdout is not None
        stranger.stdout.readline()
        with pytest.raises(FileExistsError, match=str(stranger.pid)):
            UnixEnd(path).open(take_over=True)
        stranger.communicate("\n")
    end = UnixEnd(path)
    end.open()
    end.close()
    assert not path.exists()


def test_a_socket_that_hung_up_is_over() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        end = SocketEnd(theirs)
        ours.close()
        async with reading(end) as came:
            await until(lambda: not end.is_open)
            await rounds()
            assert came == []

    in_loop(main)


# What is on its way.


class Narrow(End):
    """Takes only what it is let."""

    def __init__(self) -> None:
        self.space = 0
        self.taken = b""
        self.more = asyncio.Event()

    def put(self, data: bytes | memoryview) -> int:
        taken = bytes(data[: self.space])
        self.space -= len(taken)
        self.taken += taken
        return len(taken)

    async def room(self) -> None:
        await self.more.wait()
        self.more.clear()

    def let(self, number: int) -> None:
        self.space += number
        self.more.set()


def catching_up(outlet: Outlet) -> AbstractAsyncContextManager[asyncio.Task[None]]:
    @asynccontextmanager
    async def running() -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(outlet.catch_up())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])

    return running()


def test_what_there_is_no_room_for_is_kept_until_there_is() -> None:
    async def main() -> None:
        end = Narrow()
        outlet = Outlet(end)
        async with catching_up(outlet) as task:
            end.let(2)
            outlet.put(b"hello")
            assert (end.taken, outlet.rest) == (b"he", b"llo")
            end.let(1)
            await rounds()
            assert (end.taken, task.done()) == (b"hel", False)
            end.let(2)
            await task
            assert (end.taken, outlet.rest) == (b"hello", b"")

    in_loop(main)


def test_an_end_that_stalls_loses_what_it_does_not_take_until_it_takes_something() -> None:
    async def main() -> None:
        end = Narrow()
        outlet = Outlet(end, linger=0.01)
        async with catching_up(outlet) as task:
            outlet.put(b"lost")
            await task
        outlet.put(b"lost at once")
        assert outlet.rest == b""
        end.let(4)
        outlet.put(b"kept")
        outlet.put(b"waits")
        assert (end.taken, outlet.rest) == (b"kept", b"waits")

    in_loop(main)


# Names.


@pytest.mark.parametrize("name", ["", "tty", "unix", "unix:", "file:", "none:x", "pipe:/tmp/x"])
def test_a_name_that_names_nothing_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(UsageError, match="pty:LINK"):
        end_of(name)


def test_a_list_is_split_at_single_signs() -> None:
    assert split_list("pty") == ["pty"]
    assert split_list("a=pty:/x+unix:/c++/s+none") == ["a=pty:/x", "unix:/c+/s", "none"]
