"""Write a device: subclass `Device`, declare its queues, answer requests.

>>> from pyvirtio.spec.struct import Struct, le32
>>> class Number(Struct):
...     value: int = le32()
>>> class Doubler(Device):
...     device_id = 63
...     requests = Queue(Number, Number, size=16)
...
...     @requests.each
...     def double(self, number):
...         return Number(2 * number.value)
>>> Doubler().description().queue_sizes
(16,)
"""

from pyvirtio.device.device import Device
from pyvirtio.device.queue import Queue
from pyvirtio.device.records import Records, lookup
from pyvirtio.device.service import QueueService
from pyvirtio.device.streams import Reader, Writer

__all__ = ["Device", "Queue", "QueueService", "Reader", "Records", "Writer", "lookup"]
