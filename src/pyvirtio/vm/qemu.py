"""Finds a QEMU that can forward a device of any virtio id to a vhost-user back-end.

Version numbers say little, as distributions patch; so a QEMU is asked for the device itself. The
question is always ``-device NAME,help``: the bare ``-device help`` loads every module that it finds,
those of another QEMU too, and then aborts.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyvirtio.errors import ProvisionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from pyvirtio.vm.machine import Machine

PROBE_LIMIT = 20.0  # seconds; a probe takes some 30 ms
NEEDED = "QEMU 10.2 or newer"
FIRMWARE = ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")


@dataclass(frozen=True)
class Qemu:
    """A QEMU that can be run.

    Attributes:
        prefix: the command to which a machine's arguments are appended.
        environment: variables that it needs beside ours.
        origin: how it was found, for messages.
    """

    prefix: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    origin: str = ""

    @property
    def variables(self) -> dict[str, str]:
        """The whole environment to run it in."""
        return {**os.environ, **self.environment}

    def ask(self, *arguments: str) -> str:
        """What it prints when run with `arguments`; empty if it does not run or does not end."""
        try:
            done = subprocess.run(
                [*self.prefix, *arguments],
                env=self.variables,
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
        """The version it reports, or an empty string."""
        match = re.search(r"version (\d[\w.]*)", self.ask("--version"))
        return match[1] if match else ""

    def has_device(self, name: str) -> bool:
        """Whether a user may create the device `name`."""
        # The exit status says nothing: it is 0 for an unknown device too.
        return "virtio-id=" in self.ask("-M", "none", "-device", f"{name},help")

    def ends_with_parent(self) -> bool:
        """Whether it can be told to end when the process that started it ends."""
        return "exit-with-parent" in self.ask("-M", "none", "-run-with", "help")


def provisioned(root: Path, emulator: str) -> Qemu:
    """The QEMU whose packages were unpacked under `root`.

    It is started through the C library it came with, so it runs on hosts with another one.
    """
    [loader] = _one(root, "usr/lib*/ld-linux-*.so.*", "usr/lib*/ld-linux-*.so.*")
    libraries = next((root / "usr/lib").glob("*-linux-gnu"))
    prefix = (str(loader), "--library-path", str(libraries), str(root / "usr/bin" / emulator))
    firmware = [argument for folder in FIRMWARE for argument in ("-L", str(root / folder))]
    return Qemu((*prefix, *firmware), {"QEMU_MODULE_DIR": str(libraries / "qemu")}, "provisioned")


def candidates(machine: Machine, option: str = "") -> Iterable[Qemu]:
    """The QEMUs to consider before one is provisioned: the one that the user names, or those on the PATH."""
    if option:
        yield Qemu((option,), origin="--qemu")
        return
    for folder in os.get_exec_path():
        if found := shutil.which(machine.emulator, path=folder):
            yield Qemu((found,), origin=found)


def find_qemu(machine: Machine, option: str = "", provision: Callable[[], Path] | None = None) -> Qemu:
    """A QEMU for `machine`.

    Args:
        machine: what it has to emulate, and which device it must have.
        option: the program that the user insists on; then no other is tried.
        provision: gives the folder with a provisioned QEMU when none is found.

    Raises:
        ProvisionError: none is suitable; the message tells what each lacks.
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


def _one(root: Path, *patterns: str) -> list[Path]:
    for pattern in patterns:
        if found := sorted(root.glob(pattern)):
            return found[:1]
    raise ProvisionError(f"{root} holds no dynamic loader; remove that folder, and it is provisioned again")
