"""From options to a guest that can be started: what `pyvirtio.vm.guest` and ``pyvirtio vm`` are made of."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pyvirtio.errors import LocalError
from pyvirtio.provision.cache import Cache, default_root, digest
from pyvirtio.provision.packages import Registry
from pyvirtio.provision.progress import Progress, Silent
from pyvirtio.spec.ids import device_name
from pyvirtio.vm.accel import choose_accelerator
from pyvirtio.vm.device_ids import DeviceProbe
from pyvirtio.vm.drivers import OWN_IDS, STOCK_MODULES, bound_ids, needed_kernel, undriven
from pyvirtio.vm.frontends import GENERIC
from pyvirtio.vm.guest_packages import GuestPackages
from pyvirtio.vm.initramfs import Initramfs, in_memory
from pyvirtio.vm.kernel import Kernel
from pyvirtio.vm.kernel_modules import Module
from pyvirtio.vm.machine import Boot, Machine, find_machine
from pyvirtio.vm.module_build import build_module
from pyvirtio.vm.qemu import Qemu, find_qemu
from pyvirtio.vm.rootfs import DRIVER_SOURCES, SHELL, Contents, build_initramfs, compiled_library
from pyvirtio.vm.uml import ARCH, DRIVEN, UmlConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pyvirtio.vm.machine import Command, VhostUserDevice
    from pyvirtio.vm.running import Wires

MEGABYTE = 1 << 20
OWN_DRIVER = DRIVER_SOURCES


@dataclass(frozen=True)
class GuestOptions:
    """What the user asks for. `pyvirtio.vm.guest` takes the same, by the same names, and says what each means."""

    arch: str = "x86_64"
    transport: str = ""
    accel: str = "auto"
    kernel_version: str = ""
    flavour: str = ""
    kernel: Path | None = None
    qemu: str = ""
    modules: Sequence[str] = ()
    packages: Sequence[str] = ()
    drivers: Sequence[Path] = ()
    files: Mapping[str, Path | bytes] = field(default_factory=dict)
    generic: bool = False
    cpus: int = 0
    kernel_options: Sequence[str] = ()
    qemu_options: Sequence[str] = ()


@dataclass(frozen=True)
class LaunchConfig:
    """Everything that a guest under QEMU is started with.

    Attributes:
        machine: what QEMU emulates.
        qemu: the QEMU to run.
        kernel: the kernel's image.
        initramfs: a cpio archive, whose init speaks as `pyvirtio/guest/init` does.
        devices: what is attached; their back-ends must be listening.
        accel: ``kvm`` or ``tcg``.
        overlay: more files for the guest; they replace those of the same name.
        kernel_options: more words for the kernel's command line.
        extra: more arguments for QEMU.
    """

    machine: Machine
    qemu: Qemu
    kernel: Path
    initramfs: Path
    devices: Sequence[VhostUserDevice] = ()
    accel: str = "tcg"
    overlay: Initramfs | None = None
    kernel_options: Sequence[str] = ()
    extra: Sequence[str] = ()
    emulator = "QEMU"
    has_monitor = True

    def memory_file(self) -> AbstractContextManager[int]:
        """Return a context for the initramfs with its overlay, as a file that lives in memory only."""
        return in_memory(self.initramfs, self.overlay)

    def hot(self, position: int) -> tuple[list[Command], list[Command]]:
        """Return the monitor's commands that plug a device in, and those that take it away."""
        return self.machine.hot(self.devices, position)

    def command(self, wires: Wires) -> list[str]:
        """Return QEMU's command line."""
        boot = Boot(
            kernel=self.kernel,
            initrd=wires.initrd,
            accel=self.accel,
            devices=self.devices,
            kernel_options=self.kernel_options,
            extra=self.extra,
            serial="mon:stdio",
        )
        if wires.commands >= 0:
            lines = (
                *("-chardev", f"socket,id=commands,fd={wires.commands}", "-serial", "chardev:commands"),
                *("-chardev", f"socket,id=monitor,fd={wires.monitor}", "-qmp", "chardev:monitor"),
            )
            told = f"pyvirtio={self.machine.commands}:{wires.end}"
            boot = replace(
                boot,
                serial="stdio",
                kernel_options=(*boot.kernel_options, told),
                extra=(*lines, *self._lifeline(), *boot.extra),
            )
        return [*self.qemu.prefix, *self.machine.arguments(boot)]

    def _lifeline(self) -> tuple[str, ...]:
        """Return the arguments that end QEMU with the process that started it."""
        return ("-run-with", "exit-with-parent=on") if self.qemu.ends_with_parent() else ()


