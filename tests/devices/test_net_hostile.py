"""What a driver may not send to a network card: each is refused alone, in one process and over the socket."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio.devices.net import Header, Net, NetFeature
from pyvirtio.devices.net_commands import ERR, OK, ControlClass, PairsSet, RxCommand
from pyvirtio.network import FunctionEnd, Switch
from pyvirtio.network.ethernet import MacTable, flow_of
from pyvirtio.network.packet import LONGEST, Flag, Gso
from pyvirtio.spec import split
from pyvirtio.testing import Descriptor
from pyvirtio.testing.frontend import MODERN, RawFrontend, SharedMemory
from pyvirtio.testing.served import served
from tests.support.runner import Scene, in_loop, rounds, until
from tests.support.vhost import worker_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyvirtio.network import End
    from pyvirtio.testing.frontend import RawQueue
    from pyvirtio.testing.served import ServerProcess

RECEIVE, TRANSMIT, CONTROL = range(3)
F = NetFeature
FEATURES = MODERN | F.CSUM | F.HOST_TSO4 | F.MRG_RXBUF | F.CTRL_VQ | F.CTRL_RX | F.CTRL_MAC_ADDR
PAIRS = 2
FRAME = b"\2" * 6 + b"\6" * 54
GOOD = Header().pack() + FRAME
CARD, GROUP = b"\2" * 6, b"\3" * 6
LARGE = 16 << 20
MANY = 128
"""So many buffers of that size are 2 GiB."""
LIMIT = 32 << 20
"""The bytes that may be allocated for one request, whatever it claims."""


def left(frame: int = 64, *, flags: int = Flag.NEEDS_CSUM, **fields: int) -> bytes:
    """Return a frame with something left to the card."""
    return Header(flags=flags, **fields).pack() + FRAME[:12] + b"\2" * (frame - 12)


def command(class_: int, number: int, data: bytes = b"") -> bytes:
    return bytes([class_, number]) + data


def table(*addresses: bytes, entries: int | None = None) -> bytes:
    return MacTable(len(addresses) if entries is None else entries).pack() + b"".join(addresses)


PACKETS = {
    "half a header": b"\0" * 5,
    "a header and nothing else": Header().pack(),
    "less than an Ethernet header": GOOD[: 12 + 13],
    "more than the longest": Header().pack() + bytes(LONGEST + 1),
    "a checksum behind the end": left(csum_start=60, csum_offset=3),
    "a checksum far behind the end": left(csum_start=0xFFFF, csum_offset=0xFFFF),
    "cut without a checksum": left(flags=0, gso_type=Gso.TCPV4, gso_size=100, csum_start=34, csum_offset=16),
    "cut into pieces of nothing": left(gso_type=Gso.TCPV4, gso_size=0, csum_start=34, csum_offset=16),
    "cut into pieces of one byte": left(9000, gso_type=Gso.TCPV4, gso_size=1, csum_start=34, csum_offset=16),
    "cut what is no TCP": left(2000, gso_type=Gso.TCPV4, gso_size=100, csum_start=34, csum_offset=16),
    "cut as was not negotiated": left(2000, gso_type=Gso.TCPV6, gso_size=100, csum_start=54, csum_offset=16),
    "cut UDP": left(2000, gso_type=3, gso_size=100, csum_start=34, csum_offset=6),
    "cut with ECN": left(2000, gso_type=0x80 | Gso.TCPV4, gso_size=100, csum_start=34, csum_offset=16),
    "cut in no known way": left(2000, gso_type=0x7F, gso_size=100, csum_start=34, csum_offset=16),
}

MAC, RX, ANNOUNCE, MQ = ControlClass.MAC, ControlClass.RX, ControlClass.ANNOUNCE, ControlClass.MQ
COMMANDS = {
    "half a header": b"\0",
    "an unknown class": command(99, 0, b"\1"),
    "an unknown command": command(RX, 9, b"\1"),
    "a command that was not negotiated": command(RX, RxCommand.NOBCAST, b"\1"),
    "an announcement that was not asked for": command(ANNOUNCE, 0),
    "pairs that were not negotiated": command(MQ, 0, PairsSet(1).pack()),
    "a mode without a value": command(RX, RxCommand.PROMISC),
    "a mode with two": command(RX, RxCommand.PROMISC, b"\1\1"),
    "a mode between on and off": command(RX, RxCommand.PROMISC, b"\2"),
    "an address too short": command(MAC, 1, b"\2" * 5),
    "an address too long": command(MAC, 1, b"\2" * 7),
    "the address of a group": command(MAC, 1, GROUP),
    "one table": command(MAC, 0, table(CARD)),
    "half a table": command(MAC, 0, table(CARD) + b"\0\0"),
    "a table that is longer than it is": command(MAC, 0, table() + table(GROUP, entries=2)),
    "a table of four thousand million": command(MAC, 0, table(CARD, entries=0xFFFFFFFF) + table()),
    "something behind the tables": command(MAC, 0, table() + table() + b"\0"),
    "a group among the cards": command(MAC, 0, table(GROUP) + table()),
    "a card among the groups": command(MAC, 0, table() + table(CARD)),
    "a command of 70 000 bytes": command(MAC, 0, table(*[CARD] * 11_000) + table()),
}
WITH_PAIRS = {
    "no pairs": command(MQ, 0, PairsSet(0).pack()),
    "more pairs than there are": command(MQ, 0, PairsSet(PAIRS + 1).pack()),
    "far more pairs": command(MQ, 0, PairsSet(0xFFFF).pack()),
    "half a number of pairs": command(MQ, 0, b"\1"),
    "a number of pairs and more": command(MQ, 0, PairsSet(1).pack() + b"\0"),
}


# In one process.


class Card(Scene[Net]):
    """A card whose frames end in a list, and a raw driver of its queues."""

    def __init__(self, features: int = FEATURES, *, end: End | None = None, running: tuple[int, ...] = ()) -> None:
        self.seen: list[bytes] = []
        super().__init__(Net(end or FunctionEnd(self.seen.append), pairs=PAIRS), size=128, features=features)
        self.control = 2 * PAIRS if features & F.MQ else CONTROL
        for index in running or (RECEIVE, TRANSMIT, self.control):
            self.start(index)

    async def ask(self, index: int, data: bytes, room: int = 0) -> bytes:
        self.submit(data, room=room, index=index)
        [answer] = (await self.back(1, index)).values()
        return answer

    async def works(self) -> None:
        """Check that a frame and a command go through, that nothing else did, and that nothing else has changed."""
        assert not self.seen
        assert await self.ask(TRANSMIT, GOOD) == b""
        assert self.seen == [FRAME]
        self.seen.clear()
        assert self.device.config.mac == bytes(6)
        assert self.device.filter.promiscuous
        assert not self.device.filter.addresses
        assert self.device._pairs == 1
        assert await self.ask(self.control, command(RX, RxCommand.ALLMULTI, b"\1"), room=1) == bytes([OK])
        assert set(self.events) <= {"request-failed", "buffer-refused"}


@pytest.mark.parametrize("name", PACKETS)
def test_a_packet_is_refused(name: str, engine: str) -> None:
    async def main() -> None:
        async with Card() as card:
            assert await card.ask(TRANSMIT, PACKETS[name]) == b""
            assert card.events == ["request-failed"]
            await card.works()

    in_loop(main)


def test_what_is_left_to_a_card_that_does_not_do_it_is_refused() -> None:
    async def main() -> None:
        async with Card(FEATURES & ~(F.CSUM | F.HOST_TSO4)) as card:
            assert await card.ask(TRANSMIT, left(csum_start=14, csum_offset=2)) == b""
            assert card.events == ["request-failed"]
            await card.works()

    in_loop(main)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_refused(name: str, engine: str) -> None:
    async def main() -> None:
        async with Card() as card:
            assert await card.ask(CONTROL, COMMANDS[name], room=1) == bytes([ERR])
            assert card.events == ["request-failed"]
            await card.works()

    in_loop(main)


@pytest.mark.parametrize("name", WITH_PAIRS)
def test_a_number_of_pairs_is_refused(name: str) -> None:
    async def main() -> None:
        async with Card(FEATURES | F.MQ) as card:
            assert await card.ask(card.control, WITH_PAIRS[name], room=1) == bytes([ERR])
            assert card.events == ["request-failed"]
            await card.works()

    in_loop(main)


def test_a_command_without_room_for_its_answer_is_returned_empty() -> None:
    async def main() -> None:
        async with Card() as card:
            assert await card.ask(CONTROL, command(99, 0)) == b""
            assert await card.ask(CONTROL, command(RX, RxCommand.ALLMULTI, b"\1")) == b""
            await card.works()

    in_loop(main)


def test_nothing_at_all_is_refused() -> None:
    async def main() -> None:
        async with Card() as card:
            assert await card.ask(TRANSMIT, b"", room=64) == b""
            assert await card.ask(card.control, b"", room=1) == bytes([ERR])
            await card.works()

    in_loop(main)


@pytest.mark.parametrize("flags", [0, split.F_WRITE])
@pytest.mark.parametrize("index", [RECEIVE, TRANSMIT, CONTROL])
def test_a_claim_of_gigabytes_allocates_nothing(index: int, flags: int) -> None:
    """Buffers that overlap are allowed, so a memory of a megabyte is enough for it."""

    async def main() -> None:
        async with Card() as card:
            raw = card.raws[index]
            most = card.memory.regions[0].end
            head = raw.chain([Descriptor(0, most, flags)] * 127)
            raw.set_avail_ring(raw.avail_idx, head)
            tracemalloc.start()
            raw.avail_idx += 1
            card.kick(index)
            if (index, flags) == (RECEIVE, split.F_WRITE):
                await rounds()  # that is an honest buffer, if a large one; only a frame's bytes are written there
            else:
                if index == RECEIVE:
                    card.device.end.inject(FRAME)  # type: ignore[attr-defined]  # it is a function's
                await until(lambda: raw.used_idx == raw.avail_idx)
                [element] = raw.reap()
                assert element.len == (1 if index == CONTROL and flags else 0)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < LIMIT
            card.seen.clear()
            if index != RECEIVE and not flags:
                await card.works()

    in_loop(main)


@pytest.mark.parametrize("room", [1, 11])
def test_buffers_that_do_not_hold_a_header_are_returned_empty(room: int) -> None:
    async def main() -> None:
        async with Card() as card:
            raw = card.raws[RECEIVE]
            heads = [raw.request(room=room) for _ in range(10)] + [raw.request(room=2000)]
            raw.make_available(*heads)
            card.kick(RECEIVE)
            card.device.end.inject(FRAME)  # type: ignore[attr-defined]  # it is a function's
            answers = await card.back(11, RECEIVE)
            assert list(answers.values()) == [b""] * 10 + [Header(num_buffers=1).pack() + FRAME]
            await card.works()

    in_loop(main)


def test_a_frame_that_all_buffers_together_do_not_hold_is_lost_and_the_next_is_not() -> None:
    async def main() -> None:
        async with Card() as card:
            raw = card.raws[RECEIVE]
            raw.make_available(*(raw.request(room=12) for _ in range(128)))
            card.kick(RECEIVE)
            for frame in (bytes(9000), FRAME):
                card.device.end.inject(frame)  # type: ignore[attr-defined]  # it is a function's
            answers = await card.back(6, RECEIVE)
            assert b"".join(answers.values()) == Header(num_buffers=6).pack() + FRAME
            assert card.device.end.dropped == 1
            await card.works()

    in_loop(main)


def test_what_one_guest_claims_does_no_harm_to_another() -> None:
    """On a switch a packet goes as it is to whoever may complete it; it has to be what it claims to be by then."""

    async def main() -> None:
        switch = Switch()
        async with Card(end=switch.port()) as one, Card(FEATURES | F.GUEST_CSUM, end=switch.port()) as two:
            await rounds()
            heads = two.submit(*[b""] * 16, room=2000, index=RECEIVE)
            for data in (PACKETS["cut what is no TCP"], left(csum_start=60, csum_offset=2), GOOD):
                assert await one.ask(TRANSMIT, data) == b""
            answers = await two.back(2, RECEIVE)
            assert list(answers) == heads[:2]
            completed, good = answers.values()
            assert completed == Header(flags=Flag.NEEDS_CSUM, csum_start=60, csum_offset=2, num_buffers=1).pack() + (
                FRAME[:12] + b"\2" * 52
            )
            assert good == Header(num_buffers=1).pack() + FRAME
            assert two.device.end.dropped == 1
            assert two.events == []

    in_loop(main)


def test_a_frame_for_a_queue_that_stops_takes_another() -> None:
    """As under QEMU, which has the control queue and stops queues when the driver wants fewer."""

    async def main() -> None:
        features = FEATURES | F.MQ
        async with Card(features, running=(0, 1, 2, 3)) as card:
            flow = flow_of(FRAME) % 2
            card.device.end.inject(FRAME)  # type: ignore[attr-defined]  # it is a function's
            await rounds()
            assert card.stop(2 * flow).done
            other = 2 * (1 - flow)
            card.submit(b"", room=2000, index=other)
            assert list((await card.back(1, other)).values()) == [Header(num_buffers=1).pack() + FRAME]

    in_loop(main)


# Over the socket.

ECHO = "def echo(frame):\n    return frame\n"


@contextlib.contextmanager
def card_at(server: ServerProcess, features: int = FEATURES) -> Iterator[list[RawQueue]]:
    with RawFrontend(server.path) as frontend, SharedMemory(LARGE) as memory:
        frontend.negotiate(features)
        frontend.share(memory)
        queues = [frontend.queue(memory, index, 256) for index in range(3)]
        for queue in queues:
            queue.start()
        yield queues


def works(queues: list[RawQueue]) -> None:
    receive, transmit, control = queues
    receive.submit(b"", room=2000)
    receive.kick()
    assert transmit.ask(GOOD, room=0) == [b""]
    assert receive.answers(1) == [Header(num_buffers=1).pack() + FRAME]
    assert control.ask(command(RX, RxCommand.ALLMULTI, b"\1"), room=1) == [bytes([OK])]


def private_bytes(pid: int) -> int:
    """Return the memory that a process has for itself, in bytes, at its peak as far as the kernel keeps it."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        fields: dict[str, Any] = dict(line.split(":", 1) for line in status)
    return int(fields["RssAnon"].split()[0]) * 1024


def test_over_the_socket_each_is_refused_alone_and_memory_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(ECHO)
    with served(f"net,function={tmp_path}/echo.py:echo,pairs={PAIRS}") as server:
        with card_at(server) as queues:
            works(queues)
            worker = worker_of(server)
            before = private_bytes(worker)
            for data in PACKETS.values():
                assert queues[TRANSMIT].ask(data, room=0) == [b""]
                works(queues)
            for data in COMMANDS.values():
                assert queues[CONTROL].ask(data, room=1) == [bytes([ERR])]
                works(queues)
            for index in (TRANSMIT, CONTROL):
                queue = queues[index]
                everything = (queue.memory.guest, LARGE)
                base = queue.memory.arena.allocate(64)
                queue.ring.add([everything] * MANY, [], (queue._submitted, base, base, 64))
                queue._submitted += 1
                queue.ring.publish()
                queue.kick()
                assert queue.answers(1) == [b""]
                works(queues)
            assert private_bytes(worker) < before + LIMIT
            assert worker_of(server) == worker
        assert server.lines("[request-failed]") >= len(PACKETS)
        assert server.lines("[worker-died]") == 0
