"""Ends that are plugged into a switch, and a switch that others connect to, as guests of other processes do."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio import open_driver
from pyvirtio.devices.net import Net
from pyvirtio.drivers.net import NetDriver
from pyvirtio.errors import LocalError
from pyvirtio.network import PLAIN, FunctionEnd, Offload, StreamEnd, Switch
from pyvirtio.network.ethernet import BROADCAST
from pyvirtio.network.packet import Flag, VnetHeader
from pyvirtio.network.plugging import plug, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from pathlib import Path


def frame(to: int, origin: int, data: bytes = b"") -> bytes:
    address = BROADCAST if to < 0 else b"\2" + to.to_bytes(5, "big")
    return address + b"\2" + origin.to_bytes(5, "big") + b"\x08\x00" + data


@contextlib.asynccontextmanager
async def beside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def client(path: Path) -> AsyncIterator[StreamEnd]:
    end = StreamEnd(path)
    await end.open(Offload.NONE)
    try:
        yield end
    finally:
        end.close()


async def heard(end: StreamEnd) -> list[bytes]:
    return [one for _header, one in await asyncio.wait_for(end.receive(), 10)]


async def connected(end: StreamEnd, switch: Switch, ports: int) -> None:
    while end._connection is None or len(switch._ports) < ports:
        await asyncio.sleep(0.001)


def test_whoever_connects_has_a_port_until_he_goes(tmp_path: Path) -> None:
    async def main() -> None:
        switch = Switch()
        async with beside(serve(switch, tmp_path / "s")), client(tmp_path / "s") as one:
            hears = asyncio.create_task(heard(one))  # it connects while it listens
            await connected(one, switch, 1)
            for _ in range(3):
                async with client(tmp_path / "s") as two:
                    answer = asyncio.create_task(heard(two))
                    await connected(two, switch, 2)
                    one.send((PLAIN, frame(-1, 1)))
                    assert await answer == [frame(-1, 1)]
                    two.send((PLAIN, frame(1, 2, b"to one")))
                    assert await hears == [frame(1, 2, b"to one")]
                    hears = asyncio.create_task(heard(one))
                while len(switch._ports) > 1:
                    await asyncio.sleep(0.001)
            hears.cancel()
            await asyncio.gather(hears, return_exceptions=True)
        assert switch._ports == ()
        assert list(tmp_path.iterdir()) == []

    asyncio.run(main())


def test_an_end_is_plugged_in_and_out(tmp_path: Path) -> None:
    async def main() -> None:
        switch = Switch()
        seen: list[bytes] = []

        def echo(one: bytes) -> bytes:
            seen.append(one)
            return one

        port = switch.port()
        await port.open(Offload.NONE)
        end = FunctionEnd(echo)
        async with beside(plug(switch, end)):
            while len(switch._ports) < 2:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            port.send((VnetHeader(Flag.NEEDS_CSUM, csum_start=100).pack(), frame(-1, 1)))  # it cannot be completed
            port.send((PLAIN, frame(-1, 1)))
            port.send((VnetHeader(Flag.NEEDS_CSUM, csum_start=14).pack(), frame(-1, 1, bytes(4))))
            while len(seen) < 2:
                await asyncio.sleep(0)
            assert seen == [frame(-1, 1), frame(-1, 1, b"\xff\xff\0\0")]
        assert switch._ports == (port,)

    asyncio.run(main())


def test_a_path_that_is_no_socket_s_is_an_error() -> None:
    async def main() -> None:
        with pytest.raises(LocalError):
            await serve(Switch(), "/nowhere/s")
        with pytest.raises(LocalError):
            await plug(Switch(), StreamEnd("/nowhere/s", listen=True))

    asyncio.run(main())


def test_cards_meet_at_the_command_s_switch(tmp_path: Path) -> None:
    path = tmp_path / "s"
    process = subprocess.Popen(
        [sys.executable, "-m", "pyvirtio", "switch", str(path)], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == f"pyvirtio: the switch is ready on {path}\n".encode()
        with (
            open_driver(NetDriver, Net(stream=path)) as one,
            open_driver(NetDriver, Net(stream=path)) as two,
        ):
            received = two.frames(timeout=0.05)
            for number in range(200):  # until both have connected
                one.send(frame(-1, 1, bytes([number])))
                one.set_addresses()  # its loop runs while it waits
                with contextlib.suppress(LocalError, TimeoutError):
                    first = next(received)
                    break
                received = two.frames(timeout=0.05)
            else:
                pytest.fail("no frame has come")
            assert first[:14] == frame(-1, 1)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert process.stderr is not None
        rest = process.stderr.read()
        process.stderr.close()
    assert (process.returncode, rest) == (0, b"")
    assert not path.exists()


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyvirtio", "switch", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"pyvirtio: {tmp_path}")
