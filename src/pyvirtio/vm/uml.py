"""User-mode Linux: a kernel that runs as a process of this machine, with a vhost-user front-end of its own.

It boots in a second, without QEMU and without emulation, and its front-end (``virtio_uml``) follows the
protocol to the letter where QEMU has habits. A `UmlConfig` takes the place of a
`pyvirtio.vm.guest.LaunchConfig`::

    device = VhostUserDevice.of(Disk().description(), socket)
    with builder.uml([device], modules=["virtio_blk"]) as config, Guest(config) as guest:
        print(guest.run("head -c 512 /dev/vda | hexdump -C").output)
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
    from pyvirtio.vm.machine import VhostUserDevice

MEMORY = 256  # MiB


@dataclass(frozen=True)
class UmlConfig:
    """Everything that a user-mode Linux is started with.

    Attributes:
        kernel: its `image` is the program to run.
        initramfs: a cpio archive, whose init speaks as `pyvirtio/guest/init` does.
        folder: where it keeps a file with its process id and a socket; it leaves them there when it is killed.
        devices: what is attached; their back-ends must be listening.
        overlay: more files for the guest; they replace those of the same name.
        kernel_options: more words for the kernel's command line.
    """

    kernel: Kernel
    initramfs: Path
    folder: Path
    devices: Sequence[VhostUserDevice] = ()
    overlay: Initramfs | None = None
    kernel_options: Sequence[str] = ()
    emulator = "user-mode Linux"

    def memory_file(self) -> AbstractContextManager[int]:
        """Return a context for the initramfs with its overlay, as a file that lives in memory only."""
        return in_memory(self.initramfs, self.overlay)

    def command(self, initrd: int, *, serial: str, more_options: Sequence[str] = ()) -> list[str]:
        """Return the command line, with the initramfs in the file descriptor `initrd`.

        Raises:
            LocalError: `serial` is not ``stdio``, or a socket's path has a colon, which ends it there.
        """
        if serial != "stdio":
            raise LocalError(f"the console of user-mode Linux is stdio; {serial} is for QEMU")
        if wrong := [device.socket for device in self.devices if ":" in str(device.socket)]:
            raise LocalError(f"user-mode Linux ends a path at a colon; put the socket elsewhere than {wrong[0]}")
        return [
            str(self.kernel.image),
            f"mem={MEMORY}M",
            f"initrd=/proc/self/fd/{initrd}",
            f"uml_dir={self.folder}/",
            *("con=null", "con0=fd:0,fd:1", "panic=-1", "quiet"),
            *(f"virtio_uml.device={device.socket}:{device.id}" for device in self.devices),
            *self.kernel_options,
            *more_options,
        ]
