"""Real Linux guests under TCG, with our device behind an unmodified QEMU. Few boots, much in each."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from pyvirtio.devices.factorial import Factorial
from pyvirtio.errors import GuestError, ProvisionError
from pyvirtio.spec.ids import QEMU_FORWARDS
from pyvirtio.testing.served import served
from pyvirtio.vm.device_ids import DeviceProbe
from pyvirtio.vm.frontends import FRONTENDS
from pyvirtio.vm.guest import Guest, LaunchConfig
from pyvirtio.vm.launch import GuestBuilder, GuestOptions, default_builder, run_once
from pyvirtio.vm.machine import VhostUserDevice
from pyvirtio.vm.rootfs import DRIVER_SOURCES
from tests.support import entropy
from tests.support.entropy import PATTERN, Entropy

pytestmark = [
    pytest.mark.guest,
    pytest.mark.timeout(900),  # the first run downloads some 250 MB
    pytest.mark.skipif(not DRIVER_SOURCES.is_dir(), reason="the guest's driver is not there"),
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
TROUBLE = ("Oops", "BUG:", "WARNING:", "Call Trace", "refcount")


@pytest.fixture(scope="module")
def builder() -> GuestBuilder:
    return default_builder()


def prepare(builder: GuestBuilder, guest_options: GuestOptions) -> LaunchConfig:
    try:
        return builder.prepare(guest_options, sources=DRIVER_SOURCES)
    except ProvisionError as error:
        pytest.skip(f"nothing can be provisioned here: {error}")


def attached(setup: LaunchConfig, path: Path) -> LaunchConfig:
    return replace(setup, devices=[VhostUserDevice.of(Factorial().description(), path)])


def test_the_articles_run_on_x86_64(builder: GuestBuilder, tmp_path: Path) -> None:
    path = tmp_path / "s"
    setup = prepare(builder, GuestOptions(arch="x86_64", accel="tcg"))
    with served("factorial", path=str(path)) as server:
        with Guest(attached(setup, path)) as guest:
            # A program in the guest that only writes finds its answer in the kernel's log. First of all, for the
            # driver limits how many lines it logs.
            assert guest.run(r"printf '\005\000\000\000' >/dev/virtio_misc").status == 0
            logged = "until dmesg | grep -q 'virtio response ret is 120'; do usleep 10000; done"
            assert guest.run(f'timeout 20 sh -c "{logged}"').status == 0

            assert guest.run(f"factorial {' '.join(NUMBERS)}").lines == EXACT
            assert guest.run(f"factorial --wrap32 {' '.join(NUMBERS)}").lines == WRAPPED
            assert guest.run("factorial --quiet 100 | wc -c").lines == ["159"]

            refused = guest.run("factorial 4294967295")
            assert (refused.status, len(refused.lines)) == (1, 1)
            assert guest.run("factorial five").status == 2

            # The worker's death is not noticed in the guest.
            workers = server.workers()
            assert workers, "the keeper has no worker"
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
            assert guest.run("factorial 6").lines == ["6! = 720"]

            log = guest.run("dmesg").output
            assert not [sign for sign in TROUBLE if sign in log]
            assert guest.run("rmmod virtio_test && insmod /lib/modules/virtio_test.ko && factorial 7").lines == [
                "7! = 5040"
            ]
            guest.power_off()
        # The same back-end serves the next guest; the command is part of the initramfs here.
        assert run_once(attached(setup, path), ["factorial", "8"]).lines == ["8! = 40320"]


def test_a_kernel_that_finds_no_init_is_a_panic_with_its_console(builder: GuestBuilder) -> None:
    setup = prepare(builder, GuestOptions(arch="x86_64", accel="tcg"))
    broken = replace(setup, kernel_options=("rdinit=/missing",))
    with (
        pytest.raises(GuestError, match=r"gave up while waiting for the guest to boot: .*Kernel panic.*\n"),
        Guest(broken),
    ):
        pass


def test_a_stock_driver_named_by_its_module_drives_a_device_behind_its_own_frontend(builder: GuestBuilder) -> None:
    guest_options = GuestOptions(arch="x86_64", accel="tcg")
    with served(f"{entropy.__file__}:Entropy") as server:
        device = VhostUserDevice.of(Entropy().description(), Path(server.path))
        try:
            probe = DeviceProbe(builder.qemu(guest_options), builder.machine(guest_options), builder.cache)
            device = replace(device, frontend=probe.frontend(device.id))
            config = builder.prepare(guest_options, [device], modules=["virtio_rng"])
        except ProvisionError as error:
            pytest.skip(f"nothing can be provisioned here: {error}")
        with Guest(config) as guest:
            bound = guest.run("cat /sys/class/misc/hw_random/rng_current").lines
            assert bound == ["virtio_rng.0"]
            assert guest.run("head -c 16 /dev/hwrng").lines == [PATTERN.decode()]


@pytest.mark.parametrize(("arch", "transport"), [("x86_64", "pci"), ("aarch64", "mmio")])
def test_the_tables_of_ids_and_frontends_are_true(builder: GuestBuilder, arch: str, transport: str) -> None:
    guest_options = GuestOptions(arch=arch, transport=transport)
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


def test_a_backend_that_is_not_there_is_qemus_complaint(builder: GuestBuilder, tmp_path: Path) -> None:
    setup = prepare(builder, GuestOptions(arch="x86_64", accel="tcg"))
    with (
        pytest.raises(GuestError, match=r"QEMU ended with status 1 .*\n.*\n.*Failed to connect to "),
        Guest(attached(setup, tmp_path / "nobody")),
    ):
        pass
