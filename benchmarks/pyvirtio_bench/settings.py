"""On what was measured: the machine, and the versions of everything involved."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio import __version__
from pyvirtio_bench.page import Table

if TYPE_CHECKING:
    from collections.abc import Mapping


def processor() -> str:
    """Return the name of the processor, or its architecture where it has no name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return next(filter(None, names), platform.machine())


def settings() -> dict[str, str]:
    """Return what this process knows about machine and versions."""
    try:
        numpy = version("numpy")
    except PackageNotFoundError:
        numpy = "none"
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processors": f"{len(os.sched_getaffinity(0))} of {processor()}",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}",
        "NumPy": numpy,
        "pyvirtio": __version__,
    }


def load_average() -> str:
    """Return the load averages of the last 1, 5 and 15 minutes."""
    return " ".join(f"{number:.1f}" for number in os.getloadavg())


def settings_table(found: Mapping[str, str]) -> Table:
    """Return the settings as a table."""
    return Table("settings", "Measured with", ["what", "which"], [[name, text] for name, text in found.items()])
