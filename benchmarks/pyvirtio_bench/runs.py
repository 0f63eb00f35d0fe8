"""Interleaved runs: every back-end takes its turn in each repetition, so that a busy machine slows all alike."""

from __future__ import annotations

import contextlib
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pyvirtio.errors import DeviceError
from pyvirtio_bench.processes import pinned, split_cpus
from pyvirtio_bench.provision import progress
from pyvirtio_bench.statistics import Quartiles
from pyvirtio_bench.statistics import ratio as ratio_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from typing import Any

    from pyvirtio_bench.workload import Frontend, Sample, Workload

    Key = tuple[str, Workload]
    """Which samples: a back-end's under a workload."""
    Metric = Callable[[Sample, Workload], float | None]


class Runnable(Protocol):
    """A back-end, started here or not."""

    @property
    def name(self) -> str:
        """What the tables call it."""

    def running(self, folder: Path) -> AbstractContextManager[Path]:
        """Have it run while the block lasts; the value is the path of its socket."""


@dataclass(frozen=True)
class Schedule:
    """How long everything takes: the seconds of each measurement, and how often it is repeated."""

    seconds: float = 1.0
    repetitions: int = 7


class Results:
    """All samples, by back-end and workload, in the order of the repetitions."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, Workload], list[Sample]] = defaultdict(list)

    def add(self, name: str, workload: Workload, sample: Sample) -> None:
        """Add the next repetition's sample."""
        self._samples[name, workload].append(sample)

    def of(self, name: str, workload: Workload) -> list[Sample]:
        """Return the samples of a back-end under a workload; an empty list if it was left out."""
        return self._samples.get((name, workload), [])

    def quartiles(self, key: Key, metric: Metric) -> Quartiles | None:
        """Return the quartiles of a metric; None unless every sample has it."""
        values = [metric(sample, key[1]) for sample in self.of(*key)]
        numbers = [value for value in values if value is not None]
        return Quartiles.of(numbers) if numbers and len(numbers) == len(values) else None

    def ratio(self, one: Key, other: Key, metric: Metric) -> Quartiles | None:
        """Return a metric of one divided by that of another in each repetition; None unless every sample has it."""
        values, divisors = ([metric(sample, key[1]) for sample in self.of(*key)] for key in (one, other))
        numbers, others = ([value for value in column if value] for column in (values, divisors))
        complete = numbers and len(numbers) == len(values) == len(others) == len(divisors)
        return ratio_of(numbers, others) if complete else None

    def as_data(self) -> list[dict[str, Any]]:
        """Return every sample as JSON data."""
        return [
            {"backend": name, **vars(workload), "repetition": number, **sample.as_dict()}
            for (name, workload), samples in self._samples.items()
            for number, sample in enumerate(samples)
        ]


@dataclass(frozen=True)
class Runner:
    """Measures back-ends by turns.

    Attributes:
        frontend: what drives back-ends.
        schedule: how long everything takes.
        progress: where each step is reported.
    """

    frontend: Frontend
    schedule: Schedule = Schedule()
    progress: progress.Progress = field(default_factory=progress.Silent)

    def interleaved(
        self,
        title: str,
        backends: Sequence[Runnable],
        workloads: Sequence[Workload],
        *,
        applicable: Callable[[Runnable, Workload], bool] = lambda _backend, _workload: True,
    ) -> Results:
        """Measure all back-ends by turns, each under the workloads that are applicable to it.

        Front-end and back-ends have their own processors.

        Raises:
            LocalError: a back-end does not start.
            DeviceError: a response was wrong or missing.
        """
        results = Results()
        total = self.schedule.repetitions * len(workloads)
        front, back = split_cpus()
        with _running(backends, back) as sockets, self.progress.step(title) as update, pinned(front):
            for repetition in range(self.schedule.repetitions):
                for number, workload in enumerate(workloads):
                    # The order rotates: what one back-end leaves in the caches must not always hit the same other.
                    first = (repetition + number) % len(backends)
                    for backend in (*backends[first:], *backends[:first]):
                        if applicable(backend, workload):
                            results.add(backend.name, workload, self._measure(backend.name, sockets, workload))
                    update((repetition * len(workloads) + number + 1) / total)
        return results

    def _measure(self, name: str, sockets: Mapping[str, Path], workload: Workload) -> Sample:
        try:
            return self.frontend.measure(sockets[name], workload)
        except DeviceError as error:
            raise DeviceError(f"{name}, under {workload}: {error}") from error


@contextlib.contextmanager
def _running(backends: Sequence[Runnable], processors: set[int]) -> Iterator[dict[str, Path]]:
    # A short path: that of a socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="pv-") as scratch, contextlib.ExitStack() as stack:
        with pinned(processors):
            sockets = {one.name: stack.enter_context(one.running(Path(scratch))) for one in backends}
        yield sockets


def clock(sample: Sample, workload: Workload) -> float | None:
    """Return the time per request; with one in flight, the median latency."""
    return sample.p50 if workload.in_flight == 1 and not workload.sustained else sample.wall


def processor(sample: Sample, _workload: Workload) -> float | None:
    """Return the processor time per request in the back-end."""
    return sample.cpu


def cell(quartiles: Quartiles | None) -> str:
    """Return the text of a table's cell: quartiles, or a dash where there are none."""
    return str(quartiles) if quartiles else "-"
