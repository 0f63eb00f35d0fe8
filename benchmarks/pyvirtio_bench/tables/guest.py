"""Requests through ``/dev/virtio_misc`` in a real guest, against driver calls that need no back-end."""

from __future__ import annotations

import contextlib
import tempfile
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.errors import GuestError
from pyvirtio.vm.launch import GuestOptions, LaunchConfig
from pyvirtio.vm.machine import VhostUserDevice
from pyvirtio.vm.running import Guest
from pyvirtio_bench.backends import C_PEER, Backend
from pyvirtio_bench.page import Table
from pyvirtio_bench.statistics import Quartiles, format3, ratio

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pyvirtio_bench.bench import Bench

PROGRAM = Path(__file__).parents[1] / "guest_load"
MARK = "guest-load: "
KINDS = ("request", "nothing")
WRITERS = (1, 4)
BOOT = 60.0  # seconds that the guest may take beside the measurements
CONFIG_SIZE = 16
CONFIG_SIZES = {C_PEER: 12}  # the tutorial's


@dataclass(frozen=True)
class Line:
    """One measurement in the guest."""

    path: str
    kind: str
    writers: int
    requests: int
    nanoseconds: int

    @property
    def each(self) -> float:
        """Nanoseconds per request."""
        return self.nanoseconds / self.requests


def measure(bench: Bench) -> list[Table]:
    """Boot a guest with a device of each back-end, and have it measure them by turns."""
    guest_options = GuestOptions()
    backends = [
        *bench.peer("factorial"),
        *bench.pyvirtio("pyvirtio", "factorial"),
        *bench.pyvirtio("without the engine in C", "factorial", engine="reference"),
    ]
    paths = [f"/dev/virtio_misc{number or ''}" for number in range(len(backends))]
    lines, accelerator = _run(bench, guest_options, backends, paths)
    return [
        _table(
            lines,
            {path: one.name for path, one in zip(paths, backends, strict=True)},
            f"{guest_options.arch}, {accelerator}",
        )
    ]


def _run(
    bench: Bench, guest_options: GuestOptions, backends: Sequence[Backend], paths: Sequence[str]
) -> tuple[list[Line], str]:
    schedule = bench.runner.schedule
    duration = schedule.seconds * schedule.repetitions * len(backends) * len(WRITERS) * len(KINDS)
    guest_options = replace(guest_options, files={"/bin/guest_load": PROGRAM.read_bytes()})
    with tempfile.TemporaryDirectory(prefix="pv-") as folder, contextlib.ExitStack() as stack:
        devices = []
        for backend in backends:
            socket = stack.enter_context(backend.running(Path(folder)))
            size = CONFIG_SIZES.get(backend.name, CONFIG_SIZE)
            devices.append(VhostUserDevice(socket, 45, queues=1, size=128, config_size=size))
        config = bench.builder.prepare(guest_options, devices)
        assert isinstance(config, LaunchConfig)
        command = f"guest_load {schedule.seconds} {schedule.repetitions} {' '.join(paths)}"
        with bench.runner.progress.step("a guest measures"), Guest(config) as guest:
            result = guest.run(command, 2 * duration + BOOT)
    lines = list(parse(result.lines))
    if result.returncode or len(lines) != schedule.repetitions * len(backends) * len(WRITERS) * len(KINDS):
        raise GuestError(
            "the guest's program failed; its last lines:"
            + "".join(f"\n  | {line}" for line in (result.stdout + result.stderr).splitlines()[-10:])
        )
    return lines, config.accel


def parse(lines: Iterable[str]) -> Iterable[Line]:
    """Return the measurements among the lines that the guest printed.

    >>> list(parse(["[ 1.0] hello", "guest-load: 0 /dev/virtio_misc request 4 100 2000"]))
    [Line(path='/dev/virtio_misc', kind='request', writers=4, requests=100, nanoseconds=2000)]
    """
    for line in lines:
        if line.startswith(MARK):
            _repetition, path, kind, writers, requests, nanoseconds = line.removeprefix(MARK).split()
            yield Line(path, kind, int(writers), int(requests), int(nanoseconds))


def _table(lines: Iterable[Line], names: dict[str, str], guest: str) -> Table:
    times: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for line in lines:
        times[names[line.path], line.kind, line.writers].append(line.each)
    rows = []
    for name in names.values():
        for writers in WRITERS:
            asked, idle = (times[name, kind, writers] for kind in KINDS)
            peer = times.get((C_PEER, "request", writers))
            rows.append(
                [
                    name,
                    str(writers),
                    format3(1e9 / Quartiles.of(asked).median),
                    format3(Quartiles.of(asked).median / 1000),
                    format3(Quartiles.of(idle).median / 1000),
                    str(ratio(asked, peer)) if peer and name != C_PEER else "-",
                ]
            )
    title = f"In a guest ({guest}), one request in flight for each writer: medians"
    header = ["back-end", "writers", "requests/s", "µs a request", "µs without back-end", f"time to {C_PEER}"]
    data = [
        {"backend": name, "kind": kind, "writers": writers, "ns": values}
        for (name, kind, writers), values in times.items()
    ]
    return Table("guest", title, header, rows, data)
