"""What the drivers that ship say to a device that breaks a rule of its type."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyvirtio.devices import console, net
from pyvirtio.devices.block import DISCARD, MQ
from pyvirtio.devices.block import Config as BlockConfig
from pyvirtio.devices.console import Control, Event
from pyvirtio.drivers.block import BlockDriver
from pyvirtio.drivers.console import ConsoleDriver
from pyvirtio.drivers.net import NetDriver
from pyvirtio.errors import DeviceError, NegotiationError
from pyvirtio.spec.features import RING_FEATURES
from pyvirtio.testing import ScriptedTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.testing import RawDevice


def test_a_disk_with_queues_and_none_of_them():
    transport = ScriptedTransport(features=RING_FEATURES | MQ, config=BlockConfig(capacity=8).pack())
    with pytest.raises(NegotiationError, match="no queue") as raised:
        BlockDriver(transport, queues=2)
    assert raised.value.section == "VIRTIO 1.4, 5.2.4"
    assert transport.closed


def test_a_disk_that_discards_nothing_at_once():
    transport = ScriptedTransport(features=RING_FEATURES | DISCARD, config=BlockConfig(capacity=8).pack())
    with BlockDriver(transport) as driver, pytest.raises(DeviceError) as raised:
        driver.discard(0, 512)
    assert raised.value.section == "VIRTIO 1.4, 5.2.4"


def sending(message: bytes, queue: int, transport: ScriptedTransport) -> Callable[[RawDevice], None]:
    """Return a device that answers on every queue, with a message on one."""

    def script(device: RawDevice) -> None:
        for head in device.heads():
            device.answer(head, message if device is transport.devices[queue] else b"")

    return script


@pytest.mark.parametrize(
    "message",
    [b"\0" * (Control.nbytes - 1), Control(1, Event.PORT_OPEN, 1).pack()],
    ids=["less than a message", "a port that was not added"],
)
def test_a_console_whose_control_messages_make_no_sense(message: bytes):
    config = console.Config(max_nr_ports=2).pack()
    transport = ScriptedTransport(features=RING_FEATURES | console.MULTIPORT, queue_sizes=[16] * 6, config=config)
    transport.on_kick(sending(message, 2, transport))
    with ConsoleDriver(transport) as driver, pytest.raises(DeviceError) as raised:
        driver.next_message(timeout=5)
    assert raised.value.section == "VIRTIO 1.4, 5.3.6.2"


def test_a_card_whose_packet_lies_in_no_buffer():
    transport = ScriptedTransport(features=RING_FEATURES | net.F.MRG_RXBUF, queue_sizes=[16, 16])
    transport.on_kick(sending(net.Header(num_buffers=0).pack() + bytes(60), 0, transport))
    with NetDriver(transport, features=net.F.MRG_RXBUF) as driver, pytest.raises(DeviceError) as raised:
        next(driver.frames(timeout=5))
    assert raised.value.section == "VIRTIO 1.4, 5.1.9.4.2"
