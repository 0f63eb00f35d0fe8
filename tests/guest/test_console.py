"""The console under Linux's own driver, in real guests. Few boots, much in each."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvirtio import serving
from pyvirtio.devices.console import Console, Port
from pyvirtio.ends import SocketEnd
from pyvirtio.testing.served import served
from pyvirtio.vm import VhostUserDevice
from tests.support.guests import guest, pause, unremarkable
from tests.support.terminal import terminal_at
from tests.support.vhost import until, worker_of

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Mapping

    from pyvirtio.vm import Guest
    from tests.support.terminal import Terminal

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

MEGABYTE = 1 << 20
DRIVER = "/sys/bus/virtio/drivers/virtio_console"
# A terminal forgets its settings when nobody has it open.
OPEN = "exec 3<>/dev/hvc0; stty raw -echo <&3; sleep 100000 >/dev/null 2>&1 & echo $! >/tmp/holder"
LET_GO = "kill $(cat /tmp/holder)"
# User-mode Linux does not stop a ring before its driver takes back what waits there, so an index moves backwards.
TAKEN_BACK = "2.7.13.3.1"
# Ports come one after the other once the driver is there.
ALL_THERE = "until [ -e /sys/class/virtio-ports/vport*p2/name ]; do usleep 10000; done"


class Line:
    """The test's end of a port."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        connection.settimeout(60)

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    @contextlib.contextmanager
    def sending(self, data: bytes) -> Iterator[None]:
        """Send ``data`` while the block runs, as fast as the guest takes it."""
        sender = threading.Thread(target=self.send, args=(data,))
        sender.start()
        yield
        sender.join()

    def receive(self, length: int, at_each: Mapping[int, Callable[[], object]] | None = None) -> bytes:
        """Receive so many bytes; call each function of ``at_each`` when so many were received as its key says."""
        moments = deque(sorted((at_each or {}).items()))
        received = bytearray()
        with ThreadPoolExecutor(1) as beside:
            calls = []
            while len(received) < length:
                data = self._connection.recv(length - len(received))
                assert data, f"the port hung up after {len(received)} bytes"
                received += data
                while moments and len(received) >= moments[0][0]:
                    calls.append(beside.submit(moments.popleft()[1]))
            for call in calls:
                call.result()
        return bytes(received)

    @contextlib.contextmanager
    def skipping_to(self, text: str) -> Iterator[None]:
        """Receive and forget everything up to ``text`` while the block runs, which has to make the guest send it."""
        skipper = threading.Thread(target=self._skip_to, args=(text.encode(),))
        skipper.start()
        yield
        skipper.join()

    def _skip_to(self, text: bytes) -> None:
        received = b""
        while text not in received:
            received = received[-len(text) :] + self._connection.recv(1 << 16)


@contextlib.contextmanager
def connected(path: Path) -> Iterator[Line]:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        yield Line(client)


def exchange_lines(machine: Guest, line: Line, word: str, file: str = "/dev/hvc0") -> None:
    """Let a line through in each direction, whatever may be on its way still."""
    machine.send(f"grep -a -m 1 'to the guest: {word}' {file}")
    line.send(f"\nto the guest: {word}\n".encode())
    assert machine.result().lines == [f"to the guest: {word}"]
    with line.skipping_to(f"to the host: {word}\n"):
        assert machine.run(f"echo 'to the host: {word}' >{file}").returncode == 0


def exchange_bytes(
    machine: Guest,
    line: Line,
    rng: random.Random,
    size: int = MEGABYTE,
    at_each: Mapping[int, Callable[[], object]] | None = None,
    file: str = "/dev/hvc0",
) -> None:
    """Send as many bytes in both directions at once, and compare what arrives."""
    data = rng.randbytes(size)
    machine.send(
        f"exec 4<>{file}; head -c {size} /dev/urandom >/tmp/data; sha256sum </tmp/data; "
        f"head -c {size} <&4 | sha256sum & cat /tmp/data >&4; wait"
    )
    with line.sending(data):
        received = line.receive(size, at_each)
        sums = [words.split()[0] for words in machine.result().lines]
    assert sums == [hashlib.sha256(received).hexdigest(), hashlib.sha256(data).hexdigest()]


def sit_down(machine: Guest, terminal: Terminal) -> None:
    """Start a shell on the terminal, as a getty does."""
    machine.run("(PS1='ready# ' TERM=linux setsid -c sh -i <>/dev/hvc0 >&0 2>&1 &)")
    terminal.wait_for(lambda rows: any(row.startswith("ready#") for row in rows))


