"""On which processors processes run."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


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
