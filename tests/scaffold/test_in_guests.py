"""Projects in real guests: what `make guest` shows, and the drivers for Linux against devices that lie and go away."""

from __future__ import annotations

import struct
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import ProvisionError
from pyvirtio.provision.cache import Cache, default_root, digest
from pyvirtio.provision.packages import Registry
from pyvirtio.scaffold.kinds import DEFAULT, KINDS
from pyvirtio.spec.features import RING_FEATURES
from pyvirtio.testing.hostile_backend import HostileBackend
from pyvirtio.transport import DeviceDescription
from pyvirtio.vm import VhostUserDevice
from pyvirtio.vm.guest_packages import EMULATOR
from pyvirtio.vm.launch import GuestOptions, default_builder
from pyvirtio.vm.module_build import compiler_for, tool_environment
from tests.support.commands import run
from tests.support.guests import guest, unremarkable

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.testing.raw_device import RawDevice
    from pyvirtio.vm import Guest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]  # the first run downloads what it needs

ROOT = Path(__file__).parents[2]
STOCK = [like for like, kind in KINDS.items() if not kind.own_driver]


def made(folder: Path, name: str, like: str) -> Path:
    """Make a project as a user does."""
    result = run("new", name, *(["--like", like] if like else []), cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / name


def test_every_kind_for_which_linux_has_a_driver_in_one_guest(tmp_path: Path) -> None:
    projects = {like: made(tmp_path, f"my_{like}", like) for like in STOCK}
    names = {like: "".join(part.capitalize() for part in project.name.split("_")) for like, project in projects.items()}
    devices = [f"{project / project.name}.py:{names[like]}" for like, project in projects.items()]
    packages = [package for like in STOCK for package in KINDS[like].packages]
    files = {f"/root/{like}.sh": project / "guest.sh" for like, project in projects.items()}
    with guest(*devices, packages=packages, files=files) as machine, unremarkable(machine):
        for like in STOCK:
            result = machine.run(f"sh {like}.sh")
            assert result.stdout == f"{KINDS[like].guest_shown}\n", f"{like}: {result.stderr}"


@pytest.mark.parametrize("like", [DEFAULT, "echo"])
def test_a_project_boots_with_its_own_driver(like: str, tmp_path: Path) -> None:
    project = made(tmp_path, "lamp", like)
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "guest"]
    shown = subprocess.run(tests, cwd=project, capture_output=True, text=True, check=False, timeout=600)
    if "1 skipped" in shown.stdout:
        pytest.skip(f"nothing can be provisioned here: {shown.stdout}")
    assert "1 passed" in shown.stdout, shown.stdout


# The drivers.


@dataclass(frozen=True)
class Case:
    """A project with a driver, and how to try it.

    Attributes:
        like: the kind of project.
        ask: a line of shell that asks once, and what it prints where the answer is `honest`.
        honest: an answer, whose first four bytes are the status, 0.
        step: a line of Python that asks once, with an open file as ``fd``.
    """

    like: str
    ask: tuple[str, str]
    honest: bytes
    step: str

    def answers(self, data: bytes) -> Callable[[RawDevice, int], None]:
        return lambda device, head: device.answer(head, data)

    def backend(self, path: Path) -> HostileBackend:
        description = DeviceDescription("lamp", 38, 1 | RING_FEATURES, [64], struct.pack("<I", 4096), bytes(4))
        return HostileBackend(str(path), description, self.answers(self.honest))


OWN = Case(DEFAULT, ("ask get 1", "7"), struct.pack("<II", 0, 7), "os.pread(fd, 4, 4)")
ECHO = Case(
    "echo", ("exec 3<>/dev/lamp0; echo hello >&3 && cat <&3", "HELLO"), b"\0\0\0\0HELLO\n", "os.write(fd, b'x')"
)
each_case = pytest.mark.parametrize("case", [OWN, ECHO], ids=lambda case: case.like or "own")

LIES: dict[str, Callable[[RawDevice, int], None]] = {
    "nothing is written": lambda device, head: device.add_used((head, 0)),
    "less than the status": lambda device, head: device.add_used((head, 3)),
    "more than there is room for": lambda device, head: device.add_used((head, 1 << 31)),
    "an unknown status": lambda device, head: device.answer(head, b"\x77" + bytes(7)),
}
FATAL: dict[str, Callable[[RawDevice, int], None]] = {
    "a head that is none": lambda device, head: device.add_used((head + 1, 8)),
    "a head beyond the queue": lambda device, head: device.add_used((5000, 8)),
}


def silent(_device: RawDevice, _head: int) -> None:
    """Say nothing."""


PROGRAM = """
import os
import sys

fd = os.open("/dev/lamp0", os.O_RDWR)
print("asking", flush=True)
try:
    for _ in range(int(sys.argv[1])):
        {step}
    print("done")
except OSError as error:
    print(error.strerror)
"""
DRIVER = "/sys/bus/virtio/drivers/lamp_driver"
IN_BACKGROUND = "python3 -ISE asking.py 1000000 >out & until grep -q asking out; do usleep 10000; done"


