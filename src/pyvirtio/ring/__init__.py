"""A virtqueue, both sides (VIRTIO 1.4, 2.6 and 2.7): memory in, chains out, and back.

The device pops chains and pushes them when they are answered; the driver adds buffers and reaps
them when they are used. Nothing here knows a socket, a process or a device.
"""

from pyvirtio.ring.chain import Chain
from pyvirtio.ring.engine import device_queue
from pyvirtio.ring.journal import Journal
from pyvirtio.ring.layout import SplitLayout
from pyvirtio.ring.queue import record_queue
from pyvirtio.ring.split_device import SplitDeviceQueue
from pyvirtio.ring.split_driver import SplitDriverQueue

__all__ = [
    "Chain",
    "Journal",
    "SplitDeviceQueue",
    "SplitDriverQueue",
    "SplitLayout",
    "device_queue",
    "record_queue",
]
