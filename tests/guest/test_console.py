"""A console that is an object of the test, and Linux's own driver for it, in a real guest. Few boots, much in each."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pyvirtio import serving
from tests.support.devices.console import Console
from tests.support.guests import guest, pause, unremarkable
from tests.support.vhost import until

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pyvirtio.vm import Guest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

MEGABYTE = 1 << 20
DRIVER = "/sys/bus/virtio/drivers/virtio_console"
# A terminal forgets its settings when nobody has it open.
OPEN = "exec 3<>/dev/hvc0; stty raw -echo <&3; sleep 100000 >/dev/null 2>&1 & echo $! >/tmp/holder"
LET_GO = "kill $(cat /tmp/holder)"
WINDOW = "python3 -c 'import os; print(*os.get_terminal_size(0))' </dev/hvc0"


class Line:
    """The test's end of the console."""

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

    def receive(self, length: int, at_each: dict[int, Callable[[], object]] | None = None) -> bytes:
        """Receive so many bytes; call each function of ``at_each`` when so many were received as its key says.

        They run beside: what stops the device waits for the buffer that it is sending, and so for us.
        """
        moments = deque(sorted((at_each or {}).items()))
        received = b""
        with ThreadPoolExecutor(1) as beside:
            calls = []
            while len(received) < length:
                received += self._connection.recv(length - len(received))
                while moments and len(received) >= moments[0][0]:
                    calls.append(beside.submit(moments.popleft()[1]))
            for call in calls:
                call.result()
        return received

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
def console_at(path: Path) -> Iterator[tuple[serving[Console], Line]]:
    """Serve a console in this process."""
    ours, theirs = socket.socketpair()
    with ours, theirs, serving(Console(theirs), str(path)) as served:
        yield served, Line(ours)


def exchange_lines(machine: Guest, line: Line, word: str) -> None:
    """Let a line through in each direction, whatever may be on its way still."""
    machine.send(f"grep -a -m 1 'to the guest: {word}' /dev/hvc0")
    line.send(f"\nto the guest: {word}\n".encode())
    assert machine.result().lines == [f"to the guest: {word}"]
    with line.skipping_to(f"to the host: {word}\n"):
        assert machine.run(f"echo 'to the host: {word}' >/dev/hvc0").returncode == 0


def exchange_megabytes(
    machine: Guest, line: Line, rng: random.Random, at_each: dict[int, Callable[[], object]] | None = None
) -> None:
    """Send a megabyte in both directions at once, and compare what arrives."""
    data = rng.randbytes(MEGABYTE)
    machine.send(
        f"head -c {MEGABYTE} /dev/urandom >/tmp/data; sha256sum </tmp/data; "
        f"head -c {MEGABYTE} /dev/hvc0 | sha256sum & cat /tmp/data >/dev/hvc0; wait"
    )
    with line.sending(data):
        received = line.receive(MEGABYTE, at_each)
        sums = [words.split()[0] for words in machine.result().lines]
    assert sums == [hashlib.sha256(received).hexdigest(), hashlib.sha256(data).hexdigest()]


def test_a_console_under_user_mode_linux(tmp_path: Path, rng: random.Random) -> None:
    """Lines, bulk, a resized window, and a driver that is taken away and comes back while data flows."""
    with console_at(tmp_path / "s") as (served, line), guest(served, arch="um") as machine:
        with unremarkable(machine):
            assert machine.run(OPEN).returncode == 0
            exchange_lines(machine, line, "first")
            exchange_megabytes(machine, line, rng)

            served.call(served.device.update_config, columns=132)
            resized = f'until [ "$({WINDOW})" = "132 25" ]; do usleep 10000; done'
            assert machine.run(f"timeout 20 sh -c '{resized.replace(chr(39), chr(34))}'").returncode == 0

            machine.run("(cat /dev/zero >/dev/hvc0) >/dev/null 2>&1 &")
            line.receive(MEGABYTE)
            with line.skipping_to("the driver is back"):
                assert machine.run(f"echo virtio0 >{DRIVER}/unbind; {LET_GO}").returncode == 0
                line.send(b"while nobody is there")
                assert machine.run(f"echo virtio0 >{DRIVER}/bind && {OPEN}").returncode == 0
                machine.run("echo 'the driver is back' >/dev/hvc0")
            exchange_lines(machine, line, "after it came back")
            exchange_megabytes(machine, line, rng)
        machine.power_off()
        assert served.faults == []


def test_a_console_under_qemu_that_pauses_and_reboots(tmp_path: Path, rng: random.Random) -> None:
    with console_at(tmp_path / "s") as (served, line), guest(served) as machine:
        with unremarkable(machine):
            assert machine.run(OPEN).returncode == 0
            exchange_lines(machine, line, "first")
            exchange_megabytes(machine, line, rng, {MEGABYTE * n // 10: partial(pause, machine) for n in range(10)})

            machine.run("(cat /dev/zero >/dev/hvc0) >/dev/null 2>&1 &")
            line.receive(MEGABYTE)
            with line.skipping_to("the guest is back"):
                line.send(b"while nobody is there")
                machine.reboot()
                assert machine.run(OPEN).returncode == 0
                machine.run("echo 'the guest is back' >/dev/hvc0")
            exchange_lines(machine, line, "after the reboot")
            exchange_megabytes(machine, line, rng)
        assert served.faults == []

        # Nobody reads: the guest loses what it writes then, and the machine stops and goes on all the same.
        machine.send("cat /dev/zero >/dev/hvc0")
        until(lambda: served.faults)
        pause(machine)
