"""How long a guest takes to its first answer, against the same kernel with an init that only powers off."""

from __future__ import annotations

import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.devices.factorial import Factorial
from pyvirtio.errors import GuestError
from pyvirtio.vm.initramfs import Initramfs
from pyvirtio.vm.launch import GuestOptions, LaunchConfig
from pyvirtio.vm.machine import VhostUserDevice
from pyvirtio.vm.running import Wires
from pyvirtio_bench.backends import pyvirtio
from pyvirtio_bench.page import Table
from pyvirtio_bench.statistics import Quartiles, ratio

if TYPE_CHECKING:
    from pyvirtio.vm.launch import GuestBuilder
    from pyvirtio_bench.bench import Bench

POWER_OFF = b"#!/bin/busybox sh\nexec /bin/busybox poweroff -f\n"
COMMAND, ANSWER = b"factorial 5\n", b"5! = 120"


def measure(bench: Bench) -> list[Table]:
    """Boot both guests by turns, from the start of QEMU on; both under TCG, so that machines can be compared."""
    builder = bench.builder
    backend = pyvirtio(bench.installs.install(), "factorial")
    with tempfile.TemporaryDirectory(prefix="pv-") as folder, backend.running(Path(folder)) as socket:
        device = VhostUserDevice.of(Factorial().description(), socket)
        ask = Initramfs()
        ask.file("command", COMMAND)
        config = builder.prepare(GuestOptions(accel="tcg"), [device])
        assert isinstance(config, LaunchConfig)
        asking = replace(config, overlay=ask)
        bare = Path(folder, "off.cpio")
        bare.write_bytes(_initramfs_that_powers_off(builder).to_bytes())
        off = replace(asking, initramfs=bare, overlay=None, devices=())
        pairs = []
        with bench.runner.progress.step("boot") as update:
            for repetition in range(bench.runner.schedule.repetitions):
                pairs.append((_seconds(off), _seconds(asking, ANSWER)))
                update((repetition + 1) / bench.runner.schedule.repetitions)
    offs, answers = zip(*pairs, strict=True)
    row = [str(Quartiles.of(offs)), str(Quartiles.of(answers)), str(ratio(answers, offs))]
    title = f"Seconds from the start of QEMU (x86_64, tcg), {len(pairs)} runs: median (quartiles)"
    data = [{"power_off_s": offs, "first_answer_s": answers}]
    return [Table("boot", title, ["kernel and power-off alone", "to the first answer", "ratio"], [row], data)]


def _initramfs_that_powers_off(builder: GuestBuilder) -> Initramfs:
    initramfs = Initramfs()
    busybox = next(builder.provision.programs("x86_64").glob("**/bin/busybox"))
    initramfs.file("bin/busybox", busybox.read_bytes(), 0o755)
    initramfs.character_device("dev/console", 5, 1)
    initramfs.file("init", POWER_OFF, 0o755)
    return initramfs


def _seconds(config: LaunchConfig, until: bytes = b"") -> float:
    """Return the seconds from QEMU's start to a line of the console that contains `until`, or to QEMU's end.

    Raises:
        GuestError: QEMU ended without such a line.
    """
    with config.memory_file() as initrd:
        start = time.monotonic()
        with subprocess.Popen(
            config.command(Wires(f"/proc/self/fd/{initrd}", Path())),
            pass_fds=[initrd],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if until and until in line:
                    found = time.monotonic() - start
                    process.stdout.read()  # to its end
                    return found
            process.wait()
    if until:
        raise GuestError(f"the guest powered off without the line {until.decode()!r}; try `pyvirtio vm factorial 5`")
    return time.monotonic() - start
