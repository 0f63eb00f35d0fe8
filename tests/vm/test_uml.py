"""User-mode Linux drives a device of ours with a driver of its own, through a front-end that is not QEMU's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pyvirtio.errors import LocalError, ProvisionError
from pyvirtio.testing.served import served
from pyvirtio.vm.guest import Guest
from pyvirtio.vm.kernel import Kernel
from pyvirtio.vm.launch import GuestBuilder, default_builder
from pyvirtio.vm.machine import VhostUserDevice
from pyvirtio.vm.uml import UmlConfig
from tests.support import disk
from tests.support.disk import Disk

DEVICE = VhostUserDevice(Path("/nowhere"), id=2, queues=1, size=128, config_size=8)
TROUBLE = ("Oops", "BUG:", "WARNING:", "Call Trace", "I/O error", "reports error")


@pytest.fixture
def builder() -> GuestBuilder:
    builder = default_builder()
    try:
        builder.provision.uml()
    except (LocalError, ProvisionError) as error:
        pytest.skip(f"user-mode Linux cannot be provisioned here: {error}")
    return builder


@pytest.mark.guest
def test_a_stock_driver_binds_reads_writes_and_hears_of_a_change(builder: GuestBuilder) -> None:
    with served(f"{disk.__file__}:Disk") as server:
        device = VhostUserDevice.of(Disk().description(), Path(server.path))
        with builder.uml([device], modules=["virtio_blk"]) as config, Guest(config, boot_limit=60) as guest:
            bound = guest.run("readlink /sys/bus/virtio/devices/virtio0/driver").lines
            assert [Path(line).name for line in bound] == ["virtio_blk"]
            assert guest.run("cat /sys/block/vda/serial").lines == ["pyvirtio"]
            assert guest.run("dd if=/dev/vda bs=512 skip=1234 count=1 2>/dev/null | head -n 1").lines == [
                "sector     1234"
            ]

            # Written, and read again from the device: a driver that is loaded once more has no cache.
            assert guest.run("printf hello | dd of=/dev/vda bs=512 seek=5 conv=notrunc,fsync").status == 0
            assert guest.run("rmmod virtio_blk && insmod /lib/modules/virtio_blk.ko").status == 0
            assert guest.run("dd if=/dev/vda bs=512 skip=5 count=1 2>/dev/null | head -c 5").lines == ["hello"]

            assert guest.run("cat /sys/block/vda/size").lines == ["2048"]
            assert guest.run("printf grow | dd of=/dev/vda bs=512 conv=notrunc,fsync").status == 0
            grown = "until grep -q 4096 /sys/block/vda/size; do usleep 10000; done"
            assert guest.run(f'timeout 20 sh -c "{grown}"').status == 0

            log = guest.run("dmesg").output
            assert not [sign for sign in TROUBLE if sign in log], log
            guest.power_off()


@pytest.mark.guest
def test_it_goes_when_the_block_is_left(builder: GuestBuilder) -> None:
    with builder.uml() as config, Guest(config) as guest:
        assert guest.run("uname -r").lines == [config.kernel.release]
        folder = config.folder
    assert not folder.exists()


def test_its_command_line_names_each_device(tmp_path: Path) -> None:
    config = UmlConfig(Kernel(tmp_path / "linux.uml", "6.1"), tmp_path, tmp_path, [DEVICE, replace(DEVICE, id=3)])
    words = config.command(7, serial="stdio")
    assert words[0] == f"{tmp_path}/linux.uml"
    assert "initrd=/proc/self/fd/7" in words
    assert [word for word in words if "virtio_uml" in word] == [
        "virtio_uml.device=/nowhere:2",
        "virtio_uml.device=/nowhere:3",
    ]


def test_a_path_that_its_command_line_cannot_hold_is_refused(tmp_path: Path) -> None:
    config = UmlConfig(Kernel(tmp_path, "6.1"), tmp_path, tmp_path, [replace(DEVICE, socket=Path("/a:b"))])
    with pytest.raises(LocalError, match="colon"):
        config.command(7, serial="stdio")


def test_it_has_no_console_but_stdio(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="mon:stdio"):
        UmlConfig(Kernel(tmp_path, "6.1"), tmp_path, tmp_path).command(7, serial="mon:stdio")
