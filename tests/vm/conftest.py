"""Stand-ins for QEMU: small shell scripts that answer probes and then do what a test asks for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from pyvirtio.vm.initramfs import Initramfs
from pyvirtio.vm.launch import LaunchConfig
from pyvirtio.vm.machine import find_machine
from pyvirtio.vm.qemu import Qemu
from tests.support import listening_guest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LISTEN = f'exec {sys.executable} {listening_guest.__file__} "$@"'
SUITABLE = "for word in $*; do echo ${word%,help} options:; done"
UNSUITABLE = "echo \"Device 'x' not found\" >&2"

SCRIPT = """#!/bin/sh
case "$*" in
*--version*) echo "QEMU emulator version {version} (a stand-in)"; exit 0 ;;
*"-run-with help"*) exit 0 ;;
*"-device help"*) echo "the question that aborts" >&2; kill -ABRT $$ ;;
*,help*) {probe}; exit 0 ;;
esac
{run}
"""


@pytest.fixture
def fake_qemu(tmp_path: Path) -> Callable[..., Path]:
    """Make a program that answers probes as QEMU does; `run` is what it does when it boots."""

    def make(run: str = "exit 0", *, probe: str = SUITABLE, version: str = "11.1.3", name: str = "qemu") -> Path:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(SCRIPT.format(run=run, probe=probe, version=version))
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def fake_setup(tmp_path: Path, fake_qemu: Callable[..., Path]) -> Callable[[str], LaunchConfig]:
    """Make what a guest is started with, around a stand-in that does `run`."""

    def make(run: str) -> LaunchConfig:
        kernel, initramfs = tmp_path / "kernel", tmp_path / "initramfs"
        kernel.write_bytes(b"")
        initramfs.write_bytes(Initramfs().to_bytes())
        return LaunchConfig(find_machine("x86_64"), Qemu((str(fake_qemu(run)),)), kernel, initramfs)

    return make
