"""Devices with memory that outlives their workers."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from pyvirtio import Device, Queue, Struct, le32

if TYPE_CHECKING:
    from pyvirtio.device import Reader, Writer

COUNT, DIE, TELL = range(3)


class Number(Struct):
    """What is asked, and the answer."""

    value: int = le32()


class Keeping(Device):
    """Counts in its memory, ends its worker the first time, or tells whether the request comes again."""

    device_id = 63
    kept_size = 4096
    requests = Queue(Number, Number, size=64)

    @requests.each
    def answer(self, request: Number) -> int:
        """Do as asked."""
        return act(self, request.value)


class KeepingStream(Device):
    """The same by streams, on two queues."""

    device_id = 63
    kept_size = 4096
    requests = Queue(size=64, count=2)

    @requests.stream
    def answer(self, reader: Reader, writer: Writer) -> None:
        """Do as asked."""
        writer.put(Number(act(self, reader.take(Number).value)))


class KeepingLater(Device):
    """The same by coroutines."""

    device_id = 63
    kept_size = 4096
    requests = Queue(size=64)

    @requests.stream
    async def answer(self, reader: Reader, writer: Writer) -> None:
        """Do as asked."""
        writer.put(Number(act(self, reader.take(Number).value)))


def act(device: Device, what: int) -> int:
    """Return the count, or whether the request comes again."""
    assert device.kept_memory is not None
    assert len(device.kept_memory) == device.kept_size
    count = device.kept_memory[:4].cast("I")
    if what == DIE and not device.repeats:
        os.kill(os.getpid(), signal.SIGKILL)
    if what == COUNT:
        count[0] += 1
        return count[0]
    return int(device.repeats)
