"""The measured device with methods that may wait, and one that may not; all of them take a reader and a writer.

They are apart from the other forms because ``asyncio`` takes time and memory that those do not need.
"""

from __future__ import annotations

import asyncio

from pyvirtio.device import Device, Queue, Reader, Writer
from pyvirtio.devices.factorial import Request, Response
from pyvirtio_bench.devices import QUEUE_SIZE, answer


class Plain(Device):
    """A plain method."""

    device_id = 45
    compute = Queue(size=QUEUE_SIZE)

    @compute.stream
    def answer(self, reader: Reader, writer: Writer) -> None:
        """Answer one request."""
        writer.put(Response(answer(self, reader.take(Request))))


class Async(Device):
    """A coroutine that never waits."""

    device_id = 45
    compute = Queue(size=QUEUE_SIZE)

    @compute.stream
    async def answer(self, reader: Reader, writer: Writer) -> None:
        """Answer one request."""
        writer.put(Response(answer(self, reader.take(Request))))


class Yielding(Device):
    """A coroutine that waits for the next round of the event loop."""

    device_id = 45
    compute = Queue(size=QUEUE_SIZE)

    @compute.stream
    async def answer(self, reader: Reader, writer: Writer) -> None:
        """Answer one request."""
        await asyncio.sleep(0)
        writer.put(Response(answer(self, reader.take(Request))))
