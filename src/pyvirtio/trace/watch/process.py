"""The process of the page: what the keeper starts and then never waits for."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import time

from pyvirtio.errors import LocalError
from pyvirtio.host.serve import forked
from pyvirtio.host.spawn import close_all_but
from pyvirtio.trace.events import check, decode
from pyvirtio.trace.watch.feed import Feed
from pyvirtio.trace.watch.figures import MOST_QUEUES, Figures
from pyvirtio.trace.watch.rates import Rates
from pyvirtio.trace.watch.state import DeviceState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

SAMPLED_EVERY = 1.0
"""The seconds between two samples of what is counted."""

PIPE = 1 << 20
"""The bytes that the pipe should hold, for what is told while this process does something else."""


@contextlib.contextmanager
def watching(port: int) -> Iterator[tuple[Feed, str]]:
    """Serve the page on a port of the loopback interface while the block runs; 0 is any free one.

    Yields what takes the events that it shows, and its address.

    Raises:
        LocalError: the port is not free.
    """
    import secrets

    token = secrets.token_urlsafe(24)
    with contextlib.ExitStack() as exits:
        listener = exits.enter_context(_listen(port))
        reading, writing = os.pipe()
        exits.callback(os.close, writing)
        with contextlib.suppress(OSError):  # the limit of this user's pipes
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/{token}/"
        figures = Figures()
        pid = exits.enter_context(forked(lambda: _run(listener, token, reading, figures)))
        exits.callback(os.kill, pid, signal.SIGKILL)  # nothing is lost with it
        listener.close()
        os.close(reading)
        yield exits.enter_context(contextlib.closing(Feed(figures, writing))), address


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(64)
    except (OSError, OverflowError) as error:
        listener.close()
        why = getattr(error, "strerror", None) or error
        raise LocalError(f"port {port} cannot be watched on: {why}; give another one, or none") from error
    return listener


def _run(listener: socket.socket, token: str, reading: int, figures: Figures) -> None:
    """Answer browsers in threads, and listen to the device here, until it is over."""
    import threading

    from pyvirtio.trace.watch.pages import PageServer

    close_all_but({listener.fileno(), reading})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    watch = Watch(figures)
    server = PageServer(listener, token, "A device of pyvirtio", watch.values)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    listen(reading, watch)


def listen(reading: int, watch: Watch) -> None:
    """Hear what comes through the pipe and take samples, until everybody at its other end is gone."""
    import select

    poll = select.poll()
    poll.register(reading, select.POLLIN)
    rest = b""
    while True:
        if poll.poll(1000 * watch.due_in()):
            data = os.read(reading, 1 << 16)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            rest = rest[: select.PIPE_BUF]  # no line of ours is longer
            watch.hear(lines)
        watch.sample()


class Watch:
    """What is known of the device; a thread listens, others ask for `values`."""

    def __init__(self, figures: Figures) -> None:
        import threading

        self._figures = figures
        self._lock = threading.Lock()
        self._state = DeviceState()
        self._rates: dict[int, Rates] = {}
        self._begin = self._sampled = time.monotonic()
        self._made: tuple[float, dict[str, Any]] = (0.0, {})

    def hear(self, lines: list[bytes]) -> None:
        """Take events, as lines. Device code shares a worker's process, so a line may be anything."""
        with self._lock:
            for line in lines:
                with contextlib.suppress(LocalError):
                    event = decode(line)
                    check(event)
                    if event.queue < MOST_QUEUES:
                        self._state.take(event)

    def due_in(self) -> float:
        """Return the seconds until the next sample."""
        return max(0.0, self._sampled + SAMPLED_EVERY - time.monotonic())

    def sample(self) -> None:
        """Take a sample of each queue, if it is time for one."""
        if self.due_in() > 0:
            return
        with self._lock:
            self._sampled = time.monotonic()
            for index in self._state.queues:
                queue = self._figures.of_queue(index)
                self._rates.setdefault(index, Rates()).sample(self._sampled, queue.counters(), queue.latencies())

    def values(self) -> dict[str, Any]:
        """Return all that the page shows; those who ask at the same time get the same."""
        with self._lock:
            now = time.monotonic()
            if now - self._made[0] > SAMPLED_EVERY / 4:
                self._made = now, self._made_now()
            return self._made[1]

    def _made_now(self) -> dict[str, Any]:
        queues, requests = [], []
        for index, known in sorted(self._state.queues.items()):
            queue = self._figures.of_queue(index)
            rates = self._rates.get(index, Rates())
            queues.append({"index": index, **known, **queue.counters(), **rates.values()})
            requests += [{"queue": index, **request} for request in queue.last()]
        requests.sort(key=lambda request: -(request["at"] + request["latency"]))
        return {
            **self._state.values(),
            "now": time.monotonic_ns(),
            "watched": time.monotonic() - self._begin,
            "queues": queues,
            "requests": requests[:50],
        }
