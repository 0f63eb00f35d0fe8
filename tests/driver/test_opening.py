"""What is checked before a driver runs, and the ways to a device."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

import pytest

from pyvirtio import Device, Driver, Queue, RequestQueue, open_driver
from pyvirtio.drivers.factorial import FactorialDriver
from pyvirtio.errors import LocalError, NegotiationError, NoAnswer
from pyvirtio.testing import ScriptedTransport
from pyvirtio.testing.served import served
from pyvirtio.vhost_user import connection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Echo(Device):
    device_id = 63
    requests = Queue(size=8)

    @requests.stream
    def echo(self, reader, writer):
        writer.write(reader.read(reader.left))


class EchoDriver(Driver):
    device_id = 63
    requests = RequestQueue(size=8)


# The device.


@pytest.mark.parametrize("device_id", [45, 0])
def test_a_device_of_another_id_is_not_driven(device_id: int):
    transport = ScriptedTransport()
    transport.device_id = device_id
    with pytest.raises(NegotiationError, match="63"):
        EchoDriver(transport)
    assert transport.closed


@pytest.mark.parametrize("device_id", [63, None])
def test_a_device_of_the_same_or_of_an_unknown_id_is_driven(device_id: int | None):
    transport = ScriptedTransport()
    transport.device_id = device_id
    with EchoDriver(transport):
        assert transport.running


def test_a_device_with_too_few_queues_is_not_driven():
    class Two(EchoDriver):
        more = RequestQueue()

    with pytest.raises(NegotiationError, match="more"):
        Two(ScriptedTransport(queue_sizes=[8]))


# Memory.


@contextlib.contextmanager
def wherever(kind: str) -> Iterator[Device | str]:
    if kind == "in process":
        yield Echo()
        return
    with served(f"{__file__}:Echo") as server:
        yield f"vhost-user:{server.path}"


@pytest.mark.parametrize("kind", ["in process", "vhost-user"])
def test_more_memory_is_an_option_wherever_the_device_is(kind: str):
    request = bytes(range(256)) * 400_000  # 100 MB, and as many for the answer
    with wherever(kind) as device:
        with open_driver(EchoDriver, device) as driver, pytest.raises(LocalError, match="memory=BYTES"):
            driver.requests.submit(request, room=len(request))
        with open_driver(EchoDriver, device, memory=300 << 20) as driver:
            assert driver.requests.call(request, room=len(request)) == request


@pytest.mark.parametrize("memory", [0, -1, 100])
def test_less_memory_than_a_page_is_refused(memory: int):
    with pytest.raises(LocalError):
        open_driver(EchoDriver, Echo(), memory=memory)


def test_too_little_memory_for_the_rings_names_the_option():
    class Large(EchoDriver):
        requests = RequestQueue(size=32768)

    class LargeEcho(Echo):
        requests = Queue(size=32768)
        requests.stream(Echo.echo)

    with pytest.raises(LocalError, match="memory=BYTES"):
        open_driver(Large, LargeEcho(), memory=1 << 16)


# The socket.


@pytest.mark.parametrize(("driver", "name"), [(EchoDriver, "DEVICE"), (FactorialDriver, "factorial")])
def test_a_socket_that_nobody_serves_says_how_this_device_is_served(driver: type[Driver], name: str, tmp_path: Path):
    with pytest.raises(LocalError, match=f"pyvirtio serve {name} --socket") as caught:
        open_driver(driver, f"vhost-user:{tmp_path / 's'}")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BUSY_TIME", 0.1)
    monkeypatch.setattr("pyvirtio.vhost_user.client.BUSY_TIME", 0.1)


@pytest.mark.parametrize("backlog", [8, 0])
def test_a_busy_backend_is_called_busy(backlog: int, tmp_path: Path, impatient: None):
    """It serves somebody else: the kernel takes the connection, or has no room for it, and nobody answers."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        listener.bind(path)
        listener.listen(backlog)
        other.connect(path)
        with pytest.raises(NoAnswer, match="busy") as caught:
            open_driver(EchoDriver, f"vhost-user:{path}")
        os.unlink(path)
    assert caught.value.__cause__ is not None
