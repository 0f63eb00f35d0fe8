"""A source of random bytes (VIRTIO 1.4, 5.4): Linux's hwrng reads it, and mixes it into /dev/random."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from pyvirtio.device import Device, Queue, Rate, Reader, Writer
from pyvirtio.errors import ChainError

MOST = 1 << 16
"""The most bytes of an answer; a device may write fewer than there is room for (5.4.6.2)."""

Source = Callable[[int], bytes]
"""Returns at most so many random bytes, and at least one."""


class Entropy(Device):
    """A source of random bytes, for the host has better ones than a guest.

    ``source`` is a file such as /dev/hwrng, or a function; by default it is the host's own random numbers. ``rate``
    limits the bytes in a second.
    """

    device_id = 4
    requests = Queue(size=8, held=True)  # the source may take its time

    def __init__(self, source: Path | Source | None = None, *, rate: int | None = None) -> None:
        self._fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC) if isinstance(source, Path) else -1
        self._source: Source = source if callable(source) else self._read_file if source else os.urandom
        self._blocks = source is not None
        self._rate = Rate(rate, monotonic) if rate is not None else None

    def close(self) -> None:
        """Close the source."""
        if self._fd >= 0:
            os.close(self._fd)

    @requests.stream
    async def serve(self, reader: Reader, writer: Writer) -> None:
        """Fill the buffer, or as much of it as may be filled at once."""
        if reader.left:
            raise ChainError("a request for random bytes brings bytes along", section="5.4.6.1")
        wanted = min(writer.room, MOST)
        if self._rate:
            await asyncio.sleep(self._rate.claim(wanted))
        data = await self.offload(self._source, wanted) if self._blocks else self._source(wanted)
        if not data:
            raise OSError("the source of random bytes has come to its end")
        writer.write(data[:wanted])

    def _read_file(self, wanted: int) -> bytes:
        return os.read(self._fd, wanted)
