"""DPDK's testpmd, of Debian 13, as a front-end of vhost-user: a driver of network cards that nobody here wrote.

Its forwarding mode *icmpecho* answers questions of ARP and pings, whatever address they are for.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import ProvisionError
from pyvirtio.provision.cache import Cache, default_root, digest
from pyvirtio.provision.packages import Registry, Suites
from pyvirtio.vm.guest_packages import prune
from tests.support.peers import Peers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SUITES = Suites("trixie")
PACKAGE = "dpdk-dev"  # testpmd is in it; its dependencies are many, of which these are needed to run
NEEDED = ("lib", "ibverbs-providers")
NOT_NEEDED = ("-dev", "libpython", "libdebconf", "libx11", "libgl", "libperl")
DRIVERS = ("net_virtio", "mempool_ring")
MEMORY = "128"  # MiB, of ordinary memory


def _unwanted(package: str) -> bool:
    return package != PACKAGE and (not package.startswith(NEEDED) or any(word in package for word in NOT_NEEDED))


def root() -> Path:
    """Return the folder that it was unpacked into; skip the test where it cannot be had, or cannot run."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("testpmd takes two processors")
    registry = Registry(Cache(default_root()))

    def make(folder: Path) -> None:
        registry.unpack(SUITES, [PACKAGE], folder, dependencies=True, unwanted=_unwanted)
        prune(folder)

    try:
        return registry.cache.entry("dpdk", digest(SUITES.name, PACKAGE, *NEEDED, *NOT_NEEDED), make)
    except ProvisionError as error:
        pytest.skip(f"DPDK cannot be provisioned here: {error}")


@contextlib.contextmanager
def icmp_echo(socket: Path, mac: str) -> Iterator[subprocess.Popen[str]]:
    """Have it answer as the driver of the card behind ``socket`` while the block runs."""
    folder = root()
    libraries = next((folder / "usr/lib").glob("*-linux-gnu"))
    first, second, *_ = sorted(os.sched_getaffinity(0))
    command = Peers(folder).command(
        "usr/bin/dpdk-testpmd",
        *(word for name in DRIVERS for word in ("-d", str(next(libraries.glob(f"dpdk/pmds-*/librte_{name}.so.*"))))),
        *("-l", f"{first},{second}", "--no-huge", "-m", MEMORY, "--no-pci", "--no-telemetry", "--no-shconf"),
        f"--vdev=net_virtio_user0,path={socket},mac={mac},queues=1",
        *("--", "--forward-mode=icmpecho", "--auto-start", "--total-num-mbufs=2048", "--no-mlockall"),
    )
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said, text=True)
        assert process.stdin is not None
        try:
            yield process
        except BaseException as error:
            said.seek(0)
            error.add_note(f"testpmd said:\n{said.read()[-2000:]}")
            raise
        finally:
            process.stdin.close()  # it ends by itself then
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()
