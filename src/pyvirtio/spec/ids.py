"""The ids of device types (VIRTIO 1.4, 5), and which of them QEMU forwards to a vhost-user back-end.

>>> device_name(4), device_name(50)
('entropy source', 'virtio device 50')
"""

from __future__ import annotations

DEVICE_NAMES = {
    1: "network device",
    2: "block device",
    3: "console",
    4: "entropy source",
    5: "memory ballooning (traditional)",
    6: "ioMemory",
    7: "rpmsg",
    8: "SCSI host",
    9: "9P transport",
    10: "mac80211 wlan",
    11: "rproc serial",
    12: "virtio CAIF",
    13: "memory balloon",
    16: "GPU device",
    17: "RTC device",
    18: "input device",
    19: "socket device",
    20: "crypto device",
    21: "signal distribution module",
    22: "pstore device",
    23: "IOMMU device",
    24: "memory device",
    25: "sound device",
    26: "file system device",
    27: "PMEM device",
    28: "RPMB device",
    29: "mac80211 hwsim wireless simulation device",
    30: "video encoder device",
    31: "video decoder device",
    32: "SCMI device",
    33: "NitroSecureModule",
    34: "I2C adapter",
    35: "watchdog",
    36: "CAN device",
    38: "parameter server",
    39: "audio policy device",
    40: "Bluetooth device",
    41: "GPIO device",
    42: "RDMA device",
    43: "camera device",
    44: "ISM device",
    45: "SPI controller",
    46: "TEE device",
    47: "CPU balloon device",
    48: "media device",
    49: "USB controller",
}
"""The device types by id, in the specification's words; 0 is invalid, 14, 15 and 37 are not assigned."""

VHOST_USER_TYPES = {
    1: "net",
    2: "block",
    3: "console",
    4: "rng",
    5: "balloon",
    7: "rpmsg",
    8: "scsi",
    9: "9p",
    11: "rproc-serial",
    12: "caif",
    16: "gpu",
    18: "input",
    19: "vsock",
    20: "crypto",
    26: "fs",
}
"""What management programs call a back-end's type (QEMU's docs/interop/vhost-user.json), by device id."""

LARGEST_PCI_ID = 63
"""A PCI device id is 0x1040 plus the virtio id, at most 0x107f (VIRTIO 1.4, 4.1.2.1)."""

DEFAULT_ID = 38
"""The id for a device of one's own: QEMU forwards it, and no driver of Linux claims it."""

_SINCE_10_2 = frozenset((*range(1, 14), *range(16, 42)))

QEMU_FORWARDS = {"10.2": _SINCE_10_2, "11.1": _SINCE_10_2 | {45}}
"""The ids with which QEMU's generic device, ``vhost-user-test-device``, starts, by QEMU's version.

QEMU aborts on the others, for it knows no name for them. Every id for which QEMU has a front-end of its
own is among them.
"""


def device_name(device_id: int) -> str:
    """Return what VIRTIO 1.4 calls the device type, or a plain name where the id is not assigned."""
    return DEVICE_NAMES.get(device_id, f"virtio device {device_id}")


def id_trouble(device_id: int) -> str | None:
    """Return why QEMU cannot forward a device with this id, and what to do; None if every QEMU can.

    This is a table of what was seen; `pyvirtio.vm.device_ids` asks the QEMU at hand.

    >>> id_trouble(38) is None
    True
    >>> id_trouble(63)
    'QEMU 10.2 and 11.1 abort on a vhost-user device with virtio id 63; 38 works, as --device-id 38'
    """
    advice = f"{DEFAULT_ID} works, as --device-id {DEFAULT_ID}"
    if not 1 <= device_id <= LARGEST_PCI_ID:
        return f"virtio id {device_id} does not exist on PCI, where ids end at {LARGEST_PCI_ID}; {advice}"
    abort = [version for version, ids in QEMU_FORWARDS.items() if device_id not in ids]
    if not abort:
        return None
    verb = "abort" if len(abort) > 1 else "aborts"
    return f"QEMU {' and '.join(abort)} {verb} on a vhost-user device with virtio id {device_id}; {advice}"
