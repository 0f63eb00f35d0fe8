"""Write virtio devices and drivers in Python."""

__version__ = "0.1.0"
