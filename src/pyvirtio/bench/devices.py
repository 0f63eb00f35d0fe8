"""The tutorial's device in the forms that are measured; `pyvirtio serve` takes them as ``devices.py:Each``."""

from __future__ import annotations

from pyvirtio.device import Device, Queue
from pyvirtio.devices.factorial import WRAPPED, Request, Response


class Each(Device):
    """One call of a Python method a request."""

    device_id = 45
    compute = Queue(Request, Response, size=128)

    @compute.each
    def answer(self, request: Request) -> Response:
        """Answer one request."""
        return Response(WRAPPED[min(request.arg1, 34)])


class Many(Device):
    """The same on eight queues, for several workers."""

    device_id = 45
    compute = Queue(Request, Response, size=128, count=8)

    @compute.each
    def answer(self, request: Request) -> Response:
        """Answer one request."""
        return Response(WRAPPED[min(request.arg1, 34)])
