"""Commands that end by themselves, as a script sees them."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from pyvirtio.testing.signals import interruptible

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def run(*arguments: str, cwd: Path | None = None, fds: Sequence[int] = ()) -> subprocess.CompletedProcess[str]:
    """Run `pyvirtio` with those arguments; ``fds`` are inherited."""
    command = [sys.executable, "-m", "pyvirtio", *arguments]
    with interruptible():
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=cwd, pass_fds=fds)


def refused(result: subprocess.CompletedProcess[str], status: int, *texts: str) -> None:
    """Check for one line that says why, with ``texts`` in it, and nothing else."""
    assert (result.returncode, result.stdout) == (status, "")
    assert result.stderr.startswith("pyvirtio")
    assert result.stderr.count("\n") == 1, result.stderr
    for text in texts:
        assert text in result.stderr
