"""Real Linux guests under TCG, with our device behind an unmodified QEMU. Few boots, much in each."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvirtio import Device, Queue, vm
from pyvirtio.devices.factorial import Factorial
from pyvirtio.errors import GuestError, LocalError, ProvisionError
from pyvirtio.spec.ids import QEMU_FORWARDS
from pyvirtio.testing.served import served
from pyvirtio.vm import VhostUserDevice
from pyvirtio.vm.device_ids import DeviceProbe
from pyvirtio.vm.frontends import FRONTENDS, GENERIC
from pyvirtio.vm.launch import GuestOptions, default_builder
from tests.support.disk import Disk
from tests.support.entropy import PATTERN, Entropy
from tests.support.guests import guest, unremarkable

if TYPE_CHECKING:
    from pyvirtio.device import Reader, Writer

pytestmark = [
    pytest.mark.guest,
    pytest.mark.timeout(900),  # the first run downloads some 250 MB
]

NUMBERS = ["0", "5", "10", "12", "13", "20", "33", "34"]
EXACT = [
    *("0! = 1", "5! = 120", "10! = 3628800", "12! = 479001600", "13! = 6227020800", "20! = 2432902008176640000"),
    *("33! = 8683317618811886495518194401280000000", "34! = 295232799039604140847618609643520000000"),
]
WRAPPED = [
    f"{n}! mod 2**32 = {value}"
    for n, value in zip(NUMBERS, (1, 120, 3628800, 479001600, 1932053504, 2192834560, 2147483648, 0), strict=True)
]


def test_the_articles_run_on_x86_64() -> None:
    with served("factorial") as server:
        attached = VhostUserDevice.of(Factorial().description(), Path(server.path))
        with guest(attached) as machine, unremarkable(machine):
            # A program in the guest that only writes finds its answer in the kernel's log. First of all, for the
            # driver limits how many lines it logs.
            assert machine.run(r"printf '\005\000\000\000' >/dev/virtio_misc").returncode == 0
            logged = "until dmesg | grep -q 'virtio response ret is 120'; do usleep 10000; done"
            assert machine.run(f'timeout 20 sh -c "{logged}"').returncode == 0

            assert machine.run(f"factorial {' '.join(NUMBERS)}").lines == EXACT
            assert machine.run(f"factorial --wrap32 {' '.join(NUMBERS)}").lines == WRAPPED
            assert machine.run("factorial --quiet 100 | wc -c").lines == ["159"]

            refused = machine.run("factorial 4294967295")
            assert (refused.returncode, refused.stdout, len(refused.stderr.splitlines())) == (1, "", 1)
            assert machine.run("factorial five").returncode == 2

            # The worker's death is not noticed in the guest.
            workers = server.workers()
            assert workers, "the keeper has no worker"
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
            assert machine.run("factorial 6").lines == ["6! = 720"]

            assert machine.run("rmmod virtio_test && insmod /lib/modules/virtio_test.ko && factorial 7").lines == [
                "7! = 5040"
            ]
        # The same back-end serves the next guest.
        with guest(attached) as machine:
            assert machine.run(["factorial", "8"]).lines == ["8! = 40320"]
            machine.power_off()


def test_a_kernel_that_finds_no_init_is_a_panic_with_its_console() -> None:
    with (
        pytest.raises(GuestError, match=r"gave up while waiting for the guest to boot: .*Kernel panic.*\n"),
        guest(kernel_options=["rdinit=/missing"]),
    ):
        pass


class Counting(Entropy):
    """Counts what it was asked for."""

    count = 0

    def fill(self, reader: Reader, writer: Writer) -> None:
        """Fill the buffer."""
        self.count += 1
        super().fill(reader, writer)


class Unclaimed(Device):
    """Has an id that no driver of Linux binds."""

    device_id = 39
    requests = Queue(size=4)

    @requests.stream
    def fail(self, reader: Reader, writer: Writer) -> None:
        """Be asked by nobody."""
        raise AssertionError


def test_device_objects_and_specs_in_one_guest_that_stops_resets_and_loses_them(tmp_path: Path) -> None:
    """Everything that a test does with a machine, in one boot."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("in a folder")
    device = Counting()
    with guest(
        device,
        "factorial",
        Unclaimed(),
        modules=["ext4"],
        packages=["e2fsprogs"],
        files={"/root/tool": b"#!/bin/sh\necho a tool\n", "/root/folder": tmp_path / "folder"},
        cpus=2,
    ) as machine:
        frontends = [one.frontend for one in machine.config.devices]
        assert frontends == [FRONTENDS[4], GENERIC, GENERIC], "a device with a driver of its own is of no standard type"
        with unremarkable(machine):
            assert machine.run("cat /sys/class/misc/hw_random/rng_current").lines == ["virtio_rng.0"]
            before = device.count
            assert machine.run("head -c 16 /dev/hwrng").stdout == PATTERN.decode()
            assert device.count > before, "this object answered"
            assert machine.run("factorial 5").lines == ["5! = 120"]

            assert machine.run("nproc; ./tool; cat folder/a; grep -c ext4 /proc/filesystems").lines == [
                *("2", "a tool", "in a folder1"),
            ]
            made = machine.run(
                "type mke2fs; head -c 1000000 /dev/zero >i; mke2fs -q -t ext4 i && e2fsck -fy i | tail -1"
            )
            assert made.lines[0] == "mke2fs is /sbin/mke2fs", "the package's program is preferred to busybox's"
            assert made.returncode == 0, made.stderr

            machine.stop()
            assert machine.monitor.execute("query-status")["status"] == "paused"
            machine.cont()
            assert machine.run("factorial 6").lines == ["6! = 720"]

            machine.unplug(1)
            assert machine.run("factorial 7").returncode == 1
            machine.plug(1)
            back = "until [ -e /dev/virtio_misc ]; do usleep 10000; done; factorial 7"
            assert machine.run(back).lines == ["7! = 5040"]
            with pytest.raises(LocalError, match="3, counted from 0"):
                machine.unplug(3)

        for restart in (machine.reset, machine.reboot):
            machine.run("touch /tmp/here")
            restart()
            assert machine.run("ls /tmp").stdout == ""
            assert machine.run("factorial 8; head -c 4 /dev/hwrng").stdout == f"8! = 40320\n{PATTERN[:4].decode()}"

        machine.monitor.execute("set-action", {"reboot": "reset"})
        with pytest.raises(GuestError, match="booted again"):
            machine.run("reboot -f")


