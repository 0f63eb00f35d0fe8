"""The network card and its driver in one process: what it says of itself, frames, filters, commands, the link."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio import open_driver
from pyvirtio.device.options import construct
from pyvirtio.devices import net, net_commands
from pyvirtio.devices.net import Config, Header, LinkStatus, Net, NetFeature
from pyvirtio.devices.net_commands import (
    MAC_ADDR_SET,
    MAC_TABLE_SET,
    MQ_VQ_PAIRS_SET,
    Ack,
    ControlClass,
    ControlHeader,
    PairsSet,
    RxCommand,
)
from pyvirtio.drivers.net import NetDriver
from pyvirtio.errors import LocalError, NoAnswer, UsageError
from pyvirtio.network import PLAIN, DatagramEnd, FunctionEnd, Mac, Offload, StreamEnd, Switch, TapEnd
from pyvirtio.network.ethernet import BROADCAST, MacTable, flow_of
from pyvirtio.network.packet import Flag, Gso, VnetHeader
from pyvirtio.spec.features import RING_FEATURES, Feature

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.uapi import Uapi

MAC = Mac("52:54:00:12:34:56")
OTHER = bytes.fromhex("020000000001")
GROUP = bytes.fromhex("333300000001")
F = NetFeature
ALL = F(~0) & net.ALWAYS | F.MAC | F.MTU | F.MQ


class Cable(FunctionEnd):
    """Keeps what comes from the guest, and answers nothing."""

    def __init__(self) -> None:
        super().__init__(lambda _frame: None)
        self.sent: list[tuple[bytes, bytes]] = []

    def send(self, packet: tuple[bytes, bytes]) -> None:
        self.sent.append(packet)


def frame_to(address: bytes, data: bytes = b"data", kind: bytes = b"\x08\x00") -> bytes:
    return address + OTHER + kind + data


@pytest.fixture
def cable() -> Cable:
    return Cable()


@contextlib.contextmanager
def card(cable: Cable) -> Iterator[NetDriver]:
    """Open the driver on a card with an address."""
    with open_driver(NetDriver, Net(cable, mac=MAC)) as driver:
        yield driver


@pytest.mark.guest
def test_it_speaks_as_linux_does(uapi: Uapi) -> None:
    assert not uapi.differences(
        "linux/virtio_net.h",
        structs={
            Config: "virtio_net_config",
            Header: "virtio_net_hdr_v1",
            VnetHeader: "virtio_net_hdr",
            ControlHeader: "virtio_net_ctrl_hdr",
            MacTable: "virtio_net_ctrl_mac",
            PairsSet: "virtio_net_ctrl_mq",
        },
        bits={"VIRTIO_NET_F_": NetFeature},
        numbers={
            "VIRTIO_NET_S_": LinkStatus,
            "VIRTIO_NET_HDR_F_": Flag,
            "VIRTIO_NET_HDR_GSO_": Gso,
            "VIRTIO_NET_CTRL_": ControlClass,
            "VIRTIO_NET_CTRL_RX_": RxCommand,
            "VIRTIO_NET_CTRL_MAC_TABLE_SET": MAC_TABLE_SET,
            "VIRTIO_NET_CTRL_MAC_ADDR_SET": MAC_ADDR_SET,
            "VIRTIO_NET_CTRL_ANNOUNCE_ACK": net_commands.ANNOUNCE_ACK,
            "VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET": MQ_VQ_PAIRS_SET,
            "VIRTIO_NET_OK": net_commands.OK,
            "VIRTIO_NET_ERR": net_commands.ERR,
            "sizeof(virtio_net_ctrl_ack)": Ack.nbytes,
        },
        renamed={"command": "cmd"},
        beginnings={Config},
    )


# What it says of itself.


def test_what_it_offers_follows_its_options() -> None:
    plain, full = Net(Cable()), Net(Cable(), mac=MAC, mtu=9000, pairs=3)
    assert (plain.features, full.features) == (net.ALWAYS, net.ALWAYS | F.MAC | F.MTU | F.MQ)
    assert full.config == Config(bytes(MAC), LinkStatus.LINK_UP, 3, 9000)
    assert [queue.name for queue in full.each_queue()] == ["receive", "transmit"] * 3 + ["control"]


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"stream": "/tmp/s", "listen": "on"}, StreamEnd),
        ({"dgram": "/tmp/a", "remote": "/tmp/b", "mac": "02:00:00:00:00:01", "pairs": "2"}, DatagramEnd),
    ],
)
def test_its_cable_is_one_of_its_options(options: dict[str, str], kind: type) -> None:
    assert type(construct(Net, options).end) is kind


def test_a_function_is_named_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "answer.py").write_text("def echo(frame):\n    return frame[6:12] + frame[:6] + frame[12:]\n")
    with open_driver(NetDriver, construct(Net, {"function": f"{tmp_path}/answer.py:echo"})) as driver:
        frames = driver.frames(timeout=10)
        driver.send(frame_to(MAC))
        assert next(frames) == OTHER + MAC + b"\x08\x00data"
    for name in (f"{tmp_path}/answer.py:nothing", f"{tmp_path}/none.py:echo", "echo"):
        with pytest.raises(UsageError):
            construct(Net, {"function": name})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dgram": "/tmp/a"},
        {"remote": "/tmp/a"},
        {"stream": "/tmp/a", "remote": "/tmp/b"},
        {"stream": "/tmp/a", "function": "a.py:b", "dgram": "/tmp/a", "remote": "/tmp/b"},
        {"stream": "/tmp/s", "mac": "ff:ff:ff:ff:ff:ff"},
        {"stream": "/tmp/s", "mac": "00:00:00:00:00:00"},
        {"stream": "/tmp/s", "mac": "52:54:00:12:34"},
        {"stream": "/tmp/s", "mtu": "67"},
        {"stream": "/tmp/s", "mtu": "65536"},
        {"stream": "/tmp/s", "pairs": "0"},
        {"stream": "/tmp/s", "pairs": "128"},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(LocalError):
        construct(Net, options)


def test_what_is_kept_in_a_class_is_not_shared_by_instances() -> None:
    one, two = Net(Cable()), Net(Cable())
    one.filter.promiscuous = False
    assert two.filter.promiscuous
    assert one.ports(Net.receive) != two.ports(Net.receive)


# Frames.


def test_frames_arrive_as_they_were_sent(cable: Cable, rng: random.Random) -> None:
    with card(cable) as driver:
        sent = [rng.randbytes(length) for length in (14, 60, 1514)]
        for frame in sent:
            driver.send(frame)
        assert cable.sent == [(PLAIN, frame) for frame in sent]
        packets = driver.packets(timeout=10)
        for frame in sent:
            cable.inject(frame)
            assert next(packets) == (Header(num_buffers=1), frame)


def test_a_large_frame_lies_in_several_buffers(cable: Cable, rng: random.Random) -> None:
    with card(cable) as driver:
        frame = frame_to(MAC, rng.randbytes(9000))
        packets = driver.packets(timeout=10, largest=1000)
        cable.inject(frame)
        assert next(packets) == (Header(num_buffers=9), frame)


def test_a_frame_that_the_driver_has_no_room_for_is_lost_and_the_next_is_not(cable: Cable) -> None:
    device = Net(cable)
    with open_driver(NetDriver, device, features=0) as driver:
        packets = driver.packets(timeout=10, largest=100)
        cable.inject(bytes(101))
        cable.inject(bytes(100))
        assert next(packets) == (Header(num_buffers=1), bytes(100))
    assert cable.dropped == 1


def test_a_legacy_driver_has_a_shorter_header(cable: Cable) -> None:
    for features, length in ((0, 10), (F.MRG_RXBUF, 12), (Feature.VERSION_1, 12)):
        device = Net(cable)
        device.negotiate(features)
        assert device._header == length


def test_an_mtu_holds_in_both_directions(cable: Cable) -> None:
    with open_driver(NetDriver, Net(cable, mtu=1500)) as driver:
        assert driver.card.mtu == 1500
        packets = driver.packets(timeout=10, largest=2000)
        tagged = bytes(12) + b"\x81\x00"
        frames = [bytes(1514), bytes(1515), tagged + bytes(1504), tagged + bytes(1505)]
        for frame in frames:
            driver.send(frame)
            cable.inject(frame)
        cable.inject(bytes(14))
        assert [next(packets)[1] for _ in range(3)] == [frames[0], frames[2], bytes(14)]
        assert [frame for _header, frame in cable.sent] == [frames[0], frames[2]]
        assert cable.dropped == 2


@pytest.mark.parametrize("features", [F.CSUM, F.CSUM | F.GUEST_CSUM])
def test_a_checksum_is_left_to_whoever_takes_it(features: int) -> None:
    """Between two guests of a switch: completed, or as it is."""
    switch = Switch()
    with (
        open_driver(NetDriver, Net(switch.port()), features=F.CSUM) as one,
        open_driver(NetDriver, Net(switch.port()), features=features) as two,
    ):
        packets = two.packets(timeout=10)
        with pytest.raises(NoAnswer):
            next(two.packets(timeout=0.01))  # its loop runs, and so it is plugged in
        one.send(frame_to(BROADCAST, bytes(40)), header=Header(Flag.NEEDS_CSUM, csum_start=14, csum_offset=2))
        header, frame = next(packets)
        if features & F.GUEST_CSUM:
            assert header == Header(Flag.NEEDS_CSUM, csum_start=14, csum_offset=2, num_buffers=1)
            assert frame[14:] == bytes(40)
        else:
            assert header == Header(num_buffers=1)
            assert frame[14:] == b"\0\0\xff\xff" + bytes(36)


# What the driver wants to receive.

FILTERED = {
    "everything at first": ([], {MAC, OTHER, GROUP, BROADCAST}),
    "its own": ([(RxCommand.PROMISC, False)], {MAC, BROADCAST}),
    "groups": ([(RxCommand.PROMISC, False), (RxCommand.ALLMULTI, True)], {MAC, GROUP, BROADCAST}),
    "cards": ([(RxCommand.PROMISC, False), (RxCommand.ALLUNI, True)], {MAC, OTHER, BROADCAST}),
    "no groups": (
        [(RxCommand.PROMISC, False), (RxCommand.ALLMULTI, True), (RxCommand.NOMULTI, True)],
        {MAC, BROADCAST},
    ),
    "no cards": ([(RxCommand.PROMISC, False), (RxCommand.ALLUNI, True), (RxCommand.NOUNI, True)], {BROADCAST}),
    "not all": ([(RxCommand.PROMISC, False), (RxCommand.ALLMULTI, True), (RxCommand.NOBCAST, True)], {MAC, GROUP}),
    "everything again": ([(RxCommand.NOUNI, True), (RxCommand.PROMISC, True)], {MAC, OTHER, GROUP, BROADCAST}),
}


@pytest.mark.parametrize("name", FILTERED)
def test_a_driver_says_what_it_wants_to_receive(name: str, cable: Cable) -> None:
    with card(cable) as driver:
        modes, expected = FILTERED[name]
        for mode, on in modes:
            assert driver.set_receive_mode(mode, on=on)
        frames = driver.frames(timeout=10)
        assert passed(cable, driver, frames) == expected


def passed(cable: Cable, driver: NetDriver, frames: Iterator[bytes]) -> set[bytes]:
    """Return which addresses come through; the last frame, which always does, says that all were seen."""
    for address in (MAC, OTHER, GROUP, BROADCAST):
        cable.inject(frame_to(address))
    driver.set_receive_mode(RxCommand.ALLMULTI, on=True)  # its answer comes after those frames were looked at
    return seen_until_end(cable, driver, frames)


def seen_until_end(cable: Cable, driver: NetDriver, frames: Iterator[bytes]) -> set[bytes]:
    found: set[bytes] = set()
    driver.set_receive_mode(RxCommand.PROMISC, on=True)
    cable.inject(frame_to(OTHER, b"the end"))
    for frame in frames:
        if frame.endswith(b"the end"):
            return found
        found.add(frame[:6])
    raise AssertionError


def test_a_table_of_addresses_lets_more_through(cable: Cable) -> None:
    with card(cable) as driver:
        assert driver.set_receive_mode(RxCommand.PROMISC, on=False)
        assert driver.set_addresses([OTHER], [GROUP])
        frames = driver.frames(timeout=10)
        assert passed(cable, driver, frames) == {MAC, OTHER, GROUP, BROADCAST}
        assert driver.set_receive_mode(RxCommand.ALLMULTI, on=False)
        assert driver.set_receive_mode(RxCommand.PROMISC, on=False)
        assert driver.set_addresses()
        assert passed(cable, driver, frames) == {MAC, BROADCAST}


def test_another_address_is_the_card_s_from_then_on(cable: Cable) -> None:
    with card(cable) as driver:
        assert driver.card.mac == MAC
        assert driver.set_mac(OTHER)
        assert driver.card.mac == OTHER
        assert driver.set_receive_mode(RxCommand.PROMISC, on=False)
        assert passed(cable, driver, driver.frames(timeout=10)) == {OTHER, BROADCAST}


# The link.


def test_while_the_link_is_down_frames_are_lost(cable: Cable) -> None:
    device = Net(cable)
    with open_driver(NetDriver, device) as driver:
        frames = driver.frames(timeout=10)
        assert driver.link_up
        device.set_link(False)
        assert not driver.link_up
        driver.send(frame_to(OTHER))
        cable.inject(frame_to(MAC, b"lost"))
        with pytest.raises(NoAnswer):
            next(driver.frames(timeout=0.01))
        device.set_link(True)
        cable.inject(frame_to(MAC, b"seen"))
        frames = driver.frames(timeout=10)
        assert next(frames).endswith(b"seen")
        assert cable.sent == []


def test_a_driver_is_asked_to_announce_itself_and_says_that_it_did(cable: Cable) -> None:
    device = Net(cable)
    with open_driver(NetDriver, device) as driver:
        assert device.announce()
        assert driver.card.status == LinkStatus.LINK_UP | LinkStatus.ANNOUNCE
        assert driver.acknowledge_announcement()
        assert driver.card.status == LinkStatus.LINK_UP
    other = Net(Cable())
    with open_driver(NetDriver, other, features=F.CTRL_VQ):
        assert not other.announce()


# Several pairs of queues.


def test_frames_of_a_flow_come_by_one_queue_of_those_that_may_be_used(cable: Cable, rng: random.Random) -> None:
    flows = [frame_to(MAC, rng.randbytes(40)) for _ in range(30)]
    with open_driver(NetDriver, Net(cable, pairs=3), features=NetDriver.features | F.MQ) as driver:
        received = [driver.frames(pair=pair, timeout=10) for pair in range(3)]
        for pairs in (1, 2, 3):
            assert driver.set_pairs(pairs)
            for frame in flows:
                cable.inject(frame)
                assert next(received[flow_of(frame) % pairs]) == frame
        for pair in range(3):
            driver.send(flows[pair], pair=pair)
        assert [frame for _header, frame in cable.sent] == flows[:3]
        with pytest.raises(LocalError, match="pair 3"):
            driver.send(flows[0], pair=3)


def test_where_qemu_has_the_control_queue_all_that_run_are_used(cable: Cable) -> None:
    device = Net(cable, pairs=3)
    device.negotiate(RING_FEATURES | device.features)
    ports = device.ports(Net.receive)
    for running, expected in (({0, 1}, [0]), ({0, 1, 4, 5}, [0, 2]), ({0, 1, 6}, [0]), (set(), [0])):
        device.running = running
        assert device._receivers() == [ports[pair] for pair in expected]


# Functions.


def test_a_function_that_fails_loses_that_frame_only() -> None:
    calls: list[Any] = []

    def fail_first(frame: bytearray) -> list[bytes] | None:
        calls.append(frame)
        if len(calls) == 1:
            raise ValueError("the first one")
        return [bytes(frame), b"\2" * 60]

    with open_driver(NetDriver, Net(FunctionEnd(fail_first, kind=bytearray))) as driver:
        frames = driver.frames(timeout=10)
        for _ in range(2):
            driver.send(frame_to(MAC))
        assert [next(frames), next(frames)] == [frame_to(MAC), b"\2" * 60]
        assert {type(call) for call in calls} == {bytearray}


def test_scapy_s_packets_may_be_taken_and_answered() -> None:
    scapy = pytest.importorskip("scapy.layers.l2")
    inet = pytest.importorskip("scapy.layers.inet")

    def pong(packet: Any) -> Any:
        if inet.ICMP not in packet:
            return None
        ip = packet[inet.IP]
        return (
            scapy.Ether(src=packet.dst, dst=packet.src)
            / inet.IP(src=ip.dst, dst=ip.src)
            / inet.ICMP(type="echo-reply", id=packet[inet.ICMP].id)
        )

    with open_driver(NetDriver, Net(FunctionEnd(pong, kind=scapy.Ether))) as driver:
        frames = driver.frames(timeout=10)
        ping = scapy.Ether(src=str(MAC), dst="02:00:00:00:00:01") / inet.IP(dst="10.0.0.1") / inet.ICMP(id=7)
        driver.send(bytes(ping))
        answer = scapy.Ether(next(frames))
        assert (answer.dst, answer[inet.ICMP].type, answer[inet.ICMP].id) == (str(MAC), 0, 7)


def test_a_tap_device_is_an_end_that_leaves_offloads_to_the_kernel() -> None:
    assert TapEnd.takes == Offload.CSUM | Offload.TSO4 | Offload.TSO6


def test_two_devices_in_one_loop_exchange_frames_by_a_switch(rng: random.Random) -> None:
    async def main() -> None:
        switch = Switch()
        with (
            open_driver(NetDriver, Net(switch.port())) as one,
            open_driver(NetDriver, Net(switch.port())) as two,
        ):
            incoming = two.receive.incoming(room=2000)
            await asyncio.sleep(0.01)
            sent = [frame_to(BROADCAST, rng.randbytes(100)) for _ in range(200)]
            for frame in sent:
                await one.transmit.submit(Header().pack(), frame, room=0)
            received = [(await anext(incoming))[Header.nbytes :] for _ in sent]
            assert received == sent

    asyncio.run(main())
