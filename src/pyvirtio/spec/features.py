"""Feature bits that belong to rings and transports, and the device status bits.

Bits 0 to 23 and 50 to 127 belong to the device (VIRTIO 1.4, 2.2); a device declares its own.
"""

from __future__ import annotations

from enum import IntFlag


class Feature(IntFlag):
    """Reserved feature bits (VIRTIO 1.4, 6)."""

    NOTIFY_ON_EMPTY = 1 << 24
    ANY_LAYOUT = 1 << 27
    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29
    VERSION_1 = 1 << 32
    ACCESS_PLATFORM = 1 << 33
    RING_PACKED = 1 << 34
    IN_ORDER = 1 << 35


RING_FEATURES = int(Feature.INDIRECT_DESC | Feature.EVENT_IDX | Feature.VERSION_1)
"""What every device here offers beside its own bits, and every driver takes when it is offered."""

DEVICE_FEATURES = ((1 << 24) - 1) | (((1 << 64) - 1) ^ ((1 << 50) - 1))
"""The bits below 64 that belong to the device type (VIRTIO 1.4, 2.2)."""


class Status(IntFlag):
    """Device status bits (VIRTIO 1.4, 2.1)."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    DEVICE_NEEDS_RESET = 64
    FAILED = 128
