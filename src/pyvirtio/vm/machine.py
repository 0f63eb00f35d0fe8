"""The machines that can be booted, as data, and QEMU's command line for each.

>>> machine = find_machine("x86_64")
>>> machine.name, machine.device
('x86_64-pci', 'vhost-user-test-device-pci')
>>> [other.transport for other in MACHINES if other.arch == "aarch64"]
['mmio-legacy', 'mmio', 'pci']
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from pyvirtio.errors import LocalError
from pyvirtio.vm.frontends import GENERIC, Attachment, Frontend

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pyvirtio.transport import DeviceDescription


LARGEST_COUNT = 1024  # of queues, and of entries in one: QEMU aborts above
LARGEST_CONFIG = 256  # bytes; QEMU aborts when a guest reads more


@dataclass(frozen=True)
class VhostUserDevice:
    """What QEMU has to be told of a device that a back-end serves behind a vhost-user socket.

    Attributes:
        socket: the path on which the back-end listens.
        id: the virtio device id.
        queues: how many virtqueues it has, 1 to 1024.
        size: the entries of each, a power of two up to 1024.
        config_size: bytes of its configuration space, 0 to 256.
        bus: the PCI bus it sits on; empty: a root port of its own, from which it can be unplugged.
        name: what QMP calls it; empty: ``device0``, ``device1`` and so on, by its position.
        driver_ids: the ids by which its own driver knows it. Where QEMU does not forward `id`, one of these
            is used. Empty: the device is of a standard type, so its id is fixed.
        frontend: the front-end of QEMU that forwards it.
        config: the configuration space's first content, from which the front-ends that answer for it take some fields.

    Raises:
        LocalError: a number is one on which QEMU would abort.

    >>> from pathlib import Path
    >>> VhostUserDevice(Path("/run/s"), id=38, queues=1, size=100, config_size=0)
    Traceback (most recent call last):
    pyvirtio.errors.LocalError: a queue of 100 entries: give a power of two from 1 to 1024 (VIRTIO 1.4, 2.7)
    """

    socket: Path
    id: int
    queues: int
    size: int
    config_size: int
    bus: str = ""
    name: str = ""
    driver_ids: tuple[int, ...] = ()
    frontend: Frontend = GENERIC
    config: bytes = b""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 1 <= self.queues <= LARGEST_COUNT:
            raise LocalError(f"a device with {self.queues} queues cannot be attached; QEMU takes 1 to {LARGEST_COUNT}")
        if not 1 <= self.size <= LARGEST_COUNT or self.size & (self.size - 1):
            raise LocalError(
                f"a queue of {self.size} entries: give a power of two from 1 to {LARGEST_COUNT}", section="2.7"
            )
        if not 0 <= self.config_size <= LARGEST_CONFIG:
            raise LocalError(
                f"a configuration space of {self.config_size} bytes: QEMU takes at most {LARGEST_CONFIG}; "
                "put the rest into a request"
            )

    @classmethod
    def of(cls, description: DeviceDescription, socket: Path) -> Self:
        """Return the device that `description` describes, as ``Device.description()`` returns it.

        The generic front-end has queues of one size; it is that of the smallest queue.

        >>> from pathlib import Path
        >>> from pyvirtio.devices.factorial import Factorial
        >>> device = VhostUserDevice.of(Factorial().description(), Path("/run/s"))
        >>> device.id, device.queues, device.size, device.config_size
        (45, 1, 128, 16)
        """
        sizes, config = description.queue_sizes, description.config
        return cls(socket, description.device_id, len(sizes), min(sizes), len(config), config=config)

    def arguments(self, transport: str) -> Iterator[str]:
        """Return QEMU's arguments for the device behind a transport: ``pci``, ``mmio`` or ``mmio-legacy``."""
        name = self.name or "device0"
        yield from ("-chardev", f"socket,id={name}-socket,path={_escaped(self.socket)}")
        attachment = Attachment(name, self.id, self.queues, self.size, self.config_size, self.config)
        *before, last = self.frontend.arguments(self.frontend.model(transport), attachment)
        yield from before
        yield f"{last},bus={self.bus}" if self.bus else last


@dataclass(frozen=True)
class Machine:
    """A kind of machine, as QEMU emulates it.

    Attributes:
        arch: the guest's architecture, by the kernel's name.
        transport: how the device is attached: ``pci``, ``mmio`` or ``mmio-legacy``.
        board: QEMU's arguments for the board.
        cpus: the processors of the guest.
        memory: its memory, in MiB.
        console: the kernel's name for the first serial port.
        commands: and for the second, over which the guest is told what to run.
        modules: the kernel's modules between the bus and the driver.
        tcg_cpu: the processor when it is emulated.
        kvm_cpu: the processor when it is the host's.
    """

    arch: str
    transport: str
    board: tuple[str, ...]
    cpus: int
    memory: int
    console: str
    commands: str
    modules: tuple[str, ...]
    tcg_cpu: tuple[str, ...] = ()
    kvm_cpu: tuple[str, ...] = ("-cpu", "host")
    kernel_options: tuple[str, ...] = ("panic=-1", "quiet")

    @property
    def name(self) -> str:
        """Return architecture and transport."""
        return f"{self.arch}-{self.transport}"

    @property
    def emulator(self) -> str:
        """Return the name of QEMU's program for the architecture."""
        return f"qemu-system-{self.arch}"

    @property
    def device(self) -> str:
        """Return QEMU's name for the generic device that forwards to a vhost-user back-end."""
        return GENERIC.model(self.transport)

    def arguments(self, boot: Boot) -> list[str]:
        """Return QEMU's arguments for one run of this machine."""
        append = " ".join([f"console={self.console}", *self.kernel_options, *boot.kernel_options])
        return [
            *self._hardware(boot.accel),
            *("-kernel", str(boot.kernel), "-append", append),
            *(("-initrd", boot.initrd) if boot.initrd else ()),
            *("-serial", boot.serial, "-no-reboot"),
            *boot.extra,
            *(argument for device in self.placed(boot.devices) for argument in self._attached(device)),
        ]

    def placed(self, devices: Sequence[VhostUserDevice]) -> list[VhostUserDevice]:
        """Return the devices, each with a name, and on PCI each behind a root port."""
        named = [replace(device, name=device.name or f"device{n}") for n, device in enumerate(devices)]
        if self.transport != "pci":
            return named
        return [replace(device, bus=device.bus or f"port{n}") for n, device in enumerate(named)]

    def hot(self, devices: Sequence[VhostUserDevice], position: int) -> tuple[list[Command], list[Command]]:
        """Return the monitor's commands that plug one of the devices in, and those that take it away.

        Raises:
            LocalError: there is no such device, or it is not on PCI and stays where it is.
        """
        if self.transport != "pci":
            raise LocalError(f"a device behind {self.transport} cannot be unplugged; attach it with pci")
        if position not in range(len(devices)):
            raise LocalError(f"there is no device {position}; this guest has {len(devices)}, counted from 0")
        device = self.placed(devices)[position]
        _chardev, _, *words = device.arguments(self.transport)
        parts = [(*HOT[option], value) for option, value in zip(words[::2], words[1::2], strict=True)]
        address = {"type": "unix", "data": {"path": str(device.socket)}}
        backend = {"type": "socket", "data": {"addr": address, "server": False}}
        add: list[Command] = [("chardev-add", {"id": f"{device.name}-socket", "backend": backend})]
        remove: list[Command] = []
        if "-netdev" not in words:  # one of these takes its character device along when it goes
            remove.append(("chardev-remove", {"id": f"{device.name}-socket"}))
        for plug, unplug, value in parts:
            add.append(("human-monitor-command", {"command-line": f"{plug} {value}"}))
            remove.append((unplug, {"id": _id(value)}))
        return add, remove[::-1]

    def _attached(self, device: VhostUserDevice) -> Iterator[str]:
        if device.bus.startswith("port"):
            yield from ("-device", f"pcie-root-port,id={device.bus},chassis={int(device.bus[4:]) + 1}")
        yield from device.arguments(self.transport)

    def stopped(self, device: VhostUserDevice) -> list[str]:
        """Return QEMU's arguments for this machine with one device and no guest, stopped before its start."""
        return [*self._hardware("tcg"), "-S", *device.arguments(self.transport)]

    def _hardware(self, accel: str) -> Iterator[str]:
        yield from ("-accel", accel)
        yield from self.board
        yield from self.kvm_cpu if accel == "kvm" else self.tcg_cpu
        yield from ("-smp", str(self.cpus), "-m", str(self.memory))
        # A back-end is given the guest's memory as a file descriptor, hence a memfd that is shared.
        yield from ("-object", f"memory-backend-memfd,id=mem,size={self.memory}M,share=on")
        yield from ("-machine", "memory-backend=mem", "-display", "none", "-nodefaults")


