"""Network cards under Linux's own driver, in guests that speak to one another and the host: few boots, much in each."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio import serving
from pyvirtio.devices.net import LinkStatus, Net, NetFeature
from pyvirtio.network import DatagramEnd, Mac, Switch
from pyvirtio.network.plugging import plug, serve
from pyvirtio.testing.served import served
from pyvirtio.vm import VhostUserDevice
from tests.support import namespace, tap_host
from tests.support.guests import guest, pause, unremarkable
from tests.support.passt import GATEWAY, GUEST, passt
from tests.support.vhost import is_running, until, worker_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from pyvirtio.network.packet import Packet
    from pyvirtio.network.switch import SwitchPort
    from pyvirtio.testing.served import ServerProcess
    from pyvirtio.vm import Guest
    from pyvirtio.vm.guests import Attachable

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

PROGRAM = {"bin/net_check": (Path(__file__).parent / "programs/net_check.py").read_bytes()}
MEGABYTE = 1 << 20
DRIVER = "/sys/bus/virtio/drivers/virtio_net"
ADDRESSES = "/sys/class/net/*/address"
CARRIER = "/sys/class/net/eth0/carrier"
NO_IPV6 = "/proc/sys/net/ipv6/conf/all/disable_ipv6"
PINGS = 10_000
FLOOD = "ping -q -A >/dev/null 2>&1"  # followed by an address
SILENCE = "killall ping; echo 1 >/proc/sys/net/ipv4/icmp_echo_ignore_all"
"""Before a reboot: Linux 6.1 spins for ever where it sends while it shuts down, on a queue that it marked as broken."""
MAC = "52:54:00:00:00:01"


class Node:
    """A guest with one network card, which has an address."""

    def __init__(self, machine: Guest, address: str, name: str = "eth0") -> None:
        self.machine = machine
        self.address = address
        self.name = name
        self.up()

    def up(self) -> None:
        # Otherwise it would go on joining groups for seconds, by commands that Linux waits for in a loop. Where it is
        # rebooted meanwhile, it resets its cards first, and then waits for ever.
        assert self.machine.run(f"if [ -e {NO_IPV6} ]; then echo 1 >{NO_IPV6}; fi").returncode == 0
        assert self.machine.run(f"ifconfig {self.name} {self.address} netmask 255.255.255.0 up").returncode == 0

    def ping(self, address: str, number: int) -> None:
        """Ping as fast as answers come; nothing may be lost."""
        said = self.machine.run(f"net_check ping {address} {number}", timeout=120).lines
        assert said == [f"{number} answered, 0 lost"]

    def wait_for_carrier(self, state: int) -> None:
        wait = f"until grep -q {state} {CARRIER}; do usleep 10000; done"
        assert self.machine.run(f"timeout 20 sh -c '{wait}'").returncode == 0

    def bind_again(self) -> None:
        """Take the driver away, and let it come back."""
        assert self.machine.run(f"echo virtio0 >{DRIVER}/unbind; echo virtio0 >{DRIVER}/bind").returncode == 0
        self.up()


def transfer(sender: Node, receiver: Node, megabytes: int, meanwhile: Callable[[], object] | None = None) -> None:
    """Send random bytes from one guest to the other; what arrives has to be what was sent."""
    receiver.machine.send("net_check receive 5000")
    sender.machine.send(f"net_check send {receiver.address} 5000 {megabytes}")
    if meanwhile:
        meanwhile()
    sent, received = (node.machine.result(timeout=120).lines for node in (sender, receiver))
    assert sent == received
    assert sent[-1].split()[0] == str(megabytes * MEGABYTE)


@contextlib.contextmanager
def user_mode_linux(device: Attachable, address: str) -> Iterator[Node]:
    with guest(device, arch="um", files=PROGRAM) as machine, unremarkable(machine):
        yield Node(machine, address)


def on_switch(stack: contextlib.ExitStack, switch: Switch, path: Path, number: int) -> tuple[serving[Net], Node]:
    """Plug a guest with an address of its own into a switch."""
    device = Net(switch.port(), mac=Mac(f"52:54:00:00:00:{number:02x}"), pairs=2)
    server = stack.enter_context(serving(device, str(path)))
    return server, stack.enter_context(user_mode_linux(server, f"10.0.0.{number}"))


def test_two_guests_on_a_switch(tmp_path: Path) -> None:
    switch = Switch()
    with contextlib.ExitStack() as stack:
        (server, one), (other, two) = (on_switch(stack, switch, tmp_path / str(n), n) for n in (1, 2))
        one.ping(two.address, PINGS)
        for sender, receiver in ((one, two), (two, one)):
            transfer(sender, receiver, 100)
        for node, served_one in ((one, server), (two, other)):
            assert served_one.device.negotiated & NetFeature.MQ
            assert served_one.device.negotiated & NetFeature.GUEST_TSO4
            assert not served_one.device.filter.promiscuous
            assert node.machine.run("net_check channels 2").lines == ["2"]
            assert served_one.device._pairs == 2
        transfer(one, two, 20)

        # The link goes down and up while data flows: TCP sends again what was lost.
        def cut() -> None:
            for _ in range(5):
                server.call(server.device.set_link, False)
                server.call(server.device.set_link, True)

        transfer(one, two, 20, cut)
        server.call(server.device.set_link, False)
        one.wait_for_carrier(0)
        server.call(server.device.set_link, True)
        one.wait_for_carrier(1)

        assert server.call(server.device.announce)
        until(lambda: server.device.config.status == LinkStatus.LINK_UP)  # the guest has said that it did

        assert one.machine.run("ifconfig eth0 down hw ether 52:54:00:00:00:99").returncode == 0
        one.up()
        assert bytes(server.device.config.mac) == Mac("52:54:00:00:00:99")
        one.ping(two.address, 100)

        # The driver goes and comes back while data flows.
        for _ in range(3):
            assert one.machine.run(f"{FLOOD} {two.address} & sleep 0.1").returncode == 0
            one.bind_again()
            one.ping(two.address, 100)
        transfer(two, one, 20)
        # User-mode Linux frees a ring as soon as it has sent that the queue is disabled, and does not wait until that
        # has been read. A queue that breaks by that is set up again when the driver is back.
        assert all("until it is set up again" in fault for fault in server.faults)
        assert other.faults == []


def test_a_guest_under_qemu_that_pauses_and_reboots(tmp_path: Path) -> None:
    switch = Switch()
    with contextlib.ExitStack() as stack:
        other, two = on_switch(stack, switch, tmp_path / "2", 2)
        device = Net(switch.port(), mac=Mac(MAC), pairs=2)
        server = stack.enter_context(serving(device, str(tmp_path / "1")))
        others = stack.enter_context(qemu_s_own_cards(switch, tmp_path))
        machine = stack.enter_context(guest(server, cpus=2, files=PROGRAM, qemu_options=others))
        with unremarkable(machine):
            one = Node(machine, "10.0.0.1")
            assert machine.run("cat /sys/class/net/eth0/address").lines == [MAC]
            assert device.running == {0, 1, 2, 3}
            one.ping(two.address, PINGS // 4)
            for sender, receiver in ((one, two), (two, one)):
                transfer(sender, receiver, 20, lambda: pauses(machine))

            # QEMU's own cards on the same switch, by its own two kinds of sockets.
            for number in (1, 2):
                theirs = Node(machine, f"10.0.{number}.1", f"eth{number}")
                ours = Node(two.machine, f"10.0.{number}.2", f"eth0:{number}")
                ours.ping(theirs.address, 500)
                theirs.ping(ours.address, 100)
                transfer(theirs, ours, 5)

            for state, up in ((0, False), (1, True)):
                machine.monitor.execute("set_link", {"name": "device0", "up": up})
                one.wait_for_carrier(state)
            for _ in range(3):
                assert one.machine.run(f"{FLOOD} {two.address} & sleep 0.1").returncode == 0
                one.bind_again()
                one.ping(two.address, 100)

            assert two.machine.run(f"{FLOOD} 10.0.0.1 & sleep 0.1").returncode == 0
            machine.run(SILENCE)
            machine.reboot()
            one.up()
            one.ping(two.address, 1000)

            # Pulled out while it is in use.
            assert machine.run(f"{FLOOD} {two.address} & sleep 0.1").returncode == 0
            machine.unplug()
            assert machine.run(f"cat {ADDRESSES} | grep -c {MAC}").lines == ["0"]
            until(lambda: not device.running)
            machine.plug()
            back = f"until grep -q {MAC} {ADDRESSES}; do usleep 10000; done"
            assert machine.run(f"timeout 20 sh -c '{back}'").returncode == 0
            one.up()
            one.ping(two.address, 100)
        assert server.faults == other.faults == []


@contextlib.contextmanager
def qemu_s_own_cards(switch: Switch, folder: Path) -> Iterator[list[str]]:
    """Yield QEMU's arguments for two cards of its own, which are plugged into ``switch`` by sockets."""
    stream, ours, theirs = (folder / name for name in ("stream", "ours", "theirs"))
    with in_thread(serve(switch, stream)), in_thread(plug(switch, DatagramEnd(ours, theirs))):
        until(stream.exists)
        # Behind ports, as ours is, so that they are found in this order.
        ports = [
            word
            for n in (1, 2)
            for word in ("-device", f"pcie-root-port,id=own{n},chassis={10 + n},addr={0x10 + n:#x}")
        ]
        local, remote = (f"{side}.type=unix,{side}.path={path}" for side, path in (("local", theirs), ("remote", ours)))
        yield [
            *ports,
            *("-netdev", f"stream,id=stream,server=off,addr.type=unix,addr.path={stream}"),
            *("-device", "virtio-net-pci,netdev=stream,mac=52:54:00:00:01:01,bus=own1"),
            *("-netdev", f"dgram,id=dgram,{local},{remote}"),
            *("-device", "virtio-net-pci,netdev=dgram,mac=52:54:00:00:02:01,bus=own2"),
        ]
    theirs.unlink(missing_ok=True)


