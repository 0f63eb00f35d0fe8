"""``pyvirtio serve`` as a process around a block of code, and a look into its processes from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading

from pyvirtio.testing.signals import interruptible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PATIENCE = 60.0
"""The seconds that starting, ending, or one awaited line of the log may take."""


class ServerProcess:
    """The processes of a ``pyvirtio serve``, which serves a device on the socket ``path``; see `served`.

    Attributes:
        path: the socket.
        keeper: the keeper's process id.
        log: the lines that it has written to stderr.
    """

    def __init__(self, path: str, process: subprocess.Popen[str]) -> None:
        self.path = path
        self.keeper = process.pid
        self.log: list[str] = []
        self.ended = False
        self._process = process
        self._news = threading.Condition()
        self._closed = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                with self._news:
                    self.log.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._closed = True
            self._news.notify_all()

    # The log, as events.

    def wait_for(self, text: str, *, count: int = 1, timeout: float = PATIENCE) -> str:
        """Wait until the log has ``count`` lines that contain ``text``, and return the last of these.

        Raises:
            TimeoutError: they did not come in time; the message holds the whole log.
        """
        with self._news:
            if not self._news.wait_for(lambda: self.lines(text) >= count or self._closed, timeout):
                raise TimeoutError(self._complaint(text))
            found = [line for line in self.log if text in line]
            if len(found) < count:
                raise TimeoutError(self._complaint(text))
            return found[count - 1]

    def lines(self, text: str) -> int:
        """Return how many lines of the log contain ``text``."""
        return sum(text in line for line in self.log)

    def _complaint(self, text: str) -> str:
        return f"{text!r} was awaited in the log:\n" + "\n".join(self.log)

    # The processes.

    def workers(self) -> list[int]:
        """Return the process ids of the workers, the oldest first."""
        pids: list[int] = []
        for thread in os.listdir(f"/proc/{self.keeper}/task"):
            with open(f"/proc/{self.keeper}/task/{thread}/children", encoding="ascii") as children:
                pids.extend(map(int, children.read().split()))
        return sorted(pids)

    def fds(self) -> list[str]:
        """Return what each descriptor of the keeper is open on, sorted, without the numbers of anonymous files."""
        folder = f"/proc/{self.keeper}/fd"
        found = []
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                target = os.readlink(f"{folder}/{name}")
                found.append(target if target.startswith("/") else target.partition(":")[0])
        return sorted(found)

    def memory(self, process: int | None = None) -> int:
        """Return the bytes that the keeper, or another process, holds for itself: resident pages that nobody shares."""
        with open(f"/proc/{process or self.keeper}/status", encoding="ascii") as status:
            fields = dict(line.split(":", 1) for line in status)
        return int(fields["RssAnon"].split()[0]) * 1024

    def is_alive(self) -> bool:
        """Return whether the keeper is running."""
        return self._process.poll() is None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the keeper."""
        self._process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the keeper, wait for it, and return its exit status as `subprocess` gives it."""
        if not self.ended:
            self.ended = True
            self.send_signal(number)
            try:
                self._process.wait(PATIENCE)
            finally:
                self._process.kill()
                self._process.wait()
                self._reader.join(PATIENCE)
        return self._process.returncode


@contextlib.contextmanager
def served(
    device: str,
    *options: str,
    path: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[ServerProcess]:
    """Serve ``device`` (a shipped name, or ``file.py:Class``) in a process of its own while the block runs.

    ``options`` are further ones of ``pyvirtio serve``; ``path`` is the socket's, by default one in a temporary
    directory; ``environment`` is added to this process's own.

    Raises:
        RuntimeError: it did not end with status 0 at SIGTERM, or its socket is still there; this is not checked
            where the block itself ended it.
    """
    with tempfile.TemporaryDirectory(prefix="s-") as folder:
        path = path or os.path.join(folder, "s")
        command = [sys.executable, "-m", "pyvirtio", "serve", device, "--socket", path, *options]
        with interruptible():
            process = subprocess.Popen(  # noqa: S603  # our own command
                command,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **(environment or {})},
            )
        server = ServerProcess(path, process)
        try:
            server.wait_for(" is ready on ")
            yield server
        except BaseException as error:
            error.add_note("the log of pyvirtio serve:\n" + "\n".join(server.log[-50:]))
            server.end()
            raise
        if not server.ended:
            status = server.end()
            if status or os.path.exists(path):
                raise RuntimeError(
                    f"pyvirtio serve ended with status {status}, and its socket is "
                    f"{'still there' if os.path.exists(path) else 'gone'}. Its log:\n" + "\n".join(server.log)
                )
