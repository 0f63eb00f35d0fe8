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

from pyvirtio.bench import devices
from pyvirtio.errors import LocalError
from pyvirtio.ring.engine import ENGINES, engine

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

START_TIME = 30.0  # seconds
DEVICES = devices.__file__
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
        """Run it while the block lasts, with its socket in `folder`; give the socket.

        Raises:
            LocalError: it ended, or is not ready in time.
        """
        place = folder / f"{len(list(folder.iterdir()))}"
        place.mkdir()
        socket, log = place / "socket", place / "log"
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
            shutil.rmtree(place)

    def _wait_until_ready(self, process: subprocess.Popen[bytes], log: Path) -> None:
        deadline = time.monotonic() + START_TIME
        while "ready on" not in (text := log.read_text(errors="replace")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise LocalError(f"the back-end {self.name!r} does not start: {text.strip() or 'it says nothing'}")
            time.sleep(0.01)


def c_peer(program: Path, queues: int = 1) -> Backend:
    """Give the device on libvhost-user."""
    return Backend(C_PEER, (str(program), "{socket}", str(queues)))


def ours(name: str, device: str, *, engine_name: str, workers: int = 1, poll_us: int = 0) -> Backend:
    """Give our back-end, with a form of the device and an engine; it may poll before it sleeps."""
    serve = (sys.executable, "-m", "pyvirtio", "serve", device, "--socket", "{socket}")
    polling = ("--poll-us", str(poll_us)) if poll_us else ()
    return Backend(name, (*serve, "--workers", str(workers), *polling), {"PYVIRTIO_ENGINE": engine_name})


def form(name: str) -> str:
    """Give a form of the device, as `pyvirtio serve` takes it."""
    return f"{DEVICES}:{name}"


TITLES = {"native": "accelerator", "numpy": "NumPy", "reference": "plain Python"}


def engines() -> list[str]:
    """Give the engines that can run here, the fastest first."""
    return [name for name in ENGINES if _runs(name)]


def _runs(name: str) -> bool:
    before = os.environ.get("PYVIRTIO_ENGINE")
    os.environ["PYVIRTIO_ENGINE"] = name
    try:
        engine()
    except LocalError:
        return False
    finally:
        if before is None:
            del os.environ["PYVIRTIO_ENGINE"]
        else:
            os.environ["PYVIRTIO_ENGINE"] = before
    return True


def polling(microseconds: int = 50) -> list[Backend]:
    """Give our back-end with the fastest engine, looking on for a while before it sleeps."""
    name, titles = engines()[0], {"Batch": "batch device", "Each": "one call"}
    return [
        ours(f"{TITLES[name]}, {title}, --poll-us {microseconds}", form(kind), engine_name=name, poll_us=microseconds)
        for kind, title in titles.items()
    ]


def each_engine() -> Sequence[Backend]:
    """Give our back-end with every engine that can run here, and every form of the device that suits it."""
    found = []
    for name in engines():
        if name != "reference":
            found.append(ours(f"{TITLES[name]}, batch device", form("Batch"), engine_name=name))
        found.append(ours(f"{TITLES[name]}, one call a request", form("Each"), engine_name=name))
    return found
