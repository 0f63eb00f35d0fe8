"""The socket device under Linux's own driver, in real guests. Few boots, much in each."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvirtio import serving
from pyvirtio.devices.vsock import Vsock
from pyvirtio.testing.served import served
from pyvirtio.vm import VhostUserDevice
from tests.support.guests import guest, pause, unremarkable
from tests.support.vhost import until, worker_of
from tests.support.vsock import digest, echo, program

if TYPE_CHECKING:
    import random

    from pyvirtio.testing.served import ServerProcess
    from pyvirtio.vm import Guest
    from pyvirtio.vsock import Stream

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

CID = 7
MODULE = "vmw_vsock_virtio_transport"
DRIVER = f"/sys/bus/virtio/drivers/{MODULE}"
ECHO, DIGEST, PYTHON, NOBODY = 80, 81, 82, 99  # ports of the host
AWAIT = "until grep -q"
GUESTS = 5  # a port of the guest's
GIGABYTE = 1_000_000_000
IMPATIENCE = 60.0
CUT_OFF = ("failed ECONNRESET", "failed ENOTCONN", "failed EPIPE")
"""What Linux says to a sender whose connection was reset, before and after it has said so once."""


PROGRAM = {"bin/sockets": (Path(__file__).parent / "programs/sockets.py").read_bytes()}


def said(machine: Guest, what: str) -> str:
    """Have the guest's program do something; return what it said."""
    return "\n".join(machine.run(f"sockets {what}").lines)


def last_said(machine: Guest) -> str:
    """Return the last line of the command that was sent."""
    line: str = machine.result(IMPATIENCE).lines[-1]
    return line


def connected(path: Path, port: int = GUESTS) -> socket.socket:
    """Connect to a port of the guest's, as a program of the host does."""
    until(path.exists)
    host = socket.socket(socket.AF_UNIX)
    host.settimeout(IMPATIENCE)
    host.connect(str(path))
    host.sendall(b"CONNECT %d\n" % port)
    return host


def greeted(host: socket.socket) -> socket.socket:
    """Read the answer to CONNECT, a byte at a time, for data may follow."""
    line = b""
    while not line.endswith(b"\n"):
        byte = host.recv(1)
        assert byte, f"the guest does not accept; {line!r} came"
        line += byte
    assert line.startswith(b"OK ")
    return host


def echoes(host: socket.socket, word: bytes) -> bool:
    """Return whether the other end says what it hears."""
    host.sendall(word)
    heard = b""
    while len(heard) < len(word) and (piece := host.recv(100)):
        heard += piece
    return heard == word


def is_over(host: socket.socket) -> bool:
    """Wait for the other end's end."""
    try:
        return host.recv(1) == b""
    except ConnectionResetError:
        return True


def test_sockets_under_user_mode_linux(tmp_path: Path, rng: random.Random) -> None:
    """Both directions, a thousand at a time, a gigabyte through one, and a driver that is taken away and comes back."""
    path, data = tmp_path / "v", rng.randbytes(100_000_000)
    device = Vsock(CID, path)

    async def shout(stream: Stream) -> None:
        while piece := await stream.read():
            await stream.write(piece.upper())

    device.services[PYTHON] = shout
    with (
        program(path, ECHO, echo),
        program(path, DIGEST, digest),
        serving(device, str(tmp_path / "s")) as server,
        guest(server, arch="um", files=PROGRAM) as machine,
        unremarkable(machine),
    ):
        assert said(machine, f"attempt {ECHO}") == "connected hello"
        assert said(machine, f"attempt {PYTHON}") == "connected HELLO"
        assert said(machine, f"attempt {NOBODY}") == "failed ECONNRESET"
        assert said(machine, f"many 1000 {ECHO}") == "1000"
        assert said(machine, f"send {GIGABYTE} {DIGEST}") == f"same {GIGABYTE}"

        machine.send(f"sockets take {GUESTS}")
        machine.wait_for("listening")
        with greeted(connected(path)) as host:
            host.sendall(data)
            host.shutdown(socket.SHUT_WR)
            assert host.recv(32) == hashlib.sha256(data).digest()
        assert last_said(machine) == f"received {len(data)}"

        with connected(path, NOBODY) as host:
            assert is_over(host), "nobody listens there"
        with program(path, NOBODY, echo):
            assert said(machine, f"attempt {NOBODY}") == "connected hello"
        assert said(machine, f"attempt {NOBODY}") == "failed ECONNRESET"

        assert said(machine, f"echo {GUESTS}") == "listening"
        with greeted(connected(path)) as host:
            assert echoes(host, b"before")
            machine.run(f"(sockets hold {PYTHON} >/tmp/held) & {AWAIT} connected /tmp/held; do usleep 1000; done")
            assert machine.run(f"echo virtio0 >{DRIVER}/unbind && echo virtio0 >{DRIVER}/bind").returncode == 0
            assert is_over(host)
        assert machine.run(f"{AWAIT} 'failed ECONNRESET' /tmp/held; do usleep 1000; done").returncode == 0
        with greeted(connected(path)) as host:
            assert echoes(host, b"after")
        assert said(machine, f"many 100 {ECHO}") == "100"
        machine.run("pkill sockets; killall sockets")
        until(lambda: not server.call(lambda: len(device._tasks)))
        assert server.faults == []


