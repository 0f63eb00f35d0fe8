"""A guest's command line, to be read and run by hand: for QEMU, and for other machine monitors that take any device.

Each function returns text. Nothing is started here; the back-ends have to be listening when the command is run.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from pyvirtio.errors import LocalError
from pyvirtio.spec.ids import device_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pyvirtio.vm.launch import LaunchConfig
    from pyvirtio.vm.machine import Machine, VhostUserDevice
    from pyvirtio.vm.running import Wires

CROSVM_TYPES = {
    1: "net",
    2: "block",
    3: "console",
    4: "rng",
    5: "balloon",
    8: "scsi",
    9: "9p",
    16: "gpu",
    18: "input",
    19: "vsock",
    23: "iommu",
    25: "sound",
    26: "fs",
    27: "pmem",
    29: "mac80211-hwsim",
    30: "video-encoder",
    31: "video-decoder",
    32: "scmi",
    48: "media",
}
"""What crosvm calls the types that its ``--vhost-user`` takes, by virtio id."""

FREE_OF_LIBVIRT = 0x10
"""The first slot of the root bus that libvirt leaves free: it counts from 1, and the chipset has those from 0x1b on."""


def qemu(config: LaunchConfig, wires: Wires) -> str:
    """Return QEMU's command line."""
    return shell_command(config.command(wires))


def cloud_hypervisor(config: LaunchConfig, wires: Wires) -> str:
    """Return the command line of Cloud Hypervisor, 53 or newer, whose generic device takes any type."""
    machine = config.machine
    devices = (
        ("--generic-vhost-user", f'socket="{one.socket}",device_type={one.id},queue_sizes={[one.size] * one.queues}')
        for one in config.devices
    )
    return shell_command(
        [
            "cloud-hypervisor",
            *("--cpus", f"boot={machine.cpus}", "--memory", f"size={machine.memory}M,shared=on"),
            *("--kernel", str(config.kernel), "--initramfs", wires.initrd, "--cmdline", _kernel_words(config)),
            *("--serial", "tty", "--console", "off"),
            *(word for words in devices for word in words),
        ]
    )


def crosvm(config: LaunchConfig, wires: Wires) -> str:
    """Return the command line of crosvm.

    Raises:
        LocalError: it takes no device of one of the types.
    """
    if strange := [device_name(one.id) for one in config.devices if one.id not in CROSVM_TYPES]:
        raise LocalError(f"crosvm takes no {strange[0]} from a back-end; it takes {', '.join(CROSVM_TYPES.values())}")
    devices = (("--vhost-user", f"{CROSVM_TYPES[one.id]},socket={one.socket}") for one in config.devices)
    return shell_command(
        [
            *("crosvm", "run", "--disable-sandbox"),
            *("--cpus", str(config.machine.cpus), "--mem", str(config.machine.memory)),
            *("--initrd", wires.initrd, "--params", _kernel_words(config)),
            *("--serial", "type=stdout,hardware=serial,num=1,console,stdin"),
            *(word for words in devices for word in words),
            str(config.kernel),
        ]
    )


def libvirt(config: LaunchConfig, wires: Wires) -> str:
    """Return a domain for ``virsh create``. Its devices are given in QEMU's words, for libvirt has none of its own."""
    machine = config.machine
    words = [word for number, device in enumerate(config.devices) for word in _beside_libvirts(number, device, machine)]
    arguments = "".join(f"    <qemu:arg value={quoteattr(word)}/>\n" for word in words)
    # Without it libvirt switches ACPI off; on aarch64 it takes it with firmware only.
    features = "<features><acpi/></features>\n  " if machine.arch == "x86_64" else ""
    return f"""\
<domain type="{"kvm" if config.accel == "kvm" else "qemu"}" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">
  <name>pyvirtio</name>
  <memory unit="MiB">{machine.memory}</memory>
  <vcpu>{machine.cpus}</vcpu>
  <memoryBacking><source type="memfd"/><access mode="shared"/></memoryBacking>
  <os>
    <type arch="{machine.arch}" machine="{"q35" if machine.arch == "x86_64" else "virt"}">hvm</type>
    <kernel>{escape(str(config.kernel))}</kernel>
    <initrd>{escape(wires.initrd)}</initrd>
    <cmdline>{escape(_kernel_words(config))}</cmdline>
  </os>
  {features}<devices>
    <emulator>{escape(config.qemu.prefix[0])}</emulator>
    <serial type="pty"/>
  </devices>
  <qemu:commandline>
{arguments}  </qemu:commandline>
</domain>
"""


def _beside_libvirts(number: int, device: VhostUserDevice, machine: Machine) -> Iterator[str]:
    """Return QEMU's arguments for a device, at a place where libvirt puts nothing.

    It numbers root ports of its own, from slot 1 on, and QEMU makes them after what is given in QEMU's words.
    """
    bus = "pcie.0" if machine.transport == "pci" else ""
    *before, last = replace(device, bus=bus).arguments(machine.transport)
    yield from before
    yield f"{last},addr={FREE_OF_LIBVIRT + number:#x}" if bus else last


COMMAND_LINES: dict[str, Callable[[LaunchConfig, Wires], str]] = {
    "qemu": qemu,
    "cloud-hypervisor": cloud_hypervisor,
    "crosvm": crosvm,
    "libvirt": libvirt,
}
"""What is printed, by the name of the machine monitor."""


def serving_hints(devices: Iterable[tuple[str, str]]) -> str:
    """Return lines of comment that say how to serve devices, given as pairs of ``pyvirtio serve``'s word and a path."""
    lines = [f"#   pyvirtio serve {shlex.quote(spec)} --socket {shlex.quote(path)}\n" for spec, path in devices]
    return "".join(["# First, each in a terminal of its own:\n", *lines]) if lines else ""


def shell_command(words: Sequence[str]) -> str:
    r"""Return a command for a shell, with an option and its values on each line.

    >>> print(shell_command(["qemu", "-m", "256", "-append", "console=ttyS0 quiet"]), end="")
    qemu \
        -m 256 \
        -append 'console=ttyS0 quiet'
    """
    lines: list[list[str]] = [[]]
    for word in words:
        if word.startswith("-"):
            lines.append([])
        lines[-1].append(shlex.quote(os.fspath(word)))
    return " \\\n    ".join(" ".join(line) for line in lines) + "\n"


def _kernel_words(config: LaunchConfig) -> str:
    console = config.machine.console
    return " ".join([f"console={console}", *config.machine.kernel_options, *config.kernel_options])
