"""Which driver a device gets in a guest: one of Linux's own, or the one that came with pyvirtio.

The drivers that Debian's kernels have depend on the kernel's version and flavour: ``cloud`` is small and boots sooner,
``full`` has what a desktop may meet, too.

>>> needed_kernel([2, 4]), needed_kernel([9, 25])
(('6.1', 'cloud'), ('6.12', 'full'))
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pyvirtio.spec.ids import device_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pyvirtio.vm.kernel_modules import Module

STOCK_MODULES = {
    1: ("virtio_net",),
    2: ("virtio_blk",),
    3: ("virtio_console",),
    4: ("virtio_rng",),
    5: ("virtio_balloon",),
    8: ("virtio_scsi", "sd_mod", "sr_mod"),
    9: ("9pnet_virtio", "9p"),
    16: ("virtio_gpu",),
    18: ("virtio_input", "evdev"),
    19: ("vmw_vsock_virtio_transport",),
    20: ("virtio_crypto",),
    23: ("virtio_iommu",),
    24: ("virtio_mem",),
    25: ("virtio_snd",),
    26: ("virtiofs",),
    27: ("virtio_pmem",),
    29: ("mac80211_hwsim",),
    33: ("nsm",),
}
"""The modules that drive a standard type of device in Debian's kernels, by its virtio id; built-in ones count."""

OWN_IDS = (45, 38, 63)
"""The ids that the driver which came with pyvirtio (`pyvirtio/guest/linux`) binds."""

DEFAULT_VERSION, DEFAULT_FLAVOUR = "6.1", "cloud"
NOT_IN_CLOUD = frozenset({9, 16, 20, 25, 29})
SINCE_6_12 = frozenset({23, 25, 33})
ALIAS = re.compile(rb"\0alias=virtio:d([0-9A-F]{8})v")


def needed_kernel(device_ids: Iterable[int]) -> tuple[str, str]:
    """Return the oldest version, and the smallest flavour, of a kernel that has the devices' drivers."""
    ids = set(device_ids)
    return (
        "6.12" if ids & SINCE_6_12 else DEFAULT_VERSION,
        "full" if ids & NOT_IN_CLOUD else DEFAULT_FLAVOUR,
    )


def bound_ids(module: Module) -> tuple[int, ...]:
    r"""Return the virtio ids that a module binds, as it says itself.

    >>> from pyvirtio.vm.kernel_modules import Module
    >>> bound_ids(Module("mine", b"\0alias=virtio:d0000002Dv*\0alias=virtio:d00000026v*\0"))
    (45, 38)
    """
    return tuple(dict.fromkeys(int(number, 16) for number in ALIAS.findall(module.data)))


def undriven(device_ids: Iterable[int], built: Sequence[int]) -> list[str]:
    """Return the devices, in words, for which there is neither a driver of Linux nor one among the `built` ones."""
    ids = [number for number in device_ids if number not in STOCK_MODULES and number not in built]
    return [f"{device_name(number)} (virtio id {number})" for number in ids]
