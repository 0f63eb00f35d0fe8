"""User-mode Linux drives a device of ours with a driver of its own, through a front-end that is not QEMU's."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from pyvirtio import vm
from pyvirtio.errors import LocalError, ProvisionError
from pyvirtio.vm import VhostUserDevice
from pyvirtio.vm.kernel import Kernel
from pyvirtio.vm.running import Wires
from pyvirtio.vm.uml import UmlConfig
from tests.support import disk
from tests.support.entropy import Entropy
from tests.support.guests import guest, unremarkable

DEVICE = VhostUserDevice(Path("/nowhere"), id=2, queues=1, size=128, config_size=8)


@pytest.mark.guest
def test_a_stock_driver_binds_reads_writes_and_hears_of_a_change() -> None:
    with guest(f"{disk.__file__}:Disk", arch="um") as machine, unremarkable(machine):
        bound = machine.run("readlink /sys/bus/virtio/devices/virtio0/driver").lines
        assert [Path(line).name for line in bound] == ["virtio_blk"]
        assert machine.run("cat /sys/block/vda/serial").stdout == "pyvirtio"
        assert machine.run("dd if=/dev/vda bs=512 skip=1234 count=1 2>/dev/null | head -n 1").lines == [
            "sector     1234"
        ]

        # Written, and read again from the device: a driver that is loaded once more has no cache.
        assert machine.run("printf hello | dd of=/dev/vda bs=512 seek=5 conv=notrunc,fsync").returncode == 0
        assert machine.run("rmmod virtio_blk && insmod /lib/modules/virtio_blk.ko").returncode == 0
        assert machine.run("dd if=/dev/vda bs=512 skip=5 count=1 | head -c 5").stdout == "hello"

        assert machine.run("cat /sys/block/vda/size").lines == ["2048"]
        assert machine.run("printf grow | dd of=/dev/vda bs=512 conv=notrunc,fsync").returncode == 0
        grown = "until grep -q 4096 /sys/block/vda/size; do usleep 10000; done"
        assert machine.run(f'timeout 20 sh -c "{grown}"').returncode == 0

        with pytest.raises(LocalError, match="QEMU"):
            machine.stop()
        with pytest.raises(LocalError, match="QEMU"):
            machine.unplug()


@pytest.mark.guest
def test_it_leaves_nothing_and_reports_its_kernel() -> None:
    with guest(arch="um") as machine:
        assert isinstance(machine.config, UmlConfig)
        assert machine.run("uname -r").lines == [machine.config.kernel.release]
        machine.power_off()


@pytest.mark.guest
def test_a_cancelled_task_ends_its_guest() -> None:
    """At once, whatever the guest is doing; that nothing is left behind is checked for every test."""

    async def use(when_up: asyncio.Event) -> None:
        async with vm.guest(disk.Disk(), arch="um") as machine:
            when_up.set()
            await machine.run("sleep 1000")

    async def cancel() -> None:
        up = asyncio.Event()
        task = asyncio.ensure_future(use(up))
        done, _ = await asyncio.wait([task, waiting := asyncio.ensure_future(up.wait())], return_when="FIRST_COMPLETED")
        waiting.cancel()
        if task in done:
            task.result()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    try:
        asyncio.run(asyncio.wait_for(cancel(), 120))
    except (LocalError, ProvisionError) as error:
        pytest.skip(f"nothing can be provisioned here: {error}")


def test_its_command_line_names_each_device(tmp_path: Path) -> None:
    config = UmlConfig(Kernel(tmp_path / "linux.uml", "6.1"), tmp_path, [DEVICE, replace(DEVICE, id=3)])
    words = config.command(Wires("/proc/self/fd/7", tmp_path, commands=8, end="abc"))
    assert words[0] == f"{tmp_path}/linux.uml"
    assert {"initrd=/proc/self/fd/7", f"uml_dir={tmp_path}/", "ssl0=fd:8,fd:8", "pyvirtio=ttyS0:abc"} < set(words)
    assert [word for word in words if "virtio_uml" in word] == [
        "virtio_uml.device=/nowhere:2",
        "virtio_uml.device=/nowhere:3",
    ]
    at_a_terminal = config.command(Wires("/proc/self/fd/7", tmp_path))
    assert not [word for word in at_a_terminal if "ssl0" in word or word.startswith("pyvirtio=")]


def test_a_path_that_its_command_line_cannot_hold_is_refused(tmp_path: Path) -> None:
    config = UmlConfig(Kernel(tmp_path, "6.1"), tmp_path, [replace(DEVICE, socket=Path("/a:b"))])
    with pytest.raises(LocalError, match="colon"):
        config.command(Wires("/proc/self/fd/7", tmp_path))


@pytest.mark.guest
def test_a_device_without_a_driver_is_refused() -> None:
    with pytest.raises(LocalError, match="no driver for the entropy source"), guest(Entropy(), arch="um"):
        pass
    with pytest.raises(LocalError, match="no driver can be built"), guest("factorial", arch="um"):
        pass


@pytest.mark.guest
def test_what_only_qemu_has_is_refused() -> None:
    with pytest.raises(LocalError, match="without QEMU"), guest(arch="um", transport="mmio"):
        pass