def attached(server: ServerProcess) -> VhostUserDevice:
    """Return the device for a guest."""
    return VhostUserDevice.of(Vsock(CID).description(), Path(server.path))


def killed(server: ServerProcess) -> None:
    """Kill the worker, and wait for the next."""
    pid = worker_of(server)
    os.kill(pid, signal.SIGKILL)
    until(lambda: server.workers() and pid not in server.workers())


def test_workers_that_die_under_load(tmp_path: Path) -> None:
    path = tmp_path / "v"
    with (
        program(path, ECHO, echo),
        program(path, DIGEST, digest),
        served(f"vsock,cid={CID},path={path}") as server,
        guest(attached(server), arch="um", files=PROGRAM) as machine,
        unremarkable(machine),
    ):
        assert said(machine, f"echo {GUESTS}") == "listening"
        for _ in range(5):
            with greeted(connected(path)) as host:
                assert echoes(host, b"hello")
                machine.send(f"sockets flood {DIGEST}")
                machine.wait_for("connected")
                killed(server)
                assert last_said(machine) in CUT_OFF
                assert is_over(host)
            machine.send(f"sockets hold {ECHO}")
            machine.wait_for("connected")
            killed(server)
            assert last_said(machine) == "failed ECONNRESET", "it would wait for ever"
            assert said(machine, f"send 1000000 {DIGEST}") == "same 1000000"
        assert said(machine, f"many 1000 {ECHO}") == "1000"


def test_sockets_under_qemu_s_own_front_end(tmp_path: Path) -> None:
    """A machine that pauses and reboots, and a device that is pulled out; a front-end that keeps the event queue."""
    path = tmp_path / "v"
    with (
        program(path, ECHO, echo),
        program(path, DIGEST, digest),
        served(f"vsock,cid={CID},path={path}") as server,
        guest(attached(server), files=PROGRAM) as machine,
    ):
        with unremarkable(machine):
            assert said(machine, f"many 200 {ECHO}") == "200"
            assert said(machine, f"echo {GUESTS}") == "listening"
            with greeted(connected(path)) as host:
                machine.send(f"sockets send 20000000 {DIGEST}")
                for _ in range(10):
                    pause(machine)
                    assert echoes(host, b"paused")
                assert last_said(machine) == "same 20000000"

                machine.send(f"sockets hold {ECHO}")
                machine.wait_for("connected")
                killed(server)
                assert last_said(machine) == "ended 0", "Linux shows a RST as the end"
                assert is_over(host)

            with greeted(connected(path)) as host:
                assert machine.run(f"echo virtio0 >{DRIVER}/unbind && echo virtio0 >{DRIVER}/bind").returncode == 0
                assert is_over(host)
            host = greeted(connected(path))
            assert echoes(host, b"before the reboot")

        machine.reboot()
        with unremarkable(machine):
            assert said(machine, f"attempt {ECHO}") == "connected hello"
            assert is_over(host)
            host.close()
            assert said(machine, f"echo {GUESTS}") == "listening"
            with greeted(connected(path)) as host:
                assert echoes(host, b"after the reboot")
                machine.send(f"sockets hold {ECHO}")
                machine.wait_for("connected")
                machine.unplug()
                assert last_said(machine) in ("ended 0", *CUT_OFF)
                machine.plug()
                assert machine.run(f"until ls {DRIVER} | grep -q virtio; do usleep 10000; done").returncode == 0
                assert is_over(host), "the driver is a new one"
            assert said(machine, f"attempt {ECHO}") == "connected hello"
