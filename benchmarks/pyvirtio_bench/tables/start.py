"""From the command line to the answer: ``pyvirtio factorial 5`` against an interpreter that does nothing."""

from __future__ import annotations

import resource
import subprocess
import time
from typing import TYPE_CHECKING

from pyvirtio.errors import LocalError
from pyvirtio_bench.page import Table
from pyvirtio_bench.statistics import Quartiles, ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvirtio_bench.bench import Bench

NUMBER = 5
REPETITIONS = 3  # for each repetition of the other tables: these are short


def measure(bench: Bench) -> list[Table]:
    """Run both by turns, from the plain install."""
    install = bench.installs.install()
    nothing: list[tuple[float, float]] = []
    answer: list[tuple[float, float]] = []
    count = bench.runner.schedule.repetitions * REPETITIONS
    with bench.runner.progress.step("start") as update:
        for number in range(count):
            nothing.append(_run([install.python, "-c", "pass"]))
            answer.append(_run([*install.command, "factorial", str(NUMBER)]))
            update((number + 1) / count)
    rows = [
        [
            what,
            _milliseconds([run[place] for run in nothing]),
            _milliseconds([run[place] for run in answer]),
            str(ratio([run[place] for run in answer], [run[place] for run in nothing])),
        ]
        for place, what in enumerate(("clock", "processor"))
    ]
    title = f"Milliseconds from start to end, {count} runs: median (quartiles)"
    header = ["time", "python -c pass", f"pyvirtio factorial {NUMBER}", "ratio"]
    return [Table("start", title, header, rows, [{"nothing_s": nothing, "factorial_s": answer}])]


def _run(command: Sequence[str]) -> tuple[float, float]:
    """Run a command; return the seconds by the clock, and those of the processor in all of its processes."""
    before, start = _children(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    end = time.perf_counter()
    if done.returncode:
        raise LocalError(f"{' '.join(command)} failed: {done.stderr.decode(errors='replace').strip()}")
    return end - start, _children() - before


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _milliseconds(seconds: Sequence[float]) -> str:
    return str(Quartiles.of(1000 * value for value in seconds))
