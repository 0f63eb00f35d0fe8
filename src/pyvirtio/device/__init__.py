"""Write a device: subclass `Device`, declare its queues, answer requests.

>>> from pyvirtio.spec.struct import Struct, le32
>>> class Number(Struct):
...     value: int = le32()
>>> class Doubler(Device):
...     requests = Queue(Number, Number, size=16)
...
...     @requests.each
...     def double(self, number):
...         return Number(2 * number.value)
>>> Doubler().description().queue_sizes
(16,)
"""

from pyvirtio.device.batches import RecordArray, lookup
from pyvirtio.device.device import Device
from pyvirtio.device.outgoing import OutgoingPort
from pyvirtio.device.queue import OutgoingQueue, Queue
from pyvirtio.device.rate import Rate
from pyvirtio.device.streams import Reader, Writer

__all__ = ["Device", "OutgoingPort", "OutgoingQueue", "Queue", "Rate", "Reader", "RecordArray", "Writer", "lookup"]
