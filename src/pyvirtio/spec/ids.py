"""Virtio device ids (VIRTIO 1.4, 5) that have a meaning here."""

FACTORIAL = 45
"""The tutorial's id for its factorial device. VIRTIO 1.4 gives it to the SPI controller."""

FACTORIAL_SPARE = 63
"""Unassigned in VIRTIO 1.4, and the highest that a PCI device id can carry (0x1040 + id <= 0x107f)."""