@dataclass(frozen=True)
class Boot:
    """What differs from run to run of a machine.

    Attributes:
        kernel: the kernel's image.
        initrd: the path of the initramfs; empty: the kernel has none, and ends in a panic.
        accel: ``kvm`` or ``tcg``.
        devices: what is attached.
        kernel_options: more words for the kernel's command line.
        extra: more arguments for QEMU, placed before the devices.
        serial: what QEMU connects the console to.
    """

    kernel: Path
    initrd: str = ""
    accel: str = "tcg"
    devices: Sequence[VhostUserDevice] = ()
    kernel_options: Sequence[str] = ()
    extra: Sequence[str] = field(default_factory=tuple)
    serial: str = "stdio"


PCI_MODULES = ("virtio_pci",)
MMIO_MODULES = ("virtio_mmio",)

X86_PC = ("-M", "q35")
ARM_VIRT = ("-machine", "virt", "-machine", "gic_version=3")
MODERN_MMIO = ("-global", "virtio-mmio.force-legacy=false")  # QEMU's own default is a legacy device
CORTEX = ("-cpu", "cortex-a57")

# A guest without a source of random numbers stands still for a second when Python asks for its first.
PLAIN_X86 = ("-cpu", "qemu64,+rdrand")

# The first machine of each architecture is its default.
MACHINES = (
    Machine("x86_64", "pci", X86_PC, 1, 256, "ttyS0", "ttyS1", PCI_MODULES, PLAIN_X86),
    Machine("aarch64", "mmio-legacy", ARM_VIRT, 4, 1024, "ttyAMA0", "ttyAMA1", MMIO_MODULES, CORTEX),
    Machine("aarch64", "mmio", (*ARM_VIRT, *MODERN_MMIO), 4, 1024, "ttyAMA0", "ttyAMA1", MMIO_MODULES, CORTEX),
    Machine("aarch64", "pci", ARM_VIRT, 4, 1024, "ttyAMA0", "ttyAMA1", PCI_MODULES, CORTEX),
)


def find_machine(arch: str, transport: str = "") -> Machine:
    """Return the machine of an architecture; with a `transport`, the one that attaches devices so.

    Raises:
        LocalError: there is no such machine.

    >>> find_machine("aarch64").transport
    'mmio-legacy'
    >>> find_machine("x86_64", "mmio")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    pyvirtio.errors.LocalError: no machine x86_64 with mmio; there are x86_64 with pci, ...
    """
    for machine in MACHINES:
        if machine.arch == arch and transport in {"", machine.transport}:
            return machine
    known = ", ".join(f"{machine.arch} with {machine.transport}" for machine in MACHINES)
    raise LocalError(f"no machine {arch} with {transport or 'any transport'}; there are {known}")


Command: TypeAlias = "tuple[str, dict[str, Any]]"
"""A command of QEMU's monitor, with its arguments."""

HOT = {
    "-netdev": ("netdev_add", "netdev_del"),
    "-object": ("object_add", "object-del"),
    "-device": ("device_add", "device_del"),
}
"""QEMU's arguments, what does the same in its monitor for people, and the command that undoes it."""


def _id(options: str) -> str:
    return next(word.removeprefix("id=") for word in options.split(",") if word.startswith("id="))


def _escaped(path: Path) -> str:
    """Return a path as it is written inside one of QEMU's comma-separated options.

    >>> from pathlib import Path
    >>> _escaped(Path("/run/a,b"))
    '/run/a,,b'
    """
    return str(path).replace(",", ",,")
