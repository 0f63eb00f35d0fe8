"""The kernel driver in real guests: used wrongly, by many, taken away, and lied to. Few boots, much in each."""

from __future__ import annotations

import math
import os
import re
import signal
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from pyvirtio.devices.factorial import Config, ExactResponse, Factorial
from pyvirtio.testing.hostile_backend import HostileBackend
from pyvirtio.testing.served import served
from pyvirtio.vm import VhostUserDevice
from tests.guest.conftest import PROGRAMS, ask_as_the_tutorial
from tests.support.guests import guest, unremarkable

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]  # the first run downloads what it needs

# n! modulo 2**32 as the tutorial's driver prints it, signed.
TUTORIAL = {5: 120, 0: 1, 12: 479001600, 13: 1932053504, 20: -2102132736, 33: -2147483648, 34: 0, 2**32 - 1: 0}
CHECK = {"/bin/driver_check": (PROGRAMS / "driver_check.py").read_bytes()}
SOURCE = Path(__file__).parents[2] / "src/pyvirtio/devices/factorial.py"


def attached(path, **changes):
    """Describe what listens on a socket, as QEMU is to see it."""
    return replace(VhostUserDevice(Path(path), id=45, queues=1, size=128, config_size=16), **changes)


def check(machine, words, timeout=180):
    result = machine.run(f"driver_check {words}", timeout=timeout)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.lines


def remove(machine):
    assert machine.run("rmmod virtio_test").lines == []


def load(machine):
    assert machine.run("insmod /lib/modules/virtio_test.ko").returncode == 0


def test_the_driver_on_pci(tmp_path):
    """One guest: use, misuse, a dying and a changing device, unloading and unplugging under load."""
    source = tmp_path / "device.py"
    source.write_text(SOURCE.read_text())
    with (
        served(f"{source}:Factorial", "--reload", "-v") as back,
        guest(attached(back.path), files=CHECK, cpus=4) as machine,
        unremarkable(machine),
    ):
        for words in ("values", "misuse", "abandon 300", "full 300", "concurrent 4 500"):
            assert check(machine, words)[-1] == "ok"

        # The worker is killed, then its code replaced; the machine's log shows nothing of either.
        # The tutorial's lines, of each answer, and what a slow host makes the machine's clock say.
        quiet = "dmesg | grep -v -e 'virtio response ret' -e test_request_done -e hrtimer"
        before = machine.run(quiet).lines
        for worker in back.workers():
            os.kill(worker, signal.SIGKILL)
        assert check(machine, "ask 5")[0] == "5: 120"
        changed = SOURCE.read_text().replace("factorial(n) if n <=", "factorial(n) + 1 if n <=")
        assert changed != SOURCE.read_text()
        source.write_text(changed)
        back.wait_for("[device-reloaded]")
        assert check(machine, "ask 5")[0] == "5: 121"
        assert machine.run(quiet).lines == before
        source.write_text(SOURCE.read_text())
        back.wait_for("[device-reloaded]", count=2)

        # Unloaded and loaded while somebody asks a thousand times.
        swap = "while [ ! -e /tmp/stop ]; do rmmod virtio_test; insmod /lib/modules/virtio_test.ko; done"
        machine.run(f"mkdir -p /tmp; (({swap}) >/dev/null 2>&1; touch /tmp/stopped) &")
        assert check(machine, "come-and-go 1000")[-1] == "ok"
        machine.run("touch /tmp/stop; until [ -e /tmp/stopped ]; do usleep 10000; done")
        machine.run("rmmod virtio_test; insmod /lib/modules/virtio_test.ko")
        assert check(machine, "ask 6")[0] == "6: 720"

        # Unplugged while four processes ask.
        machine.send("driver_check until-gone 4")
        machine.wait_for("is asking")
        machine.unplug()
        result = machine.result(timeout=180)
        assert result.returncode == 0, result.stdout
        ends = [line for line in result.lines if "answered, then" in line]
        assert len(ends) == 4, result.stdout
        assert all(re.search(r"answered, then (ENODEV|EIO)$", line) for line in ends), result.stdout
        remove(machine)


@pytest.mark.parametrize("transport", ["mmio-legacy", "mmio"])
def test_the_driver_on_four_processors_over_mmio(tutorial_driver, transport):
    files = {**CHECK, "/tutorial.ko": tutorial_driver("aarch64")}
    for name, exact in (("factorial", True), ("article", False)):
        with guest(name, arch="aarch64", transport=transport, files=files) as machine, unremarkable(machine):
            assert machine.run("nproc").lines == ["4"]
            features = machine.run("cat /sys/bus/virtio/devices/virtio0/features").lines[0]
            assert (features[32] == "1", features[1] == "1") == (transport == "mmio", exact)
            said = {True: "13! = 6227020800", False: "13! mod 2**32 = 1932053504"}[exact]
            assert machine.run("factorial 5 13").lines == ["5! = 120", said]
            for words in ("values", "misuse", "concurrent 4 500"):
                assert check(machine, words)[-1] == "ok"
            remove(machine)
            if (name, transport) == ("article", "mmio-legacy"):
                assert machine.run("insmod /tutorial.ko").returncode == 0
                ask_as_the_tutorial(machine, TUTORIAL)
                assert machine.run("rmmod tutorial").lines == []


