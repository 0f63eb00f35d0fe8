"""Connects again to a back-end that went away, in a thread, so that an event loop can go on meanwhile."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress

from pyvirtio.errors import DeviceError, VirtioError
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.connection import FrontendConnection, connect

PAUSE = 0.05
"""The seconds between two attempts; nothing tells when a socket is listened to again."""


class Reconnector:
    """Tries for ``patience`` seconds. `fileno` is readable when it has succeeded or given up; `result` says which.

    It has succeeded when the back-end answers: a service manager listens also while there is none.
    """

    def __init__(self, path: str, device: str, patience: float) -> None:
        self._path = path
        self._device = device
        self._patience = patience
        self._done = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopped = threading.Event()
        self._sock: socket.socket | None = None
        self._connection: FrontendConnection | None = None
        self._error: VirtioError | None = None
        self._thread = threading.Thread(target=self._run, name="pyvirtio-reconnect", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._done

    def _run(self) -> None:
        deadline = time.monotonic() + self._patience
        while not self._attempt(max(0.0, deadline - time.monotonic())):
            if time.monotonic() >= deadline or self._stopped.wait(PAUSE):
                break
        os.eventfd_write(self._done, 1)

    def _attempt(self, seconds: float) -> bool:
        """Return whether a back-end has answered within so many seconds."""
        try:
            self._sock = connect(self._path, self._device)
            connection = FrontendConnection(self._sock, seconds)
        except VirtioError as error:
            self._error = error
            return False
        try:
            if not self._stopped.is_set():
                connection.ask(m.Request.GET_FEATURES)
        except VirtioError as error:
            self._error = error
            connection.close()
            return False
        self._connection = connection
        return True

    def result(self) -> FrontendConnection:
        """Wait for the end of the attempts and return the connection, which is the caller's.

        Raises:
            DeviceError: the back-end did not come back.
        """
        self._thread.join()
        connection, self._connection = self._connection, None
        if connection is None:
            raise DeviceError(
                f"the back-end went away and was not back after {self._patience:g} seconds: {self._error}"
            ) from self._error
        return connection

    def close(self) -> None:
        """Give up, and give everything back but what `result` returned."""
        self._stopped.set()
        if self._thread.is_alive() and self._sock is not None:
            with suppress(OSError):  # it may just have been closed
                self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        os.close(self._done)
        if self._connection is not None:
            self._connection.close()
