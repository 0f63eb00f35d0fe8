"""The machines that can be booted, as data, and QEMU's command line for each.

>>> machine = find_machine("x86_64")
>>> machine.name, machine.device
('x86_64-pci', 'vhost-user-test-device-pci')
>>> [other.transport for other in MACHINES if other.arch == "aarch64"]
['mmio-legacy', 'mmio', 'pci']
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyvirtio.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class VhostUserDevice:
    """What QEMU has to be told of a device that answers behind a vhost-user socket.

    Attributes:
        socket: the path on which the back-end listens.
        id: the virtio device id.
        queues: how many virtqueues it has.
        size: the entries of each.
        config_size: bytes of its configuration space.
        bus: the PCI bus it sits on, e.g. a root port given with the guest's `extra`; empty: QEMU chooses.
        name: what QMP calls it.
    """

    socket: Path
    id: int
    queues: int
    size: int
    config_size: int
    bus: str = ""
    name: str = "device0"

    def arguments(self, model: str) -> Iterator[str]:
        """QEMU's arguments for the device, `model` being QEMU's name for its kind."""
        yield from ("-chardev", f"socket,id={self.name}-socket,path={_escaped(self.socket)}")
        bus = f",bus={self.bus}" if self.bus else ""
        yield from (
            "-device",
            (
                f"{model},id={self.name},chardev={self.name}-socket,virtio-id={self.id},num_vqs={self.queues},"
                f"vq_size={self.size},config_size={self.config_size}{bus}"
            ),
        )


@dataclass(frozen=True)
class Machine:
    """A kind of machine, as QEMU emulates it.

    Attributes:
        arch: the guest's architecture, by the kernel's name.
        transport: how the device is attached: ``pci``, ``mmio`` or ``mmio-legacy``.
        board: QEMU's arguments for the board.
        cpus: the processors of the guest.
        memory: its memory, in MiB.
        console: the kernel's name for the serial port.
        device: QEMU's name for the device that forwards to a vhost-user back-end.
        modules: the kernel's modules between the bus and the driver, in the order of loading.
        tcg_cpu: the processor when it is emulated.
        kvm_cpu: the processor when it is the host's.
    """

    arch: str
    transport: str
    board: tuple[str, ...]
    cpus: int
    memory: int
    console: str
    device: str
    modules: tuple[str, ...]
    tcg_cpu: tuple[str, ...] = ()
    kvm_cpu: tuple[str, ...] = ("-cpu", "host")
    kernel_options: tuple[str, ...] = ("panic=-1", "quiet")

    @property
    def name(self) -> str:
        """Architecture and transport."""
        return f"{self.arch}-{self.transport}"

    @property
    def emulator(self) -> str:
        """The name of QEMU's program for the architecture."""
        return f"qemu-system-{self.arch}"

    def arguments(self, boot: Boot) -> list[str]:
        """QEMU's arguments for one run of this machine."""
        # A back-end is given the guest's memory as a file descriptor, hence a memfd that is shared.
        memory = f"memory-backend-memfd,id=mem,size={self.memory}M,share=on"
        append = " ".join([f"console={self.console}", *self.kernel_options, *boot.kernel_options])
        return [
            *("-accel", boot.accel),
            *self.board,
            *(self.kvm_cpu if boot.accel == "kvm" else self.tcg_cpu),
            *("-smp", str(self.cpus), "-m", str(self.memory)),
            *("-object", memory, "-machine", "memory-backend=mem"),
            *("-kernel", str(boot.kernel), "-append", append),
            *(("-initrd", boot.initrd) if boot.initrd else ()),
            *("-display", "none", "-nodefaults", "-serial", boot.serial, "-no-reboot"),
            *boot.extra,
            *(argument for device in boot.devices for argument in device.arguments(self.device)),
        ]


@dataclass(frozen=True)
class Boot:
    """What differs from run to run of a machine.

    Attributes:
        kernel: the kernel's image.
        initrd: the path of the initramfs; empty: the kernel has none, and gives up in the end.
        accel: ``kvm`` or ``tcg``.
        devices: what is attached.
        kernel_options: more words for the kernel's command line.
        extra: more arguments for QEMU, placed before the devices.
        serial: where QEMU connects the console to.
    """

    kernel: Path
    initrd: str = ""
    accel: str = "tcg"
    devices: Sequence[VhostUserDevice] = ()
    kernel_options: Sequence[str] = ()
    extra: Sequence[str] = field(default_factory=tuple)
    serial: str = "stdio"


# virtio_ring first: Debian's virtio uses its symbols.
RING_MODULES = ("virtio_ring", "virtio")
PCI_MODULES = (*RING_MODULES, "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci")
MMIO_MODULES = (*RING_MODULES, "virtio_mmio")

X86_PC = ("-M", "q35")
ARM_VIRT = ("-machine", "virt", "-machine", "gic_version=3")
MODERN_MMIO = ("-global", "virtio-mmio.force-legacy=false")  # QEMU's own default is a legacy device
CORTEX = ("-cpu", "cortex-a57")

# A guest without a source of random numbers stands still for a second when Python asks for its first.
PLAIN_X86 = ("-cpu", "qemu64,+rdrand")

PCI_DEVICE = "vhost-user-test-device-pci"
MMIO_DEVICE = "vhost-user-test-device"

# The first machine of each architecture is its default.
MACHINES = (
    Machine("x86_64", "pci", X86_PC, 1, 256, "ttyS0", PCI_DEVICE, PCI_MODULES, PLAIN_X86),
    Machine("aarch64", "mmio-legacy", ARM_VIRT, 4, 1024, "ttyAMA0", MMIO_DEVICE, MMIO_MODULES, CORTEX),
    Machine("aarch64", "mmio", (*ARM_VIRT, *MODERN_MMIO), 4, 1024, "ttyAMA0", MMIO_DEVICE, MMIO_MODULES, CORTEX),
    Machine("aarch64", "pci", ARM_VIRT, 4, 1024, "ttyAMA0", PCI_DEVICE, PCI_MODULES, CORTEX),
)


def find_machine(arch: str, transport: str = "") -> Machine:
    """The machine of an architecture; with a `transport`, the one that attaches devices so.

    Raises:
        LocalError: there is none.

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


def _escaped(path: Path) -> str:
    """A path inside one of QEMU's comma-separated options.

    >>> from pathlib import Path
    >>> _escaped(Path("/run/a,b"))
    '/run/a,,b'
    """
    return str(path).replace(",", ",,")