@dataclass(frozen=True)
class GuestBuilder:
    """Makes guests ready to start: in a cache, with long steps shown by `progress`."""

    cache: Cache
    progress: Progress = field(default_factory=Silent)

    @property
    def provision(self) -> GuestPackages:
        """Return what the machine's registry of packages can provide."""
        return GuestPackages(Registry(self.cache, self.progress))

    def qemu(self, options: GuestOptions) -> Qemu:
        """Return the QEMU for the guest; one is provisioned if none is suitable."""
        return find_qemu(self.machine(options), options.qemu, self.provision.qemu)

    def machine(self, options: GuestOptions) -> Machine:
        """Return the machine for the guest."""
        machine = find_machine(options.arch, options.transport)
        return replace(machine, cpus=options.cpus or machine.cpus)

    def kernel(self, options: GuestOptions, device_ids: Iterable[int] = ()) -> Kernel:
        """Return the kernel for the guest: the one that is named, or one that has drivers for the devices."""
        if options.arch == ARCH:
            return self.provision.uml()
        if options.kernel is not None:
            return Kernel.given(options.kernel, native=options.arch == platform.machine())
        version, flavour = needed_kernel(device_ids)
        return self.provision.kernel(options.arch, options.kernel_version or version, options.flavour or flavour)

    def drivers(self, options: GuestOptions, kernel: Kernel, sources: Path) -> tuple[Path, ...]:
        """Return the kernel modules built from the folder `sources`."""
        provision = self.provision
        built = build_module(
            self.cache,
            kernel,
            options.arch,
            sources,
            toolchain=lambda gcc: provision.toolchain(options.arch, gcc),
            progress=self.progress,
        )
        return tuple(sorted(built.glob("*.ko")))

    def prepare(self, options: GuestOptions, devices: Sequence[VhostUserDevice] = ()) -> LaunchConfig | UmlConfig:
        """Return everything that a guest is started with; what is missing is provisioned and built.

        A device that its driver knows under several ids may get another one than it asks for.

        Raises:
            LocalError: the options contradict one another, or QEMU takes no id of a device.
            ProvisionError: something is not available; the message says what to give instead.
            GuestError: KVM is asked for, and does not work.
        """
        ids = [device.id for device in devices]
        kernel = self.kernel(options, ids)
        if options.arch == ARCH and self._sources(options, ids):
            raise LocalError(
                "no driver can be built for user-mode Linux, whose package has no headers; leave --arch um out"
            )
        built = [path for sources in self._sources(options, ids) for path in self.drivers(options, kernel, sources)]
        known = [bound_ids(Module(path.stem, path.read_bytes())) for path in built]
        for words in undriven(ids, [number for numbers in known for number in numbers]):
            self.progress.notice(f"no driver of Linux binds {words}; give --driver DIR to build and load one")
        prepare = self._under_user_mode if options.arch == ARCH else self._under_qemu
        return prepare(options, kernel, [_with_ids(device, known) for device in devices], built)

    def whole_initramfs(self, config: LaunchConfig) -> Path:
        """Return a file in the cache with the initramfs and its overlay."""

        def make(folder: Path) -> None:
            (folder / "initramfs.cpio").write_bytes(config.initramfs.read_bytes() + overlay)

        overlay = config.overlay.to_bytes() if config.overlay else b""
        key = digest(config.initramfs.parent.name, overlay)
        return self.cache.entry("initramfs", key, make) / "initramfs.cpio"

    def _sources(self, options: GuestOptions, ids: Iterable[int]) -> Sequence[Path]:
        """Return the folders of the drivers to build; without one, our own where it is for one of the devices."""
        if options.drivers or not set(OWN_IDS) & set(ids):
            return options.drivers
        return (OWN_DRIVER,)

    def _under_qemu(
        self, options: GuestOptions, kernel: Kernel, devices: Sequence[VhostUserDevice], built: Sequence[Path]
    ) -> LaunchConfig:
        machine, qemu = self.machine(options), self.qemu(options)
        probe = DeviceProbe(qemu, machine, self.cache)
        if not options.generic:
            devices = [_with_frontend(device, probe) for device in devices]
        devices = [probe.accepted(device) for device in devices]
        initramfs = self._initramfs(options, kernel, machine.modules, devices, built)
        overlay, size = _overlay(options.files), initramfs.stat().st_size
        machine = replace(machine, memory=_room_for(size + overlay.size(), machine.memory))
        accel = choose_accelerator(options.accel, machine, qemu, kernel.image, cache=self.cache, progress=self.progress)
        return LaunchConfig(
            machine,
            qemu,
            kernel.image,
            initramfs,
            devices=machine.placed(devices),
            accel=accel,
            overlay=overlay,
            kernel_options=options.kernel_options,
            extra=options.qemu_options,
        )

    def _under_user_mode(
        self, options: GuestOptions, kernel: Kernel, devices: Sequence[VhostUserDevice], built: Sequence[Path]
    ) -> UmlConfig:
        if options.transport or options.qemu or options.qemu_options or options.accel not in {"auto", "tcg"}:
            raise LocalError("user-mode Linux runs without QEMU: leave its options, transport and accelerator out")
        if strange := [device_name(device.id) for device in devices if device.id not in DRIVEN]:
            raise LocalError(f"user-mode Linux has no driver for the {strange[0]}; leave --arch um out")
        options = replace(options, arch=platform.machine())
        initramfs = self._initramfs(options, kernel, (), devices, built)
        overlay, size = _overlay(options.files), initramfs.stat().st_size
        config = UmlConfig(kernel, initramfs, devices, overlay, options.kernel_options)
        return replace(config, memory=_room_for(size + overlay.size(), config.memory))

    def _initramfs(
        self,
        options: GuestOptions,
        kernel: Kernel,
        modules: Sequence[str],
        devices: Sequence[VhostUserDevice],
        built: Sequence[Path],
    ) -> Path:
        provision, arch = self.provision, options.arch
        stock = [name for device in devices for name in STOCK_MODULES.get(device.id, ())]
        ours = {path.stem for path in built}
        needed = [name for path in built for name in Module(path.stem, path.read_bytes()).needs() if name not in ours]
        contents = Contents(
            kernel=kernel,
            modules=tuple(dict.fromkeys((*modules, *stock, *needed, *options.modules))),
            programs=provision.programs(arch),
            library=compiled_library(self.cache, provision.programs(platform.machine())),
            drivers=tuple(built),
            packages=provision.packages(arch, (SHELL, *options.packages)) if options.packages else None,
        )
        return build_initramfs(self.cache, contents)


