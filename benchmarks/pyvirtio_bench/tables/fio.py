"""A disk in a real guest, measured there by fio: ours, the storage daemon's, and the machine's own."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.devices.block import Config
from pyvirtio.errors import GuestError
from pyvirtio.vm import VhostUserDevice, guest
from pyvirtio_bench.page import Table
from pyvirtio_bench.statistics import Quartiles, format3, ratio
from pyvirtio_bench.storage import make_image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyvirtio.vm import Guest
    from pyvirtio_bench.backends import Backend
    from pyvirtio_bench.bench import Bench

OURS = "pyvirtio"
PEERS = ("newest", "default")  # variants of the storage daemon
BOOT = 60.0  # seconds that the guest may take beside a measurement


@dataclass(frozen=True)
class Job:
    """What fio does, in its own words."""

    title: str
    rw: str
    bs: str
    iodepth: int

    def command(self, disk: str, seconds: float) -> list[str]:
        """Return the command that measures a disk."""
        options = {
            "name": "job",
            "filename": disk,
            "rw": self.rw,
            "bs": self.bs,
            "iodepth": self.iodepth,
            "ioengine": "libaio",
            "runtime": f"{int(1000 * seconds)}ms",
            "output-format": "json",
        }
        return ["fio", "--direct=1", "--time_based", *(f"--{key}={value}" for key, value in options.items())]


JOBS = (
    Job("4 KiB, one", "randread", "4k", 1),
    Job("4 KiB, 32 deep", "randread", "4k", 32),
    Job("128 KiB, 8 deep", "read", "128k", 8),
)


@dataclass(frozen=True)
class Machine:
    """A guest in which disks are measured, and the disk that it has without any back-end."""

    title: str
    arch: str
    own: str
    own_disk: str
    disks: str

    def options(self, image: Path) -> dict[str, Sequence[str]]:
        """Return what `guest` needs to give the machine its own disk."""
        if self.arch == "um":
            return {"kernel_options": [f"ubd0r={image}"]}
        drive = f"file={image},if=none,id=own,format=raw,read-only=on"
        return {"qemu_options": ["-drive", drive, "-device", "virtio-blk-pci,drive=own"]}


MACHINES = (
    Machine("QEMU", "x86_64", "QEMU's virtio-blk", "/dev/vd{last}", "/dev/vd{letter}"),
    Machine("user-mode Linux", "um", "its own ubd", "/dev/ubda", "/dev/vd{letter}"),
)


def measure(bench: Bench) -> list[Table]:
    """Boot each machine once with a disk of every back-end, and have fio measure them by turns."""
    times: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    with make_image(bench.images) as image:
        daemons = [one for variant, one in bench.daemons(image, direct=False).items() if variant in PEERS]
        backends = [*bench.pyvirtio(OURS, f"block,path={image},readonly"), *daemons]
        for machine in MACHINES:
            for disk, job, seconds in _measured(bench, machine, backends, image):
                times[machine.title, disk, job.title].append(seconds)
    return [_table(times, [one.name for one in backends])]


def _measured(
    bench: Bench, machine: Machine, backends: Sequence[Backend], image: Path
) -> Iterator[tuple[str, Job, float]]:
    """Yield the seconds a request takes, with the disk and the job, repetition by repetition."""
    with tempfile.TemporaryDirectory(prefix="pv-") as folder, contextlib.ExitStack() as stack:
        devices = [
            VhostUserDevice(stack.enter_context(one.running(Path(folder))), 2, 1, 256, Config.nbytes)
            for one in backends
        ]
        letters = "abcdefgh"
        disks = {one.name: machine.disks.format(letter=letters[place]) for place, one in enumerate(backends)}
        disks[machine.own] = machine.own_disk.format(last=letters[len(backends)])
        step = stack.enter_context(bench.runner.progress.step(f"fio in {machine.title}"))
        running = stack.enter_context(
            guest(*devices, arch=machine.arch, packages=["fio"], **machine.options(image))  # type: ignore[arg-type]  # mypy takes every value for one of each parameter
        )
        repetitions = bench.runner.schedule.repetitions
        for repetition in range(repetitions):
            for job in JOBS:
                for name, disk in disks.items():
                    yield name, job, _seconds(running, job.command(disk, 4 * bench.runner.schedule.seconds))
            step((repetition + 1) / repetitions)


def _seconds(running: Guest, command: Sequence[str]) -> float:
    """Return what fio says that a request took, by the clock and with the others in flight."""
    result = running.run(command, BOOT)
    if result.returncode:
        raise GuestError(f"fio failed in the guest with status {result.returncode}:\n{result.stderr}")
    return 1 / float(json.loads(result.stdout)["jobs"][0]["read"]["iops"])


def _table(times: dict[tuple[str, str, str], list[float]], names: Sequence[str]) -> Table:
    rows = []
    for machine in MACHINES:
        for name in (*names, machine.own):
            cells = []
            for job in JOBS:
                values, own = times[machine.title, name, job.title], times[machine.title, machine.own, job.title]
                compared = "" if name == machine.own else f", {ratio(values, own)}"
                cells.append(f"{format3(1 / Quartiles.of(values).median)}/s{compared}")
            rows.append([machine.title, name, *cells])
    data = [
        {"machine": machine, "disk": disk, "job": job, "seconds": values}
        for (machine, disk, job), values in times.items()
    ]
    title = "Reads that fio makes in a guest: requests a second, and time as a ratio to the machine's own disk"
    return Table("fio", title, ["machine", "disk", *(job.title for job in JOBS)], rows, data)
