"""User-mode Linux: a kernel that runs as a process of this machine, with a vhost-user front-end of its own.

It boots in a second, without QEMU and without emulation, and its front-end (``virtio_uml``) follows the protocol to the
letter where QEMU has habits. It has drivers for network, block, console, balloon, SCSI, socket and file system devices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvirtio.errors import LocalError
from pyvirtio.vm.initramfs import in_memory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pyvirtio.vm.initramfs import Initramfs
    from pyvirtio.vm.kernel import Kernel
    from pyvirtio.vm.machine import Command, VhostUserDevice
    from pyvirtio.vm.running import Wires

ARCH = "um"
MEMORY = 256  # MiB
DRIVEN = frozenset({1, 2, 3, 5, 8, 19, 26})  # the virtio ids that its modules bind


@dataclass(frozen=True)
class UmlConfig:
    """Everything that a user-mode Linux is started with; it takes the place of a `pyvirtio.vm.launch.LaunchConfig`.

    Attributes:
        kernel: its `image` is the program to run.
        initramfs: a cpio archive, whose init speaks as `pyvirtio/guest/init` does.
        devices: what is attached; their back-ends must be listening.
        overlay: more files for the guest; they replace those of the same name.
        kernel_options: more words for the kernel's command line.
        memory: in MiB.
    """

    kernel: Kernel
    initramfs: Path
    devices: Sequence[VhostUserDevice] = ()
    overlay: Initramfs | None = None
    kernel_options: Sequence[str] = ()
    memory: int = MEMORY
    emulator = "user-mode Linux"
    has_monitor = False

    def memory_file(self) -> AbstractContextManager[int]:
        """Return a context for the initramfs with its overlay, as a file that lives in memory only."""
        return in_memory(self.initramfs, self.overlay)

    def hot(self, _position: int) -> tuple[list[Command], list[Command]]:
        """Raise LocalError: its devices stay."""
        raise LocalError("user-mode Linux keeps its devices; boot this guest under QEMU to unplug one")

    def command(self, wires: Wires) -> list[str]:
        """Return the command line.

        Raises:
            LocalError: a socket's path has a colon, which ends it there.
        """
        if wrong := [device.socket for device in self.devices if ":" in str(device.socket)]:
            raise LocalError(f"user-mode Linux ends a path at a colon; put the socket elsewhere than {wrong[0]}")
        line = (f"ssl0=fd:{wires.commands},fd:{wires.commands}", f"pyvirtio=ttyS0:{wires.end}")
        return [
            str(self.kernel.image),
            f"mem={self.memory}M",
            f"initrd={wires.initrd}",
            f"uml_dir={wires.folder}/",
            *("con=null", "con0=fd:0,fd:1", "panic=-1", "quiet"),
            *(f"virtio_uml.device={device.socket}:{device.id}" for device in self.devices),
            *self.kernel_options,
            *(line if wires.commands >= 0 else ()),
        ]
