"""What is measured: our back-end with each of its engines and each form of the device, and the C peer."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyvirtio.errors import LocalError
from pyvirtio_bench import devices
from pyvirtio_bench.engines import BATCHING, TITLES, VARIABLE, engines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from types import ModuleType

START_TIME = 30.0  # seconds
C_PEER = "libvhost-user"


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
            self._wait_until_ready(process, log)
            yield socket
        finally:
            process.terminate()
            process.wait()
            shutil.rmtree(own)

    def _wait_until_ready(self, process: subprocess.Popen[bytes], log: Path) -> None:
        deadline = time.monotonic() + START_TIME
        while "ready on" not in (text := log.read_text(errors="replace")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise LocalError(f"the back-end {self.name!r} does not start: {text.strip() or 'its log is empty'}")
            time.sleep(0.01)


def c_peer(program: Path, queues: int = 1) -> Backend:
    """Return the device on libvhost-user."""
    return Backend(C_PEER, (str(program), "{socket}", str(queues)))


def pyvirtio_backend(name: str, device: str, *, engine_name: str, workers: int = 1, poll_us: int = 0) -> Backend:
    """Return our back-end for a device, with an engine; it may poll for `poll_us` before it sleeps."""
    serve = (sys.executable, "-m", "pyvirtio", "serve", device, "--socket", "{socket}")
    polling = ("--poll-us", str(poll_us)) if poll_us else ()
    return Backend(name, (*serve, "--workers", str(workers), *polling), {VARIABLE: engine_name})


def device_spec(name: str, module: ModuleType = devices) -> str:
    """Return one form of the measured device as ``pyvirtio serve`` takes it: a file and a class."""
    return f"{module.__file__}:{name}"


def polling_backends(microseconds: int = 50) -> list[Backend]:
    """Return our back-end with the fastest engine, polling for a while before it sleeps."""
    name, titles = engines()[0], {"Batch": "batch device", "Each": "one call"}
    return [
        pyvirtio_backend(
            f"{TITLES[name]}, {title}, --poll-us {microseconds}",
            device_spec(form),
            engine_name=name,
            poll_us=microseconds,
        )
        for form, title in titles.items()
    ]


def each_engine() -> Sequence[Backend]:
    """Return our back-end with every engine that can run here, and every form of the device that it serves."""
    found = []
    for name in engines():
        if name in BATCHING:
            found.append(pyvirtio_backend(f"{TITLES[name]}, batch device", device_spec("Batch"), engine_name=name))
        found.append(pyvirtio_backend(f"{TITLES[name]}, one call a request", device_spec("Each"), engine_name=name))
    return found
