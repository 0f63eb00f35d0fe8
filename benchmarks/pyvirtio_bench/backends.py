"""What is measured, as processes: ``pyvirtio serve`` from an install, and the peers in C."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pyvirtio_bench.installs import Install

START_TIME = 30.0  # seconds
C_PEER = "libvhost-user"
READY_FILE = "{socket}.ready"
"""An argument for back-ends that write a file, instead of a line in their log, when they are ready."""


@dataclass(frozen=True)
class Backend:
    """A back-end process that can be started.

    Attributes:
        name: what the tables call it.
        command: how it is started; the path of its socket replaces ``{socket}``.
        environment: what it needs in the environment.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def running(self, folder: Path) -> Iterator[Path]:
        """Run it while the block lasts, with its socket in `folder`; the value is the path of the socket.

        Raises:
            LocalError: it ended, or is not ready in time.
        """
        own = folder / f"{len(list(folder.iterdir()))}"
        own.mkdir()
        socket, log = own / "socket", own / "log"
        command = [part.format(socket=socket) for part in self.command]
        with open(log, "wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stderr=output, env={**os.environ, **self.environment}
            )
        try:
            self._wait_until_ready(process, log, Path(READY_FILE.format(socket=socket)))
            yield socket
        finally:
            process.terminate()
            process.wait()
            shutil.rmtree(own)

    def _wait_until_ready(self, process: subprocess.Popen[bytes], log: Path, ready: Path) -> None:
        deadline = time.monotonic() + START_TIME
        while "ready on" not in (text := log.read_text(errors="replace")) and not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise LocalError(f"the back-end {self.name!r} does not start: {text.strip() or 'its log is empty'}")
            time.sleep(0.01)


def c_peer(program: Path, device: str, *arguments: str, name: str = C_PEER) -> Backend:
    """Return one of the devices on libvhost-user."""
    return Backend(name, (str(program), "{socket}", device, *arguments))


def pyvirtio(install: Install, device: str, *arguments: str, name: str = "pyvirtio", engine: str = "") -> Backend:
    """Return ``pyvirtio serve DEVICE`` of an install; `engine` forces a ring engine."""
    command = (*install.command, "serve", device, "--socket", "{socket}", *arguments)
    return Backend(name, command, {"PYVIRTIO_ENGINE": engine} if engine else {})
