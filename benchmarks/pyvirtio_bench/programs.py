"""The two C programs: the front-end that measures, and the peer on QEMU's own libvhost-user.

Both are built when they are first needed and kept in the cache. The library's source is not part of pyvirtio: it comes
from the distribution's QEMU source package.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.errors import ProvisionError
from pyvirtio_bench.provision import cache, packages, progress, sources

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCES = Path(__file__).with_name("c")
FRONTEND, BACKEND = SOURCES / "frontend.c", SOURCES / "backend.c"

OPTIMISED = ("-O2",)
WARNINGS = ("-Wall", "-Wextra", "-Werror")
LIBRARY = "libvhost-user"
# Which of QEMU's source files the library needs, and where they go: links in its folder point to the others.
DESTINATIONS = {
    f"subprojects/{LIBRARY}/": "",
    "include/qemu/atomic.h": "include/atomic.h",
    "include/qemu/compiler.h": "include/compiler.h",
    "include/standard-headers/linux/": "standard-headers/linux/",
}


def compiler() -> list[str]:
    """Return the C compiler's command: ``$CC``, or gcc.

    Raises:
        ProvisionError: it is not installed.
    """
    command = shlex.split(os.environ.get("CC", "gcc"))
    if not command or shutil.which(command[0]) is None:
        raise ProvisionError("there is no C compiler; install gcc")
    return command


def compiler_version() -> str:
    """Return the first line that the compiler prints about its version."""
    done = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0]


@dataclass(frozen=True)
class Programs:
    """Builds the programs, and keeps them in ``cache``."""

    cache: cache.Cache
    progress: progress.Progress = field(default_factory=progress.Silent)

    def frontend(self) -> Path:
        """Return the front-end, ready to run.

        Raises:
            ProvisionError: there is no compiler, or it failed.
        """

        def make(folder: Path) -> None:
            compile_c(FRONTEND, folder / "frontend", "-std=gnu11", *WARNINGS)

        parts = [path.read_bytes() for path in sorted(SOURCES.glob("frontend/*.c.inc"))]
        return self._entry("bench-frontend", FRONTEND.read_bytes(), *parts, make=make) / "frontend"

    def backend(self) -> Path:
        """Return the peer, ready to run.

        Raises:
            ProvisionError: there is no compiler, or the library's source is out of reach.
        """
        compiler()  # without one, there is no need to download anything
        library = self.library()

        def make(folder: Path) -> None:
            include = ["-isystem", str(library), "-isystem", str(library / "include")]
            compiled = str(folder / "library.o")
            with self.progress.step(f"compiling {LIBRARY}"):
                compile_c(library / f"{LIBRARY}.c", Path(compiled), "-std=gnu99", "-D_GNU_SOURCE", "-c", *include)
                compile_c(BACKEND, folder / "backend", "-std=gnu11", *WARNINGS, *include, compiled, "-lpthread")

        return self._entry("bench-backend", BACKEND.read_bytes(), library.name.encode(), make=make) / "backend"

    def library(self) -> Path:
        """Return the folder with the library's source, and the file ``PACKAGE`` that names the source package.

        Raises:
            ProvisionError: it is out of reach.
        """
        suites = packages.Suites(sources.release_of_machine())

        def make(folder: Path) -> None:
            downloaded = folder / "download"
            archives = packages.Registry(self.cache, self.progress).source(suites, "qemu", downloaded)
            description = next(path for path in archives if path.suffix == ".dsc")
            (folder / "PACKAGE").write_text(f"{description.stem.replace('_', ' ')}\n")
            with self.progress.step(f"unpacking {LIBRARY}"):
                unpack(next(path for path in archives if ".orig.tar." in path.name), folder)
            shutil.rmtree(downloaded)

        return self.cache.entry("libvhost-user", cache.digest(suites.name, *DESTINATIONS), make)

    def library_version(self) -> str:
        """Return the name and version of the source package that the library comes from."""
        return (self.library() / "PACKAGE").read_text().strip()

    def _entry(self, kind: str, *parts: bytes, make: Callable[[Path], None]) -> Path:
        return self.cache.entry(kind, cache.digest(*parts, compiler_version(), *OPTIMISED, *WARNINGS), make)


def compile_c(source: Path, target: Path, *options: str) -> None:
    """Compile one file.

    Raises:
        ProvisionError: the compiler refuses it.
    """
    command = [*compiler(), *OPTIMISED, str(source), *options, "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise ProvisionError(f"{source.name} cannot be compiled:\n{done.stderr.strip()[-2000:]}")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the files that make up the library from QEMU's sources.

    Raises:
        ProvisionError: the archive lacks them.
    """
    with tarfile.open(archive) as tar:
        for member in tar:
            target, content = destination(member.name), tar.extractfile(member) if member.isfile() else None
            if target and content:
                path = folder / target
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
    missing = [name for name in (f"{LIBRARY}.c", "include/atomic.h") if not (folder / name).exists()]
    if missing:
        raise ProvisionError(f"{archive.name} has no {' and no '.join(missing)}; the C peer cannot be built")


def destination(name: str) -> str:
    """Return where a file of QEMU's sources goes; an empty string if the library does not need it.

    >>> destination("qemu-7.2.0/subprojects/libvhost-user/libvhost-user.c"), destination("qemu-7.2.0/vl.c")
    ('libvhost-user.c', '')
    """
    path = name.partition("/")[2]
    for start, target in DESTINATIONS.items():
        if path.startswith(start) and ".." not in path:
            return target + path[len(start) :]
    return ""
