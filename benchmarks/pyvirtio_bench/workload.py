"""One measurement: what the front-end does, and what it found."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pyvirtio.errors import DeviceError

if TYPE_CHECKING:
    from pathlib import Path

LONGEST = 3600.0  # seconds that a measurement may take, whatever happens


@dataclass(frozen=True)
class Workload:
    """What the front-end does; each field is one of its options.

    Attributes:
        load: what requests are made of: ``factorial``, ``echo`` or ``read``.
        size: the bytes that echo sends, or that one read asks for; 0: the load has no such choice.
        span: the bytes of the image that reads lie in.
        sequential: one read follows the other.
        in_flight: requests in flight: the front-end submits them at once and waits for all of them.
        sustained: instead, keep them in flight: submit a new one for each response, and poll the ring without sleeping.
        seconds: how long; 0: until `requests`.
        requests: the end, where it comes before `seconds` are over; 0: no end.
        queue_size: entries of a queue; 0: as many as the requests need, and 128 at least.
        regions: regions of memory, far apart in guest addresses.
        indirect: each request's descriptors are in a table of their own, as Linux's drivers do it.
        warm_up: requests before the clock starts; 0: ten rounds.
    """

    in_flight: int = 1
    sustained: bool = False
    load: str = "factorial"
    size: int = 0
    span: int = 0
    sequential: bool = False
    seconds: float = 1.0
    requests: int = 0
    queue_size: int = 0
    regions: int = 2
    indirect: bool = False
    warm_up: int = 0

    def arguments(self) -> list[str]:
        """Return the front-end's arguments.

        >>> Workload(in_flight=32, sustained=True, seconds=0.5).arguments()
        ['--in-flight=32', '--sustained', '--load=factorial', '--seconds=0.5', '--regions=2']
        """
        names = {"size": "bytes"}
        options = {names.get(name, name).replace("_", "-"): value for name, value in vars(self).items()}
        # Without an end there are no seconds; zero seconds have to be said.
        given = {name: value for name, value in options.items() if value or name == "seconds"}
        return [f"--{name}" if value is True else f"--{name}={value}" for name, value in given.items()]


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
    """Whatever can measure a back-end."""

    def measure(self, socket: Path, workload: Workload) -> Sample:
        """Return what driving the back-end that listens on `socket` has shown.

        Raises:
            DeviceError: a response was wrong or missing.
        """


@dataclass(frozen=True)
class CFrontend:
    """The front-end in C."""

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
