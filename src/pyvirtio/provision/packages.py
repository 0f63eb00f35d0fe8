"""Packages from the machine's own registry, without touching the machine's own apt.

`Registry` downloads them with a private apt. Nothing is installed: packages are unpacked into a folder,
so root is not needed.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.errors import ProvisionError
from pyvirtio.provision.apt import (
    SETTINGS,
    Apt,
    binary_stanzas,
    failure,
    plain_environment,
    source_stanzas,
)
from pyvirtio.provision.cache import Cache, digest, no_room, says_no_room
from pyvirtio.provision.progress import Progress, Silent
from pyvirtio.provision.sources import (
    OPTIONS_INSTEAD,
    Archives,
    distribution_archives,
    machine_sources,
    release_of_machine,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LISTS_LAST = 24 * 3600  # seconds after which the lists of packages are fetched again
DEBIAN_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}  # of architectures, by the kernel's name


@dataclass(frozen=True)
class Suites:
    """One release of the distribution, as a private apt sees it, with or without its backports.

    Attributes:
        release: the code name.
        backports: whether packages come from the backports first.
    """

    release: str
    backports: bool = False

    @property
    def name(self) -> str:
        """Return the code name, with ``-backports`` if those come first."""
        return f"{self.release}-backports" if self.backports else self.release

    @property
    def preferred(self) -> str:
        """Return the suite whose packages win over newer ones; empty: the newest win, security updates included."""
        return self.name if self.backports else ""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the suites of the main archive."""
        extra = (f"{self.release}-backports",) if self.backports else ()
        return (self.release, f"{self.release}-updates", *extra)


@dataclass(frozen=True)
class Registry:
    """The machine's package registry.

    Attributes:
        cache: below whose root the settings and lists are kept.
        progress: where each step is reported.
        etc: the folder of apt's settings.
        os_release: the file that names the distribution.
    """

    cache: Cache
    progress: Progress = field(default_factory=Silent)
    etc: Path = Path("/etc/apt")
    os_release: Path = Path("/etc/os-release")

    def check(self) -> Archives:
        """Return the archives that this machine uses.

        Raises:
            ProvisionError: this is not Debian, or apt is not installed.
        """
        codename = release_of_machine(self.os_release)
        for tool in ("apt-get", "apt-cache", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise ProvisionError(f"{tool} is not installed, and provisioning needs it; {OPTIONS_INSTEAD}")
        return distribution_archives(machine_sources(self.etc), codename)

    def depends(self, suites: Suites, package: str) -> list[str]:
        """Return the packages on which `package` depends directly, the first of each list of alternatives."""
        apt = self._prepare(suites, package)
        text = apt.run("apt-cache", "show", "--no-all-versions", package)
        match = re.search(r"^Depends: (.*)$", text, re.MULTILINE)
        return [entry.split()[0] for entry in match[1].split(",")] if match else []

    def unpack(
        self,
        suites: Suites,
        packages: Iterable[str],
        into: Path,
        *,
        dependencies: bool = False,
        unwanted: Callable[[str], bool] = lambda _: False,
    ) -> list[str]:
        """Download packages, unpack them into the folder `into` and return their file names, sorted.

        A package name may end in ``:arm64``. With `dependencies`, everything that they need comes
        along; packages whose name is `unwanted` are not unpacked.

        Raises:
            ProvisionError: a package does not exist, the download failed, or the disk is full.
        """
        wanted = list(packages)
        apt = self._prepare(suites, *wanted)
        downloads = into / "download"
        (downloads / "partial").mkdir(parents=True)
        try:
            self._download(apt, wanted, downloads, dependencies=dependencies)
            archives = [deb for deb in sorted(downloads.glob("*.deb")) if not unwanted(deb.name.split("_")[0])]
            self._extract(archives, into)
        finally:
            shutil.rmtree(downloads)
        names = [deb.name for deb in archives]
        (into / "PACKAGES").write_text("".join(f"{name}\n" for name in names))
        return names

    def source(self, suites: Suites, package: str, into: Path) -> list[Path]:
        """Download a source package into the folder `into` and return its files, the description (``.dsc``) among them.

        Raises:
            ProvisionError: the package does not exist, the download failed, or the disk is full.
        """
        apt = self._prepare(suites, sources=True)
        into.mkdir(parents=True)
        with self.progress.step(f"downloading the source of {package}") as update:
            apt.run("apt-get", "-q", "source", "--download-only", package, cwd=into, update=update)
        return sorted(into.iterdir())

    def _download(self, apt: Apt, packages: list[str], downloads: Path, *, dependencies: bool) -> None:
        verb = ["install", "--download-only"] if dependencies else ["download"]
        command = ["apt-get", "-y", "-q", "-o", f"Dir::Cache::archives={downloads}", *verb, *packages]
        with self.progress.step(f"downloading {_listing(packages)}") as update:
            try:
                apt.run(*command, cwd=downloads, update=update)
            except ProvisionError as error:
                if says_no_room(str(error)):
                    raise
                # The lists may name versions that have left the archive since: look once more.
                self._update(apt)
                apt.run(*command, cwd=downloads, update=update)

    def _extract(self, archives: list[Path], into: Path) -> None:
        def extract(deb: Path) -> None:
            done = subprocess.run(
                ["dpkg-deb", "-x", deb, into],
                capture_output=True,
                text=True,
                check=False,
                env=plain_environment(),
            )
            if done.returncode:
                raise (no_room(self.cache.root) if says_no_room(done.stderr) else failure(["dpkg-deb"], done.stderr))

        with (
            self.progress.step(f"unpacking {len(archives)} packages") as update,
            ThreadPoolExecutor(os.cpu_count() or 1) as pool,
        ):
            for count, _ in enumerate(pool.map(extract, archives), start=1):
                update(count / len(archives))

    def _prepare(self, suites: Suites, *packages: str, sources: bool = False) -> Apt:
        """Return a private apt for `suites`, with lists that are recent enough.

        They are the lists of `packages` for their architectures, or those of source packages.
        """
        archives = self.check()
        native = native_architecture()
        foreign = {package.split(":")[1] for package in packages if ":" in package} - {native}
        architectures = [native, *sorted(foreign)]
        stanzas = (
            source_stanzas(archives, suites.release, suites.names)
            if sources
            else binary_stanzas(archives, suites.release, suites.names, architectures)
        )
        key = digest(SETTINGS, stanzas, suites.preferred, *architectures)
        apt = Apt(self.cache.root / "apt" / f"{suites.name}-{key}", self.cache.root)
        stamp = apt.folder / "updated"
        with self.cache.lock(f"apt-{apt.folder.name}"):
            if stamp.is_file() and 0 <= time.time() - stamp.stat().st_mtime < LISTS_LAST:
                return apt
            apt.configure(stanzas, architectures, suites.preferred)
            self._update(apt)
            stamp.touch()
        return apt

    def _update(self, apt: Apt) -> None:
        with self.progress.step("fetching the lists of packages") as update:
            apt.run("apt-get", "-q", "update", update=update)


def native_architecture() -> str:
    """Return Debian's name of this machine's architecture.

    Raises:
        ProvisionError: there is no recipe for this architecture.
    """
    machine = platform.machine()
    if machine not in DEBIAN_NAMES:
        raise ProvisionError(f"nothing can be provisioned on {machine}; {OPTIONS_INSTEAD}")
    return DEBIAN_NAMES[machine]


def _listing(packages: list[str]) -> str:
    return ", ".join(packages[:2]) + (f" and {len(packages) - 2} more" if len(packages) > 2 else "")
