"""The whole of it: which tables there are, and who measures each."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

from pyvirtio.errors import LocalError, ProvisionError
from pyvirtio_bench import programs, pythons
from pyvirtio_bench.bench import Bench, GivenBackend
from pyvirtio_bench.installs import Installs
from pyvirtio_bench.processes import split_cpus
from pyvirtio_bench.runs import Runner, Schedule
from pyvirtio_bench.settings import load_average, settings, settings_table
from pyvirtio_bench.workload import CFrontend

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from pyvirtio.vm.launch import GuestBuilder
    from pyvirtio_bench.page import Table

TABLES = {
    "factorial": "factorial:measure",
    "echo": "echo:measure",
    "block": "block:measure_cached",
    "direct": "block:measure_direct",
    "waiting": "waiting:measure",
    "flat": "flatness:measure",
    "memory": "memory:measure",
    "start": "start:measure",
    "guest": "guest:measure",
    "console": "console:measure",
    "fio": "fio:measure",
    "net": "net:measure",
    "boot": "boot:measure",
}
"""What measures each: a module of `tables`, and its function, which is given a `Bench` and returns tables."""
IN_GUESTS = ("guest", "console", "fio", "net", "boot")
USUAL = tuple(name for name in TABLES if name not in IN_GUESTS)
OF_A_SOCKET = ("factorial", "echo", "memory")

FULL = Schedule(seconds=0.25, repetitions=17)
QUICK = Schedule(seconds=0.05, repetitions=3)
REQUESTS = {FULL: 10_000_000, QUICK: 100_000}


@dataclass(frozen=True)
class Options:
    """What is to be measured.

    Attributes:
        names: of the tables.
        schedule: how long.
        python: the interpreter to install for; None: see `pythons.choose`.
        socket: measure the back-end that serves it, instead of ours.
    """

    names: Sequence[str] = USUAL
    schedule: Schedule = FULL
    python: Path | None = None
    socket: Path | None = None


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        settings: on what it was measured.
        missing: what this machine lacks, and what follows from that.
        tables: what was measured.
    """

    settings: dict[str, str]
    missing: list[str]
    tables: list[Table] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {
            "settings": self.settings,
            "missing": self.missing,
            "tables": {table.name: table.as_dict() for table in self.tables},
        }


def run(options: Options, builder: GuestBuilder) -> Report:
    """Measure everything that can be measured.

    Raises:
        ProvisionError: there is no C compiler, without which nothing is measured.
        LocalError: a back-end does not start, or the interpreter does not.
        DeviceError: a back-end gave a wrong response, or none.
        VirtioError: a guest does not start.
    """
    report, bench = prepare(options, builder)
    report.settings["load before"] = load_average()
    for name in options.names:
        report.tables.extend(_measure(name, bench))
    report.settings["load after"] = load_average()
    report.tables.insert(0, settings_table(report.settings))
    return report


def prepare(options: Options, builder: GuestBuilder) -> tuple[Report, Bench]:
    """Build the front-end, find the Python to install for, and note on what is measured."""
    built = programs.Programs(builder.cache, builder.progress)
    frontend = CFrontend(built.frontend())
    python = pythons.choose(options.python)
    schedule = options.schedule
    front, back = split_cpus()
    report = Report(settings(python), [])
    report.settings["C compiler"] = programs.compiler_version()
    report.settings["peers"] = _peers(built)
    report.settings["placement"] = f"front-end on processor {_listed(front)}, back-ends on {_listed(back)}"
    report.settings["schedule"] = (
        f"{schedule.repetitions} repetitions of {schedule.seconds:g} s for each cell, by turns"
    )
    runner = Runner(frontend, schedule, builder.progress)
    given = GivenBackend(options.socket) if options.socket else None
    installs = Installs(builder.cache, python, builder.progress)
    return report, Bench(runner, installs, builder, REQUESTS.get(schedule, 1000), given, report.missing)


def _peers(built: programs.Programs) -> str:
    try:
        return f"libvhost-user of {built.library_version()}"
    except ProvisionError as error:
        return f"none ({error})"


def _listed(processors: set[int]) -> str:
    return ", ".join(map(str, sorted(processors)))


def _measure(name: str, bench: Bench) -> list[Table]:
    module, function = TABLES[name].split(":")
    try:
        tables: list[Table] = getattr(import_module(f"pyvirtio_bench.tables.{module}"), function)(bench)
    except ProvisionError as error:
        raise LocalError(f"the table {name!r} cannot be measured: {error}") from error
    return tables
