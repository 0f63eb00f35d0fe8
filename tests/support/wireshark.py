"""Wireshark's reader for the terminal, tshark, out of Debian's packages, run without installing it."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio import trace
from pyvirtio.vm.guest_packages import GUEST
from tests.support.peers import PATIENCE, Packages, Peers

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = Packages(GUEST, ("tshark",), ("libwireshark-data",))
DISSECTOR = f"{trace.__path__[0]}/pyvirtio.lua"


@dataclass(frozen=True)
class Tshark:
    """The program, and the folder that it finds its own scripts in."""

    peers: Peers
    data: Path

    @classmethod
    def in_folder(cls, folder: Path) -> Tshark:
        """Return it; skip the test where it cannot be had. What it needs of its data is linked into ``folder``."""
        peers = Peers.of(PACKAGES)
        for entry in (peers.root / "usr/share/wireshark").iterdir():
            (folder / entry.name).symlink_to(entry)
        (folder / "init.lua").unlink()
        (folder / "init.lua").symlink_to(peers.root / "etc/wireshark/init.lua")  # the package's link is absolute
        return cls(peers, folder)

    def packets(self, file: Path, *fields: str) -> list[dict[str, Any]]:
        """Return the layers of each packet in a file."""
        options = [option for field in fields for option in ("-e", field)]
        done = subprocess.run(
            # For root it reads no scripts, and takes its data from nowhere but where it would be installed.
            [
                *(["unshare", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []),
                *self.peers.command("usr/bin/tshark", "-X", f"lua_script:{DISSECTOR}", "-r", str(file), "-T", "json"),
                *options,
            ],
            env={**os.environ, "WIRESHARK_DATA_DIR": str(self.data), "HOME": str(self.data)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if "unshare failed" in done.stderr:
            pytest.skip("root cannot have another user id here, and tshark reads no scripts for root")
        assert done.returncode == 0, done.stderr
        assert "Lua" not in done.stderr, done.stderr
        return [packet["_source"]["layers"] for packet in json.loads(done.stdout)]
