"""On what was measured: the machine, and the versions of everything involved."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio import __version__
from pyvirtio_bench.page import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyvirtio_bench.pythons import Python


def processor() -> str:
    """Return the name of the processor, or its architecture where it has no name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return next(filter(None, names), platform.machine())


def settings(python: Python) -> dict[str, str]:
    """Return what is known about machine and versions."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processors": f"{len(os.sched_getaffinity(0))} of {processor()}",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": str(python),
        "pyvirtio": f"{__version__}, a wheel in a virtual environment",
    }


def load_average() -> str:
    """Return the load averages of the last 1, 5 and 15 minutes."""
    return " ".join(f"{number:.1f}" for number in os.getloadavg())


def settings_table(found: Mapping[str, str]) -> Table:
    """Return the settings as a table."""
    return Table("settings", "Measured with", ["what", "which"], [[name, text] for name, text in found.items()])
