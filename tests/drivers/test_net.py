"""The driver of network cards against our own card, over the socket and in one process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvirtio import open_driver, serving
from pyvirtio.devices.net import Net, NetFeature
from pyvirtio.drivers.net import NetDriver
from pyvirtio.network import FunctionEnd, Mac

if TYPE_CHECKING:
    from pathlib import Path

MAC = Mac("02:00:00:00:00:01")


def test_our_own_card_over_the_socket(tmp_path: Path) -> None:
    device = Net(FunctionEnd(lambda frame: frame), mac=Mac("02:00:00:00:00:05"), pairs=2)
    with serving(device, f"{tmp_path}/s"):
        for features, pairs in ((NetDriver.features, 1), (NetDriver.features | NetFeature.MQ, 2)):
            with open_driver(NetDriver, f"vhost-user:{tmp_path}/s", features=features) as driver:
                assert driver.card.max_virtqueue_pairs == 2
                frames = driver.frames(timeout=10, largest=600)
                for length in (14, 600, 5000):
                    driver.send(bytes(length), pair=pairs - 1)
                    assert len(next(frames)) == length
                assert driver.set_mac(MAC)
                assert driver.card.mac == MAC
                assert driver.set_pairs(pairs) is (pairs > 1)


def test_a_card_without_a_control_queue_has_its_other_queues() -> None:
    with open_driver(NetDriver, Net(FunctionEnd(lambda frame: frame)), features=0) as driver:
        assert list(driver.bound) == ["receive", "transmit"]
        assert driver.link_up
        frames = driver.frames(timeout=10)
        driver.send(bytes(100))
        assert next(frames) == bytes(100)
