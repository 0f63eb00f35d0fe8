"""QEMU's monitor (QMP): one command after the other, and events that are waited for.

The protocol is a line of JSON each way (QEMU's docs/interop/qmp-spec.rst).
"""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from typing import TYPE_CHECKING

from pyvirtio.errors import GuestError

if TYPE_CHECKING:
    from typing import Any

LIMIT = 60.0  # seconds for an answer or an event
KEPT_EVENTS = 1000


class Monitor:
    """A connection to the monitor. Any thread may use it.

    Args:
        connection: a connected socket, which is closed with this object.

    Every method raises GuestError when QEMU refuses a command, does not answer in time, or ends.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._stream = connection.makefile("rb")
        self._events: deque[dict[str, Any]] = deque(maxlen=KEPT_EVENTS)
        self._lock = threading.RLock()
        self._is_ready = False

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()
        self._connection.close()

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Run a command and return its result."""
        with self._lock:
            self._begin()
            message = {"execute": command, "arguments": arguments or {}}
            try:
                self._connection.sendall(json.dumps(message).encode() + b"\n")
            except OSError as error:
                raise GuestError(f"QEMU ended before it could be told to {command}") from error
            return self._result(command)

    def wait_for(self, event: str, **data: Any) -> dict[str, Any]:
        """Wait for an event whose data has these values, and return its data; one that came earlier counts.

        Each event is returned once.
        """
        with self._lock:
            self._begin()
            while True:
                for one in self._events:
                    found: dict[str, Any] = one.get("data", {})
                    if one["event"] == event and data.items() <= found.items():
                        self._events.remove(one)
                        return found
                self._events.append(self._next(event))

    def _begin(self) -> None:
        """Take the greeting, and say that we are ready, once: before that QEMU sends no events."""
        if not self._is_ready:
            self._is_ready = True
            self._next("the greeting")
            self.execute("qmp_capabilities")

    def _result(self, command: str) -> Any:
        while True:
            message = self._next(command)
            if "event" in message:
                self._events.append(message)
            elif "error" in message:
                raise GuestError(f"QEMU refused {command}: {message['error']['desc']}")
            else:
                return message["return"]

    def _next(self, awaited: str) -> dict[str, Any]:
        self._connection.settimeout(LIMIT)
        try:
            line = self._stream.readline()
        except TimeoutError as error:
            # What was read of a line is lost with this, so the connection is of no use any more.
            self._connection.shutdown(socket.SHUT_RDWR)
            raise GuestError(f"QEMU's monitor said nothing for {LIMIT:g} s while {awaited} was awaited") from error
        except OSError:
            line = b""
        if not line:
            raise GuestError(f"QEMU closed its monitor while {awaited} was awaited")
        message: dict[str, Any] = json.loads(line)
        return message
