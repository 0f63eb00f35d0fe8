#!/usr/bin/env python3
"""How long a guest takes to its first answer, against the same kernel with an init that only powers off.

Interleaved runs on x86_64 under TCG; seconds from the start of QEMU, medians, and the median of the ratios of
neighbouring runs. usage: benchmarks/boot.py [RUNS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from pyvirtio.devices.factorial import Factorial
from pyvirtio.host.serve import backend_at
from pyvirtio.vm.initramfs import Initramfs
from pyvirtio.vm.launch import GuestOptions, default_builder
from pyvirtio.vm.machine import VhostUserDevice
from pyvirtio.vm.rootfs import DRIVER_IDS, DRIVER_SOURCES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.vm.guest import LaunchConfig

OFF = b"#!/bin/busybox sh\nexec /bin/busybox poweroff -f\n"


def seconds(setup: LaunchConfig, until: bytes) -> float:
    """Start a guest; give the seconds until a line of its console contains ``until``, or until its end."""
    with setup.memory_file() as initrd:
        start = time.monotonic()
        with subprocess.Popen(
            setup.command(initrd, serial="stdio"),
            pass_fds=[initrd],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if until and until in line:
                    found = time.monotonic() - start
                    process.stdout.read()
                    return found
            process.wait()
    if until:
        raise SystemExit("the guest did not answer")
    return time.monotonic() - start


def main() -> None:
    """Print the table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    builder = default_builder()
    guest_options = GuestOptions(accel="tcg")
    ask = Initramfs()
    ask.file("command", b"factorial 5\n")
    off = Initramfs()
    busybox = next(builder.provision.programs("x86_64").glob("**/bin/busybox"))
    off.file("bin/busybox", busybox.read_bytes(), 0o755)
    off.character_device("dev/console", 5, 1)
    off.file("init", OFF, 0o755)
    with tempfile.TemporaryDirectory() as folder:
        bare, path = Path(folder, "off.cpio"), Path(folder, "s")
        bare.write_bytes(off.to_bytes())
        device = VhostUserDevice.of(Factorial.description(), path, driver_ids=DRIVER_IDS)
        with backend_at("factorial", str(path)):
            setup = replace(builder.prepare(guest_options, [device], sources=DRIVER_SOURCES), overlay=ask)
            only_off = replace(setup, initramfs=bare, overlay=None, devices=())
            pairs = [(seconds(only_off, b""), seconds(setup, b"5! = 120")) for _ in range(runs)]
    offs, answers = zip(*pairs, strict=True)
    print(f"power off:    {statistics.median(offs):.2f} s ({min(offs):.2f} to {max(offs):.2f})")
    print(f"first answer: {statistics.median(answers):.2f} s ({min(answers):.2f} to {max(answers):.2f})")
    print(f"ratio:        {statistics.median(answer / off for off, answer in pairs):.2f}")


if __name__ == "__main__":
    main()
