"""Pythons of other kinds than this one, made of Debian's packages: what a wheel must run on.

musl has no Python in Debian, and neither has free threading. Both are compiled from Debian's source package, by the
compiler that builds the wheels: it brings each C library along and needs nothing of this machine but make. That takes
some minutes, once; then it is in the cache.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyvirtio.provision.cache import digest
from pyvirtio.provision.packages import Suites
from pyvirtio.vm.guest_packages import GUEST, GuestPackages
from tests.support.archives import extract

if TYPE_CHECKING:
    from pathlib import Path

    from pyvirtio.provision.packages import Registry

SOURCE = (Suites("trixie"), "python3.13")
CONFIGURE = (
    "OPT=-O1 -w",
    "MODULE_BUILDTYPE=static",
    "PKG_CONFIG=false",
    "--disable-test-modules",
    "--without-doc-strings",
    "--without-ensurepip",
)


@dataclass(frozen=True)
class Python:
    """A Python: the command that starts it, and the environment that it needs."""

    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, path: tuple[Path, ...] = (), cwd: Path | None = None, **environment: str) -> str:
        """Run a program and return its output; `path` is where it finds modules first."""
        found = [*map(str, path), *filter(None, [self.environment.get("PYTHONPATH")])]
        done = subprocess.run(
            [*self.command, *arguments],
            cwd=cwd,
            env={"PATH": os.environ["PATH"]} | self.environment | {"PYTHONPATH": ":".join(found)} | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not done.returncode, done.stderr[-5000:]
        return done.stdout


def free_threaded(registry: Registry, zig: tuple[str, ...]) -> Python:
    """Return a Python without an interpreter lock; `zig` is the command of the compiler."""
    return _compiled(registry, zig, "x86_64-linux-gnu.2.28", "", "--disable-gil")


def musl(registry: Registry, zig: tuple[str, ...]) -> Python:
    """Return a Python whose C library is musl; `zig` is the command of the compiler."""
    linked = f"-dynamic -Wl,--dynamic-linker={musl_loader(registry, 'amd64')}"
    return _compiled(registry, zig, "x86_64-linux-musl", linked)


def musl_loader(registry: Registry, architecture: str) -> Path:
    """Return musl's dynamic loader, which is its C library too."""
    suites, package = SOURCE[0], f"musl:{architecture}"

    def make(folder: Path) -> None:
        registry.unpack(suites, [package], folder)

    [loader] = registry.cache.entry("musl", digest(suites.name, package), make).glob("usr/lib/ld-musl-*.so.1")
    return loader


def emulator(registry: Registry) -> Path:
    """Return the program that runs aarch64's programs here."""
    package, name = "qemu-user-static", "usr/bin/qemu-aarch64-static"

    def make(folder: Path) -> None:
        registry.unpack(GUEST, [package], folder)
        for other in folder.glob("usr/bin/*"):
            if other != folder / name:
                other.unlink()

    return registry.cache.entry("emulator", digest(GUEST.name, package, name), make) / name


def aarch64(registry: Registry) -> Python:
    """Return the guests' Python, of Debian for aarch64, emulated."""
    root = GuestPackages(registry).programs("aarch64")
    library = root / "standard-library/usr/lib/python3.11"
    return Python(
        (str(emulator(registry)), "-L", str(root), str(root / "usr/bin/python3.11")),
        {"PYTHONHOME": str(root / "usr"), "PYTHONPATH": f"{library}:{library / 'lib-dynload'}"},
    )


def _compiled(registry: Registry, zig: tuple[str, ...], target: str, linked: str, *options: str) -> Python:
    suites, package = SOURCE

    def make(folder: Path) -> None:
        registry.source(suites, package, folder / "source")
        [archive] = folder.glob("source/*.orig.tar.*z")
        tree = extract(archive, folder / "tree")
        programs = (f"CC={shlex.join(zig)} cc -target {target} {linked}", f"AR={shlex.join(zig)} ar")
        environment = os.environ | {"ZIG_GLOBAL_CACHE_DIR": str(folder / "zig")}
        for command in (["./configure", *CONFIGURE, *options, *programs], ["make", "-j2", "python", "pybuilddir.txt"]):
            subprocess.run(
                command, cwd=tree, env=environment, check=True, stdin=subprocess.DEVNULL, capture_output=True
            )
        shutil.rmtree(folder / "zig")
        for part in tree.rglob("*.[oa]"):
            part.unlink()

    key = digest(suites.name, package, target, linked, *CONFIGURE, *options)
    [python] = registry.cache.entry("interpreter", key, make).glob("tree/*/python")
    return Python((str(python),))
