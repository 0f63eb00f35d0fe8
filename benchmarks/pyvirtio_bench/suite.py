"""The whole of it: which tables there are, what each needs, and what is missing here."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyvirtio.errors import LocalError, ProvisionError
from pyvirtio_bench import programs
from pyvirtio_bench.processes import split_cpus
from pyvirtio_bench.runs import Bench, Schedule
from pyvirtio_bench.settings import load_average, settings, settings_table
from pyvirtio_bench.workload import CFrontend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import Any

    from pyvirtio.vm.launch import GuestBuilder
    from pyvirtio_bench.page import Table

IN_GUESTS = ("guest", "boot")
USUAL = ("requests", "async", "workers", "flat", "ring", "memory", "start", "exact")
TABLES = (*USUAL, *IN_GUESTS)
OF_A_SOCKET = ("requests", "memory")
NEED_C = ("workers", "flat")  # several queues, sizes and regions are the C front-end's alone

FULL = Schedule(seconds=0.25, repetitions=17)
QUICK = Schedule(seconds=0.1, repetitions=3)


@dataclass(frozen=True)
class Options:
    """What is to be measured.

    Attributes:
        names: of the tables.
        schedule: how long.
        long: ten million requests for the table of memory.
        socket: measure the back-end that serves it, instead of ours.
    """

    names: Sequence[str] = USUAL
    schedule: Schedule = FULL
    long: bool = False
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


@dataclass(frozen=True)
class GivenBackend:
    """A back-end that somebody else runs."""

    socket: Path
    name: str = "the given back-end"

    @contextlib.contextmanager
    def running(self, _folder: Path) -> Iterator[Path]:
        """Start nothing; the value is the socket."""
        yield self.socket


def run(options: Options, builder: GuestBuilder) -> Report:
    """Measure everything that can be measured.

    Raises:
        LocalError: nothing of what the options name can be measured here.
        DeviceError: a back-end gave a wrong response, or none.
        VirtioError: a guest or a back-end does not start.
    """
    report, bench = prepare(options, builder)
    names = [name for name in options.names if isinstance(bench.frontend, CFrontend) or name not in NEED_C]
    if not names:
        raise LocalError(f"nothing can be measured: {'; '.join(report.missing)}")
    report.settings["load before"] = load_average()
    for name in names:
        report.tables.extend(_measure(name, options, bench, builder))
    report.settings["load after"] = load_average()
    report.tables.insert(0, settings_table(report.settings))
    return report


def prepare(options: Options, builder: GuestBuilder) -> tuple[Report, Bench]:
    """Build what can be built, and report what cannot."""
    report = Report(settings(), [])
    built = programs.Programs(builder.cache, builder.progress)
    peer = None
    try:
        frontend: Any = CFrontend(built.frontend())
        report.settings["C compiler"] = programs.compiler_version()
    except ProvisionError as error:
        from pyvirtio_bench.python_frontend import PythonFrontend

        frontend = PythonFrontend()
        report.missing.append(
            f"the front-end in C ({error}): a front-end in Python measures, which is slower than the back-ends, "
            f"and the tables {', '.join(NEED_C)} are left out"
        )
    try:
        peer = built.backend()
        report.settings["libvhost-user"] = f"of {built.library_version()}"
    except ProvisionError as error:
        report.missing.append(f"the C peer ({error}): there is nothing to compare with, so there are no ratios to it")
    schedule = options.schedule
    front, back = split_cpus()
    report.settings["placement"] = f"front-end on processor {_listed(front)}, back-ends on {_listed(back)}"
    report.settings["schedule"] = (
        f"{schedule.repetitions} repetitions of {schedule.seconds:g} s for each cell, by turns"
    )
    return report, Bench(frontend, peer, schedule, builder.progress)


def _listed(processors: set[int]) -> str:
    return ", ".join(map(str, sorted(processors)))


def _measure(name: str, options: Options, bench: Bench, builder: GuestBuilder) -> list[Table]:
    from pyvirtio_bench.tables import asynchronous, boot, exact, flatness, guest, memory, requests, ring, start, workers

    given = [GivenBackend(options.socket)] if options.socket else []
    count = memory.REQUESTS_LONG if options.long else memory.REQUESTS
    if options.schedule is QUICK and not options.long:
        count //= 10
    measures: dict[str, Callable[[], list[Table]]] = {
        "requests": lambda: requests.measure(bench, given),
        "async": lambda: asynchronous.measure(bench),
        "workers": lambda: workers.measure(bench),
        "flat": lambda: flatness.measure(bench),
        "ring": lambda: ring.measure(bench),
        "memory": lambda: memory.measure(bench, count, given),
        "start": lambda: start.measure(bench),
        "exact": lambda: exact.measure(bench),
        "guest": lambda: guest.measure(bench, builder),
        "boot": lambda: boot.measure(bench, builder),
    }
    return measures[name]()
