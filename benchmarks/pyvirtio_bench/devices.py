"""The tutorial's device in the forms that are measured; `pyvirtio serve` takes them as ``devices.py:Each``."""

from __future__ import annotations

from pyvirtio.device import Device, Queue, RecordArray, lookup
from pyvirtio.devices.factorial import WRAPPED, Request, Response

QUEUE_SIZE = 1024
"""The most entries of a queue that a workload may ask for."""


def answer(_device: Device, request: Request) -> int:
    """Answer one request: the method of all forms."""
    n = request.arg1
    return WRAPPED[n] if n < 34 else 0


class Each(Device):
    """One call of a Python method a request."""

    device_id = 45
    compute = Queue(Request, Response, size=QUEUE_SIZE)

    answer = compute.each(answer)


class Many(Device):
    """The same on eight queues, for several workers."""

    device_id = 45
    compute = Queue(Request, Response, size=QUEUE_SIZE, count=8)

    answer = compute.each(answer)


class Batch(Device):
    """A whole batch of requests at once, where NumPy is there and enough requests wait."""

    device_id = 45
    compute = Queue(Request, Response, size=QUEUE_SIZE)

    answer = compute.each(answer)

    @compute.batch
    def answer_all(self, requests: RecordArray) -> object:
        """Answer a record array of requests."""
        return lookup(WRAPPED, requests["arg1"])
