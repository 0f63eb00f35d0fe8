"""The network card under DPDK's virtio-user, a driver in user space that has nothing to do with Linux's or ours."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING

import pytest

from pyvirtio import serving
from pyvirtio.devices.net import Net, NetFeature
from pyvirtio.network import FunctionEnd, Mac
from tests.support.dpdk import icmp_echo
from tests.support.ipv4 import Host, mac_in_reply, pong_number

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

MAC = "52:54:00:00:00:07"
US, THEY = Host(bytes.fromhex("020000000001"), "10.0.0.1"), Host(Mac(MAC), "10.0.0.2")
PINGS = 1000


@pytest.mark.guest
def test_testpmd_answers_pings(tmp_path: Path) -> None:
    answers: queue.Queue[bytes] = queue.Queue()
    end = FunctionEnd(answers.put)
    device = Net(end, mac=Mac(MAC))
    with serving(device, f"{tmp_path}/s") as served:
        with icmp_echo(tmp_path / "s", MAC) as process:
            assert mac_in_reply(first_answer(end, answers, process)) == THEY.mac
            for number in range(PINGS):
                end.inject(US.ping(THEY, number, bytes(number)))
                assert pong_number(answers.get(timeout=20)) == number
            assert device.negotiated & NetFeature.MRG_RXBUF
        assert served.faults == []
    assert end.dropped == 0


def first_answer(end: FunctionEnd, answers: queue.Queue[bytes], process: subprocess.Popen[str]) -> bytes:
    """Ask until the card is in use, as one does on a network."""
    for _ in range(300):
        assert process.poll() is None
        end.inject(US.arp_request(THEY.address))
        try:
            answer = answers.get(timeout=0.2)
        except queue.Empty:
            continue
        return answer
    raise TimeoutError