def edit(machine: Guest, terminal: Terminal) -> None:
    """Write a file with vi, in a window whose size changes meanwhile, and read it with less."""
    terminal.type("stty size; clear\r")
    terminal.type("stty size\r")
    terminal.wait_for(lambda rows: "24 80" in rows)
    terminal.type("vi /tmp/letter\r")
    terminal.wait_for(lambda rows: rows[1:23] == ["~"] * 22 and "/tmp/letter" in rows[23])
    for text in ("iDear host,\rthe third line\rfollows", "kOa second line"):
        terminal.type(text)
        terminal.wait_for(lambda rows: rows[23].startswith("I "))  # it inserts
        terminal.type("\x1b")
        terminal.wait_for(lambda rows: rows[23].startswith("- "))
    first = ["Dear host,", "a second line", "the third line", "follows"]
    terminal.wait_for(lambda rows: rows[:4] == first and rows[4:23] == ["~"] * 19)
    terminal.resize(100, 30)
    terminal.wait_for(lambda rows: rows[:4] == first and rows[4:29] == ["~"] * 25 and "/tmp/letter" in rows[29])
    terminal.type(":wq\r")
    terminal.wait_for(lambda rows: any(row.startswith("ready#") for row in rows[-2:]))
    assert machine.run("cat /tmp/letter").lines == first
    terminal.type("stty size; seq 1 200 >/tmp/numbers; less /tmp/numbers\r")
    terminal.wait_for(lambda rows: rows[:29] == [str(number) for number in range(1, 30)])
    terminal.type("G")
    terminal.wait_for(lambda rows: rows[:26] == [str(number) for number in range(174, 200)] and rows[29] == "(END)")
    terminal.type("q")
    machine.run("rm /tmp/letter")


def test_terminal_and_ports_under_user_mode_linux(tmp_path: Path, rng: random.Random) -> None:
    """A person at a pty, an agent on a socket, a log: sizes, bulk, opening and closing, a driver that comes back."""
    console = Console(f"pty:{tmp_path}/tty+agent=unix:{tmp_path}/agent+log=file:{tmp_path}/log")
    _, agent, _ = console.all_ports
    with serving(console, str(tmp_path / "s")) as host, guest(host, arch="um") as machine:
        with unremarkable(machine):
            machine.run(ALL_THERE)
            assert machine.run("cat /sys/class/virtio-ports/*/name").lines == ["agent", "log"]
            with terminal_at(tmp_path / "tty") as terminal:
                sit_down(machine, terminal)
                edit(machine, terminal)

            # The person leaves and comes back; nobody is held up meanwhile.
            machine.run("dmesg >/dev/hvc0")
            with terminal_at(tmp_path / "tty") as terminal:
                terminal.type("echo back again\r")
                terminal.wait_for(lambda rows: "back again" in rows)

            machine.run("echo one >/dev/vport0p2; echo two >/dev/vport0p2")
            assert (tmp_path / "log").read_text() == "one\ntwo\n"

            # A port is open on either side or not, and each side knows of the other.
            assert not agent.opened.is_set()
            machine.send("cat </dev/vport0p1; echo over")
            until(agent.opened.is_set)
            with connected(tmp_path / "agent") as line:
                until(lambda: agent.end.is_open)
                line.send(b"through\n")
            assert machine.result().lines == ["through", "over"]  # a host that hangs up is the end of the file
            until(lambda: not agent.opened.is_set())
            with connected(tmp_path / "agent") as line:
                exchange_lines(machine, line, "first", "/dev/vport0p1")
                exchange_bytes(machine, line, rng, 10 * MEGABYTE, file="/dev/vport0p1")

                # A host that does not read holds the writer up, and nothing is lost.
                machine.send("head -c 3000000 /dev/zero >/tmp/zeros; cat /tmp/zeros >/dev/vport0p1; echo all sent")
                until(lambda: agent.outlet.rest)
                assert line.receive(3000000) == bytes(3000000)
                assert machine.result().lines == ["all sent"]

                # The driver goes while somebody writes, and comes back.
                machine.run("(cat /dev/zero >/dev/vport0p1) >/dev/null 2>&1 &")
                line.receive(MEGABYTE)
                machine.run("killall sh")  # the one on the terminal
                with line.skipping_to("the driver is back"):
                    machine.send(f"echo virtio0 >{DRIVER}/unbind; echo virtio0 >{DRIVER}/bind")
                    assert machine.result().returncode == 0
                    file = machine.run(
                        "until ls /dev/vport*p1 >/dev/null 2>&1; do usleep 10000; done; ls /dev/vport*p1"
                    ).lines[0]
                    machine.run(f"echo the driver is back >{file}")
                exchange_bytes(machine, line, rng, MEGABYTE, file=file)
        machine.power_off()
        assert not [fault for fault in host.faults if TAKEN_BACK not in fault]


