"""passt, of Debian 13: somebody else's network, behind a stream as QEMU's ``-netdev stream`` or behind vhost-user.

Its guest has the address `GUEST`; what that sends to `GATEWAY` reaches this machine's loopback.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING

import pytest

from pyvirtio.provision.packages import Suites
from tests.support.peers import Packages, Peers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGES = Packages(Suites("trixie"), ("passt",), ())
GUEST, GATEWAY = "10.0.2.15", "10.0.2.2"
OPTIONS = (
    *("--foreground", "--address", GUEST, "--netmask", "24", "--gateway", GATEWAY),
    *("--tcp-ports", "none", "--udp-ports", "none", "--no-dhcp", "--no-dhcpv6", "--no-ra", "--no-ndp"),
    *("--runas", f"{os.getuid()}:{os.getgid()}"),
)


@contextlib.contextmanager
def passt(path: Path, *options: str) -> Iterator[None]:
    """Have it listen on the socket ``path`` while the block runs."""
    if shutil.which("ip") is None:  # it takes what it is not told from the machine's own network
        pytest.skip("this machine has no network tools")
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            Peers.of(PACKAGES).command("usr/bin/passt", *OPTIONS, "--socket", str(path), *options),
            stdin=subprocess.DEVNULL,
            stderr=said,
            text=True,
        )

        def words() -> str:
            said.seek(0)
            return said.read()

        try:
            while "You can" not in words():  # start a guest with it: it listens
                if process.poll() is not None:
                    pytest.skip(f"passt does not run here: {words()}")
                time.sleep(0.01)
            yield
        except BaseException as error:
            error.add_note(f"passt said:\n{words()[-2000:]}")
            raise
        finally:
            process.terminate()
            process.wait(30)
            for left in (path, path.with_name(f"{path.name}.repair")):
                left.unlink(missing_ok=True)
