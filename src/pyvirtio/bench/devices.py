"""The tutorial's device in the forms that are measured; `pyvirtio serve` takes them as ``devices.py:Each``."""

from __future__ import annotations

from functools import cache
from typing import Any

from pyvirtio.device import Device, Queue
from pyvirtio.devices.factorial import WRAPPED, Request, Response


class Each(Device):
    """One call of a Python method a request."""

    device_id = 45
    compute = Queue(Request, Response, size=128)

    @compute.each
    def answer(self, request: Request) -> int:
        """Answer one request."""
        n = request.arg1
        return WRAPPED[n] if n < 34 else 0


class Many(Device):
    """The same on eight queues, for several workers."""

    device_id = 45
    compute = Queue(Request, Response, size=128, count=8)

    @compute.each
    def answer(self, request: Request) -> int:
        """Answer one request."""
        n = request.arg1
        return WRAPPED[n] if n < 34 else 0


class Batch(Device):
    """A whole batch of requests at once, where NumPy is there and enough of them wait."""

    device_id = 45
    compute = Queue(Request, Response, size=128)

    @compute.each
    def answer(self, request: Request) -> int:
        """Answer one request."""
        n = request.arg1
        return WRAPPED[n] if n < 34 else 0

    @compute.batch
    def answer_all(self, requests: Any) -> Any:
        """Answer a record array of requests."""
        import numpy as np

        return _wrapped_array()[np.minimum(requests["arg1"], 34)]


@cache
def _wrapped_array() -> Any:
    import numpy as np

    return np.array(WRAPPED, dtype="<u4")
