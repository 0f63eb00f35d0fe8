"""Ends behind Unix sockets: frames in both directions, a side that goes and comes back, nonsense, what does not fit."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import LocalError, ProtocolError
from pyvirtio.network import PLAIN, DatagramEnd, Offload, StreamEnd
from pyvirtio.network import descriptor as descriptor_module
from pyvirtio.network.packet import LONGEST, Flag, VnetHeader
from pyvirtio.network.stream import Deframer, in_stream

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pyvirtio.network import End

FRAME = bytes(range(100))


@contextlib.asynccontextmanager
async def opened(end: End) -> AsyncIterator[End]:
    await end.open(Offload.NONE)
    try:
        yield end
    finally:
        end.close()


async def received(end: End, number: int) -> list[bytes]:
    frames: list[bytes] = []
    while len(frames) < number:
        frames += [frame for _header, frame in await asyncio.wait_for(end.receive(), 10)]
    return frames


async def read(connection: socket.socket, length: int) -> bytes:
    loop, data = asyncio.get_running_loop(), b""
    while len(data) < length:
        more = await asyncio.wait_for(loop.sock_recv(connection, length - len(data)), 10)
        assert more
        data += more
    return data


def test_frames_are_found_however_a_stream_is_cut(rng: random.Random) -> None:
    frames = [rng.randbytes(rng.choice([14, 15, 1514, 60_000])) for _ in range(20)]
    stream = b"".join(map(in_stream, frames))
    for _ in range(20):
        deframer, found, at = Deframer(), [], 0
        while at < len(stream):
            step = rng.choice([1, 3, 100, 70_000])
            found += deframer.feed(stream[at : at + step])
            at += step
        assert found == [(PLAIN, frame) for frame in frames]


@pytest.mark.parametrize("length", [0, LONGEST + 1, 0xFFFFFFFF])
def test_a_length_that_no_frame_has_ends_a_stream(length: int) -> None:
    with pytest.raises(ProtocolError):
        Deframer().feed(in_stream(FRAME) + struct.pack(">I", length))


def test_two_ends_exchange_datagrams(tmp_path: Path) -> None:
    async def main() -> None:
        one, two = (DatagramEnd(tmp_path / a, tmp_path / b) for a, b in ("ab", "ba"))
        async with opened(one), opened(two):
            for sender, receiver in ((one, two), (two, one)):
                for number in range(100):  # more than the kernel keeps
                    sender.send((PLAIN, FRAME + bytes([number])))
                assert await received(receiver, 100) == [FRAME + bytes([number]) for number in range(100)]
        assert list(tmp_path.iterdir()) == []

    asyncio.run(main())


def test_an_end_of_datagrams_finds_the_other_side_again(tmp_path: Path) -> None:
    async def main() -> None:
        end = DatagramEnd(tmp_path / "a", tmp_path / "b")
        async with opened(end):
            for number in range(3):
                end.send((PLAIN, FRAME))  # nobody is there
                assert end.dropped == number + 1
                async with opened(DatagramEnd(tmp_path / "b", tmp_path / "a")) as other:
                    end.send((PLAIN, FRAME))
                    assert await received(other, 1) == [FRAME]
                    other.send((PLAIN, FRAME[::-1]))
                    assert await received(end, 1) == [FRAME[::-1]]

    asyncio.run(main())


def test_what_is_no_frame_is_passed_over(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(DatagramEnd(tmp_path / "a", tmp_path / "b")) as end:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
                stranger.connect(str(tmp_path / "a"))
                for data in (b"", b"x" * 13, FRAME):
                    stranger.send(data)
            assert await received(end, 1) == [FRAME]

    asyncio.run(main())


def test_a_checksum_is_completed_for_a_socket(tmp_path: Path) -> None:
    async def main() -> None:
        one, two = (DatagramEnd(tmp_path / a, tmp_path / b) for a, b in ("ab", "ba"))
        async with opened(one), opened(two):
            one.send((VnetHeader(Flag.NEEDS_CSUM, csum_start=14, csum_offset=0).pack(), bytes(60)))
            [frame] = await received(two, 1)
            assert frame == bytes(14) + b"\xff\xff" + bytes(44)

    asyncio.run(main())


@pytest.mark.parametrize("listens", [True, False])
def test_a_stream_is_made_again_and_its_carrier_is_told(listens: bool, tmp_path: Path) -> None:
    async def main() -> None:
        end = StreamEnd(tmp_path / "s", listen=listens)
        other = StreamEnd(tmp_path / "s", listen=not listens)
        heard: list[bool] = []
        end.carrier = heard.append
        async with opened(end):
            for _ in range(3):
                async with opened(other):
                    tasks = [asyncio.create_task(received(one, 2)) for one in (end, other)]
                    while not (end._connection and other._connection):
                        await asyncio.sleep(0.001)
                    for frame in (FRAME[::-1], FRAME[:20]):
                        end.send((PLAIN, frame))
                        other.send((PLAIN, frame))
                    assert await asyncio.gather(*tasks) == [[FRAME[::-1], FRAME[:20]]] * 2
                waiting = asyncio.create_task(end.receive())
                while heard[-1]:
                    await asyncio.sleep(0.001)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
        assert heard == [True, False] * 3
        assert list(tmp_path.iterdir()) == []

    asyncio.run(main())


def test_what_is_sent_before_the_first_connection_waits_for_it(tmp_path: Path) -> None:
    async def main() -> None:
        end = StreamEnd(tmp_path / "s")
        end.send((PLAIN, FRAME))
        async with opened(end), opened(StreamEnd(tmp_path / "s", listen=True)) as other:
            task = asyncio.create_task(received(end, 1))
            assert await received(other, 1) == [FRAME]
            other.send((PLAIN, FRAME))
            assert await task == [FRAME]

    asyncio.run(main())


def test_nonsense_ends_a_connection_and_the_next_one_works(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(StreamEnd(tmp_path / "s", listen=True)) as end:
            task = asyncio.create_task(received(end, 1))
            loop = asyncio.get_running_loop()
            for data, answer in ((b"\xff" * 8, True), (in_stream(FRAME), False)):
                with socket.socket(socket.AF_UNIX) as stranger:
                    stranger.setblocking(False)
                    await loop.sock_connect(stranger, str(tmp_path / "s"))
                    await loop.sock_sendall(stranger, data)
                    if answer:
                        with contextlib.suppress(ConnectionResetError):
                            assert await asyncio.wait_for(loop.sock_recv(stranger, 1), 10) == b""
                    else:
                        assert await task == [FRAME]

    asyncio.run(main())


def test_what_a_stream_does_not_take_waits_and_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptor_module, "MOST_BYTES", 1 << 20)

    async def main() -> None:
        end = StreamEnd(tmp_path / "s", listen=True)
        async with opened(end):
            task = asyncio.create_task(received(end, 1))
            with socket.socket(socket.AF_UNIX) as slow:
                slow.setblocking(False)
                await asyncio.get_running_loop().sock_connect(slow, str(tmp_path / "s"))
                await asyncio.get_running_loop().sock_sendall(slow, in_stream(FRAME))
                await task
                for number in range(2000):
                    end.send((PLAIN, number.to_bytes(2, "big") + bytes(1512)))
                assert 1 << 20 <= end._waiting < (1 << 20) + 2000
                kept = 2000 - end.dropped
                assert 700 < kept < 2000
                data = await read(slow, kept * 1518)
                packets = Deframer().feed(data)
                assert [int.from_bytes(frame[:2], "big") for _header, frame in packets] == list(range(kept))
                assert end._waiting == 0

    asyncio.run(main())


def test_a_path_in_use_is_refused_and_one_that_was_left_is_taken(tmp_path: Path) -> None:
    async def main() -> None:
        for make in (lambda: StreamEnd(tmp_path / "s", listen=True), lambda: DatagramEnd(tmp_path / "d", tmp_path)):
            async with opened(make()):
                with pytest.raises(LocalError, match="in use"):
                    await make().open(Offload.NONE)
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(tmp_path / "s"))
        async with opened(StreamEnd(tmp_path / "s", listen=True)):
            pass
        (tmp_path / "file").write_text("precious")
        with pytest.raises(LocalError):
            await StreamEnd(tmp_path / "file", listen=True).open(Offload.NONE)
        assert (tmp_path / "file").read_text() == "precious"

    asyncio.run(main())
