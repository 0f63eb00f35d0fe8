"""The layout of a split virtqueue in memory (VIRTIO 1.4, 2.7).

Three parts, each contiguous: the descriptor table (16 bytes an entry), the available ring, which
the driver writes, and the used ring, which the device writes.

>>> table_size(128), available_size(128), used_size(128)
(2048, 262, 1030)
"""

from __future__ import annotations

import struct

MAXIMUM_SIZE = 32768
"""The most entries that a split virtqueue may have (VIRTIO 1.4, 2.7)."""

DESCRIPTOR = struct.Struct("<QIHH")
"""A descriptor: address, length, flags, next (VIRTIO 1.4, 2.7.5)."""

DESCRIPTOR_SIZE = 16
USED_ELEMENT = struct.Struct("<II")
"""A used element: the head of a chain, the bytes written into it (VIRTIO 1.4, 2.7.8)."""

F_NEXT = 1
F_WRITE = 2
F_INDIRECT = 4

NO_INTERRUPT = 1
"""In the available ring's flags: the driver wants no interrupt (VIRTIO 1.4, 2.7.7)."""

NO_NOTIFY = 1
"""In the used ring's flags: the device wants no kick (VIRTIO 1.4, 2.7.10)."""

TABLE_ALIGN, AVAILABLE_ALIGN, USED_ALIGN = 16, 2, 4
"""The alignment of the three parts in bytes (VIRTIO 1.4, 2.7)."""

# Indexes into the rings seen as arrays of 16-bit words.
FLAGS, IDX, RING = 0, 1, 2


def table_size(size: int) -> int:
    """Return the bytes of a descriptor table of ``size`` entries."""
    return DESCRIPTOR_SIZE * size


def available_size(size: int) -> int:
    """Return the bytes of an available ring: flags, idx, ring, used_event (VIRTIO 1.4, 2.7.6)."""
    return 6 + 2 * size


def used_size(size: int) -> int:
    """Return the bytes of a used ring: flags, idx, ring, avail_event (VIRTIO 1.4, 2.7.8)."""
    return 6 + 8 * size


def used_event_word(size: int) -> int:
    """Return where used_event lies in the available ring, counted in 16-bit words."""
    return 2 + size


def avail_event_word(size: int) -> int:
    """Return where avail_event lies in the used ring, counted in 16-bit words."""
    return 2 + 4 * size


def is_valid_size(size: int) -> bool:
    """Return whether a split virtqueue may have ``size`` entries: a power of two up to 32768."""
    return 0 < size <= MAXIMUM_SIZE and size & (size - 1) == 0


def event_passed(event: int, new: int, old: int) -> bool:
    """Return whether the index moved past ``event`` on its way from ``old`` to ``new``.

    All three are 16-bit indexes that wrap (VIRTIO 1.4, 2.7.10, vring_need_event in 2.7.11).

    >>> event_passed(event=5, new=6, old=5), event_passed(event=6, new=6, old=5)
    (True, False)
    """
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF
