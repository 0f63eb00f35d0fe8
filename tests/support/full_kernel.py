"""A kernel with every driver that the distribution builds; the one for virtual machines leaves 9P out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvirtio.provision.cache import digest
from pyvirtio.vm.guest_packages import GUEST, prune

if TYPE_CHECKING:
    from pathlib import Path

    from pyvirtio.vm.launch import GuestBuilder

PACKAGE = "linux-image-amd64"


def full_kernel(builder: GuestBuilder) -> Path:
    """Return the kernel's image; its modules are where `pyvirtio.vm.kernel.Kernel.given` looks for them.

    Raises:
        ProvisionError: it cannot be had.
    """
    registry = builder.provision.registry

    def make(folder: Path) -> None:
        needed = registry.depends(GUEST, PACKAGE)
        registry.unpack(GUEST, [next(name for name in needed if name.startswith("linux-image-"))], folder)
        prune(folder)

    root = registry.cache.entry("kernel", digest(GUEST.name, PACKAGE), make)
    return next((root / "boot").glob("vmlinuz-*"))
