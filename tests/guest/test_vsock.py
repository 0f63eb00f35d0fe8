"""The socket device under Linux's own driver, in real guests. Few boots, much in each."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvirtio import serving
from pyvirtio.devices.vsock import Vsock
from pyvirtio.errors import LocalError, ProvisionError
from pyvirtio.testing.served import served
from pyvirtio.vm.device_ids import DeviceProbe
from pyvirtio.vm.guest import Guest
from pyvirtio.vm.initramfs import Initramfs
from pyvirtio.vm.launch import GuestOptions, default_builder
from pyvirtio.vm.machine import VhostUserDevice
from tests.guest.conftest import PROGRAMS, unremarkable
from tests.support import qmp
from tests.support.vhost import until, worker_of
from tests.support.vsock import digest, echo, program

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from pyvirtio.testing.served import ServerProcess
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


@contextlib.contextmanager
def user_mode_linux(socket_path: Path) -> Iterator[Guest]:
    """Boot a guest with a socket device, and the program for it."""
    device = VhostUserDevice.of(Vsock(CID).description(), socket_path)
    with contextlib.ExitStack() as stack:
        try:
            config = stack.enter_context(default_builder().uml([device], modules=[MODULE]))
        except (LocalError, ProvisionError) as error:
            pytest.skip(f"user-mode Linux cannot be provisioned here: {error}")
        guest = stack.enter_context(Guest(replace(config, overlay=overlay()), boot_limit=60))
        with unremarkable(guest):
            yield guest
        guest.power_off()


def overlay() -> Initramfs:
    files = Initramfs()
    files.file("bin/sockets", (PROGRAMS / "sockets.py").read_bytes(), mode=0o755)
    return files


def said(guest: Guest, what: str) -> str:
    """Have the guest's program do something; return what it said."""
    return "\n".join(guest.run(f"sockets {what}").lines)


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
        user_mode_linux(tmp_path / "s") as guest,
    ):
        assert said(guest, f"attempt {ECHO}") == "connected hello"
        assert said(guest, f"attempt {PYTHON}") == "connected HELLO"
        assert said(guest, f"attempt {NOBODY}") == "failed ECONNRESET"
        assert said(guest, f"many 1000 {ECHO}") == "1000"
        assert said(guest, f"send {GIGABYTE} {DIGEST}") == f"same {GIGABYTE}"

        guest.send(f"sockets take {GUESTS}")
        guest.wait_for("listening")
        with greeted(connected(path)) as host:
            host.sendall(data)
            host.shutdown(socket.SHUT_WR)
            assert host.recv(32) == hashlib.sha256(data).digest()
        assert guest.result().lines == [f"received {len(data)}"]

        with connected(path, NOBODY) as host:
            assert is_over(host), "nobody listens there"
        with program(path, NOBODY, echo):
            assert said(guest, f"attempt {NOBODY}") == "connected hello"
        assert said(guest, f"attempt {NOBODY}") == "failed ECONNRESET"

        assert said(guest, f"echo {GUESTS}") == "listening"
        with greeted(connected(path)) as host:
            assert echoes(host, b"before")
            guest.run(f"(sockets hold {PYTHON} >/tmp/held) & {AWAIT} connected /tmp/held; do usleep 1000; done")
            assert guest.run(f"echo virtio0 >{DRIVER}/unbind && echo virtio0 >{DRIVER}/bind").status == 0
            assert is_over(host)
        assert guest.run(f"{AWAIT} 'failed ECONNRESET' /tmp/held; do usleep 1000; done").status == 0
        with greeted(connected(path)) as host:
            assert echoes(host, b"after")
        assert said(guest, f"many 100 {ECHO}") == "100"
        guest.run("pkill sockets; killall sockets")
        until(lambda: not server.call(lambda: len(device._tasks)))
        assert server.faults == []


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
        user_mode_linux(Path(server.path)) as guest,
    ):
        assert said(guest, f"echo {GUESTS}") == "listening"
        for _ in range(5):
            with greeted(connected(path)) as host:
                assert echoes(host, b"hello")
                guest.send(f"sockets flood {DIGEST}")
                guest.wait_for("connected")
                killed(server)
                assert guest.result(IMPATIENCE).lines[0] in CUT_OFF
                assert is_over(host)
            guest.send(f"sockets hold {ECHO}")
            guest.wait_for("connected")
            killed(server)
            assert guest.result(IMPATIENCE).lines == ["failed ECONNRESET"], "it would wait for ever"
            assert said(guest, f"send 1000000 {DIGEST}") == "same 1000000"
        assert said(guest, f"many 1000 {ECHO}") == "1000"


