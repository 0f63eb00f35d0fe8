"""Serves two network cards on a switch, in one process, until it is terminated: two_cards.py SOCKET MAC SOCKET MAC."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from pyvirtio import serving
from pyvirtio.devices.net import Net
from pyvirtio.network import Mac, Switch


def main(one: str, first: str, two: str, second: str) -> None:
    """Serve; a file beside the first socket says that both are ready."""
    switch = Switch()
    with serving(Net(switch.port(), mac=Mac(first)), one), serving(Net(switch.port(), mac=Mac(second)), two):
        Path(f"{one}.ready").touch()
        signal.sigwait({signal.SIGTERM})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # before there are threads
    main(*sys.argv[1:])
