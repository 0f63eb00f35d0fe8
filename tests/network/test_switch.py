"""A switch learns where addresses are, and forgets; ports hold a bounded number of packets."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from pyvirtio.network import PLAIN, Offload, Switch
from pyvirtio.network import inbox as inbox_module
from pyvirtio.network.inbox import Inbox
from pyvirtio.network.switch import MOST_ADDRESSES

if TYPE_CHECKING:
    from pyvirtio.network.switch import SwitchPort

ALL = b"\xff" * 6
GROUP = bytes.fromhex("333300000001")


def card(number: int) -> bytes:
    return b"\2" + number.to_bytes(5, "big")


def frame(to: bytes, origin: bytes, data: bytes = b"") -> tuple[bytes, bytes]:
    return PLAIN, to + origin + b"\x08\x00" + data


@pytest.fixture
def ports() -> list[SwitchPort]:
    switch = Switch()
    ports = [switch.port() for _ in range(3)]
    for port in ports:
        port.plug()
    return ports


def counts(ports: list[SwitchPort]) -> list[int]:
    found = [port.waiting for port in ports]
    for port in ports:
        port.plug()
    return found


def test_what_is_for_everybody_or_for_somebody_unknown_goes_to_all_others(ports: list[SwitchPort]) -> None:
    for to in (ALL, GROUP, card(9)):
        ports[0].send(frame(to, card(1)))
        assert counts(ports) == [0, 1, 1]


def test_what_is_for_somebody_who_was_seen_goes_there_only(ports: list[SwitchPort]) -> None:
    ports[1].send(frame(ALL, card(2)))
    counts(ports)
    ports[0].send(frame(card(2), card(1)))
    assert counts(ports) == [0, 1, 0]
    ports[2].send(frame(card(1), card(3)))
    assert counts(ports) == [1, 0, 0]


def test_nobody_hears_himself(ports: list[SwitchPort]) -> None:
    ports[0].send(frame(ALL, card(1)))
    counts(ports)
    ports[0].send(frame(card(1), card(4)))
    assert counts(ports) == [0, 0, 0]


def test_whoever_moves_is_found_at_the_new_port(ports: list[SwitchPort]) -> None:
    for place in (0, 1):
        ports[place].send(frame(ALL, card(1)))
        counts(ports)
        ports[2].send(frame(card(1), card(3)))
        assert counts(ports) == [int(place == 0), int(place == 1), 0]


def test_a_group_is_nobody_s_address(ports: list[SwitchPort]) -> None:
    ports[0].send(frame(ALL, GROUP))
    counts(ports)
    ports[1].send(frame(GROUP, card(1)))
    assert counts(ports) == [1, 0, 1]


def test_a_port_that_is_closed_is_forgotten_and_gets_nothing(ports: list[SwitchPort]) -> None:
    ports[1].send(frame(ALL, card(2)))
    counts(ports)
    ports[1].close()
    ports[0].send(frame(card(2), card(1)))
    assert [port.waiting for port in ports] == [0, 0, 1]


def test_the_addresses_that_are_remembered_are_bounded(ports: list[SwitchPort]) -> None:
    ports[1].send(frame(ALL, card(0)))
    for number in range(1, 2 * MOST_ADDRESSES):
        ports[0].send(frame(card(0xFFFF), card(number)))
        counts(ports)
    assert len(ports[0]._switch._seen) == MOST_ADDRESSES
    ports[2].send(frame(card(0), card(0xFFFFFF)))  # long forgotten, so it goes everywhere
    assert counts(ports) == [1, 1, 0]


def test_an_inbox_that_is_full_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "MOST_BYTES", 1000)

    async def main() -> None:
        inbox = Inbox()
        taken = sum(inbox.put(frame(ALL, card(1), bytes(86))) for _ in range(100))
        assert taken == 11
        assert len(await inbox.take()) == 11
        assert inbox.put(frame(ALL, card(1)))
        inbox.clear()
        assert inbox.put(frame(ALL, card(1)))
        assert len(await inbox.take()) == 1

    asyncio.run(main())


def test_an_inbox_hands_packets_over_from_other_threads_in_order() -> None:
    number, threads = 10_000, 3

    async def main() -> None:
        inbox = Inbox()

        def put(which: int) -> None:
            for one in range(number):
                assert inbox.put((bytes([which]), one.to_bytes(4, "big")))

        started = [threading.Thread(target=put, args=(which,)) for which in range(threads)]
        for thread in started:
            thread.start()
        received: list[list[int]] = [[] for _ in started]
        while sum(map(len, received)) < number * threads:
            for header, data in await inbox.take():
                received[header[0]].append(int.from_bytes(data, "big"))
        for thread in started:
            thread.join()
        assert received == [list(range(number))] * threads
        assert inbox._bytes_in == inbox._bytes_out == 4 * number * threads

    asyncio.run(main())


def test_a_switch_is_used_changed_and_left_in_many_threads() -> None:
    switch = Switch()

    def come_and_go(which: int) -> None:
        for number in range(300):
            port = switch.port()
            port.plug()
            for one in range(10):
                port.send(frame(ALL, card(which * 1000 + (number * 10 + one) % 1000)))
            switch.unplug(port)

    threads = [threading.Thread(target=come_and_go, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert switch._ports == ()
    assert not switch._seen


def test_a_packet_for_a_loop_that_has_ended_is_no_error() -> None:
    switch = Switch()
    one, two = switch.port(), switch.port()

    async def wait() -> None:
        await two.open(Offload.NONE)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(two.receive(), 0.01)

    asyncio.run(wait())
    thread = threading.Thread(target=one.send, args=(frame(ALL, card(1)),))
    thread.start()
    thread.join()
    assert two.waiting == 1
