"""An end that is a file, to which everything is appended."""

from __future__ import annotations

import os

from pyvirtio.ends.end import End

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path


class FileEnd(End):
    """The file ``path``, which is made if it is not there; what comes is appended. Nothing is read from it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def open(self, *, take_over: bool = False) -> None:  # noqa: ARG002  # a file is everybody's
        """Open the file."""
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def put(self, data: bytes | memoryview) -> int:
        """Append all of it; raises OSError where the file system does not take it."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        return len(data)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
