"""Linux's own balloon driver, in real guests: memory goes to the host and comes back. Two boots, much in each."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvirtio import serving
from pyvirtio.devices.balloon import PAGE_REPORTING, Balloon
from pyvirtio.testing.served import served
from pyvirtio.testing.watch import watch
from pyvirtio.vm import VhostUserDevice
from tests.support.guests import guest, pause, unremarkable

if TYPE_CHECKING:
    from pyvirtio.vm import Guest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

MEGABYTE = 1 << 20
DRIVER = "/sys/bus/virtio/drivers/virtio_balloon"


def fill(machine: Guest, megabytes: int) -> None:
    """Have the guest use so much memory, and free it."""
    use = f"mount -t tmpfs -o size=90% x /mnt && dd if=/dev/zero of=/mnt/file bs=1M count={megabytes}"
    assert machine.run(f"{use} && umount /mnt && echo filled").lines == ["filled"]


def wait_for(machine: Guest, total: int | None) -> None:
    """Return when the guest has so many bytes of memory in all."""
    assert total is not None
    there = f'grep -q "MemTotal: *{total // 1024} kB" /proc/meminfo'
    assert machine.run(f"timeout 60 sh -c 'until {there}; do usleep 10000; done'").returncode == 0


def held(machine: Guest) -> int:
    """Return the bytes of the host's that the guest's memory takes: its machine's largest file."""
    files = [os.stat(entry) for entry in Path(f"/proc/{machine.pid}/fd").iterdir()]
    memory = max((file for file in files if stat.S_ISREG(file.st_mode)), key=lambda file: file.st_size)
    return memory.st_blocks * 512


def test_what_a_guest_frees_and_what_it_lends_goes_to_the_host(tmp_path: Path) -> None:
    watched = watch(Balloon())
    with (
        serving(watched.device, str(tmp_path / "s")) as server,
        guest(server, arch="um") as machine,
        unremarkable(machine),
    ):
        device, call = server.device, server.call
        fill(machine, 140)
        while device.given_back < 100 * MEGABYTE:  # it reports what is free after a while
            watched.requested.wait()
        assert held(machine) < 120 * MEGABYTE
        total = call(device.statistics).memtot
        call(device.reach, 64 * MEGABYTE)
        assert (device.actual, call(device.statistics).memtot) == (64 * MEGABYTE, total - 64 * MEGABYTE)
        call(device.reach, 0)
        assert call(device.statistics).memtot == total
        fill(machine, 140)
        assert server.faults == []


def test_a_balloon_survives_whatever_happens_to_guest_and_worker(tmp_path: Path) -> None:
    plain = Balloon()
    plain.features &= ~PAGE_REPORTING
    with (
        serving(plain, str(tmp_path / "s")) as server,
        served("balloon,target=32M") as other,
        guest(server, VhostUserDevice.of(Balloon().description(), Path(other.path))) as machine,
        unremarkable(machine),
    ):
        device, call = server.device, server.call
        fill(machine, 100)
        total, before = call(device.statistics).memtot, held(machine)
        wait_for(machine, total)
        call(device.reach, 100 * MEGABYTE)
        wait_for(machine, total - 100 * MEGABYTE)
        assert held(machine) < before - 30 * MEGABYTE
        pause(machine)
        call(device.reach, 10 * MEGABYTE)
        total -= 10 * MEGABYTE
        assert call(device.statistics).memtot == total

        # The other one's worker dies while the driver deflates and inflates.
        for _ in range(3):
            machine.send(f"cd {DRIVER}; d=$(ls -d virtio* | tail -n 1); echo $d >unbind; echo $d >bind")
            os.kill(other.workers()[0], signal.SIGKILL)
            assert machine.result().returncode == 0
            wait_for(machine, total)

        # The guest starts anew: what was asked for holds. What it lent is its own again once it is rid of the device.
        machine.reset()
        wait_for(machine, total)
        call(device.reach, 20 * MEGABYTE)
        wait_for(machine, total - 10 * MEGABYTE)
        machine.unplug(0)
        wait_for(machine, total + 10 * MEGABYTE)
        assert not other.lines("[request-failed]")
        assert server.faults == []
