"""The two C programs: the front-end that measures, and the peer on QEMU's own libvhost-user.

Both are built when they are first needed and kept in the cache. The library's source is not part of pyvirtio: it is
taken from the distribution's QEMU source package.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tarfile
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.errors import ProvisionError
from pyvirtio.provision.cache import Cache, digest
from pyvirtio.provision.packages import Registry, Suites
from pyvirtio.provision.progress import Progress, Silent
from pyvirtio.provision.sources import release_of_machine

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCES = Path(str(files("pyvirtio"))) / "bench" / "c"
FRONT_END, BACK_END = SOURCES / "frontend.c", SOURCES / "backend.c"

OPTIMISED = ("-O2",)
WARNINGS = ("-Wall", "-Wextra", "-Werror")
LIBRARY = "libvhost-user"
# Where its files are among QEMU's sources, and where they go: links in its folder point to the others.
PLACES = {
    f"subprojects/{LIBRARY}/": "",
    "include/qemu/atomic.h": "include/atomic.h",
    "include/qemu/compiler.h": "include/compiler.h",
    "include/standard-headers/linux/": "standard-headers/linux/",
}


def compiler() -> list[str]:
    """Give the C compiler's command: ``$CC``, or gcc.

    Raises:
        ProvisionError: there is none.
    """
    command = shlex.split(os.environ.get("CC", "gcc"))
    if not command or shutil.which(command[0]) is None:
        raise ProvisionError("there is no C compiler; install gcc")
    return command


def compiler_version() -> str:
    """Give the compiler's own first line about itself."""
    done = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0]


@dataclass(frozen=True)
class Programs:
    """Builds the programs, and keeps them in ``cache``."""

    cache: Cache
    progress: Progress = field(default_factory=Silent)

    def frontend(self) -> Path:
        """Give the front-end, ready to run.

        Raises:
            ProvisionError: there is no compiler, or it failed.
        """

        def make(folder: Path) -> None:
            compile_c(FRONT_END, folder / "frontend", "-std=gnu11", *WARNINGS)

        return self._entry("bench-frontend", FRONT_END.read_bytes(), make=make) / "frontend"

    def backend(self) -> Path:
        """Give the peer, ready to run.

        Raises:
            ProvisionError: there is no compiler, or the library's source cannot be had.
        """
        compiler()  # without one, there is no need to download anything
        sources = self.library()

        def make(folder: Path) -> None:
            include = ["-isystem", str(sources), "-isystem", str(sources / "include")]
            library = str(folder / "library.o")
            with self.progress.step(f"compiling {LIBRARY}"):
                compile_c(sources / f"{LIBRARY}.c", Path(library), "-std=gnu99", "-D_GNU_SOURCE", "-c", *include)
                compile_c(BACK_END, folder / "backend", "-std=gnu11", *WARNINGS, *include, library, "-lpthread")

        return self._entry("bench-backend", BACK_END.read_bytes(), sources.name.encode(), make=make) / "backend"

    def library(self) -> Path:
        """Give the folder with the library's source, and the file ``PACKAGE`` that says where it is from.

        Raises:
            ProvisionError: it cannot be had.
        """
        suites = Suites(release_of_machine())

        def make(folder: Path) -> None:
            downloaded = folder / "download"
            archives = Registry(self.cache, self.progress).source(suites, "qemu", downloaded)
            description = next(path for path in archives if path.suffix == ".dsc")
            (folder / "PACKAGE").write_text(f"{description.stem.replace('_', ' ')}\n")
            with self.progress.step(f"unpacking {LIBRARY}"):
                unpack(next(path for path in archives if ".orig.tar." in path.name), folder)
            shutil.rmtree(downloaded)

        return self.cache.entry("libvhost-user", digest(suites.name, *PLACES), make)

    def library_version(self) -> str:
        """Give the source package that the library is from."""
        return (self.library() / "PACKAGE").read_text().strip()

    def _entry(self, kind: str, *parts: bytes, make: Callable[[Path], None]) -> Path:
        return self.cache.entry(kind, digest(*parts, compiler_version(), *OPTIMISED, *WARNINGS), make)


def compile_c(source: Path, target: Path, *options: str) -> None:
    """Compile one file.

    Raises:
        ProvisionError: the compiler says no.
    """
    command = [*compiler(), *OPTIMISED, str(source), *options, "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise ProvisionError(f"{source.name} cannot be compiled:\n{done.stderr.strip()[-2000:]}")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack of QEMU's sources what the library is made of.

    Raises:
        ProvisionError: it is not in there.
    """
    with tarfile.open(archive) as tar:
        for member in tar:
            target, content = place(member.name), tar.extractfile(member) if member.isfile() else None
            if target and content:
                path = folder / target
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
    missing = [name for name in (f"{LIBRARY}.c", "include/atomic.h") if not (folder / name).exists()]
    if missing:
        raise ProvisionError(f"{archive.name} has no {' and no '.join(missing)}; the C peer cannot be built")


def place(name: str) -> str:
    """Tell where a file of QEMU's sources goes; nowhere if the library does not need it.

    >>> place("qemu-7.2.0/subprojects/libvhost-user/libvhost-user.c"), place("qemu-7.2.0/vl.c")
    ('libvhost-user.c', '')
    """
    path = name.partition("/")[2]
    for start, target in PLACES.items():
        if path.startswith(start) and ".." not in path:
            return target + path[len(start) :]
    return ""
