"""Peers that break the rules on purpose, to test your own device or driver against.

`RawDriver` and `RawDevice` are the two ends of a split virtqueue with nothing in between: a test writes
any descriptor, index, flag or event, well-formed or not. They work on a `MemoryTable`, so on memory of
this process as well as on a file that a transport shares with another. `RingFuzzer` fills such a ring at
random, `ScriptedTransport` is a device of which every answer is a test's to choose, and `HostileBackend` puts a
`RawDevice` behind a socket, for a guest.

``frontend`` speaks vhost-user as a script tells it to; ``served`` runs ``pyvirtio serve`` around a block of code.
"""

from pyvirtio.testing.hostile_backend import HostileBackend
from pyvirtio.testing.local_queue import LocalQueue
from pyvirtio.testing.raw_device import RawDevice
from pyvirtio.testing.raw_driver import RawDriver
from pyvirtio.testing.raw_ring import Descriptor, RawRing, RingLayout, UsedElement, lay_out
from pyvirtio.testing.ring_fuzzer import RingFuzzer
from pyvirtio.testing.scripted_transport import ScriptedTransport

__all__ = [
    "Descriptor",
    "HostileBackend",
    "LocalQueue",
    "RawDevice",
    "RawDriver",
    "RawRing",
    "RingFuzzer",
    "RingLayout",
    "ScriptedTransport",
    "UsedElement",
    "lay_out",
]
