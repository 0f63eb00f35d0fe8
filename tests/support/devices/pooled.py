"""A device whose requests are computed by a pool of processes that it forks."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

from pyvirtio import Device, Queue, Struct, le32


class Number(Struct):
    """A process id."""

    value: int = le32()


class Pooled(Device):
    """Answers each request with the id of the process that computed the answer."""

    device_id = 63
    requests = Queue(Number, Number, size=64)

    def __init__(self) -> None:
        self.executor = self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))

    def close(self) -> None:
        """End the pool."""
        self._pool.shutdown(cancel_futures=True)

    @requests.each
    async def where(self, _request: Number) -> int:
        """Return where it was computed."""
        return await self.offload(os.getpid)
