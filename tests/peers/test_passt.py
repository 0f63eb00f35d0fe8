"""The driver of network cards against passt, which nobody here wrote, and passt at the other end of a card's cable."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from pyvirtio import open_driver
from pyvirtio.devices.net import Net, NetFeature
from pyvirtio.devices.net_commands import RxCommand
from pyvirtio.drivers.net import NetDriver
from pyvirtio.errors import LocalError
from pyvirtio.network import StreamEnd
from pyvirtio.network.offload import completed
from tests.support.ipv4 import Host, mac_in_reply, udp_data
from tests.support.passt import GATEWAY, GUEST, passt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.guest

US = Host(bytes.fromhex("020000000001"), GUEST)


def answered_by_the_host(driver: NetDriver, packets: Iterator[bytes]) -> None:
    """Exchange datagrams with a socket of this machine, by way of passt."""
    driver.send(US.arp_request(GATEWAY))
    gateway = Host(mac_in_reply(next(frame for frame in packets if frame[12:14] == b"\x08\x06")), GATEWAY)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
        host.settimeout(10)
        host.bind(("127.0.0.1", 0))
        for size in (1, 100, 1400):
            data = bytes(number % 251 for number in range(size))
            header, frame = US.udp(gateway, data, port=host.getsockname()[1])
            driver.send(completed(frame, header.csum_start, header.csum_offset))
            received, origin = host.recvfrom(2000)
            assert received == data
            host.sendto(data[::-1], origin)
            answer = next(frame for frame in packets if frame[12:14] == b"\x08\x00")
            assert udp_data(answer, may_lack_checksum=True) == data[::-1]


def test_passt_answers_as_a_back_end_of_vhost_user(tmp_path: Path) -> None:
    with passt(tmp_path / "s", "--vhost-user"), open_driver(NetDriver, f"vhost-user:{tmp_path}/s") as driver:
        assert driver.negotiated & NetFeature.MRG_RXBUF
        answered_by_the_host(driver, driver.frames(timeout=10))
        with pytest.raises(LocalError, match="CTRL_VQ"):
            driver.set_receive_mode(RxCommand.PROMISC, on=True)


def test_passt_answers_at_the_other_end_of_a_stream(tmp_path: Path) -> None:
    with passt(tmp_path / "s"), open_driver(NetDriver, Net(StreamEnd(tmp_path / "s"))) as driver:
        answered_by_the_host(driver, driver.frames(timeout=10))
