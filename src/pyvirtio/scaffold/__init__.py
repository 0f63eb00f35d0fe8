"""Starts a project: a device of one's own, with all that belongs to it, and the C header of any device.

``c_header`` writes a device's structures for its driver in the Linux kernel; ``project`` makes a folder with a device,
its tests and, where Linux has no driver for it, that driver, from the files in ``templates``.
"""

from pyvirtio.scaffold.c_header import c_header

__all__ = ["c_header"]
