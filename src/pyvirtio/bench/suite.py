"""Everything together: which tables there are, what each needs, and what is missing here."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyvirtio.bench import programs
from pyvirtio.bench.load import CFrontend
from pyvirtio.bench.processes import apart
from pyvirtio.bench.runs import Bench, Pace
from pyvirtio.bench.settings import load_average, settings, settings_table
from pyvirtio.errors import LocalError, ProvisionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import Any

    from pyvirtio.bench.page import Table
    from pyvirtio.vm.launch import GuestBuilder

USUAL = ("requests", "workers", "flat", "memory", "start", "exact")
TABLES = (*USUAL, "guest")
NEED_C = ("workers", "flat")  # several queues, sizes and regions are the C front-end's alone

FULL = Pace(seconds=0.25, repetitions=17)
QUICK = Pace(seconds=0.1, repetitions=3)


@dataclass(frozen=True)
class Wanted:
    """What is to be measured.

    Attributes:
        names: of the tables.
        pace: how long.
        long: ten million requests for the table of memory.
        socket: measure the back-end that serves it, instead of ours.
    """

    names: Sequence[str] = USUAL
    pace: Pace = FULL
    long: bool = False
    socket: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What was found.

    Attributes:
        settings: on what it was measured.
        missing: what could not be had, and what that means.
        tables: what was measured.
    """

    settings: dict[str, str]
    missing: list[str]
    tables: list[Table] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Give it for JSON."""
        return {
            "settings": self.settings,
            "missing": self.missing,
            "tables": {table.name: table.as_dict() for table in self.tables},
        }


@dataclass(frozen=True)
class Served:
    """A back-end that somebody else runs."""

    socket: Path
    name: str = "the given back-end"

    @contextlib.contextmanager
    def running(self, _folder: Path) -> Iterator[Path]:
        """Give its socket."""
        yield self.socket


def run(wanted: Wanted, builder: GuestBuilder) -> Outcome:
    """Measure everything that can be measured.

    Raises:
        LocalError: nothing of what is wanted can be measured here.
        DeviceError: a back-end gave a wrong answer, or none.
        VirtioError: a guest or a back-end does not start.
    """
    outcome, bench = prepare(wanted, builder)
    names = [name for name in wanted.names if isinstance(bench.frontend, CFrontend) or name not in NEED_C]
    if not names:
        raise LocalError(f"nothing can be measured: {'; '.join(outcome.missing)}")
    outcome.settings["load before"] = load_average()
    for name in names:
        outcome.tables.extend(_measure(name, wanted, bench, builder))
    outcome.settings["load after"] = load_average()
    outcome.tables.insert(0, settings_table(outcome.settings))
    return outcome


def prepare(wanted: Wanted, builder: GuestBuilder) -> tuple[Outcome, Bench]:
    """Build what can be built; say what cannot."""
    outcome = Outcome(settings(), [])
    built = programs.Programs(builder.cache, builder.progress)
    peer = None
    try:
        frontend: Any = CFrontend(built.frontend())
        outcome.settings["C compiler"] = programs.compiler_version()
    except ProvisionError as error:
        from pyvirtio.bench.python_frontend import PythonFrontend

        frontend = PythonFrontend()
        outcome.missing.append(
            f"the front-end in C ({error}): a front-end in Python measures, which is slower than the back-ends, "
            f"and the tables {', '.join(NEED_C)} are left out"
        )
    try:
        peer = built.backend()
        outcome.settings["libvhost-user"] = f"of {built.library_version()}"
    except ProvisionError as error:
        outcome.missing.append(f"the C peer ({error}): there is nothing to compare with, so there are no ratios to it")
    pace = wanted.pace
    front, back = apart()
    outcome.settings["placement"] = f"front-end on processor {_listed(front)}, back-ends on {_listed(back)}"
    outcome.settings["pace"] = f"{pace.repetitions} repetitions of {pace.seconds:g} s for each cell, by turns"
    return outcome, Bench(frontend, peer, pace, builder.progress)


def _listed(processors: set[int]) -> str:
    return ", ".join(map(str, sorted(processors)))


def _measure(name: str, wanted: Wanted, bench: Bench, builder: GuestBuilder) -> list[Table]:
    from pyvirtio.bench.tables import exact, flatness, guest, memory, requests, start, workers

    given = [Served(wanted.socket)] if wanted.socket else []
    count = memory.REQUESTS_LONG if wanted.long else memory.REQUESTS
    if wanted.pace is QUICK and not wanted.long:
        count //= 10

    def in_guest() -> list[Table]:
        from pyvirtio.vm.launch import GuestOptions

        return guest.measure(bench, builder, GuestOptions())

    measures: dict[str, Callable[[], list[Table]]] = {
        "requests": lambda: requests.measure(bench, given),
        "workers": lambda: workers.measure(bench),
        "flat": lambda: flatness.measure(bench),
        "memory": lambda: memory.measure(bench, count, given),
        "start": lambda: start.measure(bench),
        "exact": lambda: exact.measure(bench),
        "guest": in_guest,
    }
    return measures[name]()
