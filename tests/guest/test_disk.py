"""A disk whose requests overlap, and Linux's own driver for it, in real guests. Few boots, much in each."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio import serving
from pyvirtio.devices.block import Block
from pyvirtio.testing.served import served
from pyvirtio.vm import VhostUserDevice
from tests.support.guests import disturbing, guest, pause, unremarkable

if TYPE_CHECKING:
    import random

    from pyvirtio.device import Reader, Writer

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

MEGABYTE = 1 << 20
SIZE_MAX = 1 << 1  # feature bit: pieces have at most so many bytes (VIRTIO 1.4, 5.2.3)


class Erratic(Block):
    """Takes a random time for each request, fails where it is told to, and keeps count.

    Attributes:
        bad: the sectors that can neither be read nor written.
        stuck: the sectors whose requests never end.
        most: the most requests that were in progress at once.
        ended: the requests in the order in which they ended, each by its number in the order in which they began.
    """

    patience = 2.0

    def __init__(self, path: Path, rng: random.Random) -> None:
        super().__init__(path)
        self.features |= SIZE_MAX
        self.config = self.config.replace(size_max=4096, seg_max=1)
        self.bad: set[int] = set()
        self.stuck: set[int] = set()
        self.most = 0
        self.ended: list[int] = []
        self._rng = rng
        self._begun = 0
        self._gather = 0
        self._gathered = asyncio.Event()
        storage = self._storage
        storage.read_into = self._worn(storage.read_into)  # type: ignore[method-assign]  # a disk that ages
        storage.write_from = self._worn(storage.write_from)  # type: ignore[method-assign]  # as above

    def _worn(self, transfer: Any) -> Any:
        async def meet(stream: Any, length: int, offset: int) -> int:
            sector = offset // 512
            if sector in self.stuck:
                await asyncio.Event().wait()
            if sector in self.bad:
                raise OSError(f"sector {sector} is worn out")
            number: int = await transfer(stream, length, offset)
            return number

        return meet

    def gather(self, number: int) -> None:
        """Let no further request end before so many are in progress."""
        self.most, self._gather = 0, number
        self._gathered.clear()

    async def serve(self, reader: Reader, writer: Writer) -> None:
        number = self._begun
        self._begun += 1
        self.most = max(self.most, self._begun - len(self.ended))
        if self.most >= self._gather:
            self._gathered.set()
        try:
            await self._gathered.wait()
            await asyncio.sleep(self._rng.uniform(0, 0.02))
            await super().serve(reader, writer)
        finally:
            self.ended.append(number)


# Eight at once, a megabyte each, past the guest's cache.
SUM = "cat /tmp/[0-7] | sha256sum"
EACH = "for n in 0 1 2 3 4 5 6 7; do"
READ = f"{EACH} dd if=/dev/vda of=/tmp/$n bs=1M count=1 skip=$n iflag=direct 2>/dev/null & done; wait; {SUM}"
WRITE = (
    f"{EACH} head -c 1048576 /dev/urandom >/tmp/$n; done; "
    f"{EACH} dd if=/tmp/$n of=/dev/vda bs=1M seek=$n oflag=direct conv=notrunc,fsync 2>/dev/null & done; wait; {SUM}"
)


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_requests_overlap_and_failures_are_io_errors(tmp_path: Path, rng: random.Random) -> None:
    image = tmp_path / "image"
    image.write_bytes(rng.randbytes(8 * MEGABYTE))
    with serving(Erratic(image, rng), str(tmp_path / "s")) as server, guest(server, arch="um") as machine:
        device = server.device
        with unremarkable(machine):
            server.call(device.gather, 32)
            assert machine.run(READ).lines[0].split()[0] == checksum(image)
            assert device.most >= 32
            assert device.ended != sorted(device.ended)
            assert machine.run(WRITE).lines[0].split()[0] == checksum(image)
            assert device.most <= 256, "the queue is declared for so many"
            assert server.faults == []

            def transfers(sector: int, *, cached: bool = True) -> list[bool]:
                """Return whether a read, a write, and a write through the cache of this sector succeed."""
                commands = [
                    f"dd if=/dev/vda of=/dev/null bs=512 count=1 skip={sector} iflag=direct",
                    f"dd if=/tmp/0 of=/dev/vda bs=512 count=1 seek={sector} oflag=direct conv=notrunc",
                    f"dd if=/tmp/0 of=/dev/vda bs=512 count=1 seek={sector} conv=notrunc,fsync",
                ]
                return [machine.run(command).returncode == 0 for command in commands[: 2 + cached]]

            before = checksum(image)
            device.bad, device.stuck = {1000}, {2000}
            assert transfers(1000) == [False, False, False]
            assert transfers(2000, cached=False) == [False, False]
            assert checksum(image) == before
            assert transfers(992) == transfers(1008) == transfers(2008) == [True, True, True]
            device.bad = device.stuck = set()
            assert transfers(1000) == transfers(2000) == [True, True, True]
        machine.power_off()


# Eight writers at once; then what they wrote is read back from the disk, and not from the guest's memory.
FILES = (
    "mke2fs -q -t ext4 /dev/vda && mkdir -p /mnt && mount -t ext4 /dev/vda /mnt && cd /mnt && "
    "for n in 1 2 3 4 5 6 7 8; do (for m in 1 2 3 4; do head -c 1000000 /dev/urandom >$n.$m; sync; done) & done; wait; "
    "sha256sum [1-8].* >/tmp/sums; rm 8.*; grep -v ' 8' /tmp/sums >/tmp/kept; fstrim /mnt; "
    "cd / && umount /mnt && e2fsck -fn /dev/vda >/tmp/checked && mount -t ext4 /dev/vda /mnt && "
    "cd /mnt && sha256sum -c /tmp/kept | grep -c OK; cd / && umount /mnt"
)


def test_a_file_system_survives_dying_workers_and_a_machine_that_pauses(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"")
    os.truncate(image, 128 * MEGABYTE)
    options = f"block,path={image},queues=2,serial=the-disk"
    with (
        contextlib.closing(Block(image, queues=2)) as like_it,
        served(options, "--workers", "2") as server,
    ):

        def kill_worker() -> None:
            for worker in server.workers():
                os.kill(worker, signal.SIGKILL)

        attached = VhostUserDevice.of(like_it.description(), Path(server.path))
        packages = ["e2fsprogs", "util-linux"]
        with guest(attached, cpus=2, modules=["ext4"], packages=packages) as machine, unremarkable(machine):
            assert machine.run("cat /sys/block/vda/serial; echo; ls -1 /sys/block/vda/mq").lines == [
                "the-disk",
                "0",
                "1",
            ]
            with disturbing(kill_worker, lambda: pause(machine)) as done:
                assert machine.run(FILES).lines == ["28"]
            assert min(done) >= 3
            in_the_guest = machine.run("sha256sum /dev/vda").lines[0].split()[0]
            assert in_the_guest == checksum(image)
            log = machine.run("dmesg").stdout
            assert "error" not in log.lower()
            assert image.stat().st_blocks * 512 < 100 * MEGABYTE, "what was trimmed takes no space"

            # The disk grows while it is in use; the driver lets go of it and takes it again; the guest starts anew.
            os.truncate(image, 256 * MEGABYTE)
            bigger = 'until [ "$(cat /sys/block/vda/size)" = 524288 ]; do usleep 10000; done'
            assert machine.run(f"timeout 20 sh -c '{bigger}'").returncode == 0
            assert machine.run(
                "cd /sys/bus/virtio/drivers/virtio_blk; d=$(basename virtio*); echo $d >unbind; echo $d >bind"
            )
            read = "sha256sum /dev/vda"
            assert machine.run(read).lines[0].split()[0] == checksum(image)
            machine.reset()
            assert machine.run(read).lines[0].split()[0] == checksum(image)

            # It is pulled out while it is read: an error, and the guest goes on; and it comes back.
            machine.send("while dd if=/dev/vda of=/dev/null bs=64k iflag=direct; do :; done; echo ended")
            machine.unplug()
            assert machine.result().lines == ["ended"]
            machine.plug()
            assert machine.run("timeout 20 sh -c 'until [ -e /dev/vda ]; do usleep 10000; done'").returncode == 0
            assert machine.run(read).lines[0].split()[0] == checksum(image)
        assert not server.lines("[request-failed]")


def test_a_full_disk_of_the_host_is_an_io_error_in_the_guest(tmp_path: Path) -> None:
    full = Path("/dev/full")  # it reads as zeros, and every write fails with ENOSPC

    class Full(Block):
        """Says that /dev/full, which has no size, has one."""

        def __init__(self) -> None:
            super().__init__(full)
            self.config = self.config.replace(capacity=2048)
            self._size = MEGABYTE

        def resize(self) -> None:
            """Stay as it is."""

    with guest(Full(), arch="um") as machine:
        assert machine.run("dd if=/dev/vda of=/dev/null bs=4k count=10 iflag=direct").returncode == 0
        assert machine.run("dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct").returncode != 0
        assert machine.run("dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync").returncode != 0
