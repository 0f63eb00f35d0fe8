"""A Debian whose apt is a script: it answers as a test asks, and logs how it was called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvirtio.provision.cache import Cache
from pyvirtio.provision.packages import Registry

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

APT_GET = """#!/bin/sh
echo "$@" >>{log}
for word in "$@"; do case $word in
APT::Status-Fd=*) echo dlstatus:1:50.0:Retrieving >/proc/self/fd/${{word#*=}} ;;
esac; done
case "$*" in
*update*) {update} ;;
*download*) {download} ;;
esac
"""
DPKG_DEB = """#!/bin/sh
mkdir -p "$3/usr" && touch "$3/usr/$(basename "$2")"
"""
APT_CACHE = """#!/bin/sh
printf 'Package: x\\nDepends: linux-image-6.1-cloud (= 1), kmod | other, linux-base\\n'
"""


class FakeMachine:
    """A Debian whose apt is a script."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.log = root / "log"
        (root / "etc").mkdir()
        (root / "bin").mkdir()
        (root / "etc/sources.list").write_text(
            "deb [signed-by=/own.gpg] http://mirror.example/debian bookworm main\n"
            "deb http://mirror.example/security bookworm-security main\n"
        )
        (root / "os-release").write_text("ID=debian\nVERSION_CODENAME=bookworm\n")
        monkeypatch.setenv("PATH", f"{root}/bin:/usr/bin:/bin")
        self.script("dpkg-deb", DPKG_DEB)
        self.script("apt-cache", APT_CACHE)
        self.apt()

    def apt(self, *, update: str = "exit 0", download: str = "touch one_1.deb two_2.deb") -> None:
        self.script("apt-get", APT_GET.format(log=self.log, update=update, download=download))

    def script(self, name: str, text: str) -> None:
        path = self.root / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def registry(self) -> Registry:
        return Registry(Cache(self.root / "cache"), etc=self.root / "etc", os_release=self.root / "os-release")

    def calls(self, word: str) -> int:
        return sum(word in line.split() for line in self.log.read_text().splitlines())
