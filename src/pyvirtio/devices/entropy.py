"""A source of random bytes (VIRTIO 1.4, 5.4): Linux's hwrng reads it, and mixes it into /dev/random."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from pyvirtio.device import Device, Queue, Rate, Reader, Writer
from pyvirtio.errors import ChainError, NotNow
from pyvirtio.system import log

MOST = 1 << 16
"""The most bytes of an answer; a device may write fewer than there is room for (5.4.6.2)."""

RETRY = 0.5
"""The seconds after which a source that failed is asked again."""

Source = Callable[[int], bytes]
"""Returns at most so many random bytes; none, or an OSError, where it has none now."""


class Entropy(Device):
    """A source of random bytes, for the host has better ones than a guest.

    ``source`` is a file such as /dev/hwrng, or a function, which may take its time; by default it is the host's own
    random numbers. ``rate`` limits the bytes in a second. Where there are no bytes yet, the guest's request stays on
    the ring: it must be answered with one byte at least (5.4.6.2), and Linux would not ask again.
    """

    device_id = 4
    requests = Queue(size=8)

    def __init__(self, source: Path | Source | None = None, *, rate: int | None = None) -> None:
        self._fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC) if isinstance(source, Path) else -1
        self._source: Source = source if callable(source) else self._read_file if source else os.urandom
        self._rate = Rate(rate, monotonic) if rate is not None else None
        self._is_at_once = source is None and rate is None
        self._bytes = b""
        self._asked = 0
        self._is_asked = asyncio.Event()

    def close(self) -> None:
        """Close the source."""
        if self._fd >= 0:
            os.close(self._fd)

    @requests.stream
    def serve(self, reader: Reader, writer: Writer) -> None:
        """Fill the buffer, or as much of it as may be filled at once."""
        if reader.left:
            raise ChainError("a request for random bytes brings bytes along", section="5.4.6.1")
        wanted = min(writer.room, MOST)
        if self._is_at_once:
            self._bytes = os.urandom(wanted)
        elif not self._bytes:
            self._asked = wanted
            self._is_asked.set()
            raise NotNow
        writer.write(self._bytes[:wanted])
        self._bytes = self._bytes[wanted:]

    async def run(self) -> None:
        """Get bytes from the source when a request waits for some."""
        while await self._is_asked.wait():
            if self._rate:
                await asyncio.sleep(self._rate.claim(self._asked))
            try:
                self._bytes = await self.offload(self._source, self._asked)
            except OSError as error:
                log.warning("source-failed", f"the source of random bytes failed, the guest waits: {error}", error)
            if self._bytes:
                self._is_asked.clear()
                self.resume(Entropy.requests)
            else:
                await asyncio.sleep(RETRY)

    def _read_file(self, wanted: int) -> bytes:
        return os.read(self._fd, wanted)
