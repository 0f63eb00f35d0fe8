"""One measurement: what the front-end shall do, and what it found."""

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
class Load:
    """What the front-end does.

    Attributes:
        in_flight: requests that are in flight: submitted at once, and all waited for.
        stream: keep them in flight instead, a new one for each answer, and look at the ring without sleeping.
        seconds: how long; 0: until `requests`.
        requests: the end, where it comes before `seconds` are over; 0: no end.
        queue_size: entries of a queue; 0: twice what is in flight, and 128 at least.
        queues: how many queues are driven, `in_flight` requests on each.
        regions: pieces of memory, far apart in guest addresses.
        indirect: descriptors in a table of their own.
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
    stream: bool = False

    def arguments(self) -> list[str]:
        """Give the front-end's arguments.

        >>> Load(in_flight=32, seconds=0.5, indirect=True, stream=True).arguments()
        ['--in-flight=32', '--seconds=0.5', '--queues=1', '--regions=2', '--indirect', '--stream']
        """
        always = {
            "in-flight": self.in_flight,
            "seconds": self.seconds,
            "queues": self.queues,
            "regions": self.regions,
        }
        others = {"requests": self.requests, "queue-size": self.queue_size, "warm-up": self.warm_up}
        pairs = always | {name: value for name, value in others.items() if value}
        flags = {"--indirect": self.indirect, "--stream": self.stream}
        return [*(f"--{name}={value}" for name, value in pairs.items()), *(name for name in flags if flags[name])]


@dataclass(frozen=True)
class Memory:
    """What a process of the back-end has resident, without memory that it shares, in KiB."""

    pid: int
    before: int
    after: int


@dataclass(frozen=True)
class Sample:
    """What one measurement found. Times are nanoseconds.

    Attributes:
        requests: how many were answered, each rightly.
        wall: for a request, by the clock.
        cpu: for a request, of the processor in all of the back-end's processes; None where that cannot be known.
        p50: the median of a round, from its submission until all of its answers were there; None for a stream.
        p99: the same for the slowest hundredth.
        frontend: for a request, of the processor in the front-end.
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
        """Requests in a second."""
        return 1e9 / self.wall

    @classmethod
    def parse(cls, text: str) -> Sample:
        """Read what the front-end printed."""
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
        """Give it for JSON."""
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
    """Whatever can measure a back-end. ``streams`` says whether it can keep requests in flight."""

    streams: ClassVar[bool]

    def measure(self, socket: Path, load: Load) -> Sample:
        """Drive the back-end that listens on `socket`.

        Raises:
            DeviceError: an answer was wrong, or did not come.
        """


@dataclass(frozen=True)
class CFrontend:
    """The front-end in C."""

    streams: ClassVar[bool] = True
    program: Path

    def measure(self, socket: Path, load: Load) -> Sample:
        """Drive the back-end that listens on `socket`; raises DeviceError where an answer is wrong or missing."""
        command = [str(self.program), "--socket", str(socket), *load.arguments()]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=LONGEST
        )
        if done.returncode:
            raise DeviceError(f"the front-end gave up: {done.stderr.strip()}")
        return Sample.parse(done.stdout)
