"""QEMU's storage daemon, the peer of the disk, in two versions; and the image that all disks are measured with."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.provision.packages import Registry, Suites
from pyvirtio.vm.guest_packages import EMULATOR, prune
from pyvirtio.vm.qemu import STARTERS, write_starters
from pyvirtio_bench.backends import READY_FILE, Backend
from pyvirtio_bench.provision import cache

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvirtio.vm.launch import GuestBuilder

DAEMON = "qemu-storage-daemon"
BLOCK = 4096
IMAGE_SIZE = 256 << 20


@dataclass(frozen=True)
class Release:
    """Where a version of the daemon comes from."""

    suites: Suites
    package: str

    def program(self, builder: GuestBuilder) -> Path:
        """Return the daemon, ready to run; it is provisioned where it was not yet.

        Raises:
            ProvisionError: it cannot be had here.
        """

        def make(folder: Path) -> None:
            registry = Registry(builder.cache, builder.progress)
            registry.unpack(self.suites, [self.package], folder, dependencies=True)
            prune(folder)
            if (folder / "lib").is_dir():  # before Debian 13, libraries lay there as well
                shutil.copytree(folder / "lib", folder / "usr/lib", symlinks=True, dirs_exist_ok=True)
            write_starters(folder, DAEMON, firmware="")

        key = cache.digest(self.suites.name, self.package)
        return builder.cache.entry("storage-daemon", key, make) / STARTERS / DAEMON


NEWEST = Release(EMULATOR, "qemu-utils")
OLDER = Release(Suites("bookworm"), "qemu-system-common")  # 7.2 was in this package

VARIANTS = {"newest": (NEWEST, "io_uring"), "default": (NEWEST, "threads"), "older": (OLDER, "io_uring")}
"""The daemon in the ways that are measured: which release, and how it reads; threads are its default."""


def version(printed: str) -> str:
    """Return the version in what a daemon prints of itself.

    >>> version("qemu-storage-daemon version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)")
    '7.2'
    """
    found = re.search(r"version (\d+\.\d+)", printed)
    return found[1] if found else "of an unknown version"


def daemon(program: Path, image: Path, *, aio: str, direct: bool) -> Backend:
    """Return a daemon that exports the image, read-only as our device does it."""
    printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    name = f"storage daemon {version(printed)}, {aio}"
    cache = f"cache.direct={'on' if direct else 'off'}"
    file = f"driver=file,node-name=image,filename={image},read-only=on,aio={aio},{cache}"
    export = "type=vhost-user-blk,id=export,node-name=image,addr.type=unix,addr.path={socket}"
    return Backend(name, (str(program), "--blockdev", file, "--export", export, "--pidfile", READY_FILE))


@contextlib.contextmanager
def make_image(folder: Path) -> Iterator[Path]:
    """Make an image each of whose blocks of 4 KiB begins with its number; the value is a path to it.

    It lies in `folder`, which should be on a disk: a file system in memory may not know direct I/O. It has no name
    there, so that nothing is left of it, however this process ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        for number in range(IMAGE_SIZE // BLOCK):
            file.write(number.to_bytes(8, "little").ljust(BLOCK, b"\xa5"))
        file.flush()
        os.fsync(file.fileno())  # or it is written back while something is measured
        yield Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")
