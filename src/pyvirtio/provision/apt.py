"""A private apt: settings that keep it away from the machine's own, and one run of a program of it.

Everything that apt writes stays below one folder, and its list of installed packages is empty. apt
verifies signatures and check sums as it always does.
"""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvirtio.errors import ProvisionError
from pyvirtio.provision.cache import no_room, says_no_room
from pyvirtio.provision.sources import DISTRIBUTION_KEYS, OPTIONS_INSTEAD, Archives, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

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
class Apt:
    """An apt whose settings, lists and downloads are all in one folder.

    Attributes:
        folder: where it keeps everything.
        root: the cache that the folder belongs to, named when the disk is full.
    """

    folder: Path
    root: Path

    def configure(self, stanzas: str, architectures: Sequence[str], default_release: str) -> None:
        """Write the settings; the first of `architectures` is the machine's own."""
        for below in ("state/lists/partial", "cache/archives/partial", "sources"):
            (self.folder / below).mkdir(parents=True, exist_ok=True)
        (self.folder / "state/status").touch()
        (self.folder / "sources/debian.sources").write_text(stanzas)
        settings = SETTINGS.format(
            folder=self.folder,
            native=architectures[0],
            architectures="".join(f'"{name}";' for name in architectures),
            default=default_release,
        )
        (self.folder / "apt.conf").write_text(settings)

    def run(
        self,
        program: str,
        *arguments: str,
        cwd: Path | None = None,
        update: Callable[[float], None] = lambda _: None,
    ) -> str:
        """Run ``apt-get`` or ``apt-cache`` and return its output.

        Args:
            program: which of the two.
            arguments: its command line.
            cwd: the folder to run it in.
            update: called with the part that is done, 0 to 1.

        Raises:
            ProvisionError: it failed; the message ends with its reason.
        """
        command = [program, "-c", str(self.folder / "apt.conf"), *arguments]
        reading, writing = os.pipe()
        if program == "apt-get":
            command[3:3] = ["-o", f"APT::Status-Fd={writing}"]
        with ThreadPoolExecutor(1) as pool, os.fdopen(reading) as status:
            try:
                following = pool.submit(_follow, status, update)
                done = subprocess.run(
                    command,
                    cwd=cwd or self.folder,
                    env=plain_environment(),
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
            raise no_room(self.root)
        raise failure([program, *arguments], done.stderr)


def binary_stanzas(archives: Archives, release: str, suites: Sequence[str], architectures: Sequence[str]) -> str:
    """Return the sources of binary packages of one release, as apt reads them."""
    scope = ["Types: deb", f"Architectures: {' '.join(architectures)}", "Targets: Packages"]
    return _stanzas(archives, release, suites, scope)


def source_stanzas(archives: Archives, release: str, suites: Sequence[str]) -> str:
    """Return the sources of source packages of one release, as apt reads them."""
    return _stanzas(archives, release, suites, ["Types: deb-src", "Targets: Sources"])


def _stanzas(archives: Archives, release: str, suites: Sequence[str], scope: Sequence[str]) -> str:
    text = _stanza(archives.main, suites, scope)
    return text + _stanza(archives.security, [f"{release}-security"], scope) if archives.security else text


def _stanza(source: Source, suites: Sequence[str], scope: Sequence[str]) -> str:
    # Another release is signed by other keys of the distribution than the one that the machine's own
    # source names; a key that is embedded in the source cannot be combined with a file.
    signed_by = source.signed_by
    if "\n" not in signed_by and DISTRIBUTION_KEYS.is_file():
        signed_by = " ".join({DISTRIBUTION_KEYS.as_posix(): None, **dict.fromkeys(signed_by.split())})
    lines = [
        *scope,
        f"URIs: {' '.join(source.uris)}",
        f"Suites: {' '.join(suites)}",
        "Components: main",
        *([f"Signed-By: {signed_by}"] if signed_by else []),
    ]
    return "\n".join(lines) + "\n\n"


def _follow(status: Iterable[str], update: Callable[[float], None]) -> None:
    """Hand on the percentages of apt's status lines (``dlstatus:1:20.5:Retrieving file …``)."""
    for line in status:
        if match := re.match(r"dlstatus:[^:]*:([0-9.]+):", line):
            update(float(match[1]) / 100)


def plain_environment() -> dict[str, str]:
    """Return an environment in which the packaging tools speak English and ask nothing."""
    return {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}


def failure(command: Sequence[str], complaint: str) -> ProvisionError:
    """Return the error for a packaging tool that failed, with the lines in which it says why."""
    lines = [
        line for line in complaint.splitlines() if line.startswith(("E:", "dpkg-deb: error"))
    ] or complaint.splitlines()
    what = " ".join(part for part in command if not part.startswith(("-", "Dir::", "APT::")))
    reason = "; ".join(lines[-3:]) or "no reason was printed"
    return ProvisionError(
        f"{what} failed: {reason}\n"
        f"Check that `apt-get update` works on this machine, then try again; or {OPTIONS_INSTEAD}"
    )
