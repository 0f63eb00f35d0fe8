"""What a driver declares, reads and writes of a configuration space."""

from __future__ import annotations

import pytest

from pyvirtio.driver import Driver, RequestQueue
from pyvirtio.errors import DeviceError, LocalError
from pyvirtio.spec.struct import Struct, le16, le32
from pyvirtio.testing import ScriptedTransport


class Config(Struct):
    low: int = le32()
    middle: int = le16()
    high: int = le32()
    last: int = le16()


class Client(Driver):
    device_id = 63
    config = Config
    bytes_ = RequestQueue(size=8)


class Noting(ScriptedTransport):
    """A transport that notes what is written."""

    def __init__(self) -> None:
        super().__init__(config=bytes(Config.nbytes))
        self.written: list[tuple[int, bytes]] = []

    def write_config(self, offset: int, data: bytes) -> None:
        self.written.append((offset, data))


def test_a_configuration_space_that_is_too_short_is_the_devices_fault():
    with Client(ScriptedTransport(config=b"\1\0\0")) as client, pytest.raises(DeviceError):
        client.read_config()


def test_a_device_need_not_have_what_the_driver_does_not_need():
    with Client(ScriptedTransport(config=b"\1\0\0\0\2\0")) as client:
        assert client.read_config(upto="middle") == Config(low=1, middle=2)
        with pytest.raises(DeviceError):
            client.read_config()


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ({"middle": 5}, [(4, b"\5\0")]),
        ({"high": 2, "low": 1, "middle": 3}, [(0, b"\1\0\0\0\3\0\2\0\0\0")]),
        ({"last": 9, "low": 1, "middle": 3}, [(0, b"\1\0\0\0\3\0"), (10, b"\x09\0")]),
        ({}, []),
    ],
)
def test_fields_side_by_side_are_written_at_once(values: dict[str, int], written: list[tuple[int, bytes]]):
    transport = Noting()
    with Client(transport) as client:
        client.write_config(**values)
    assert transport.written == written


def test_a_configuration_that_is_a_value_is_refused_at_the_definition():
    with pytest.raises(LocalError, match="config = Config"):

        class Wrong(Driver):
            device_id = 63
            config = Config(low=5)  # type: ignore[assignment]  # as a device declares it
