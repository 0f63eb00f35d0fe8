"""The memory that a device wants to outlive its workers: a file that the keeper holds and workers map."""

from __future__ import annotations

import os

from pyvirtio.errors import LocalError
from pyvirtio.memory.files import shared_file
from pyvirtio.system import log


class KeptMemory:
    """The file, if the device wants any. The keeper never maps it, so nothing in it can harm the keeper.

    ``fds`` is its descriptor in a list, which is empty where there is none.
    """

    def __init__(self) -> None:
        self.fds: list[int] = []
        self._size = 0

    def make(self, size: int) -> None:
        """Make a file of ``size`` zero bytes; pages that nobody writes take no memory.

        Raises:
            LocalError: the system has no more memory or descriptors.
        """
        self._size = size
        if size:
            self.fds = [shared_file("pyvirtio-kept", size)]

    def renew(self) -> None:
        """Make another one in its place: what the old one holds is not of the device that begins now."""
        self.close()
        try:
            self.make(self._size)
        except LocalError as error:
            log.warning("keeper-short", f"the device goes on without memory that outlives its worker: {error}")

    def close(self) -> None:
        """Close the file."""
        while self.fds:
            os.close(self.fds.pop())
