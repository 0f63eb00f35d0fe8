"""What tests of served devices share: numbers as requests, and checks that a back-end is unharmed."""

from __future__ import annotations

import os
import resource
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.devices.factorial import WRAPPED, Request
from pyvirtio.testing.frontend import PATIENCE, RawFrontend, RawQueue, SharedMemory
from pyvirtio.vhost_user import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyvirtio.testing.served import ServerProcess

ODD_DEVICES = Path(__file__).parent / "odd_devices.py"
SLOW_DEVICES = Path(__file__).parent / "slow_devices.py"


def odd(name: str = "Odd") -> str:
    """Name one of the odd devices as `pyvirtio serve` wants it."""
    return f"{ODD_DEVICES}:{name}"


def slow(name: str) -> str:
    """Name one of the slow devices as `pyvirtio serve` wants it."""
    return f"{SLOW_DEVICES}:{name}"


def pack(*numbers: int) -> list[bytes]:
    """Return numbers as requests to an odd device."""
    return [number.to_bytes(4, "little") for number in numbers]


def unpack(answers: list[bytes]) -> list[int | None]:
    """Read answers of 4 bytes; None stands for an empty one."""
    assert {len(answer) for answer in answers} <= {0, 4}
    return [int.from_bytes(answer, "little") if answer else None for answer in answers]


@contextmanager
def driven(server: ServerProcess, *, index: int = 0, size: int = 64) -> Iterator[RawQueue]:
    """Yield a queue that runs."""
    with RawFrontend(server.path) as frontend, SharedMemory() as memory:
        frontend.negotiate()
        frontend.share(memory)
        queue = frontend.queue(memory, index, size=size)
        queue.start()
        yield queue


def ask(queue: RawQueue, *numbers: int) -> list[int | None]:
    """Ask an odd device."""
    return unpack(queue.ask(*pack(*numbers)))


def factorials(queue: RawQueue, *numbers: int, indirect: bool = False) -> None:
    """Have the factorial device compute, a queue full at a time, and check what comes back."""
    step = max(1, queue.size if indirect else queue.size // 2)
    for start in range(0, len(numbers), step):
        part = numbers[start : start + step]
        answers = queue.ask(*(Request(n).pack() for n in part), indirect=indirect)
        assert unpack(answers) == [WRAPPED[min(n, 34)] for n in part]


def answers_rightly(path: str) -> None:
    """Check that a front-end of its own gets the right answers from the factorial device."""
    with RawFrontend(path) as frontend, SharedMemory() as memory:
        frontend.negotiate()
        assert frontend.share(memory)
        queue = frontend.queue(memory)
        queue.start()
        factorials(queue, 5, 12, 13, 4294967295)


def idle_fds(server: ServerProcess) -> list[str]:
    """Return the keeper's descriptors while a front-end is connected that has said no more than hello.

    The keeper speaks to one front-end at a time, so those of earlier ones are given up when it answers this one.
    """
    with RawFrontend(server.path) as frontend:
        frontend.number(m.Request.GET_FEATURES)
        return server.fds()


def until(condition: Callable[[], object]) -> None:
    """Wait for what happens in shared memory, where there is no event to wait for."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def open_files() -> int:
    """Count this process's descriptors."""
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def no_more_descriptors(*, spare: int = 0) -> Iterator[None]:
    """Let this process open no descriptors but ``spare`` ones, as one that regions of guest memory have filled up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fds: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with suppress(OSError):
            while True:
                fds.append(os.dup(0))
        for _ in range(spare):
            os.close(fds.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fds:
            os.close(fd)


def worker_of(server: ServerProcess) -> int:
    """Wait until there is just one worker, and return its process id."""
    until(lambda: len(server.workers()) == 1)
    return server.workers()[0]


def fds_at_rest(server: ServerProcess, queue: RawQueue) -> list[str]:
    """Return the keeper's descriptors when it has started a worker and is back in its loop."""
    worker_of(server)
    assert queue.frontend.number(m.Request.GET_FEATURES)
    return server.fds()


def is_running(pid: int) -> bool:
    """Return whether a process is there and has not ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second one while it is read
        return False
