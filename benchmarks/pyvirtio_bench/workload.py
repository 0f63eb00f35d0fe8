"""One measurement: what the front-end does, and what it found."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pyvirtio.errors import DeviceError

if TYPE_CHECKING:
    from pathlib import Path

LONGEST = 3600.0  # seconds that a measurement may take, whatever happens


@dataclass(frozen=True)
class Workload:
    """What the front-end does.

    Attributes:
        in_flight: requests in flight: the front-end submits them at once and waits for all of them.
        sustained: instead, keep them in flight: submit a new one for each response, and poll the ring without sleeping.
        seconds: how long; 0: until `requests`.
        requests: the end, where it comes before `seconds` are over; 0: no end.
        queue_size: entries of a queue; 0: two for each request in flight, and 128 at least.
        queues: how many queues are driven, `in_flight` requests on each.
        regions: regions of memory, far apart in guest addresses.
        indirect: each request's descriptors are in a table of their own.
        warm_up: requests before the clock starts; 0: ten rounds.
    """

    in_flight: int = 1
    seconds: float = 1.0
    requests: int = 0
    queue_size: int = 0
    queues: int = 1
    regions: int = 2
    indirect: bool = False
    warm_up: int = 0
    sustained: bool = False

    def arguments(self) -> list[str]:
        """Return the front-end's arguments.

        >>> Workload(in_flight=32, seconds=0.5, indirect=True, sustained=True).arguments()
        ['--in-flight=32', '--seconds=0.5', '--queues=1', '--regions=2', '--indirect', '--sustained']
        """
        always = {
            "in-flight": self.in_flight,
            "seconds": self.seconds,
            "queues": self.queues,
            "regions": self.regions,
        }
        others = {"requests": self.requests, "queue-size": self.queue_size, "warm-up": self.warm_up}
        pairs = always | {name: value for name, value in others.items() if value}
        flags = {"--indirect": self.indirect, "--sustained": self.sustained}
        return [*(f"--{name}={value}" for name, value in pairs.items()), *(name for name in flags if flags[name])]


@dataclass(frozen=True)
class Memory:
    """The resident memory of one process of the back-end, without memory that it shares, in KiB."""

    pid: int
    before: int
    after: int


@dataclass(frozen=True)
class Sample:
    """What one measurement found. Times are nanoseconds.

    Attributes:
        requests: how many were answered, each of them correctly.
        wall: elapsed time per request.
        cpu: processor time per request in all of the back-end's processes; None where it is unknown.
        p50: the median of a round, from its submission to its last response; None for a sustained workload.
        p99: the same for the slowest hundredth.
        frontend: processor time per request in the front-end.
        memory: of each process, the back-end's first process first.
    """

    requests: int
    wall: float
    cpu: float | None
    p50: float | None
    p99: float | None
    frontend: float
    memory: tuple[Memory, ...] = ()

    @property
    def rate(self) -> float:
        """Requests per second."""
        return 1e9 / self.wall

    @classmethod
    def parse(cls, text: str) -> Sample:
        """Return what the front-end printed as a sample."""
        found = json.loads(text)
        return cls(
            requests=found["requests"],
            wall=found["ns_per_request"],
            cpu=found["backend_cpu_ns"],
            p50=found["p50_ns"],
            p99=found["p99_ns"],
            frontend=found["frontend_cpu_ns"],
            memory=tuple(
                Memory(process["pid"], process["memory_before_kib"], process["memory_after_kib"])
                for process in found["processes"]
            ),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {
            "requests": self.requests,
            "wall_ns": self.wall,
            "cpu_ns": self.cpu,
            "p50_ns": self.p50,
            "p99_ns": self.p99,
            "frontend_ns": self.frontend,
            "memory_kib": [[process.pid, process.before, process.after] for process in self.memory],
        }


class Frontend(Protocol):
    """Whatever can measure a back-end. ``can_sustain`` says whether it can keep requests in flight."""

    can_sustain: ClassVar[bool]

    def measure(self, socket: Path, workload: Workload) -> Sample:
        """Return what driving the back-end that listens on `socket` has shown.

        Raises:
            DeviceError: a response was wrong or missing.
        """


@dataclass(frozen=True)
class CFrontend:
    """The front-end in C."""

    can_sustain: ClassVar[bool] = True
    program: Path

    def measure(self, socket: Path, workload: Workload) -> Sample:
        """Return what driving the back-end that listens on `socket` has shown.

        Raises:
            DeviceError: a response was wrong or missing.
        """
        command = [str(self.program), "--socket", str(socket), *workload.arguments()]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=LONGEST
        )
        if done.returncode:
            raise DeviceError(f"the front-end gave up: {done.stderr.strip()}")
        return Sample.parse(done.stdout)
