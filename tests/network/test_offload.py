"""Checksums and segments, compared with sums made digit by digit and with what goes in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvirtio.errors import PeerError
from pyvirtio.network.offload import checksum, completed, finished
from pyvirtio.network.packet import PLAIN, Flag, Gso, Offload, VnetHeader, checked

if TYPE_CHECKING:
    import random

ETHERNET = bytes.fromhex("020000000002 020000000001")
SOURCE, DESTINATION = {4: bytes([10, 0, 0, 1]), 6: bytes(15) + b"\1"}, {4: bytes([10, 0, 0, 2]), 6: bytes(15) + b"\2"}
ALL = Offload.CSUM | Offload.TSO4 | Offload.TSO6
FIN, PSH, ACK, CWR = 0x01, 0x08, 0x10, 0x80


def plain_sum(data: bytes) -> int:
    """Add up words with an end-around carry, one after the other."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo_header(version: int, length: int) -> bytes:
    return SOURCE[version] + DESTINATION[version] + b"\0\6" + length.to_bytes(2, "big")


def tcp_packet(version: int, data: bytes, *, size: int, flags: int = ACK, tag: bytes = b"", options: bytes = b""):
    """Return a packet of TCP that is to be cut every ``size`` bytes, its checksum begun as a driver does."""
    tcp = (
        b"\x13\x88\x00\x50\xff\xff\xff\xf0"  # the sequence number, which overflows on the way
        + bytes(4)
        + bytes([(20 + len(options)) // 4 << 4, flags])
        + b"\xff\xff\0\0\0\0"
        + options
    )
    if version == 4:
        head = bytearray(bytes.fromhex("4500 0000 fffe 4000 4006 0000") + SOURCE[4] + DESTINATION[4])
        head[2:4] = (20 + len(tcp) + len(data)).to_bytes(2, "big")
    else:
        head = bytearray(bytes.fromhex("60000000 0000 06 40") + SOURCE[6] + DESTINATION[6])
        head[4:6] = (len(tcp) + len(data)).to_bytes(2, "big")
    kind = b"\x08\x00" if version == 4 else b"\x86\xdd"
    before = ETHERNET + tag + kind + bytes(head)
    start = len(before)
    begun = plain_sum(pseudo_header(version, len(tcp) + len(data))).to_bytes(2, "big")
    frame = before + tcp[:16] + begun + tcp[18:] + data
    gso = Gso.TCPV4 if version == 4 else Gso.TCPV6
    return VnetHeader(Flag.NEEDS_CSUM, gso, 0, size, start, 16).pack(), frame


@given(st.binary(max_size=200))
def test_a_checksum_is_what_adding_word_by_word_gives(data: bytes) -> None:
    assert checksum(data) == 0xFFFF - plain_sum(data)


@pytest.mark.parametrize("data", [b"", bytes(9), b"\xff" * 8, b"\xff\xff\0\0", b"\x00\x01\xff\xfe"])
def test_a_checksum_of_zeros_and_ones(data: bytes) -> None:
    assert checksum(data) == 0xFFFF - plain_sum(data)


def test_a_completed_checksum_makes_the_sum_of_all_words_ones(rng: random.Random) -> None:
    for length in (60, 61, 1514):
        frame = rng.randbytes(length)
        done = completed(frame, 34, 16)
        assert done[:50] == frame[:50]
        assert done[52:] == frame[52:]
        assert int.from_bytes(done[50:52], "big") == (0xFFFF - plain_sum(frame[34:]) or 0xFFFF)


def test_a_checksum_of_zero_is_written_as_ones() -> None:
    """In UDP zero would say that there is none."""
    assert completed(bytes(12) + b"\xff\xff\0\0", 12, 2)[14:] == b"\xff\xff"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tag", [b"", b"\x81\x00\x00\x05"])
@pytest.mark.parametrize("options", [b"", b"\1\1\x08\x0a" + bytes(8)])
@pytest.mark.parametrize(("length", "size"), [(5000, 1448), (4344, 1448), (100, 1448), (1, 1), (0, 1000)])
def test_segments_hold_the_data_in_order_and_are_complete(
    version: int, tag: bytes, options: bytes, length: int, size: int, rng: random.Random
) -> None:
    data = rng.randbytes(length)
    flags = ACK | FIN | PSH | CWR
    packet = tcp_packet(version, data, size=size, flags=flags, tag=tag, options=options)
    done = finished(packet, Offload.NONE)
    assert [header for header, _frame in done] == [PLAIN] * max(1, -(-length // size))
    network = 14 + len(tag)
    tcp = network + (20 if version == 4 else 40)
    start = tcp + 20 + len(options)
    received = b""
    for number, (_header, frame) in enumerate(done):
        assert frame[:network] == packet[1][:network]
        if version == 4:
            assert int.from_bytes(frame[network + 2 : network + 4], "big") == len(frame) - network
            assert int.from_bytes(frame[network + 4 : network + 6], "big") == (0xFFFE + number) & 0xFFFF
            assert plain_sum(frame[network:tcp]) == 0xFFFF
        else:
            assert int.from_bytes(frame[network + 4 : network + 6], "big") == len(frame) - tcp
        assert int.from_bytes(frame[tcp + 4 : tcp + 8], "big") == (0xFFFFFFF0 + len(received)) & 0xFFFFFFFF
        assert plain_sum(pseudo_header(version, len(frame) - tcp) + frame[tcp:]) == 0xFFFF
        last, first = number == len(done) - 1, number == 0
        assert frame[tcp + 13] == ACK | (FIN | PSH if last else 0) | (CWR if first else 0)
        received += frame[start:]
    assert received == data


@pytest.mark.parametrize(
    ("takes", "as_it_is"), [(Offload.NONE, False), (Offload.CSUM, False), (Offload.TSO4, False), (ALL, True)]
)
def test_a_packet_stays_as_it_is_for_whoever_can_do_the_rest(takes: Offload, as_it_is: bool) -> None:
    packet = tcp_packet(4, bytes(3000), size=1000)
    assert (finished(packet, takes) == [packet]) is as_it_is


def test_what_is_complete_stays_as_it_is() -> None:
    packet = PLAIN, ETHERNET + b"\x08\x00"
    assert finished(packet, Offload.NONE) == [packet]


def test_a_checksum_that_was_looked_at_is_not_mentioned_to_who_did_not_ask() -> None:
    frame = ETHERNET + b"\x08\x00" + bytes(40)
    assert finished((VnetHeader(Flag.DATA_VALID).pack(), frame), Offload.NONE) == [(PLAIN, frame)]


NO_TCP = ETHERNET + b"\x08\x00" + bytes(100)


@pytest.mark.parametrize(
    "packet",
    [
        (VnetHeader(1, Gso.TCPV4, 0, 100, 34, 16).pack(), NO_TCP),  # no IPv4
        (VnetHeader(1, Gso.TCPV4, 0, 100, 20, 16).pack(), NO_TCP[:14] + b"\x45" + NO_TCP[15:]),  # inside of IPv4
        (VnetHeader(1, Gso.TCPV4, 0, 100, 34, 16).pack(), NO_TCP[:14] + b"\x45" + NO_TCP[15:]),  # TCP of 0 bytes
        (VnetHeader(1, Gso.TCPV4, 0, 100, 100, 2).pack(), NO_TCP[:14] + b"\x45" + NO_TCP[15:]),  # TCP behind the end
        (VnetHeader(1, Gso.TCPV6, 0, 100, 54, 16).pack(), NO_TCP[:14] + b"\x45" + NO_TCP[15:]),  # IPv4, not IPv6
        (VnetHeader(1, Gso.TCPV4, 0, 100, 34, 16).pack(), NO_TCP[:14] + b"\x45" + bytes(31) + b"\xf0" + bytes(20)),
        (VnetHeader(1, 0, 0, 0, 100, 100).pack(), NO_TCP),  # the checksum lies behind the end
    ],
)
def test_what_is_not_what_its_header_says_is_refused(packet: tuple[bytes, bytes]) -> None:
    with pytest.raises(PeerError):
        list(finished(packet, Offload.NONE))


BAD = {
    "no frame": (PLAIN, bytes(13)),
    "too long": (PLAIN, bytes(65590)),
    "a checksum behind the end": (VnetHeader(1, 0, 0, 0, 60, 3).pack(), bytes(64)),
    "a checksum far behind the end": (VnetHeader(1, 0, 0, 0, 0xFFFF, 0xFFFF).pack(), bytes(64)),
    "cut without a checksum": (VnetHeader(0, Gso.TCPV4, 0, 100, 34, 16).pack(), bytes(64)),
    "cut into nothing": (VnetHeader(1, Gso.TCPV4, 0, 0, 34, 16).pack(), bytes(64)),
    "cut into too many": (VnetHeader(1, Gso.TCPV4, 0, 1, 34, 16).pack(), bytes(9000)),
    "cut in an unknown way": (VnetHeader(1, 2, 0, 100, 34, 16).pack(), bytes(64)),
    "UDP cut": (VnetHeader(1, 3, 0, 100, 34, 6).pack(), bytes(64)),
    "ECN": (VnetHeader(1, 0x81, 0, 100, 34, 16).pack(), bytes(64)),
}


@pytest.mark.parametrize("name", BAD)
def test_a_header_that_cannot_be_followed_is_refused(name: str) -> None:
    with pytest.raises(PeerError):
        checked(*BAD[name], ALL)


@pytest.mark.parametrize(
    ("allowed", "header"),
    [
        (Offload.NONE, VnetHeader(1, 0, 0, 0, 34, 16)),
        (Offload.CSUM, VnetHeader(1, Gso.TCPV4, 0, 100, 34, 16)),
        (Offload.CSUM | Offload.TSO4, VnetHeader(1, Gso.TCPV6, 0, 100, 34, 16)),
    ],
)
def test_what_was_not_negotiated_is_refused(allowed: Offload, header: VnetHeader) -> None:
    with pytest.raises(PeerError):
        checked(header.pack(), bytes(64), allowed)
    assert checked(header.pack(), bytes(64), ALL)[0] == header.pack()


def test_of_a_header_only_what_is_needed_is_kept() -> None:
    flags = 0xFE & ~Flag.NEEDS_CSUM
    assert checked(VnetHeader(flags, 0, 7, 8, 9, 10).pack(), bytes(64), ALL)[0] == PLAIN
    assert checked(VnetHeader(0xFF, 0, 7, 8, 9, 10).pack(), bytes(64), ALL)[0] == VnetHeader(1, 0, 0, 0, 9, 10).pack()
