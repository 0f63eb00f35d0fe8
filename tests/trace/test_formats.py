"""What other programs read: pcapng, by tshark itself and with our dissector, and a timeline for Perfetto."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio.errors import LocalError
from pyvirtio.spec.features import Feature
from pyvirtio.trace.events import Event, Recording, beginning, encode
from pyvirtio.trace.links import LINKS
from pyvirtio.trace.messages import message
from pyvirtio.trace.pcapng import pcapng
from pyvirtio.trace.perfetto import perfetto
from pyvirtio.trace.pytest_file import test_file as file_for_pytest
from pyvirtio.trace.text import render
from pyvirtio.vhost_user import messages as m
from tests.support.wireshark import Tshark

if TYPE_CHECKING:
    import random
    from pathlib import Path

WRITE, NEXT = 2, 1
MAC = bytes.fromhex("525400123456 52540065 4321")
FRAME = (
    MAC + b"\x08\x00" + bytes.fromhex("4500001c000100004011f96bc0a80002c0a800010035003500085f71")
)  # UDP, port 53 to 53


def recording(device_id: int, *exchanges: tuple[int, bytes, int, bytes], features: int = 0) -> Recording:
    """Return a recording of requests, each as its queue, what the device read, its room, and what it wrote."""
    features = features or int(Feature.VERSION_1)
    events = [
        beginning(0, 1_700_000_000 * 10**9),
        Event(1, "device", "device", name="it", id=device_id, features=0, sizes=[8], config=""),
        message(2, "front-end", m.Request.SET_FEATURES, 1, m.Number(features).pack(), 0),
        message(3, "front-end", m.Request.SET_VRING_KICK, 9, m.Number(0).pack(), 1),
        message(4, "back-end", m.Request.SET_VRING_KICK, 5, m.Number(0).pack(), 0),
        message(4, "back-end", m.CONFIG_CHANGE_MSG, 1, b"", 0, channel=True),
    ]
    areas = {"descriptor_area": 0x1000, "driver_area": 0x2000, "device_area": 0x3000}
    set_up = {"size": 8, "features": features, "position": 0, **areas}
    events += [Event(5, "driver", "queue", queue, **set_up) for queue in {exchange[0] for exchange in exchanges}]
    for number, (queue, asked, room, answer) in enumerate(exchanges, 1):
        at = 1000 * number
        chain = [[0, 0x8000, len(asked), NEXT if room else 0, 1]] if asked else []
        chain += [[1, 0x9000, room, WRITE, 0]] if room else []
        head = 0 if asked else 1
        described = {"head": head, "chain": chain, "length": len(asked), "room": room, "data": asked.hex()}
        events += [
            Event(at, "driver", "descriptors", queue, **described),
            Event(at, "driver", "available", queue, index=number, heads=[head]),
            Event(at + 1, "driver", "kick", queue),
            Event(at + 2, "device", "pop", queue, head=head, sequence=number),
            Event(at + 3, "device", "used", queue, head=head, written=len(answer), data=answer.hex()),
            Event(at + 3, "device", "used_index", queue, index=number),
            Event(at + 4, "device", "interrupt", queue),
            Event(at + 5, "driver", "reap", queue, head=head, written=len(answer)),
        ]
    events.append(Event(10**6, "driver", "damaged", 0, error="a loop"))
    return Recording(map(encode, events))


@pytest.fixture(scope="module")
def tshark(tmp_path_factory: pytest.TempPathFactory) -> Tshark:
    return Tshark.in_folder(tmp_path_factory.mktemp("wireshark"))


def packets(tshark: Tshark, folder: Path, recorded: Recording, *fields: str) -> list[dict[str, Any]]:
    file = folder / "run.pcapng"
    file.write_bytes(b"".join(pcapng(recorded)))
    return tshark.packets(file, "frame.interface_name", "_ws.col.Info", *fields)


def on(found: list[dict[str, Any]], interface: str) -> list[dict[str, Any]]:
    return [packet for packet in found if packet["frame.interface_name"] == [interface]]


@pytest.mark.guest
def test_messages_and_ring_events_are_dissected(tshark: Tshark, tmp_path: Path):
    recorded = recording(45, (0, b"\5\0\0\0", 4, b"\x78\0\0\0"))
    fields = ("virtio_msg.name", "virtio_msg.number", "virtio_msg.fds", "virtio_msg.channel", "virtio_ring.event")
    more = ("virtio_ring.data", "virtio_ring.descriptor.address", "virtio_ring.error", "frame.time_epoch")
    found = packets(tshark, tmp_path, recorded, *fields, *more)
    messages = on(found, "messages")
    assert [packet["virtio_msg.name"][0] for packet in messages] == [
        "SET_FEATURES",
        "SET_VRING_KICK",
        "SET_VRING_KICK",
        "CONFIG_CHANGE_MSG",
    ]
    assert int(messages[0]["virtio_msg.number"][0], 16) == 1 << 32
    assert messages[1]["virtio_msg.fds"] == ["1"]
    assert messages[2]["_ws.col.Info"] == ["back-end answers SET_VRING_KICK"]
    rings = on(found, "rings")
    assert [int(packet["virtio_ring.event"][0]) for packet in rings] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 13]
    assert [int(address, 16) for address in rings[1]["virtio_ring.descriptor.address"]] == [0x8000, 0x9000]
    assert rings[5]["virtio_ring.data"][0].replace(":", "") == "78000000"
    assert rings[-1]["virtio_ring.error"] == ["a loop"]
    assert rings[1]["frame.time_epoch"][0].startswith("1700000000.000001")


@pytest.mark.guest
@pytest.mark.parametrize("header", [12, 10])
def test_a_network_devices_frames_are_ethernet(tshark: Tshark, tmp_path: Path, header: int):
    features = int(Feature.VERSION_1) if header == 12 else 1
    sent, received = (1, bytes(header) + FRAME, 0, b""), (0, b"", 1526, bytes(header) + FRAME)
    control = (2, b"\1\0\1\2", 1, b"\0")
    found = packets(
        tshark,
        tmp_path,
        recording(1, sent, received, control, features=features),
        "ip.src",
        "udp.dstport",
        "frame.packet_flags_direction",
    )
    frames = on(found, "network")
    assert [frame["ip.src"] for frame in frames] == [["192.168.0.2"]] * 2
    assert [frame["udp.dstport"] for frame in frames] == [["53"]] * 2
    assert [int(frame["frame.packet_flags_direction"][0], 16) for frame in frames] == [2, 1]


@pytest.mark.guest
def test_a_socket_devices_packets_are_vsock(tshark: Tshark, tmp_path: Path):
    header = struct.pack("<QQIIIHHIII", 3, 2, 1024, 80, 5, 1, 5, 0, 4096, 0)
    found = packets(
        tshark,
        tmp_path,
        recording(19, (1, header + b"hello", 0, b"")),
        "vsock.src_cid",
        "vsock.dst_port",
        "vsock.virtio.op",
    )
    (packet,) = on(found, "vsock")
    assert (packet["vsock.src_cid"], packet["vsock.dst_port"]) == (["3"], ["80"])


@pytest.mark.guest
def test_a_can_devices_frames_are_can(tshark: Tshark, tmp_path: Path):
    frame = struct.pack("<HHBBHII", 1, 3, 0, 0, 0, 0x8000, 0x12345) + b"abc"
    found = packets(tshark, tmp_path, recording(36, (0, frame, 1, b"\0")), "can.id", "can.len", "can.flags.xtd")
    (packet,) = on(found, "can")
    assert (int(packet["can.id"][0], 0), packet["can.len"]) == (0x12345, ["3"])


@pytest.mark.guest
def test_an_i2c_adapters_transfers_are_i2c(tshark: Tshark, tmp_path: Path):
    write = (0, struct.pack("<HHI", 0x50 << 1, 0, 1) + b"\x10\x20", 1, b"\0")
    read = (0, struct.pack("<HHI", 0x50 << 1, 0, 2), 5, b"data\0")
    found = packets(tshark, tmp_path, recording(34, write, read), "i2c.addr", "i2c.flags", "frame.len", "i2c.bus")
    first, second = on(found, "i2c")
    assert {int(packet["i2c.addr"][0], 0) for packet in (first, second)} == {0x50}
    assert [packet["frame.len"] for packet in (first, second)] == [["3"], ["5"]]


@pytest.mark.guest
def test_a_simulated_radios_frames_are_wlan(tshark: Tshark, tmp_path: Path):
    beacon = bytes.fromhex("80000000ffffffffffff020000000000020000000000 0000") + bytes(12) + b"\0\4home"
    attribute = struct.pack("<HH", 4 + len(beacon), 3) + beacon
    netlink = struct.pack("<IHHII", 20 + len(attribute), 0x20, 0, 0, 0) + struct.pack("<BBH", 2, 1, 0) + attribute
    found = packets(tshark, tmp_path, recording(29, (0, netlink, 0, b"")), "wlan.ta", "wlan.fc.type_subtype")
    (packet,) = on(found, "wlan")
    assert packet["wlan.ta"] == ["02:00:00:00:00:00"]


@pytest.mark.guest
def test_a_consoles_bytes_have_an_interface_of_their_own(tshark: Tshark, tmp_path: Path):
    recorded = recording(3, (1, b"login: ", 0, b""), (0, b"", 64, b"root\n"), (3, b"\0" * 8, 0, b""))
    found = packets(tshark, tmp_path, recorded, "frame.len")
    assert [packet["frame.len"] for packet in on(found, "console")] == [["7"], ["5"]]


@pytest.mark.guest
def test_a_large_request_is_cut_to_what_wireshark_takes(tshark: Tshark, tmp_path: Path):
    found = packets(tshark, tmp_path, recording(45, (0, bytes(200 << 10), 4, b"done")), "frame.len", "frame.cap_len")
    described = on(found, "rings")[1]
    assert int(described["frame.cap_len"][0]) < 256 << 10 < int(described["frame.len"][0]) + (64 << 10)


@pytest.mark.parametrize("device_id", [*LINKS, 45, 0])
@pytest.mark.parametrize("size", [0, 1, 7, 30])
def test_requests_that_are_too_short_for_a_packet_give_none_and_do_no_harm(device_id: int, size: int):
    recorded = recording(device_id, *((queue, bytes(size), room, bytes(room)) for queue in range(4) for room in (0, 3)))
    blocks = list(pcapng(recorded))
    assert all(len(block) % 4 == 0 for block in blocks)
    assert all(struct.unpack_from("<I", block, 4)[0] == len(block) for block in blocks)


def test_the_timeline_has_a_bar_for_each_request_and_a_point_for_each_event():
    recorded = recording(45, (0, b"a", 4, b"bcd"), (1, b"c", 4, b"d"))
    timeline = json.loads("".join(perfetto(recorded)))
    events = timeline["traceEvents"]
    begun = {event["id"]: event["ts"] for event in events if event["ph"] == "b"}
    ended = {event["id"]: event["ts"] for event in events if event["ph"] == "e"}
    assert begun.keys() == ended.keys() == {0, 1}
    assert all(ended[number] - begun[number] == pytest.approx(0.003) for number in begun)
    points = [event["name"] for event in events if event["ph"] == "i"]
    assert points.count("kick") == points.count("interrupt") == 2
    in_flight = [event["args"]["requests"] for event in events if event["ph"] == "C"]
    assert in_flight == [1, 0, 1, 0]
    assert {event["ph"] for event in events} == {"M", "i", "b", "e", "C"}


def test_a_recording_with_anything_in_its_fields_is_refused_or_does_no_harm(rng: random.Random):
    whole = recording(1, (1, bytes(12) + FRAME, 0, b""), (0, b"", 64, bytes(12) + FRAME), (2, b"a", 1, b"b"))
    junk: list[object] = [None, -1, 0, 1 << 70, 1.5, True, "", "zz", "0", [], [1], [[1, 2, 3, 4, -5]], {}, "\x1b[2J"]
    accepted = 0
    for _ in range(3000):
        lines = [encode(event) for event in (whole.head, *whole.events)]
        place = rng.randrange(1, len(lines))
        record = json.loads(lines[place])
        record[rng.choice(list(record))] = rng.choice(junk)
        lines[place] = json.dumps(record).encode() + b"\n"
        try:
            changed = Recording(lines)
        except LocalError:
            continue
        accepted += 1
        assert all(len(line) <= 80 and line.isprintable() for line in render(changed, explain=True))
        assert b"".join(pcapng(changed))
        json.loads("".join(perfetto(changed)))
        compile(file_for_pytest(changed, "factorial", "x"), "x", "exec")
    assert accepted > 100
