"""The echo device, and its driver."""

from __future__ import annotations

import asyncio

import pytest

from pyvirtio import Driver, RequestQueue, open_driver
from pyvirtio.connect.in_process import InProcessTransport
from pyvirtio.devices.echo import PIECE, Echo
from pyvirtio.drivers.echo import EchoDriver
from pyvirtio.spec.ids import DEFAULT_ID
from pyvirtio.testing.served import served


class Raw(Driver):
    """Sends bytes in parts, with any room."""

    device_id = DEFAULT_ID
    requests = RequestQueue()


@pytest.mark.parametrize("size", [1, 64, 1512, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5])
def test_what_is_sent_comes_back(size, rng):
    data = rng.randbytes(size)
    with open_driver(EchoDriver, Echo()) as driver:
        assert driver.echo(data) == data


def test_parts_come_back_as_one_and_room_that_is_not_needed_stays():
    with open_driver(Raw, Echo()) as driver:
        assert driver.requests.call(b"one", b" ", b"two", room=100) == b"one two"


def test_a_request_without_room_for_its_bytes_fails_and_the_queue_goes_on():
    transport = InProcessTransport(Echo())
    with Raw(transport) as driver:
        assert driver.requests.call(b"hello", room=4) == b""
        assert driver.requests.call(b"hello", room=5) == b"hello"
    assert any("room for 4" in fault for fault in transport.faults)


def test_many_in_flight_come_back_each_to_its_own_ticket(rng):
    sent = [rng.randbytes(rng.randrange(1, 300)) for _ in range(500)]

    async def exchange(driver: EchoDriver) -> list[bytes]:
        return await asyncio.gather(*[driver.requests.submit(data, room=300) for data in sent])

    with open_driver(EchoDriver, Echo()) as driver:
        assert asyncio.run(exchange(driver)) == sent


def test_served_by_name():
    with served("echo") as server, open_driver(EchoDriver, f"vhost-user:{server.path}") as driver:
        assert driver.echo(b"hello back end!") == b"hello back end!"