def is_let_go(monitor: qmp.Monitor, chardev: str) -> bool:
    """Remove the connection of a device that was pulled out; return False while QEMU holds it."""
    try:
        monitor.execute("chardev-remove", id=chardev)
    except RuntimeError:
        return False
    return True


def test_sockets_under_qemu_s_own_front_end(tmp_path: Path) -> None:
    """A machine that pauses and reboots, and a device that is pulled out; a front-end that keeps the event queue."""
    path, monitor_path = tmp_path / "v", tmp_path / "m"
    guest_options = GuestOptions(accel="tcg")
    with (
        program(path, ECHO, echo),
        program(path, DIGEST, digest),
        served(f"vsock,cid={CID},path={path}") as server,
    ):
        device = VhostUserDevice.of(Vsock(CID).description(), Path(server.path))
        builder = default_builder()
        try:
            probe = DeviceProbe(builder.qemu(guest_options), builder.machine(guest_options), builder.cache)
            device = replace(device, frontend=probe.frontend(device.id), bus="port0", name="sockets")
            config = builder.prepare(guest_options, [device], modules=[MODULE])
        except ProvisionError as error:
            pytest.skip(f"nothing can be provisioned here: {error}")
        assert device.frontend.pci == "vhost-user-vsock-pci"
        port = ("-device", "pcie-root-port,id=port0,chassis=1,slot=1")
        extra = (*port, *qmp.options(monitor_path), "-action", "reboot=reset")
        config = replace(config, overlay=overlay(), extra=extra)
        with Guest(config) as guest, qmp.monitor(monitor_path) as monitor:
            with unremarkable(guest):
                assert said(guest, f"many 200 {ECHO}") == "200"
                assert said(guest, f"echo {GUESTS}") == "listening"
                host = greeted(connected(path))
                guest.send(f"sockets send 20000000 {DIGEST}")
                for _ in range(10):
                    monitor.pause()
                    assert echoes(host, b"paused")
                assert guest.result().lines == ["same 20000000"]

                guest.send(f"sockets hold {ECHO}")
                guest.wait_for("connected")
                killed(server)
                assert guest.result(IMPATIENCE).lines == ["ended 0"], "Linux shows a RST as the end"
                assert is_over(host)
                host.close()

                host = greeted(connected(path))
                assert guest.run(f"echo virtio0 >{DRIVER}/unbind && echo virtio0 >{DRIVER}/bind").status == 0
                assert is_over(host)
                host.close()

                host = greeted(connected(path))
                assert echoes(host, b"before the reboot")
            guest.send("reboot -f")
            guest.wait_for("pyvirtio-guest: listening")
            with unremarkable(guest), host:
                assert is_over(host)
                assert said(guest, f"attempt {ECHO}") == "connected hello"
                assert said(guest, f"echo {GUESTS}") == "listening"
                with greeted(connected(path)) as host:
                    assert echoes(host, b"after the reboot")

                    guest.send(f"sockets hold {ECHO}")
                    guest.wait_for("connected")
                    monitor.execute("device_del", id="sockets")
                    assert guest.result(IMPATIENCE).lines[0] in ("ended 0", *CUT_OFF)
                    assert guest.run(f"while ls {DRIVER} | grep -q virtio; do usleep 10000; done").status == 0
                    until(lambda: is_let_go(monitor, "sockets-socket"))
                    address = {"type": "unix", "data": {"path": str(device.socket)}}
                    socket_of_it = {"type": "socket", "data": {"addr": address, "server": False}}
                    monitor.execute("chardev-add", id="again", backend=socket_of_it)
                    monitor.execute("device_add", driver=device.frontend.pci, id="again", chardev="again", bus="port0")
                    assert guest.run(f"until ls {DRIVER} | grep -q virtio; do usleep 10000; done").status == 0
                    assert is_over(host), "the driver is a new one"
                    assert said(guest, f"attempt {ECHO}") == "connected hello"