@contextlib.contextmanager
def in_thread(work: Coroutine[Any, Any, None]) -> Iterator[None]:
    """Run a coroutine in an event loop of its own while the block runs."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)

    def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()


def pauses(machine: Guest) -> None:
    for _ in range(10):
        pause(machine)


class Host:
    """A program of the host that takes connections, and adds up what comes by each."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.sums: list[str] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                digest, number = hashlib.sha256(), 0
                while data := connection.recv(MEGABYTE):
                    digest.update(data)
                    number += len(data)
                if not number:
                    return
                connection.sendall(b"!")
                self.sums.append(f"{number} {digest.hexdigest()}")

    def close(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)):
            pass
        self._thread.join(60)
        self._listener.close()


def test_a_guest_whose_workers_are_killed_and_whose_cable_is_plugged_in_elsewhere(tmp_path: Path) -> None:
    """At first it ends at passt, which takes what the guest sends to a program of the host, then at a switch."""
    switch = CountingSwitch()
    with contextlib.ExitStack() as stack:
        host = Host()
        stack.callback(host.close)
        server = stack.enter_context(served(f"net,stream={tmp_path}/net,mac={MAC},mtu=1500"))
        description = Net(Switch().port(), mac=Mac(MAC), mtu=1500).description()
        device = VhostUserDevice.of(description, Path(server.path))
        with passt(tmp_path / "net"):
            one = stack.enter_context(user_mode_linux(device, GUEST))
            assert one.machine.run("cat /sys/class/net/eth0/mtu").lines == ["1500"]
            assert one.machine.run(f"net_check send {GATEWAY} {host.port} 100", timeout=120).lines == host.sums
        assert host.sums[0].startswith(str(100 * MEGABYTE))

        one.wait_for_carrier(0)
        with in_thread(serve(switch, tmp_path / "net")):
            one.wait_for_carrier(1)
            one = Node(one.machine, "10.0.0.1")
            other, two = on_switch(stack, switch, tmp_path / "2", 2)
            one.ping(two.address, 100)

            def kill_again_and_again() -> None:
                for number in range(1, 10):
                    until(lambda number=number: switch.bytes > number * 10 * MEGABYTE)  # type: ignore[misc]  # a default
                    kill(server)

            transfer(one, two, 100, kill_again_and_again)
            one.ping(two.address, 100)
            assert other.faults == []


def test_a_guest_and_the_kernel_of_this_machine_by_a_tap_device(tmp_path: Path) -> None:
    path = tmp_path / "s"
    command = namespace.command("tests.support.tap_host", str(path))
    with subprocess.Popen(
        command, cwd=namespace.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        device = VhostUserDevice.of(Net(Switch().port()).description(), path)
        with user_mode_linux(device, "10.9.8.2") as node:
            node.ping(tap_host.ADDRESS, 1000)
            sent = node.machine.run(f"net_check send {tap_host.ADDRESS} 5000 100", timeout=120).lines
            assert sent == [process.stdout.readline().rstrip()]
            assert sent[0].startswith(str(100 * MEGABYTE))
        process.stdin.close()
    assert process.returncode == 0


class CountingSwitch(Switch):
    """Counts the bytes that go through it."""

    bytes = 0

    def forward(self, packet: Packet, source: SwitchPort) -> None:
        self.bytes += len(packet[1])
        super().forward(packet, source)


def kill(server: ServerProcess) -> None:
    worker = worker_of(server)
    os.kill(worker, signal.SIGKILL)
    until(lambda: not is_running(worker))