# What a hostile device does with a request, and what the program in the guest is told.


def honest(device, head):
    n = int.from_bytes(device.read(head)[:4], "little")
    value = math.factorial(n)
    size = (value.bit_length() + 7) // 8
    device.answer(head, ExactResponse(value % 2**32, 0, size).pack() + value.to_bytes(size, "little"))


def answer_of(*fields):
    return lambda device, head: device.answer(head, ExactResponse(*fields).pack())


LIES = {
    "empty": (lambda device, head: device.add_used((head, 0)), "EIO"),
    "shorter than the answer's head": (lambda device, head: device.add_used((head, 11)), "EIO"),
    "longer than the room": (lambda device, head: device.add_used((head, 1 << 31)), "EIO"),
    "a size larger than what was written": (answer_of(120, 0, 100), "EIO"),
    "a huge size": (answer_of(120, 0, 2**32 - 1), "EIO"),
    "an unknown status": (answer_of(120, 77, 1), "EIO"),
    "always more room wanted": (answer_of(120, 1, 64), "EOVERFLOW"),
    "absurd room wanted": (answer_of(120, 1, 2**32 - 1), "EOVERFLOW"),
    "n too large": (answer_of(120, 2, 0), "ERANGE"),
}
FATAL = {
    "a head that is none": lambda device, head: device.add_used((head + 1, 16)),
    "a head beyond the queue": lambda device, head: device.add_used((5000, 16)),
    "the same head twice": lambda device, head: device.add_used((head, 16), (head, 16)),
}


def test_the_tutorials_driver_on_pci(tutorial_driver):
    """Both devices that know the tutorial's requests serve a driver that wants CAN_PRINT, and log what it says."""
    with ExitStack() as stack:
        backs = [stack.enter_context(served(name, "-v")) for name in ("factorial", "article")]
        devices = [attached(back.path, config_size=size) for back, size in zip(backs, (16, 12), strict=True)]
        machine = stack.enter_context(guest(*devices, files={"/tutorial.ko": tutorial_driver("x86_64")}))
        with unremarkable(machine):
            remove(machine)
            # It has one name for its node, so it serves the first device, until that is taken from it.
            assert machine.run("insmod /tutorial.ko").returncode == 0
            driver = "/sys/bus/virtio/drivers/tutorial"
            for number, back in enumerate(backs):
                if number:
                    machine.run(f"echo virtio{number - 1} >{driver}/unbind; echo virtio{number} >{driver}/bind")
                ask_as_the_tutorial(machine, TUTORIAL)
                back.wait_for("get arg1 [ 13 ] form the front end")
                back.wait_for("get arg2 [ hello back end! ] form the front end", count=len(TUTORIAL))
            assert machine.run("rmmod tutorial").lines == []


def test_the_driver_against_a_hostile_device(tmp_path):
    path = str(tmp_path / "h")
    short = str(tmp_path / "s")
    with ExitStack() as stack:
        back = stack.enter_context(HostileBackend(path, Factorial().description(), honest))
        shorter = stack.enter_context(HostileBackend(short, Factorial().description(), honest))
        devices = [attached(path), attached(short, config_size=8)]
        machine = stack.enter_context(guest(*devices, files=CHECK))
        with unremarkable(machine, allowed=("is not a head",)):
            assert check(machine, "ask 5")[0] == "5: 120"
            for name, (lie, told) in LIES.items():
                back.behave = lie
                said = check(machine, "ask 5")[0]
                assert re.fullmatch(f"5: ({told})", said), f"{name}: {said}"
                back.behave = honest
                assert check(machine, "ask 6")[0] == "6: 720", name
            for name, lie in FATAL.items():
                back.behave = lie
                said = machine.run("timeout -s KILL 20 driver_check ask 5", timeout=60)
                assert "5: EIO" in said.lines or said.returncode == 137, f"{name}: {said.stdout}"
                back.behave = honest
                remove(machine)
                load(machine)
                assert check(machine, "ask 6")[0] == "6: 720", name

            # No answer at all: who waits can be killed, and the module goes with the request in flight.
            back.behave = lambda device, head: None
            assert machine.run("timeout -s KILL 2 driver_check ask 5", timeout=60).returncode == 137
            assert check(machine, "interrupt", timeout=60)[-1] == "ok"
            remove(machine)
            back.behave = honest
            load(machine)
            assert check(machine, "ask 6")[0] == "6: 720"

            # A configuration space that ends before max_exact.
            result = machine.run("VIRTIO_MISC=/dev/virtio_misc1 driver_check ask 5")
            assert result.lines[0] == "5: 120", result.stdout
            remove(machine)
        assert shorter.requests
        assert Config.nbytes == 16
