"""Workers that die again and again while something else goes on."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from pyvirtio.testing.served import ServerProcess

STEPS = 4
"""So many steps are done before each death."""


class Killer:
    """Kills workers after every few steps, at no moment in particular of the one that follows."""

    def __init__(self, server: ServerProcess, rng: random.Random) -> None:
        self._server = server
        self._rng = rng
        self._over, self._done = threading.Event(), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._kill)
        self.killed: set[int] = set()

    def step(self) -> None:
        """Count a step that begins."""
        self._done.release()

    def _kill(self) -> None:
        while True:
            for _ in range(STEPS):
                self._done.acquire()
            if self._over.wait(self._rng.uniform(0, 0.02)):
                return
            for worker in self._server.workers():
                self.killed.add(worker)
                os.kill(worker, signal.SIGKILL)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """End; nothing is killed any more when this returns."""
        self._over.set()
        self._done.release(STEPS)
        self._thread.join()


@contextmanager
def killing(server: ServerProcess, rng: random.Random) -> Iterator[Killer]:
    """Yield what kills a server's workers until the block ends."""
    killer = Killer(server, rng)
    killer.start()
    try:
        yield killer
    finally:
        killer.end()
