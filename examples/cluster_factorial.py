"""Very large factorials: the product is split over threads, processes or a Dask cluster.

::

    dask scheduler --host 127.0.0.1 --port 8786 & dask worker tcp://127.0.0.1:8786 --nworkers 2 &
    pyvirtio serve examples/cluster_factorial.py:ClusterFactorial,cluster=tcp://127.0.0.1:8786 --socket /tmp/f.sock &
    pyvirtio factorial 200000 --socket /tmp/f.sock
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from pyvirtio import Device, Queue
from pyvirtio.devices.factorial import EXACT, Config, Request, Response, put_exact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distributed import Client

    from pyvirtio import Reader, Writer

LEAF = 4096
"""The most numbers that are multiplied at once. A factorial of so many is computed here, without the cluster."""


class ClusterFactorial(Device):
    """Answers as the shipped factorial device does, for larger n, and goes on answering others meanwhile.

    With ``cluster``, the address of a Dask scheduler, that cluster computes; otherwise whatever `executor` is set to,
    by default threads of this process.
    """

    device_id = 45
    features = EXACT
    config = Config(max_exact=1_000_000)
    patience = 600.0
    compute = Queue(Request, Response, size=128)

    def __init__(self, *, cluster: str = "") -> None:
        self._address = cluster
        self._client: Client | None = None
        self._connecting = asyncio.Lock()

    async def _connect(self) -> None:
        """Join the cluster, or join it again: a client whose scheduler went away is of no use."""
        async with self._connecting:
            if not self._address or (self._client is not None and self._client.status == "running"):
                return
            await asyncio.to_thread(self.close)
            self._client = await asyncio.to_thread(_join, self._address)
            self.executor = self._client.get_executor(pure=False)  # what is pure is named by its arguments' digits

    def close(self) -> None:
        """Leave the cluster."""
        if self._client is not None:
            self._client.close()
            self._client = None

    @compute.stream
    async def answer(self, reader: Reader, writer: Writer) -> None:
        """Answer n with its exact factorial."""
        n = reader.take(Request).arg1
        put_exact(writer, n, await self.factorial(n) if n <= self.config.max_exact else 0)

    async def factorial(self, n: int) -> int:
        """Return n!: the products of pieces, then of pairs of these, and so on, each somewhere else."""
        if n <= LEAF:
            return math.factorial(n)
        await self._connect()
        factors: Sequence[int] = range(1, n + 1)
        length = LEAF
        while len(factors) > 1:
            pieces = [factors[start : start + length] for start in range(0, len(factors), length)]
            factors = await asyncio.gather(*(self.offload(math.prod, piece) for piece in pieces))
            length = 2
        return factors[0]


def _join(address: str) -> Client:
    from distributed import Client  # of the extra `cluster`

    return Client(address, timeout=5, set_as_default=False)
