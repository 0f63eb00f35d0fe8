"""QEMU's monitor, as a test speaks to it: one command after the other."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Monitor:
    """A connection to the monitor; events are passed over."""

    def __init__(self, connection: socket.socket) -> None:
        self._stream = connection.makefile("rw", encoding="utf-8", newline="\n")
        self._next()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command and return its result."""
        self._stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._stream.flush()
        while True:
            message = self._next()
            if "error" in message:
                raise RuntimeError(f"QEMU refused {command}: {message['error']['desc']}")
            if "return" in message:
                return message["return"]

    def pause(self) -> None:
        """Stop the machine, its devices included, and let it go on."""
        self.execute("stop")
        assert self.execute("query-status")["status"] == "paused"
        self.execute("cont")

    def _next(self) -> dict[str, Any]:
        line = self._stream.readline()
        if not line:
            raise RuntimeError("QEMU closed its monitor")
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()


def options(path: Path) -> tuple[str, ...]:
    """Return QEMU's arguments for a monitor on the socket ``path``."""
    return ("-qmp", f"unix:{path},server=on,wait=off")


@contextlib.contextmanager
def monitor(path: Path) -> Iterator[Monitor]:
    """Connect to the monitor on ``path``. The socket is removed in the end, for a QEMU that is killed leaves it."""
    with socket.socket(socket.AF_UNIX) as connection, contextlib.ExitStack() as stack:
        stack.callback(path.unlink, missing_ok=True)
        connection.settimeout(60)
        connection.connect(str(path))
        opened = Monitor(connection)
        stack.callback(opened.close)
        yield opened