def asks(machine: Guest, case: Case) -> None:
    """Ask once, and get the honest answer."""
    command, expected = case.ask
    result = machine.run(f"timeout 60 sh -c '{command}'")
    assert (result.stdout, result.returncode) == (f"{expected}\n", 0), result.stderr


def load_again(machine: Guest) -> None:
    assert machine.run("rmmod lamp_driver && insmod /lib/modules/lamp_driver.ko").returncode == 0


@each_case
def test_a_driver_against_a_device_that_lies_or_goes(case: Case, tmp_path: Path) -> None:
    project = made(tmp_path, "lamp", case.like)
    files: dict[str, Path | bytes] = {"/root/asking.py": PROGRAM.format(step=case.step).encode()}
    if case.like == DEFAULT:
        files["/bin/ask"] = project / "linux" / "ask.py"
    attached = replace(VhostUserDevice(tmp_path / "h", id=38, queues=1, size=64, config_size=4))
    with (
        case.backend(tmp_path / "h") as back,
        guest(attached, drivers=[project / "linux"], files=files, cpus=2) as machine,
        unremarkable(machine, allowed=("is not a head",)),
    ):
        honest = back.behave
        asks(machine, case)
        for name, lie in LIES.items():
            back.behave = lie
            said = machine.run(f"sh -c '{case.ask[0]}'")
            assert "Input/output error" in said.stderr, f"{name}: {said.stdout} {said.stderr}"
            back.behave = honest
            asks(machine, case)

        # A queue that is broken, or a device that says nothing: who waits can be killed, and the module goes.
        for name, lie in (*FATAL.items(), ("no answer", silent)):
            back.behave = lie
            said = machine.run(f"timeout -s KILL 2 sh -c '{case.ask[0]}'", timeout=60)
            assert "Input/output error" in said.stderr or said.returncode == 137, f"{name}: {said.stdout}"
            back.behave = honest
            load_again(machine)
            asks(machine, case)

        # Many at once; then it is taken from its driver while somebody waits, and given back.
        many = "for n in 1 2 3 4; do python3 -ISE asking.py 300 & done; wait"
        assert machine.run(many).lines.count("done") == 4
        back.behave = silent
        taken = f"cd {DRIVER}; for device in virtio*; do echo $device >unbind; done; cd"
        result = machine.run(f"{IN_BACKGROUND}; {taken}; wait; cat out; ls /dev/lamp* | wc -l")
        assert result.lines == ["asking", "No such device", "0"], result.stderr
        back.behave = honest
        bound = "for device in /sys/bus/virtio/devices/virtio*; do echo ${device##*/}; done"
        assert machine.run(f"for device in $({bound}); do echo $device >{DRIVER}/bind; done").returncode == 0
        asks(machine, case)

        # Pulled out while somebody asks, and plugged in again.
        machine.send("python3 -ISE asking.py 1000000")
        machine.wait_for("asking")
        machine.unplug()
        assert machine.result().lines[-1] in {"No such device", "Input/output error"}
        machine.plug()
        assert machine.run("until [ -e /dev/lamp0 ]; do usleep 10000; done").returncode == 0
        asks(machine, case)

        # The machine sleeps and wakes up, with a request in flight.
        back.behave = silent
        machine.send(f"{IN_BACKGROUND}; echo mem >/sys/power/state; echo awake; kill %1; wait")
        machine.monitor.wait_for("SUSPEND")
        back.behave = honest
        machine.monitor.execute("system_wakeup")
        assert machine.result().lines == ["awake"]
        asks(machine, case)
        assert machine.run("rmmod lamp_driver").returncode == 0
    assert back.requests > 1200


# What tools say of the drivers.


def sparse() -> Path:
    """Return the folder of sparse, which finds what the compiler does not, such as byte orders that are mixed."""
    registry = Registry(Cache(default_root()))

    def make(folder: Path) -> None:
        registry.unpack(EMULATOR, ["sparse"], folder)

    return registry.cache.entry("sparse", digest(EMULATOR.name), make)


@each_case
@pytest.mark.parametrize("version", ["6.1", "6.12", "7"])
def test_a_driver_is_built_without_a_warning(case: Case, version: str, tmp_path: Path) -> None:
    builder = default_builder()
    try:
        headers = builder.kernel(GuestOptions(kernel_version=version)).headers
        assert headers is not None
        tools, checker = builder.provision.toolchain("x86_64", compiler_for(headers)), sparse()
    except ProvisionError as error:
        pytest.skip(f"nothing can be provisioned here: {error}")
    project = made(tmp_path, "virtio_lamp_2d", case.like)  # which C calls virtio_lamp2d
    environment = tool_environment(tools)
    environment["PATH"] = f"{checker / 'usr/bin'}:{environment['PATH']}"
    done = subprocess.run(
        [str(ROOT / "tools" / "check-driver"), "-d", str(project / "linux"), str(headers)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok build" in done.stdout
