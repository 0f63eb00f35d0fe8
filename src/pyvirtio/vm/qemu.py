"""Finds a QEMU that can forward a device to a vhost-user back-end.

Distributions patch QEMU, so its version says little: QEMU is asked for the device itself. The question is
always ``-device NAME,help``. The bare ``-device help`` loads every module that it finds, including those of
another QEMU, and then aborts.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvirtio.errors import ProvisionError
from pyvirtio.provision.own_libraries import loader_and_libraries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from pyvirtio.vm.machine import Machine

PROBE_LIMIT = 20.0  # seconds; a probe takes some 30 ms
NEEDED = "QEMU 10.2 or newer"
STARTERS = "bin"  # the folder of the scripts that start a provisioned QEMU
FIRMWARE = " ".join(f'-L "$root/{folder}"' for folder in ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"))
STARTER = """\
#!/bin/sh
# Starts the QEMU that was unpacked here, with its own C library, firmware and modules.
root=$(dirname "$(dirname "$(readlink -f "$0")")")
QEMU_MODULE_DIR=$root/{libraries}/qemu
export QEMU_MODULE_DIR
exec "$root/{loader}" --library-path "$root/{libraries}" "$root/usr/bin/{emulator}" {firmware} "$@"
"""


@dataclass(frozen=True)
class Qemu:
    """A QEMU that can be run.

    Attributes:
        prefix: the command to which a machine's arguments are appended.
    """

    prefix: tuple[str, ...]

    def identity(self) -> str:
        """Return what changes when another QEMU takes the place of this one: its files, their sizes and times."""
        files = [os.stat(word) for word in self.prefix if os.path.isfile(word)]
        return " ".join([*self.prefix, *(f"{file.st_size}:{file.st_mtime_ns}" for file in files)])

    def ask(self, *arguments: str) -> str:
        """Return what it prints when run with `arguments`; empty if it does not run or does not end."""
        try:
            done = subprocess.run(
                [*self.prefix, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=PROBE_LIMIT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.decode(errors="replace")

    def version(self) -> str:
        """Return the version that it reports, or an empty string."""
        match = re.search(r"version (\d[\w.]*)", self.ask("--version"))
        return match[1] if match else ""

    def has_device(self, name: str) -> bool:
        """Return whether a user may create the device `name`."""
        # The exit status says nothing: it is 0 for an unknown device, too.
        return f"{name} options:" in self.ask("-M", "none", "-device", f"{name},help")

    def ends_with_parent(self) -> bool:
        """Return whether it can end by itself when the process that started it ends."""
        return "exit-with-parent" in self.ask("-M", "none", "-run-with", "help")


def provisioned(root: Path, emulator: str) -> Qemu:
    """Return the QEMU whose packages were unpacked under `root`, once `write_starters` made it runnable."""
    return Qemu((str(root / STARTERS / emulator),))


def write_starters(root: Path, programs: str = "qemu-system-*", firmware: str = FIRMWARE) -> None:
    """Write, for each emulator unpacked under `root`, a script that starts it on any machine.

    A script starts its program through the C library that came with it, so the machine may have another one, and can
    be run by hand. Other `programs` of QEMU can be given as a pattern, and the options with which they find firmware.

    Raises:
        ProvisionError: the packages are not complete.
    """
    loader, libraries = loader_and_libraries(root)
    (root / STARTERS).mkdir()
    for emulator in sorted((root / "usr/bin").glob(programs)):
        script = root / STARTERS / emulator.name
        script.write_text(STARTER.format(loader=loader, libraries=libraries, emulator=emulator.name, firmware=firmware))
        script.chmod(0o755)


def candidates(machine: Machine, option: str = "") -> Iterable[Qemu]:
    """Return the QEMUs to consider before one is provisioned: the one that the user names, or those on the PATH."""
    if option:
        yield Qemu((option,))
        return
    for folder in os.get_exec_path():
        if found := shutil.which(machine.emulator, path=folder):
            yield Qemu((found,))


def find_qemu(machine: Machine, option: str = "", provision: Callable[[], Path] | None = None) -> Qemu:
    """Return a QEMU for `machine`.

    Args:
        machine: what it has to emulate, and which device it must have.
        option: the program that the user insists on; then no other is tried.
        provision: called for the folder with a provisioned QEMU when none is found.

    Raises:
        ProvisionError: none is suitable; the message says what each lacks.
    """
    unsuitable = []
    for qemu in candidates(machine, option):
        if qemu.has_device(machine.device):
            return qemu
        unsuitable.append(f"{qemu.prefix[0]} {_shortcoming(qemu, machine)}")
    if option:
        raise ProvisionError(f"{unsuitable[0]}; {NEEDED} does. Leave --qemu out, and one is provisioned")
    if provision is None:
        found = "; ".join(unsuitable) or f"no {machine.emulator} on the PATH"
        raise ProvisionError(f"{found}. Run `pyvirtio doctor --fix`, or give --qemu PATH ({NEEDED})")
    qemu = provisioned(provision(), machine.emulator)
    if not qemu.has_device(machine.device):
        raise ProvisionError(
            f"the provisioned {machine.emulator} {_shortcoming(qemu, machine)}; give --qemu PATH ({NEEDED})"
        )
    return qemu


def _shortcoming(qemu: Qemu, machine: Machine) -> str:
    version = qemu.version()
    if not version:
        return "does not run"
    return f"(version {version}) has no {machine.device}"
