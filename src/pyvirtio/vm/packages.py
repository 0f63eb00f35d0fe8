"""Packages from the machine's own registry, without touching the machine's own apt.

`Registry` runs apt with settings of its own: other sources, architectures and folders, all below the
cache, and an empty list of installed packages. apt verifies signatures and check sums as it always does.
Nothing is installed: packages are unpacked into a folder, so root is not needed.
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
from pyvirtio.vm.cache import Cache, digest, no_room, says_no_room
from pyvirtio.vm.progress import Progress, Silent
from pyvirtio.vm.sources import (
    DISTRIBUTION_KEYS,
    OPTIONS_INSTEAD,
    Archives,
    Source,
    distribution_archives,
    machine_sources,
    release_of_machine,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LISTS_LAST = 24 * 3600  # seconds after which the lists of packages are fetched anew
DEBIAN_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}  # of architectures, by the kernel's name

SETTINGS = """\
Dir::State "{folder}/state";
Dir::State::status "{folder}/state/status";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{folder}/sources";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "{native}";
#clear APT::Architectures;
APT::Architectures {{{architectures}}};
APT::Default-Release "{default}";
APT::Install-Recommends "false";
APT::Sandbox::User "";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "3";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Invoke;
#clear DPkg::Pre-Install-Pkgs;
"""


@dataclass(frozen=True)
class Suites:
    """What a private apt sees: one release of the distribution, perhaps with its backports.

    Attributes:
        release: the code name.
        backports: whether packages come from the backports first.
    """

    release: str
    backports: bool = False

    @property
    def name(self) -> str:
        """The code name, with ``-backports`` if those come first."""
        return f"{self.release}-backports" if self.backports else self.release

    @property
    def preferred(self) -> str:
        """The suite whose packages win over newer ones; empty: the newest wins, security updates included."""
        return self.name if self.backports else ""

    @property
    def names(self) -> tuple[str, ...]:
        """The suites of the main archive."""
        extra = (f"{self.release}-backports",) if self.backports else ()
        return (self.release, f"{self.release}-updates", *extra)


@dataclass(frozen=True)
class Registry:
    """The machine's package registry.

    Attributes:
        cache: below whose root the settings and lists are kept.
        progress: told of each step.
        etc: apt's folder of settings.
        os_release: says which distribution this is.
    """

    cache: Cache
    progress: Progress = field(default_factory=Silent)
    etc: Path = Path("/etc/apt")
    os_release: Path = Path("/etc/os-release")

    def check(self) -> Archives:
        """The archives that this machine uses.

        Raises:
            ProvisionError: not on this distribution, or without apt.
        """
        codename = release_of_machine(self.os_release)
        for tool in ("apt-get", "apt-cache", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise ProvisionError(f"{tool} is not there, and provisioning needs it; {OPTIONS_INSTEAD}")
        return distribution_archives(machine_sources(self.etc), codename)

    def depends(self, suites: Suites, package: str) -> list[str]:
        """The packages on which `package` depends directly, the first of each list of alternatives."""
        folder = self._prepare(suites, package)
        text = self._run(folder, "apt-cache", "show", "--no-all-versions", package)
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
        """Download packages and unpack them into the folder `into`; returns their file names, sorted.

        A package name may end in ``:arm64``. With `dependencies` comes everything that they need;
        files of packages whose name is `unwanted` are not unpacked.

        Raises:
            ProvisionError: a package is not to be had, the download failed, or the disk is full.
        """
        wanted = list(packages)
        folder = self._prepare(suites, *wanted)
        downloads = into / "download"
        (downloads / "partial").mkdir(parents=True)
        try:
            self._download(folder, wanted, downloads, dependencies=dependencies)
            archives = [deb for deb in sorted(downloads.glob("*.deb")) if not unwanted(deb.name.split("_")[0])]
            self._extract(archives, into)
        finally:
            shutil.rmtree(downloads)
        names = [deb.name for deb in archives]
        (into / "PACKAGES").write_text("".join(f"{name}\n" for name in names))
        return names

    def source(self, suites: Suites, package: str, into: Path) -> list[Path]:
        """Download a source package into the folder `into`; its files, the description (``.dsc``) among them.

        Raises:
            ProvisionError: the package is not to be had, the download failed, or the disk is full.
        """
        folder = self._prepare(suites, sources=True)
        into.mkdir(parents=True)
        with self.progress.step(f"downloading the source of {package}") as update:
            self._run(folder, "apt-get", "-q", "source", "--download-only", package, cwd=into, update=update)
        return sorted(into.iterdir())

    def _download(self, folder: Path, packages: list[str], downloads: Path, *, dependencies: bool) -> None:
        verb = ["install", "--download-only"] if dependencies else ["download"]
        command = ["apt-get", "-y", "-q", "-o", f"Dir::Cache::archives={downloads}", *verb, *packages]
        with self.progress.step(f"downloading {_listing(packages)}") as update:
            try:
                self._run(folder, *command, cwd=downloads, update=update)
            except ProvisionError as error:
                if says_no_room(str(error)):
                    raise
                # The lists may name versions that have left the archive since: look once more.
                self._update(folder)
                self._run(folder, *command, cwd=downloads, update=update)

    def _extract(self, archives: list[Path], into: Path) -> None:
        def extract(deb: Path) -> None:
            done = subprocess.run(
                ["dpkg-deb", "-x", deb, into],
                capture_output=True,
                text=True,
                check=False,
                env=_plain_environment(),
            )
            if done.returncode:
                raise (no_room(self.cache.root) if says_no_room(done.stderr) else _failure(["dpkg-deb"], done.stderr))

        with (
            self.progress.step(f"unpacking {len(archives)} packages") as update,
            ThreadPoolExecutor(os.cpu_count() or 1) as pool,
        ):
            for count, _ in enumerate(pool.map(extract, archives), start=1):
                update(count / len(archives))

    def _prepare(self, suites: Suites, *packages: str, sources: bool = False) -> Path:
        """A folder with apt's settings for `suites`, and with lists that are fresh enough.

        They are the lists of `packages` for their architectures, or those of source packages.
        """
        archives = self.check()
        native = native_architecture()
        foreign = {package.split(":")[1] for package in packages if ":" in package} - {native}
        architectures = [native, *sorted(foreign)]
        stanzas = "".join(_stanzas(archives, suites, [] if sources else architectures))
        settings_key = digest(SETTINGS, stanzas, suites.preferred, *architectures)
        folder = self.cache.root / "apt" / f"{suites.name}-{settings_key}"
        stamp = folder / "updated"
        with self.cache.lock(f"apt-{folder.name}"):
            if stamp.is_file() and 0 <= time.time() - stamp.stat().st_mtime < LISTS_LAST:
                return folder
            for below in ("state/lists/partial", "cache/archives/partial", "sources"):
                (folder / below).mkdir(parents=True, exist_ok=True)
            (folder / "state/status").touch()
            (folder / "sources/debian.sources").write_text(stanzas)
            settings = SETTINGS.format(
                folder=folder,
                native=native,
                architectures="".join(f'"{name}";' for name in architectures),
                default=suites.preferred,
            )
            (folder / "apt.conf").write_text(settings)
            self._update(folder)
            stamp.touch()
        return folder

    def _update(self, folder: Path) -> None:
        with self.progress.step("fetching the lists of packages") as update:
            self._run(folder, "apt-get", "-q", "update", update=update)

    def _run(
        self,
        folder: Path,
        program: str,
        *arguments: str,
        cwd: Path | None = None,
        update: Callable[[float], None] = lambda _: None,
    ) -> str:
        """Run a program of apt with the private settings; its output. `update` is told how far it came."""
        command = [program, "-c", str(folder / "apt.conf"), *arguments]
        reading, writing = os.pipe()
        if program == "apt-get":
            command[3:3] = ["-o", f"APT::Status-Fd={writing}"]
        with ThreadPoolExecutor(1) as pool, os.fdopen(reading) as status:
            try:
                following = pool.submit(_follow, status, update)
                done = subprocess.run(
                    command,
                    cwd=cwd or folder,
                    env=_plain_environment(),
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    check=False,
                    pass_fds=[writing],
                )
            finally:
                os.close(writing)
            following.result()
        if done.returncode == 0:
            return done.stdout
        if says_no_room(done.stderr):
            raise no_room(self.cache.root)
        raise _failure([program, *arguments], done.stderr)


def native_architecture() -> str:
    """Debian's name of this machine's architecture.

    Raises:
        ProvisionError: there is no recipe for it.
    """
    machine = platform.machine()
    if machine not in DEBIAN_NAMES:
        raise ProvisionError(f"nothing can be provisioned on {machine}; {OPTIONS_INSTEAD}")
    return DEBIAN_NAMES[machine]


def _stanzas(archives: Archives, suites: Suites, architectures: list[str]) -> Iterable[str]:
    yield _stanza(archives.main, suites.names, architectures)
    if archives.security:
        yield _stanza(archives.security, (f"{suites.release}-security",), architectures)


def _stanza(source: Source, suites: tuple[str, ...], architectures: list[str]) -> str:
    """The lists of packages for `architectures`; with none, those of source packages."""
    # Another release is signed by other keys of the distribution than the one that the machine's own
    # source names; a key that is embedded in the source cannot be combined with a file.
    signed_by = source.signed_by
    if "\n" not in signed_by and DISTRIBUTION_KEYS.is_file():
        signed_by = " ".join({DISTRIBUTION_KEYS.as_posix(): None, **dict.fromkeys(signed_by.split())})
    lines = [
        "Types: deb" if architectures else "Types: deb-src",
        f"URIs: {' '.join(source.uris)}",
        f"Suites: {' '.join(suites)}",
        "Components: main",
        *([f"Architectures: {' '.join(architectures)}"] if architectures else []),
        "Targets: Packages" if architectures else "Targets: Sources",
        *([f"Signed-By: {signed_by}"] if signed_by else []),
    ]
    return "\n".join(lines) + "\n\n"


def _follow(status: Iterable[str], update: Callable[[float], None]) -> None:
    """Hand on the percentages of apt's status lines (``dlstatus:1:20.5:Retrieving file …``)."""
    for line in status:
        if match := re.match(r"dlstatus:[^:]*:([0-9.]+):", line):
            update(float(match[1]) / 100)


def _plain_environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}


def _listing(packages: list[str]) -> str:
    return ", ".join(packages[:2]) + (f" and {len(packages) - 2} more" if len(packages) > 2 else "")


def _failure(command: list[str], complaint: str) -> ProvisionError:
    lines = [
        line for line in complaint.splitlines() if line.startswith(("E:", "dpkg-deb: error"))
    ] or complaint.splitlines()
    what = " ".join(part for part in command if not part.startswith(("-", "Dir::", "APT::")))
    reason = "; ".join(lines[-3:]) or "it gave no reason"
    return ProvisionError(
        f"{what} failed: {reason}\n"
        f"Check that `apt-get update` works on this machine, then try again; or {OPTIONS_INSTEAD}"
    )
