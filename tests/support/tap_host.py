"""Runs in a network of its own: serves a card at a path, gives its TAP device an address, and takes one connection.

Its lines are ``ready``, once the card can be attached, and then those of ``net_check receive 5000``.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from pathlib import Path

from pyvirtio import serving
from pyvirtio.devices.net import Net
from tests.support.namespace import bring_up

NAME, ADDRESS = "pvtap0", "10.9.8.1"
PROGRAM = Path(__file__).parents[1] / "guest/programs/net_check.py"


def main(path: str) -> None:
    """Serve until the connection has ended."""
    with serving(Net(tap=NAME), path) as served:
        print("ready", flush=True)
        while True:  # it is made when a driver comes
            with contextlib.suppress(OSError):
                socket.if_nametoindex(NAME)
                break
            time.sleep(0.01)
        bring_up(NAME, ADDRESS)
        subprocess.run([sys.executable, str(PROGRAM), "receive", "5000"], check=True)
        sys.stdin.read()  # until the guest has ended
        assert served.faults == []


if __name__ == "__main__":
    main(sys.argv[1])
