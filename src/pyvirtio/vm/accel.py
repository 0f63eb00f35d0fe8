"""Chooses between KVM and TCG.

That ``/dev/kvm`` can be opened proves little: on some machines it creates a guest that then stands still.
So a kernel is booted until its first line, within a time limit, and the answer is kept until the machine
restarts.
"""

from __future__ import annotations

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
KVM_LIMIT = 5.0  # seconds; where KVM works, the kernel's first line takes less than one
FIRST_LINE = "Linux version"


def choose_accelerator(
    wanted: str, machine: Machine, qemu: Qemu, kernel: Path, *, cache: Cache, progress: Progress
) -> str:
    """Return ``kvm`` or ``tcg``, by what is `wanted` (``auto``, ``kvm`` or ``tcg``) and what works.

    Raises:
        LocalError: `wanted` is none of the three.
        GuestError: KVM is wanted, and does not work.
    """
    if wanted not in ACCELERATORS:
        raise LocalError(f"there is no accelerator {wanted!r}; give one of {', '.join(ACCELERATORS)}")
    if wanted == "tcg":
        return "tcg"
    obstacle = kvm_obstacle(machine) or known_kvm_obstacle(machine, qemu, kernel, cache)
    if not obstacle:
        return "kvm"
    if wanted == "kvm":
        raise GuestError(f"KVM cannot be used: {obstacle}; leave --accel out to emulate instead")
    # A guest of another architecture is always emulated, which nobody needs to be told.
    if machine.arch == platform.machine():
        progress.notice(f"emulating the processor (TCG): {obstacle}")
    return "tcg"


def kvm_obstacle(machine: Machine, device: Path = KVM_DEVICE) -> str:
    """Return why KVM is out of the question, as far as can be seen without a try; empty if a try is worth it."""
    if machine.arch != platform.machine():
        return f"this machine is not an {machine.arch}"
    if not device.exists():
        return f"there is no {device}"
    if not os.access(device, os.R_OK | os.W_OK):
        return f"this user may not open {device}"
    return ""


def try_kvm(machine: Machine, qemu: Qemu, kernel: Path, limit: float = KVM_LIMIT) -> str:
    """Boot the kernel under KVM until its first line; return why that failed, or an empty string.

    QEMU has ended when this returns.
    """
    boot = Boot(kernel=kernel, accel="kvm", kernel_options=("loglevel=7", "earlycon"))
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [*qemu.prefix, *machine.arguments(boot)],
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
            return f"QEMU with KVM ended: {' '.join(console.last_lines()[-1:]) or 'no reason was printed'}"
        return f"a guest under KVM hangs on this machine (no line within {limit:g} s)"
    finally:
        process.kill()
        process.wait()
        console.wait_for_end(limit)


def known_kvm_obstacle(machine: Machine, qemu: Qemu, kernel: Path, cache: Cache) -> str:
    """Return what `try_kvm` returns; it is called once, and its answer kept until this machine restarts."""
    key = digest(_boot_id(), machine.name, qemu.identity(), str(kernel))
    return cache.note(f"kvm-{machine.arch}", key, lambda: try_kvm(machine, qemu, kernel))


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text()
