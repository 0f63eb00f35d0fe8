"""A network of a test's own: a network namespace, and a user namespace around it, for which no right is needed."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNSHARE = ("unshare", "--user", "--map-root-user", "--net")
# <linux/sockios.h>, <linux/if.h>
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK = 0x8913, 0x8914, 0x8916, 0x891C
IFF_UP = 1


def command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a Python module in a network of its own; skip the test where there can be none."""
    if (
        shutil.which("unshare") is None
        or subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("no network namespace can be made here")
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("TAP devices cannot be used here")
    return [*UNSHARE, sys.executable, "-m", module, *arguments]


def run(module: str, *arguments: str, timeout: float = 60) -> str:
    """Run a module to its end; return what it printed."""
    done = subprocess.run(
        command(module, *arguments), cwd=ROOT, timeout=timeout, check=False, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    return done.stdout


# What runs inside.


def bring_up(name: str, address: str) -> None:
    """Give a network device an address in a network of 256, and bring it up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:

        def request(number: int, value: bytes) -> bytes:
            return fcntl.ioctl(any_socket, number, name.encode().ljust(16, b"\0") + value.ljust(24, b"\0"))

        for number, text in ((SIOCSIFADDR, address), (SIOCSIFNETMASK, "255.255.255.0")):
            request(number, struct.pack("H2s4s", socket.AF_INET, b"", socket.inet_aton(text)))
        (flags,) = struct.unpack_from("H", request(SIOCGIFFLAGS, b""), 16)
        request(SIOCSIFFLAGS, struct.pack("H", flags | IFF_UP))
