"""What a driver reads of a configuration space."""

from __future__ import annotations

import pytest

from pyvirtio.driver import Driver, Queue
from pyvirtio.errors import DeviceError
from pyvirtio.spec.struct import Struct, le32
from pyvirtio.testing import ScriptedTransport


class Config(Struct):
    low: int = le32()
    high: int = le32()


class Client(Driver):
    device_id = 63
    config = Config
    bytes_ = Queue(size=8)


def test_a_configuration_space_that_is_too_short_is_the_devices_fault():
    with Client(ScriptedTransport(config=b"\1\0\0")) as client, pytest.raises(DeviceError, match="only 3 came"):
        client.read_config()
