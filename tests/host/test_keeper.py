"""Nothing ends the keeper: want of descriptors or processes, what a worker says, a log that nobody reads."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import ProtocolError
from pyvirtio.host.serve import backend
from pyvirtio.testing.frontend import RawFrontend, SharedMemory
from pyvirtio.testing.served import ServerProcess, served
from pyvirtio.vhost_user import messages as m
from tests.support import rude_devices
from tests.support.odd_devices import PID, RAISE
from tests.support.rude_devices import FLOOD, MESSAGES
from tests.support.vhost import answers_rightly, ask, driven, idle_fds, odd, until

if TYPE_CHECKING:
    from collections.abc import Iterator

R = m.Request
RUDE = f"{rude_devices.__file__}:Rude"


# What a worker says.


@pytest.fixture(scope="module")
def rude_server() -> Iterator[ServerProcess]:
    with served(RUDE) as server:
        yield server


@pytest.mark.parametrize("index", range(len(MESSAGES)), ids=list(MESSAGES))
def test_damaged_message_of_a_worker(rude_server: ServerProcess, index: int):
    before = idle_fds(rude_server)
    with driven(rude_server) as queue:
        # It is answered, or fails where it ended its worker too often.
        assert ask(queue, index)[0] in {index, None}
        assert queue.frontend.number(R.GET_FEATURES)
        assert ask(queue, 1000, 1001) == [1000, 1001]
    assert rude_server.is_alive()
    until(lambda: idle_fds(rude_server) == before)


def test_worker_that_floods_its_keeper(rude_server: ServerProcess):
    memory = rude_server.memory()
    with driven(rude_server) as queue:
        queue.submit(FLOOD.to_bytes(4, "little"))
        queue.kick()
        for _ in range(100):
            began = time.monotonic()
            assert queue.frontend.number(R.GET_FEATURES)
            assert time.monotonic() - began < 1.0
        assert queue.answers(1)
        assert ask(queue, 1000) == [1000]
    assert rude_server.memory() < memory + (4 << 20)


# What the system has no more of.


@contextmanager
def descriptors(server: ServerProcess, spare: int) -> Iterator[None]:
    """Let the keeper open no more than ``spare`` descriptors while the block runs."""
    until(lambda: waits(server))  # what it holds for a moment only does not count
    taken = set(map(int, os.listdir(f"/proc/{server.keeper}/fd")))
    free = (limit - sum(fd < limit for fd in taken) for limit in itertools.count())
    limit = max(limit for limit, number in enumerate(itertools.islice(free, max(taken) + spare + 2)) if number == spare)
    limits = resource.prlimit(server.keeper, resource.RLIMIT_NOFILE)
    resource.prlimit(server.keeper, resource.RLIMIT_NOFILE, (limit, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(server.keeper, resource.RLIMIT_NOFILE, limits)


def waits(server: ServerProcess) -> bool:
    """Return whether the keeper waits for something to happen."""
    return Path(f"/proc/{server.keeper}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def processor_time(server: ServerProcess) -> float:
    """Return the seconds of processor time that the keeper took."""
    fields = Path(f"/proc/{server.keeper}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_frontend_that_cannot_be_accepted_for_want_of_descriptors_is_accepted_later():
    with served("factorial") as server:
        before = processor_time(server)
        with descriptors(server, 0), RawFrontend(server.path) as frontend:
            server.wait_for("[connection-failed]")
            frontend.send(R.GET_QUEUE_NUM)
            time.sleep(1.0)  # how often it tries in a second
            assert server.lines("[connection-failed]") == 1
            assert processor_time(server) < before + 0.5
            with descriptors(server, 10):
                frame = frontend.receive()
                assert frame is not None
                assert m.Number.unpack(frame.payload).value == 1
        answers_rightly(server.path)


@pytest.mark.parametrize("spare", range(8))
def test_want_of_descriptors_while_a_driver_works(spare: int):
    """Whatever cannot be done is refused or ends the connection; with descriptors everything is as before."""
    with served(odd(), "--verbose") as server:
        before = idle_fds(server)
        with RawFrontend(server.path) as frontend, SharedMemory() as memory:
            frontend.negotiate()
            with descriptors(server, spare):
                try:
                    frontend.share(memory)
                    queue = frontend.queue(memory, size=64)
                    queue.start()
                    frontend.number(R.GET_FEATURES)
                except (OSError, ProtocolError):
                    pass
                assert server.is_alive()
        with driven(server) as queue:
            assert ask(queue, 1, 2, 3) == [2, 4, 6]
        assert idle_fds(server) == before


@pytest.mark.parametrize("spare", range(5))
def test_worker_that_cannot_be_started_for_want_of_descriptors_is_started_later(spare: int):
    with served(odd()) as server, driven(server) as queue:
        before = server.fds()
        (worker,) = server.workers()
        with descriptors(server, spare):
            os.kill(worker, signal.SIGKILL)
            queue.submit((1).to_bytes(4, "little"))
            queue.kick()
            until(lambda: worker not in server.workers())
            assert queue.frontend.number(R.GET_FEATURES)
        assert int.from_bytes(queue.answers(1)[0], "little") == 2
        assert queue.frontend.number(R.GET_FEATURES)
        assert server.fds() == before


@pytest.mark.long
def test_worker_that_cannot_be_forked_is_forked_later(monkeypatch: pytest.MonkeyPatch):
    here, forks, fork = os.getpid(), 0, os.fork

    def failing_fork() -> int:
        nonlocal forks
        forks += os.getpid() != here  # the keeper's, which is a fork of this process
        if 2 <= forks <= 7:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return fork()

    monkeypatch.setattr(os, "fork", failing_fork)
    with backend(odd()) as connection, RawFrontend(connection) as frontend, SharedMemory() as memory:
        frontend.negotiate()
        frontend.share(memory)
        queue = frontend.queue(memory, size=64)
        queue.start()
        (worker,) = ask(queue, PID)
        assert worker is not None
        os.kill(worker, signal.SIGKILL)
        assert ask(queue, 1, PID)[0] == 2


# A log that nobody reads.


def test_log_that_nobody_reads_holds_nothing_up(tmp_path: Path):
    path = str(tmp_path / "s")
    with log_of_which_nothing_is_read(path) as process:
        until(lambda: listens(path))
        with RawFrontend(path) as frontend, SharedMemory() as memory:
            frontend.negotiate()
            frontend.share(memory)
            queue = frontend.queue(memory, size=64)
            queue.start()
            assert ask(queue, RAISE, 1) == [None, 2]
            frontend.send(999)
            assert frontend.number(R.GET_FEATURES)
            (worker,) = ask(queue, PID)
            assert worker is not None
            os.kill(worker, signal.SIGKILL)
            assert ask(queue, 1, 2) == [2, 4]
        process.terminate()
        assert process.wait(60) == 0


@contextmanager
def log_of_which_nothing_is_read(path: str) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a server whose log is a full pipe; it is gone at the end, whatever the test found."""
    command = [sys.executable, "-m", "pyvirtio", "serve", odd(), "--socket", path, "--verbose"]
    reading, writing = os.pipe()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=writing)
    try:
        fill(writing)
        yield process
    finally:
        process.kill()
        process.wait()
        os.close(reading)
        os.close(writing)


def listens(path: str) -> bool:
    """Return whether a front-end can connect; the path is there a moment before that."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def fill(pipe: int) -> None:
    """Write into a pipe until it takes no more; its other users still wait when they write."""
    own = os.open(f"/proc/self/fd/{pipe}", os.O_WRONLY | os.O_NONBLOCK)
    try:
        for size in (4096, 1):
            try:
                while True:
                    os.write(own, b"x" * size)
            except BlockingIOError:
                pass
    finally:
        os.close(own)
