"""The driver of sockets, with the device in its process."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from pyvirtio import open_driver
from pyvirtio.devices.vsock import EVENT, RX, TX, Config, Vsock
from pyvirtio.drivers.vsock import VsockDriver
from pyvirtio.errors import LocalError, NoAnswer
from pyvirtio.testing import ScriptedTransport
from pyvirtio.vsock import BUFFER, Header, State
from pyvirtio.vsock.packets import Event, Op, Shutdown

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from pyvirtio.vsock import Stream

SHOUT, SINK, DEAF, SILENT = range(80, 84)


async def shout(stream: Stream) -> None:
    while data := await stream.read():
        await stream.write(data.upper())


async def drain(stream: Stream) -> None:
    total = 0
    while data := await stream.read():
        total += len(data)
    await stream.write(b"%d" % total)


async def sit(stream: Stream) -> None:
    await stream.closed()


@contextlib.contextmanager
def driven() -> Iterator[tuple[VsockDriver, Vsock]]:
    device = Vsock(cid=7)
    device.services.update({SHOUT: shout, SINK: drain, DEAF: sit})
    with open_driver(VsockDriver, device) as driver:
        yield driver, device


def test_much_goes_through_one_connection(rng: random.Random):
    with driven() as (driver, _):
        data = rng.randbytes(5 * BUFFER)
        with driver.connect(SINK) as sock:
            sock.send(data)
            sock.shutdown()
            assert (sock.receive(), sock.receive()) == (b"%d" % len(data), b"")


def test_many_connections_at_once():
    with driven() as (driver, device):
        socks = [driver.connect(SHOUT) for _ in range(300)]
        for number, sock in enumerate(socks):
            sock.send(b"number %d" % number)
        assert [sock.receive() for sock in socks] == [b"NUMBER %d" % number for number in range(300)]
        for sock in socks:
            sock.close()
        assert device._endpoint.connections == {}


def test_a_port_where_nobody_is():
    with driven() as (driver, _):
        with pytest.raises(ConnectionRefusedError, match="99"):
            driver.connect(99)
        with pytest.raises(LocalError, match="port"):
            driver.connect(1 << 32)


def test_a_service_that_does_not_read_holds_the_sender_up():
    with driven() as (driver, device):
        sock = driver.connect(DEAF)
        with pytest.raises(NoAnswer):
            sock.send(bytes(4 * BUFFER), timeout=0.05)
        (connection,) = device._endpoint.connections.values()
        assert connection.received == BUFFER
        connection.reset()
        with pytest.raises(ConnectionResetError):
            sock.receive()


def test_waits_end():
    with driven() as (driver, _):
        with pytest.raises(LocalError, match="listen"):
            driver.accept(5)
        driver.listen(5)
        with pytest.raises(NoAnswer):
            driver.accept(5, timeout=0.05)
        sock = driver.connect(SHOUT)
        with pytest.raises(NoAnswer):
            sock.receive(timeout=0.05)


def test_an_end_for_each_direction():
    with driven() as (driver, _):
        sock = driver.connect(SHOUT)
        sock.shutdown(Shutdown.SEND)
        assert sock.receive() == b""
        with pytest.raises(BrokenPipeError):
            sock.send(b"x")
        sock.close()
        assert (sock.connection.state, sock.connection.was_reset) == (State.CLOSED, False)


class Liar:
    """A device that says what a test wants it to."""

    def __init__(self, transport: ScriptedTransport) -> None:
        self.transport = transport
        self.buffers: dict[int, list[int]] = {}

    def say(self, driver: VsockDriver, *packets: bytes, queue: int = RX) -> list[Op]:
        """Say something, and return the operations of what the driver answers."""
        device, buffers = self.transport.devices[queue], self.buffers.setdefault(queue, [])
        buffers += device.heads()
        for packet in packets:
            device.answer(buffers.pop(0), packet)
        self.transport.call(queue)
        driver.turn()
        tx, answers = self.transport.devices[TX], []
        for head in tx.heads():
            answers.append(Op(Header.unpack(tx.read(head)).op))
            tx.answer(head)
        return answers


def test_a_device_that_breaks_the_rules_is_answered_and_the_driver_goes_on():
    transport = ScriptedTransport(queue_sizes=[64, 64, 16], config=Config(7).pack())
    liar = Liar(transport)
    with VsockDriver(transport) as driver:
        ours = {"src_cid": 2, "dst_cid": 7, "src_port": 5}
        assert liar.say(driver, b"", b"cut", Header(9, 7, op=Op.REQUEST).pack()) == []
        assert liar.say(driver, Header(**ours, dst_port=6, op=Op.REQUEST).pack()) == [Op.RST], "nobody listens there"
        assert liar.say(driver, Header(**ours, dst_port=6, op=Op.RW, len=1 << 31).pack()) == [Op.RST]
        driver.listen(6)
        assert liar.say(driver, Header(**ours, dst_port=6, op=Op.REQUEST).pack()) == [Op.RESPONSE]
        sock = driver.accept(6)
        assert liar.say(driver, Header(**ours, dst_port=6, op=Op.RW, len=BUFFER + 1).pack()) == [Op.RST]
        with pytest.raises(ConnectionResetError):
            sock.receive()


def test_the_reset_of_all_connections_is_heeded_and_the_cid_read_again():
    transport = ScriptedTransport(queue_sizes=[64, 64, 16], config=Config(7).pack())
    liar = Liar(transport)
    with VsockDriver(transport) as driver:
        driver.listen(6)
        request = {"src_cid": 2, "src_port": 5, "dst_port": 6, "op": Op.REQUEST}
        assert liar.say(driver, Header(**request, dst_cid=7).pack()) == [Op.RESPONSE]
        sock = driver.accept(6)
        transport.config[:] = Config(8).pack()
        assert liar.say(driver, b"odd", Event(99).pack(), Event(0).pack(), queue=EVENT) == []
        with pytest.raises(ConnectionResetError):
            sock.send(b"x")
        assert driver.cid == 8
        assert liar.say(driver, Header(**request, dst_cid=8).pack()) == [Op.RESPONSE], "it listens still"
