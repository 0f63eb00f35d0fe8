"""A Dask cluster of real processes on loopback: a scheduler and two workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.vhost import until

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

WORKERS = 2


class Cluster:
    """A cluster in the folder ``folder``, on a ``port`` that is free unless one is given.

    Attributes:
        address: the scheduler's.
        port: the same, as a number.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.port = port

    def __enter__(self) -> Self:
        where = self._folder / f"scheduler-{self.port}"
        self._start("scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--scheduler-file", str(where))
        until(lambda: where.exists() and where.read_text())
        self.address: str = json.loads(where.read_text())["address"]
        self.port = int(self.address.rpartition(":")[2])
        for _ in range(WORKERS):
            self._start("worker", self.address, "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny")
        return self

    def _start(self, role: str, *arguments: str) -> None:
        command = [sys.executable, "-m", f"distributed.cli.dask_{role}", "--no-dashboard", *arguments]
        environment = {**os.environ, "DASK_TEMPORARY_DIRECTORY": str(self._folder)}
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, env=environment)
        self._processes.append(process)

    def pause_workers(self) -> None:
        """Let the workers compute nothing until `resume_workers`; the scheduler goes on."""
        self._signal_workers(signal.SIGSTOP)

    def resume_workers(self) -> None:
        """Let the workers go on."""
        self._signal_workers(signal.SIGCONT)

    def _signal_workers(self, number: signal.Signals) -> None:
        for worker in self._processes[1:]:
            worker.send_signal(number)

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """End all of it at once."""
        for process in self._processes:
            process.kill()
            process.wait()