def _with_ids(device: VhostUserDevice, known: Iterable[tuple[int, ...]]) -> VhostUserDevice:
    """Return the device with the ids under which the driver that binds it knows it."""
    return replace(device, driver_ids=next((ids for ids in known if device.id in ids), ()))


def _with_frontend(device: VhostUserDevice, probe: DeviceProbe) -> VhostUserDevice:
    """Return the device behind the front-end made for its type; one with a driver of its own is of no such type."""
    if device.driver_ids or device.frontend is not GENERIC:
        return device
    found = probe.frontend(device.id)
    return replace(device, frontend=found) if device.config_size >= found.config_size else device


def _overlay(files: Mapping[str, Path | bytes]) -> Initramfs:
    overlay = Initramfs()
    for path, content in files.items():
        if isinstance(content, bytes):
            overlay.file(path, content, 0o755)
        elif content.is_dir():
            overlay.tree(content, path)
        elif content.is_file():
            overlay.copy(content.resolve(), path)
        else:
            raise LocalError(f"there is no file {content} to put into the guest; correct its path")
    return overlay


def _room_for(size: int, least: int) -> int:
    """Return the memory, in MiB, of a guest with so many bytes of files: they are there twice while it boots."""
    return max(least, 128 + 3 * size // MEGABYTE)


def default_builder(progress: Progress | None = None) -> GuestBuilder:
    """Return a builder in the user's cache folder."""
    shown = progress or Silent()
    return GuestBuilder(Cache(default_root(), shown.notice), shown)
