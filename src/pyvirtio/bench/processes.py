"""What a tree of processes uses: processor time and memory, as /proc tells."""

from __future__ import annotations

import contextlib
from pathlib import Path

PROC = Path("/proc")


def tree(pid: int) -> list[int]:
    """Give the process and its descendants; nothing where it is gone."""
    try:
        children = (PROC / str(pid) / "task" / str(pid) / "children").read_text().split()
    except OSError:
        return []
    return [pid, *(descendant for child in children for descendant in tree(int(child)))]


def processor_time(pid: int) -> int:
    """Give the nanoseconds that the process and its descendants have run so far, all threads of each."""
    total = 0
    for member in tree(pid):
        for thread in (PROC / str(member) / "task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total += int(thread.read_text().split()[0])
    return total
