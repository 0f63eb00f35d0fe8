"""Processes: how much processor time a tree of them has used, and on which processors they run."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PROC = Path("/proc")


def tree(pid: int) -> list[int]:
    """Return the process and its descendants; an empty list where it has ended."""
    try:
        children = (PROC / str(pid) / "task" / str(pid) / "children").read_text().split()
    except OSError:
        return []
    return [pid, *(descendant for child in children for descendant in tree(int(child)))]


def processor_time(pid: int) -> int:
    """Return the nanoseconds that all threads of the process and its descendants have run so far."""
    total = 0
    for member in tree(pid):
        for thread in (PROC / str(member) / "task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total += int(thread.read_text().split()[0])
    return total


def split_cpus() -> tuple[set[int], set[int]]:
    """Return the processors for the front-end and those for the back-ends: one, and the others if there are any.

    Without pinning, the scheduler sometimes puts both processes on one processor and sometimes does not, which makes a
    latency of 5 or of 50 microseconds.
    """
    first, *others = sorted(os.sched_getaffinity(0))
    return {first}, set(others) or {first}


@contextlib.contextmanager
def pinned(processors: set[int]) -> Iterator[None]:
    """Run this thread, and the processes that it starts meanwhile, on these processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
