"""The declaration of queues on which a device speaks."""

from __future__ import annotations

import pytest

from pyvirtio.device import Device, OutgoingPort, OutgoingQueue
from pyvirtio.errors import LocalError


class Speaker(Device):
    device_id = 63
    one = OutgoingQueue()
    many = OutgoingQueue(count=3)


def test_a_queue_reads_as_its_port_on_an_instance_and_as_itself_on_the_class() -> None:
    speaker = Speaker()
    assert isinstance(Speaker.one, OutgoingQueue)
    assert isinstance(speaker.one, OutgoingPort)
    assert speaker.one is speaker.one is not Speaker().one


def test_equal_queues_have_a_port_each_and_no_attribute_that_would_mean_one_of_them() -> None:
    speaker = Speaker()
    assert len(set(speaker.ports(Speaker.many))) == 3
    with pytest.raises(LocalError, match=r"Speaker\.many"):
        _ = speaker.many
