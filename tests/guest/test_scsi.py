"""Linux's own SCSI drivers on a SCSI host of ours, in real guests. Two boots, much in each."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvirtio import serving
from pyvirtio.devices.scsi import Scsi
from pyvirtio.devices.scsi_unit import Unit
from pyvirtio.testing.served import served
from pyvirtio.vm import VhostUserDevice
from tests.support.guests import disturbing, guest, pause, unremarkable

if TYPE_CHECKING:
    from pyvirtio.vm import Guest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

MEGABYTE = 1 << 20
SCAN = "/sys/class/scsi_device"


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sparse(path: Path, size: int) -> Path:
    path.write_bytes(b"")
    os.truncate(path, size)
    return path


def until(machine: Guest, condition: str) -> None:
    """Return when a condition of the shell holds in the guest."""
    assert machine.run(f"timeout 60 sh -c 'until {condition}; do usleep 10000; done'").returncode == 0


def disk(machine: Guest, address: str) -> str:
    """Return the device under which the guest knows a unit, such as ``0:0:0:0``."""
    until(machine, f"[ -e {SCAN}/{address}/device/block/s* ]")
    return "/dev/" + machine.run(f"ls {SCAN}/{address}/device/block").stdout.strip()


def test_disks_and_discs_are_what_linux_makes_of_them(tmp_path: Path) -> None:
    image, iso = sparse(tmp_path / "disk.img", 64 * MEGABYTE), tmp_path / "disc.iso"
    iso.write_bytes(b"disc" * 51200)

    class Worn(bytearray):
        """Cannot be read beyond its first megabyte."""

        def __getitem__(self, where):
            if where.start >= MEGABYTE:
                raise OSError("worn out")
            return super().__getitem__(where)

    device = Scsi({(0, 0): Unit(image, serial="the-disk"), (1, 0): Unit(iso, cdrom=True)})
    with (
        serving(device, str(tmp_path / "s")) as server,
        guest(server, arch="um", modules=["ext4"], packages=["sg3-utils", "e2fsprogs", "util-linux"]) as machine,
        unremarkable(machine),
    ):
        call = server.call
        sda, sr0 = disk(machine, "0:0:0:0"), disk(machine, "0:0:1:0")
        inquired = machine.run(f"sg_inq {sda}").stdout
        assert "Vendor identification: PYVIRTIO" in inquired
        assert "Unit serial number: the-disk" in inquired
        assert "Device size: 67108864 bytes" in machine.run(f"sg_readcap -l {sda}").stdout
        pages = machine.run(f"sg_vpd -a {sda}").stdout
        assert "designator type: NAA" in pages
        assert "Unmap command supported (LBPU): 1" in pages
        assert "Maximum unmap block descriptor count: 64" in pages
        assert "WP=0, DpoFua=1" in machine.run(f"sg_modes {sda}").stdout
        for command in "sg_turs", "sg_sync", "sg_requests", "sg_verify --lba=0 --count=16", "sg_reset -d":
            assert machine.run(f"{command} {sda}").returncode == 0, command
        assert "Unit attention" in machine.run(f"sg_turs -v {sda}").stdout  # as it was reset

        # A file system on it; space that is trimmed comes back; zeros; a disc that can be read and not written.
        files = "head -c 10000000 /dev/urandom >/mnt/x; sha256sum /mnt/x >/sum; rm /mnt/lost+found -r; fstrim /mnt"
        made = machine.run(f"mke2fs -q -t ext4 {sda} && mkdir -p /mnt && mount {sda} /mnt && {files}; umount /mnt")
        assert made.returncode == 0
        assert machine.run(f"e2fsck -fn {sda} && mount {sda} /mnt && sha256sum -c /sum; umount /mnt").returncode == 0
        assert machine.run(f"sha256sum {sda}").lines[0].split()[0] == checksum(image)
        assert image.stat().st_blocks * 512 < 40 * MEGABYTE
        assert machine.run(f"sg_write_same --16 --num=2048 --lba=0 --ndob {sda}").returncode == 0
        assert machine.run(f"dd if={sda} bs=1M count=1 iflag=direct | tr -d '\\0' | wc -c").lines == ["0"]
        assert machine.run(f"sha256sum {sr0}").lines[0].split()[0] == checksum(iso)
        assert machine.run(f"dd if=/dev/zero of={sr0} bs=2048 count=1").returncode != 0

        # What comes and goes; what grows; what fails.
        call(device.plug, Unit(Worn(2 * MEGABYTE)), 5, 3)
        sdb = disk(machine, "0:0:5:3")
        assert machine.run(f"dd if={sdb} of=/dev/null bs=64k count=16 iflag=direct").returncode == 0
        assert machine.run(f"dd if={sdb} of=/dev/null bs=64k count=1 skip=16 iflag=direct").returncode != 0
        assert machine.run(f"dd if=/dev/zero of={sdb} bs=64k count=32 oflag=direct").returncode == 0
        machine.send(f"while dd if={sdb} of=/dev/null bs=64k count=16 iflag=direct; do :; done; echo ended")
        call(device.unplug, 5, 3).close()
        assert machine.result().lines == ["ended"]
        until(machine, f"[ ! -e {SCAN}/0:0:5:3 ]")
        os.truncate(image, 128 * MEGABYTE)
        until(machine, f'[ "$(cat /sys/class/block/{Path(sda).name}/size)" = 262144 ]')


FILES = (
    "mke2fs -q -t ext4 {0} && mkdir -p /mnt && mount -t ext4 {0} /mnt && cd /mnt && "
    "for n in 1 2 3 4; do (for m in 1 2; do head -c 1000000 /dev/urandom >$n.$m; sync; done) & done; wait; "
    "sha256sum [1-4].* >/tmp/sums; cd / && umount /mnt && e2fsck -fn {0} >/tmp/checked && mount -t ext4 {0} /mnt && "
    "cd /mnt && sha256sum -c /tmp/sums | grep -c OK; cd / && umount /mnt"
)


def test_a_file_system_survives_dying_workers_and_a_machine_that_pauses(tmp_path: Path) -> None:
    image = sparse(tmp_path / "image", 128 * MEGABYTE)
    like_it = Scsi(queues=2)
    with served(f"scsi,path={image},queues=2") as server:

        def kill_worker() -> None:
            for worker in server.workers():
                os.kill(worker, signal.SIGKILL)

        attached = VhostUserDevice.of(like_it.description(), Path(server.path))
        packages = ["e2fsprogs", "util-linux"]
        with guest(attached, cpus=2, modules=["ext4"], packages=packages) as machine, unremarkable(machine):
            sda = disk(machine, "0:0:0:0")
            with disturbing(kill_worker, lambda: pause(machine)) as done:
                while min(done) < 3:
                    assert machine.run(FILES.format(sda)).lines == ["8"]
            assert machine.run(f"sha256sum {sda}").lines[0].split()[0] == checksum(image)
            assert "error" not in machine.run("dmesg").stdout.lower()

            drivers = "cd /sys/bus/virtio/drivers/virtio_scsi; d=$(basename virtio*)"
            assert machine.run(f"{drivers}; echo $d >unbind; echo $d >bind").returncode == 0
            until(machine, "ls /dev/sd?")
            assert machine.run("sha256sum /dev/sd?").lines[0].split()[0] == checksum(image)
            machine.reset()
            until(machine, "ls /dev/sd?")
            machine.send("while dd if=/dev/sda of=/dev/null bs=64k iflag=direct; do :; done; echo ended")
            machine.unplug()
            assert machine.result().lines == ["ended"]
            machine.plug()
            until(machine, "ls /dev/sd?")
            assert machine.run("sha256sum /dev/sd?").lines[0].split()[0] == checksum(image)
        assert not server.lines("[request-failed]")