def test_two_guests_and_an_event_loop() -> None:
    """Two guests at once; the device runs in the loop that awaits them."""

    async def use(number: int) -> str:
        async with vm.guest(Disk(), arch="um" if number else "x86_64", accel="tcg") as machine:
            return (await machine.run("uname -r; head -c 16 /dev/vda")).stdout

    async def both() -> list[str]:
        return [*await asyncio.gather(use(0), use(1))]

    try:
        outputs = asyncio.run(both())
    except ProvisionError as error:
        pytest.skip(f"nothing can be provisioned here: {error}")
    assert [output.splitlines()[1] for output in outputs] == ["sector        0"] * 2
    assert len(set(outputs)) == 2


@pytest.mark.parametrize("version", ["6.12", "7"])
def test_a_driver_from_source_and_a_stock_one_in_newer_kernels(version: str) -> None:
    with guest("factorial", Entropy(), kernel_version=version) as machine, unremarkable(machine):
        assert machine.run("uname -r").stdout.startswith(f"{version}.")
        assert machine.run("factorial 5; head -c 4 /dev/hwrng").stdout == f"5! = 120\n{PATTERN[:4].decode()}"


def test_what_ends_in_the_background_takes_nothing_from_the_next_command() -> None:
    long = "x" * 3900
    with guest() as machine:
        for _ in range(3):
            ends = "n=0; while [ $((n+=1)) -le 300 ]; do usleep ${n}000 >/dev/null & done"  # one each millisecond
            assert machine.run(ends).returncode == 0
            for _ in range(5):
                assert machine.run(["echo", long]).lines == [long]


def test_a_failure_in_the_block_shows_the_console() -> None:
    def use() -> None:
        with guest(arch="um") as machine:
            machine.run("echo a complaint >&2")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised:
        use()
    assert any("| a complaint" in note for note in raised.value.__notes__)


@pytest.mark.parametrize(("arch", "transport"), [("x86_64", "pci"), ("aarch64", "mmio")])
def test_the_tables_of_ids_and_frontends_are_true(arch: str, transport: str) -> None:
    builder, guest_options = default_builder(), GuestOptions(arch=arch, transport=transport)
    try:
        probe = DeviceProbe(builder.qemu(guest_options), builder.machine(guest_options), builder.cache)
    except ProvisionError as error:
        pytest.skip(f"nothing can be provisioned here: {error}")
    device = VhostUserDevice(Path("/nowhere"), 1, queues=1, size=128, config_size=16)
    version = ".".join(probe.qemu.version().split(".")[:2])
    if version in QEMU_FORWARDS:
        assert set(probe.ids(device)) == QEMU_FORWARDS[version]
    present = [device_id for device_id, frontend in FRONTENDS.items() if probe.frontend(device_id) is frontend]
    assert {1, 2, 4, 8, 19, 26} <= set(present)
    for device_id in present:
        asked = replace(device, id=device_id, queues=4, frontend=FRONTENDS[device_id])
        assert probe.accepted(asked) == asked


def test_a_backend_that_is_not_there_is_qemus_complaint(tmp_path: Path) -> None:
    attached = VhostUserDevice.of(Factorial().description(), tmp_path / "nobody")
    with (
        pytest.raises(GuestError, match=r"QEMU ended with status 1 .*\n.*\n.*Failed to connect to "),
        guest(attached),
    ):
        pass
