"""Chooses between KVM and TCG.

That ``/dev/kvm`` can be opened proves little: there are machines on which it creates a guest that then
stands still. So a kernel is really booted, until its first line, within a time limit; and the answer is
kept until the machine restarts.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.errors import GuestError, LocalError
from pyvirtio.provision.cache import Cache, digest
from pyvirtio.vm.console import Console
from pyvirtio.vm.machine import Boot

if TYPE_CHECKING:
    from pyvirtio.provision.progress import Progress
    from pyvirtio.vm.machine import Machine
    from pyvirtio.vm.qemu import Qemu

ACCELERATORS = ("auto", "kvm", "tcg")
KVM_DEVICE = Path("/dev/kvm")
KVM_LIMIT = 5.0  # seconds; where KVM works, a kernel speaks after less than one
FIRST_LINE = "Linux version"


def choose_accelerator(
    wish: str, machine: Machine, qemu: Qemu, kernel: Path, *, cache: Cache, progress: Progress
) -> str:
    """``kvm`` or ``tcg``, by what the user wishes (``auto``, ``kvm`` or ``tcg``) and what works.

    Raises:
        LocalError: the wish is none of the three.
        GuestError: the user insists on KVM, and it does not work.
    """
    if wish not in ACCELERATORS:
        raise LocalError(f"no accelerator {wish!r}; there are {', '.join(ACCELERATORS)}")
    if wish == "tcg":
        return "tcg"
    obstacle = kvm_obstacle(machine)
    if not obstacle:
        obstacle = _remembered(machine, qemu, kernel, cache)
    if not obstacle:
        return "kvm"
    if wish == "kvm":
        raise GuestError(f"KVM cannot be used: {obstacle}; leave --accel out to emulate instead")
    # A guest of another architecture is always emulated; that is no news.
    if machine.arch == platform.machine():
        progress.notice(f"emulating the processor (TCG), for {obstacle}")
    return "tcg"


def kvm_obstacle(machine: Machine, device: Path = KVM_DEVICE) -> str:
    """Why KVM is out of the question without a try; empty if a try is worth it."""
    if machine.arch != platform.machine():
        return f"this machine is no {machine.arch}"
    if not device.exists():
        return f"there is no {device}"
    if not os.access(device, os.R_OK | os.W_OK):
        return f"{device} may not be opened by this user"
    return ""


def try_kvm(machine: Machine, qemu: Qemu, kernel: Path, limit: float = KVM_LIMIT) -> str:
    """Boot the kernel under KVM until its first line; why that failed, or an empty string.

    QEMU is gone when this returns, in every case.
    """
    boot = Boot(kernel=kernel, accel="kvm", kernel_options=("loglevel=7", "earlycon"))
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [*qemu.prefix, *machine.arguments(boot)],
            env=qemu.variables,
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=writing,
            start_new_session=True,
        )
    except OSError as error:
        os.close(reading)
        return f"QEMU cannot be started: {error}"
    finally:
        os.close(writing)
    console = Console(reading)
    try:
        if console.wait_for(lambda line: FIRST_LINE in line, limit):
            return ""
        if console.ended:
            return f"QEMU with KVM ended: {' '.join(console.last_lines()[-1:]) or 'it gave no reason'}"
        return f"a guest under KVM hangs on this machine (no line within {limit:g} s)"
    finally:
        process.kill()
        process.wait()
        console.wait_for_end(limit)


def _remembered(machine: Machine, qemu: Qemu, kernel: Path, cache: Cache) -> str:
    """The outcome of `try_kvm`, kept until the machine restarts."""
    note = cache.root / "kvm.json"
    key = digest(_boot_id(), machine.name, *qemu.prefix, str(kernel))
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(note.read_text())
        if isinstance(known, dict) and known.get("key") == key:
            return str(known["obstacle"])
    obstacle = try_kvm(machine, qemu, kernel)
    with contextlib.suppress(OSError):  # a note that cannot be kept costs the next run a few seconds
        note.parent.mkdir(parents=True, exist_ok=True)
        partial = note.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps({"key": key, "obstacle": obstacle}))
        partial.replace(note)
    return obstacle


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text()
