"""Requests through ``/dev/virtio_misc`` in a real guest, against driver calls that need no back-end."""

from __future__ import annotations

import contextlib
import tempfile
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.bench.backends import C_PEER, TITLES, Backend, c_peer, engines, ours
from pyvirtio.bench.figures import Spread, brief, ratio
from pyvirtio.bench.page import Table
from pyvirtio.errors import GuestError
from pyvirtio.vm.guest import Guest
from pyvirtio.vm.initramfs import Initramfs
from pyvirtio.vm.machine import VhostUserDevice
from pyvirtio.vm.rootfs import DRIVER_IDS, DRIVER_SOURCES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pyvirtio.bench.runs import Bench
    from pyvirtio.vm.launch import GuestBuilder, GuestOptions

PROGRAM = Path(__file__).parents[1] / "guest_load"
MARK = "guest-load: "
KINDS = ("request", "nothing")
WRITERS = (1, 4)
BOOT = 60.0  # seconds more than the measurements take
# Of the devices' configuration spaces; the C peer has the tutorial's.
CONFIG_SIZE = {C_PEER: 12}


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
        """Nanoseconds for a request."""
        return self.nanoseconds / self.requests


def measure(bench: Bench, builder: GuestBuilder, guest_options: GuestOptions) -> list[Table]:
    """Boot a guest with a device of each back-end, and have it measure them by turns."""
    backends = [*([c_peer(bench.peer)] if bench.peer else []), *_ours()]
    paths = [f"/dev/virtio_misc{number or ''}" for number in range(len(backends))]
    lines, accel = _run(bench, builder, guest_options, backends, paths)
    return [
        _table(
            lines, {path: one.name for path, one in zip(paths, backends, strict=True)}, f"{guest_options.arch}, {accel}"
        )
    ]


def _ours() -> list[Backend]:
    best = engines()[0]
    chosen = dict.fromkeys([best, "reference"])
    return [ours(f"{TITLES[name]}, exact device", "factorial", engine_name=name) for name in chosen]


def _run(
    bench: Bench, builder: GuestBuilder, guest_options: GuestOptions, backends: Sequence[Backend], paths: Sequence[str]
) -> tuple[list[Line], str]:
    pace = bench.pace
    duration = pace.seconds * pace.repetitions * len(backends) * len(WRITERS) * len(KINDS)
    overlay = Initramfs()
    overlay.file("bin/guest_load", PROGRAM.read_bytes(), 0o755)
    overlay.file("command", f"guest_load {pace.seconds} {pace.repetitions} {' '.join(paths)}\n".encode())
    with tempfile.TemporaryDirectory(prefix="pv-") as folder, contextlib.ExitStack() as stack:
        devices = []
        for backend in backends:
            socket = stack.enter_context(backend.running(Path(folder)))
            size = CONFIG_SIZE.get(backend.name, 16)
            devices.append(VhostUserDevice(socket, 45, queues=1, size=128, config_size=size, driver_ids=DRIVER_IDS))
        setup = replace(builder.prepare(guest_options, devices, sources=DRIVER_SOURCES), overlay=overlay)
        with bench.progress.step("a guest measures"), Guest(setup) as guest:
            result = guest.result(2 * duration + BOOT)
    lines = list(parse(result.lines))
    if result.status or len(lines) != pace.repetitions * len(backends) * len(WRITERS) * len(KINDS):
        raise GuestError("the guest could not measure:" + "".join(f"\n  | {line}" for line in result.lines[-10:]))
    return lines, setup.accel


def parse(lines: Iterable[str]) -> Iterable[Line]:
    """Read what the program in the guest printed, among other things.

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
                    brief(1e9 / Spread.of(asked).median),
                    brief(Spread.of(asked).median / 1000),
                    brief(Spread.of(idle).median / 1000),
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