def test_a_lone_terminal_under_user_mode_linux(tmp_path: Path, rng: random.Random) -> None:
    """Without the control queues: lines, bulk, a size by the configuration space, and a host that does not read."""
    ours, theirs = socket.socketpair()
    console = Console([Port(SocketEnd(theirs))])
    line = Line(ours)
    with ours, serving(console, str(tmp_path / "s")) as host, guest(host, arch="um") as machine:
        with unremarkable(machine):
            assert machine.run(OPEN).returncode == 0
            exchange_lines(machine, line, "first")
            exchange_bytes(machine, line, rng)

            host.call(console.resize, 132, 43)
            machine.run("until [ \"$(stty size </dev/hvc0)\" = '43 132' ]; do usleep 10000; done")

            # Linux stands still until what it prints is taken, so what nobody reads is lost after a moment.
            assert machine.run("head -c 2000000 /dev/zero >/dev/hvc0; echo goes on").lines == ["goes on"]
            with line.skipping_to("read again"):
                machine.run("echo read again >/dev/hvc0")

            machine.run("(cat /dev/zero >/dev/hvc0) >/dev/null 2>&1 &")
            line.receive(MEGABYTE)
            with line.skipping_to("the driver is back"):
                assert machine.run(f"echo virtio0 >{DRIVER}/unbind; {LET_GO}").returncode == 0
                line.send(b"while nobody is there")
                assert machine.run(f"echo virtio0 >{DRIVER}/bind && {OPEN}").returncode == 0
                machine.run("echo 'the driver is back' >/dev/hvc0")
            exchange_lines(machine, line, "after it came back")
        machine.power_off()
        assert not [fault for fault in host.faults if TAKEN_BACK not in fault]


def test_ports_under_qemu_whose_host_has_troubles(tmp_path: Path, rng: random.Random) -> None:
    """The machine pauses and reboots, the worker is killed and reloaded under load, the device is unplugged in use."""
    source = tmp_path / "mine.py"
    source.write_text("from pyvirtio.devices.console import Console\n\n\nclass Mine(Console):\n    pass\n")
    ports = f"pty:{tmp_path}/tty+agent=unix:{tmp_path}/agent+log=file:{tmp_path}/log"
    with served(f"{source}:Mine,ports={ports}", "--reload", "-v") as server:
        device = VhostUserDevice.of(Console("none+a=none+b=none").description(), Path(server.path))
        with guest(device) as machine, unremarkable(machine):
            machine.run(ALL_THERE)
            with connected(tmp_path / "agent") as line, terminal_at(tmp_path / "tty") as terminal:
                sit_down(machine, terminal)
                edit(machine, terminal)
                pauses = {MEGABYTE * n: partial(pause, machine) for n in range(10)}
                exchange_bytes(machine, line, rng, 10 * MEGABYTE, pauses, file="/dev/vport0p1")

                # A machine whose host does not read pauses at once.
                machine.send("(cat /dev/zero >/dev/vport0p1) >/dev/null 2>&1 &")
                machine.result()
                line.receive(MEGABYTE)
                pause(machine)

                # It reboots in the middle of that; the connection stays.
                with line.skipping_to("the guest is back"):
                    machine.reboot()
                    machine.run(ALL_THERE)
                    machine.run("echo 'the guest is back' >/dev/vport0p1")
                exchange_lines(machine, line, "after the reboot", "/dev/vport0p1")
                terminal.resize(80, 24)
                sit_down(machine, terminal)

            # The worker dies, again and again, while the guest writes lines; every line arrives.
            log = tmp_path / "log"
            machine.send("for n in $(seq 2000); do echo line $n.; done >/dev/vport0p2")
            for number in range(1, 5):
                until(lambda least=2000 * number: log.stat().st_size > least)  # type: ignore[misc]  # its default
                os.kill(worker_of(server), signal.SIGKILL)
                server.wait_for("[worker-ended]", count=number)
            assert machine.result().returncode == 0
            assert set(log.read_text().split("\n")) >= {f"line {n}." for n in range(1, 2001)}
            until(lambda: is_listened_on(tmp_path / "agent"))
            with connected(tmp_path / "agent") as line:
                exchange_bytes(machine, line, rng, file="/dev/vport0p1")

            # New code takes over in the middle of it.
            source.write_text(source.read_text() + "\n\nNEW = True\n")
            server.wait_for("[device-reloaded]")
            until(lambda: is_listened_on(tmp_path / "agent"))
            with connected(tmp_path / "agent") as line, terminal_at(tmp_path / "tty") as terminal:
                exchange_bytes(machine, line, rng, file="/dev/vport0p1")
                terminal.type("echo still here\r")
                terminal.wait_for(lambda rows: "still here" in rows)

                # Unplugged while somebody writes and somebody reads.
                machine.run("(cat /dev/zero >/dev/vport0p1; echo $? >/tmp/writer) >/dev/null 2>&1 &")
                machine.run("(cat /dev/vport0p2; echo $? >/tmp/reader) >/dev/null 2>&1 &")
                line.receive(MEGABYTE)
                with line.skipping_to("\0"):
                    machine.unplug()
                    gone = "until [ ! -e /dev/vport0p1 -a -s /tmp/writer -a -s /tmp/reader ]; do usleep 10000; done"
                    assert machine.run(f"timeout 60 sh -c '{gone}'", timeout=90).returncode == 0
        server.end()
        assert not (tmp_path / "agent").exists()
        assert not (tmp_path / "tty").is_symlink()
        assert server.lines("[method-failed]") == server.lines("[run-failed]") == server.lines("[request-failed]") == 0


def is_listened_on(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
