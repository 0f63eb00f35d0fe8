"""What is in a stream: plain frames for everybody, whole packets for those who greet, and no harm from anybody."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import ProtocolError
from pyvirtio.network import PLAIN, Offload, StreamEnd, Switch
from pyvirtio.network.packet import LONGEST, Flag, Gso, VnetHeader
from pyvirtio.network.plugging import serve
from pyvirtio.network.stream import GREETING, HEADED, Deframer, greeting, in_stream

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pyvirtio.network.packet import Packet

CUT = VnetHeader(Flag.NEEDS_CSUM, Gso.TCPV4, 0, 1448, 34, 16).pack()
TO, ORIGIN = (bytes.fromhex(text) for text in ("020000000002", "020000000001"))


def large(length: int, to: bytes = TO, origin: bytes = ORIGIN) -> Packet:
    """Return a packet of TCP over IPv4 that is to be cut."""
    ip = bytes([0x45, *bytes(8), 6, *bytes(10)])
    tcp = bytes([*bytes(12), 0x50, *bytes(7)])
    return CUT, to + origin + b"\x08\x00" + ip + tcp + bytes(length)


@contextlib.asynccontextmanager
async def opened(end: StreamEnd, accepts: Offload) -> AsyncIterator[asyncio.Task[list[Packet]]]:
    """Open an end; the value is what it receives first."""

    async def receive() -> list[Packet]:
        return list(await end.receive())

    await end.open(accepts)
    first = asyncio.create_task(receive())
    try:
        yield first
    finally:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        end.close()


async def until_greeted(*ends: StreamEnd) -> None:
    async with asyncio.timeout(10):
        while not all(end.takes for end in ends):
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("accepts", [Offload.ALL, Offload.CSUM])
def test_two_ends_exchange_packets_as_the_other_one_takes_them(accepts: Offload, tmp_path: Path) -> None:
    async def main() -> None:
        one, two = StreamEnd(tmp_path / "s", listen=True), StreamEnd(tmp_path / "s")
        async with opened(one, Offload.ALL) as to_one, opened(two, accepts) as to_two:
            await until_greeted(one, two)
            assert (one.takes, two.takes) == (accepts, Offload.ALL)
            two.send(large(20_000))
            assert await asyncio.wait_for(to_one, 10) == [large(20_000)]
            one.send(large(20_000))
            frames = await asyncio.wait_for(to_two, 10)
            if accepts == Offload.ALL:
                assert frames == [large(20_000)]
            else:
                assert {header for header, _ in frames} == {PLAIN}
                assert sum(len(frame) - 54 for _, frame in frames) == 20_000

    asyncio.run(main())


def test_who_does_not_greet_gets_a_frame_to_nobody_and_then_complete_frames(tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        end = StreamEnd(tmp_path / "s", listen=True)
        async with opened(end, Offload.ALL) as first:
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.setblocking(False)
                await loop.sock_connect(stranger, str(tmp_path / "s"))
                frame = large(10)[1]
                await loop.sock_sendall(stranger, in_stream(frame))
                assert await asyncio.wait_for(first, 10) == [(PLAIN, frame)]
                end.send(large(3000))
                deframer = Deframer()
                heard: list[Packet] = []
                while len(heard) < 3:
                    heard += deframer.feed(await asyncio.wait_for(loop.sock_recv(stranger, 1 << 16), 10))
            assert deframer.takes == Offload.ALL
            assert [(header, len(one)) for header, one in heard] == [(PLAIN, 1502), (PLAIN, 1502), (PLAIN, 158)]

    asyncio.run(main())


def test_a_large_packet_crosses_a_switch_whole_for_one_who_takes_it_and_cut_for_one_who_does_not(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        switch = Switch()
        serving = asyncio.create_task(serve(switch, tmp_path / "s"))
        sender, able, plain = (StreamEnd(tmp_path / "s") for _ in range(3))
        async with (
            opened(sender, Offload.ALL),
            opened(able, Offload.ALL) as to_able,
            opened(plain, Offload.NONE) as to_plain,
        ):
            await until_greeted(sender, able)
            while len(switch._ports) < 3 or plain._connection is None:
                await asyncio.sleep(0.001)
            sender.send(large(2000, to=b"\xff" * 6))
            assert await asyncio.wait_for(to_able, 10) == [large(2000, to=b"\xff" * 6)]
            frames = [frame for _header, frame in await asyncio.wait_for(to_plain, 10) if frame[12:14] == b"\x08\x00"]
            assert [len(frame) for frame in frames] == [1502, 606]
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(main())


def test_a_greeting_counts_only_at_the_beginning() -> None:
    """Behind it, guests speak, and may say anything."""
    deframer = Deframer(Offload.ALL)
    assert deframer.feed(in_stream(bytes(14)) + in_stream(greeting(Offload.ALL))) == [
        (PLAIN, bytes(14)),
        (PLAIN, greeting(Offload.ALL)),
    ]
    assert deframer.takes == Offload.NONE


@pytest.mark.parametrize("beginning", [GREETING, GREETING[:-1], b""])
def test_a_greeting_that_is_cut_off_is_a_frame(beginning: bytes) -> None:
    deframer = Deframer(Offload.ALL)
    frame = beginning.ljust(14, b"\0")
    assert deframer.feed(in_stream(frame)) == [(PLAIN, frame)]
    assert deframer.takes == Offload.NONE


def test_bits_of_a_greeting_that_nobody_knows_are_none() -> None:
    deframer = Deframer()
    assert deframer.feed(in_stream(GREETING + b"\xff")) == []
    assert deframer.takes == Offload.ALL


def test_packets_are_found_however_a_stream_is_cut(rng: random.Random) -> None:
    packets = [rng.choice([large(60_000), large(0), (PLAIN, bytes(100))]) for _ in range(20)]
    stream = in_stream(greeting(Offload.ALL)) + b"".join(in_stream(frame, header) for header, frame in packets)
    for _ in range(20):
        deframer, at = Deframer(Offload.ALL), 0
        found: list[Packet] = []
        while at < len(stream):
            step = rng.choice([1, 3, 100, 70_000])
            found += deframer.feed(stream[at : at + step])
            at += step
        assert found == packets
        assert deframer.takes == Offload.ALL


def test_a_header_from_somebody_who_was_told_of_none_is_an_error() -> None:
    with pytest.raises(ProtocolError):
        Deframer().feed(in_stream(*reversed(large(10))))


@pytest.mark.parametrize("length", [0, 10, LONGEST + 11, HEADED - 1])
def test_a_length_that_no_packet_has_ends_a_stream(length: int) -> None:
    with pytest.raises(ProtocolError):
        Deframer(Offload.ALL).feed((HEADED | length).to_bytes(4, "big"))


@pytest.mark.parametrize(
    "header",
    [
        VnetHeader(0, Gso.TCPV4, 0, 1448, 34, 16),  # to be cut, and its checksum is complete
        VnetHeader(Flag.NEEDS_CSUM, Gso.TCPV4, 0, 0, 34, 16),  # every 0 bytes
        VnetHeader(Flag.NEEDS_CSUM, 3, 0, 1448, 34, 16),  # UDP
        VnetHeader(Flag.NEEDS_CSUM, Gso.TCPV6, 0, 1448, 34, 16),  # not offered
        VnetHeader(Flag.NEEDS_CSUM, 0, 0, 0, 65_000, 16),  # a checksum beyond the end
    ],
)
def test_a_packet_that_is_not_what_it_says_is_left_out_and_the_next_one_comes(header: VnetHeader) -> None:
    frame = large(3000)[1]
    deframer = Deframer(Offload.CSUM | Offload.TSO4)
    assert deframer.feed(in_stream(frame, header.pack()) + in_stream(frame)) == [(PLAIN, frame)]


def test_any_bytes_are_packets_or_an_error(rng: random.Random) -> None:
    for _ in range(2000):
        data = bytearray(in_stream(greeting(Offload.ALL)) + in_stream(*reversed(large(rng.randrange(50)))))
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.getrandbits(8)
        with contextlib.suppress(ProtocolError):
            for header, frame in Deframer(Offload.ALL).feed(bytes(data)):
                assert (len(header), len(frame) >= 14) == (len(PLAIN), True)
