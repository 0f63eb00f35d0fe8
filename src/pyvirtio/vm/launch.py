"""From options to a guest that can be started: the functions behind ``pyvirtio vm``.

::

    device = VhostUserDevice.of(Entropy().description(), socket)
    builder = default_builder()
    config = builder.prepare(GuestOptions(arch="aarch64"), [device], modules=["virtio_rng"])
    with Guest(config) as guest:
        print(guest.run("head -c 16 /dev/hwrng | hexdump").output)
"""

from __future__ import annotations

import contextlib
import platform
import shlex
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.provision.cache import Cache, default_root
from pyvirtio.provision.packages import Registry
from pyvirtio.provision.progress import Progress, Silent
from pyvirtio.vm.accel import choose_accelerator
from pyvirtio.vm.device_ids import DeviceProbe
from pyvirtio.vm.guest import Guest, LaunchConfig, Result
from pyvirtio.vm.guest_packages import DEFAULT_KERNEL, GuestPackages
from pyvirtio.vm.initramfs import Initramfs
from pyvirtio.vm.kernel import Kernel
from pyvirtio.vm.machine import Machine, VhostUserDevice, find_machine
from pyvirtio.vm.module_build import build_module
from pyvirtio.vm.qemu import Qemu, find_qemu
from pyvirtio.vm.rootfs import Contents, build_initramfs, compiled_library
from pyvirtio.vm.uml import UmlConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


@dataclass(frozen=True)
class GuestOptions:
    """What the user asks for, as on the command line.

    Attributes:
        arch: the guest's architecture.
        transport: ``pci``, ``mmio`` or ``mmio-legacy``; empty: the default of the architecture.
        accel: ``auto``, ``kvm`` or ``tcg``.
        qemu: the QEMU to use; empty: one is found or provisioned.
        kernel: the image of the kernel to boot; None: one is provisioned.
        kernel_version: which one to provision.
    """

    arch: str = "x86_64"
    transport: str = ""
    accel: str = "auto"
    qemu: str = ""
    kernel: Path | None = None
    kernel_version: str = DEFAULT_KERNEL


@dataclass(frozen=True)
class GuestBuilder:
    """Makes guests ready to start: in a cache, with long steps shown by `progress`."""

    cache: Cache
    progress: Progress = field(default_factory=Silent)

    @property
    def provision(self) -> GuestPackages:
        """Return what the machine's registry of packages can provide."""
        return GuestPackages(Registry(self.cache, self.progress))

    def qemu(self, guest_options: GuestOptions) -> Qemu:
        """Return the QEMU for the guest; one is provisioned if none is suitable."""
        return find_qemu(self.machine(guest_options), guest_options.qemu, self.provision.qemu)

    def machine(self, guest_options: GuestOptions) -> Machine:
        """Return the machine for the guest."""
        return find_machine(guest_options.arch, guest_options.transport)

    def kernel(self, guest_options: GuestOptions) -> Kernel:
        """Return the kernel for the guest; it is provisioned if the user names none."""
        if guest_options.kernel is not None:
            return Kernel.given(guest_options.kernel, native=guest_options.arch == platform.machine())
        return self.provision.kernel(guest_options.arch, guest_options.kernel_version)

    def drivers(self, guest_options: GuestOptions, kernel: Kernel, sources: Path) -> tuple[Path, ...]:
        """Return the kernel modules built from the folder `sources`."""
        provision = self.provision
        built = build_module(
            self.cache,
            kernel,
            guest_options.arch,
            sources,
            toolchain=lambda: provision.toolchain(guest_options.arch),
            progress=self.progress,
        )
        return tuple(sorted(built.glob("*.ko")))

    def initramfs(
        self,
        guest_options: GuestOptions,
        kernel: Kernel,
        *,
        sources: Path | None = None,
        modules: Iterable[str] = (),
    ) -> Path:
        """Return the initramfs for the guest, with modules of the kernel and those built from `sources`."""
        drivers = self.drivers(guest_options, kernel, sources) if sources else ()
        named = (*self.machine(guest_options).modules, *modules)
        return self._initramfs(guest_options.arch, kernel, named, drivers)

    def _initramfs(self, arch: str, kernel: Kernel, modules: Iterable[str], drivers: tuple[Path, ...] = ()) -> Path:
        provision = self.provision
        contents = Contents(
            kernel=kernel,
            modules=tuple(modules),
            programs=provision.programs(arch),
            library=compiled_library(self.cache, provision.programs(platform.machine())),
            drivers=drivers,
        )
        return build_initramfs(self.cache, contents)

    def prepare(
        self,
        guest_options: GuestOptions,
        devices: Sequence[VhostUserDevice] = (),
        *,
        sources: Path | None = None,
        modules: Iterable[str] = (),
    ) -> LaunchConfig:
        """Return everything that a guest is started with; what is missing is provisioned and built.

        Args:
            guest_options: which guest.
            devices: what is attached to it. One with ids of its own driver may get another id than it asks for.
            sources: a folder with the C sources of a kernel driver and a Kbuild file, to be built and loaded.
            modules: drivers that the kernel's package has, by name, e.g. ``virtio_rng``.

        Raises:
            LocalError: the options contradict one another, or QEMU takes no id of a device.
            ProvisionError: something is not available; the message says what to give instead.
            GuestError: KVM is asked for, and does not work.
        """
        machine, qemu, kernel = self.machine(guest_options), self.qemu(guest_options), self.kernel(guest_options)
        probe = DeviceProbe(qemu, machine, self.cache)
        devices = [probe.accepted(device) for device in devices]
        initramfs = self.initramfs(guest_options, kernel, sources=sources, modules=modules)
        accel = choose_accelerator(
            guest_options.accel, machine, qemu, kernel.image, cache=self.cache, progress=self.progress
        )
        return LaunchConfig(machine, qemu, kernel.image, initramfs, devices=tuple(devices), accel=accel)

    @contextlib.contextmanager
    def uml(self, devices: Sequence[VhostUserDevice] = (), *, modules: Iterable[str] = ()) -> Iterator[UmlConfig]:
        """Return a context for everything that a user-mode Linux is started with; what is missing is provisioned.

        Args:
            devices: what is attached to it.
            modules: drivers that its package has, by name, e.g. ``virtio_blk``.

        Raises:
            LocalError: it does not run on this machine's architecture.
            ProvisionError: something is not available.
        """
        kernel = self.provision.uml()
        initramfs = self._initramfs(platform.machine(), kernel, modules)
        with tempfile.TemporaryDirectory(prefix="pyvirtio-") as folder:
            yield UmlConfig(kernel, initramfs, Path(folder), tuple(devices))


def default_builder(progress: Progress | None = None) -> GuestBuilder:
    """Return a builder in the user's cache folder."""
    shown = progress or Silent()
    return GuestBuilder(Cache(default_root(), shown.notice), shown)


def run_once(
    config: LaunchConfig, command: Sequence[str], *, show: Callable[[str], None] | None = None, timeout: float = 120.0
) -> Result:
    """Boot a guest, run one command in it, switch it off, and return how the command ended.

    The command is part of the initramfs, so it runs as soon as the guest is up.

    Args:
        config: what is started.
        command: a program of the guest and its arguments.
        show: called with each line of the console, from another thread.
        timeout: seconds that the command may take.

    Raises:
        GuestError: the guest did not boot, died, or took too long.
    """
    overlay = Initramfs()
    overlay.file("command", f"{shlex.join(command)}\n".encode())
    with Guest(replace(config, overlay=overlay), show=show) as guest:
        return guest.result(timeout)
