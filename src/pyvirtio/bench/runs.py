"""Interleaved runs: every back-end gets its turn in each repetition, so that a busy machine slows all alike."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pyvirtio.bench.figures import Spread
from pyvirtio.bench.figures import ratio as ratio_of
from pyvirtio.bench.processes import apart, placed
from pyvirtio.errors import DeviceError
from pyvirtio.provision.progress import Progress, Silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from typing import Any

    from pyvirtio.bench.load import Frontend, Load, Sample


class Runnable(Protocol):
    """A back-end, started here or not."""

    @property
    def name(self) -> str:
        """What the tables call it."""

    def running(self, folder: Path) -> AbstractContextManager[Path]:
        """Have it run while the block lasts; the value is its socket."""


@dataclass(frozen=True)
class Pace:
    """How long everything takes: seconds for a measurement, and how often each is repeated."""

    seconds: float = 1.0
    repetitions: int = 7


class Results:
    """All samples, by back-end and load, in the order of the repetitions."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, Load], list[Sample]] = defaultdict(list)

    def add(self, name: str, load: Load, sample: Sample) -> None:
        """Add the next repetition's sample."""
        self._samples[name, load].append(sample)

    def of(self, name: str, load: Load) -> list[Sample]:
        """Give the samples of a back-end under a load; none if it was left out."""
        return self._samples.get((name, load), [])

    def spread(self, name: str, load: Load, figure: Callable[[Sample], float | None]) -> Spread | None:
        """Sum up a figure, where every sample has it."""
        values = [value for sample in self.of(name, load) if (value := figure(sample)) is not None]
        return Spread.of(values) if values and len(values) == len(self.of(name, load)) else None

    def ratio(
        self, one: tuple[str, Load], other: tuple[str, Load], figure: Callable[[Sample], float | None]
    ) -> Spread | None:
        """Divide a figure of one by that of another, repetition by repetition, where every sample has it."""
        values, divisors = ([figure(sample) for sample in self.of(*key)] for key in (one, other))
        numbers, others = ([value for value in column if value] for column in (values, divisors))
        complete = numbers and len(numbers) == len(values) == len(others) == len(divisors)
        return ratio_of(numbers, others) if complete else None

    def as_data(self, loads: Sequence[Load] = ()) -> list[dict[str, Any]]:
        """Give every sample for JSON, or those of some loads."""
        return [
            {"backend": name, **vars(load), "repetition": number, **sample.as_dict()}
            for (name, load), samples in self._samples.items()
            if not loads or load in loads
            for number, sample in enumerate(samples)
        ]


@dataclass(frozen=True)
class Bench:
    """What tables are measured with.

    Attributes:
        frontend: what drives back-ends.
        peer: the C peer's program; None: there is nothing to compare with.
        pace: how long everything takes.
        progress: told of each step.
    """

    frontend: Frontend
    peer: Path | None = None
    pace: Pace = Pace()
    progress: Progress = field(default_factory=Silent)

    def interleaved(
        self,
        title: str,
        backends: Sequence[Runnable],
        loads: Sequence[Load],
        *,
        suits: Callable[[Runnable, Load], bool] = lambda _backend, _load: True,
        together: bool = False,
    ) -> Results:
        """Measure all back-ends under all loads that suit them, by turns.

        Front-end and back-ends have their own processors, unless they shall use all ``together``.

        Raises:
            LocalError: a back-end does not start.
            DeviceError: an answer was wrong, or did not come.
        """
        results = Results()
        total = self.pace.repetitions * len(loads)
        front, back = (os.sched_getaffinity(0),) * 2 if together else apart()
        with _running(backends, back) as sockets, self.progress.step(title) as update, placed(front):
            for repetition in range(self.pace.repetitions):
                for number, load in enumerate(loads):
                    # Each time another one is first: what one leaves in the caches shall not always hit the same.
                    first = (repetition + number) % len(backends)
                    for backend in (*backends[first:], *backends[:first]):
                        if suits(backend, load):
                            results.add(backend.name, load, self._measure(backend.name, sockets, load))
                    update((repetition * len(loads) + number + 1) / total)
        return results

    def _measure(self, name: str, sockets: Mapping[str, Path], load: Load) -> Sample:
        try:
            return self.frontend.measure(sockets[name], load)
        except DeviceError as error:
            raise DeviceError(f"{name}, under {load}: {error}") from None


@contextlib.contextmanager
def _running(backends: Sequence[Runnable], processors: set[int]) -> Iterator[dict[str, Path]]:
    # A short path: that of a socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="pv-") as scratch, contextlib.ExitStack() as stack:
        with placed(processors):
            sockets = {one.name: stack.enter_context(one.running(Path(scratch))) for one in backends}
        yield sockets


def cell(spread: Spread | None) -> str:
    """Write a spread into a table, or a dash where there is none."""
    return str(spread) if spread else "-"
