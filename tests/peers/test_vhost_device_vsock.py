"""Our driver of sockets, and rust-vmm's vhost-device-vsock behind it: the same Unix sockets, another author."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvirtio import open_driver
from pyvirtio.drivers.vsock import VsockDriver
from pyvirtio.errors import NoAnswer
from pyvirtio.provision.packages import Suites
from tests.support.peers import Packages, Peers
from tests.support.vhost import until
from tests.support.vsock import GUEST, digest, program, shout

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

pytestmark = pytest.mark.guest

PACKAGES = Packages(Suites("forky"), ("libgcc-s1",), ("vhost-device-vsock",))  # Debian 14; 13 has not got it
HOST_PORT, GUEST_PORT = 81, 5


def listens(path: Path) -> bool:
    """Return whether somebody listens on a socket, without connecting: a back-end would take that for its front-end."""
    sockets = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return any(words[-1] == str(path) and words[3] == "00010000" for words in sockets)


@contextlib.contextmanager
def driven(path: Path) -> Iterator[VsockDriver]:
    """Serve a guest whose sockets are at ``path``, and be that guest."""
    peers, place = Peers.of(PACKAGES), path.with_name("s")
    options = (f"--guest-cid={GUEST}", f"--socket={place}", f"--uds-path={path}")
    with contextlib.ExitStack() as stack:
        stack.callback(place.unlink, missing_ok=True)
        stack.callback(path.unlink, missing_ok=True)
        stack.enter_context(peers.running("usr/bin/vhost-device-vsock", *options))
        until(lambda: listens(place))
        yield stack.enter_context(open_driver(VsockDriver, f"vhost-user:{place}"))


def test_both_directions(tmp_path: Path, rng: random.Random) -> None:
    path, data = tmp_path / "v", rng.randbytes(20_000_000)
    with program(path, HOST_PORT, digest), program(path, HOST_PORT + 1, shout), driven(path) as driver:
        assert driver.cid == GUEST
        sock = driver.connect(HOST_PORT + 1)
        sock.send(b"hello")
        assert sock.receive() == b"HELLO"

        several = [driver.connect(HOST_PORT + 1) for _ in range(50)]
        for number, one in enumerate(several):
            one.send(b"number %d" % number)
        assert [one.receive() for one in several] == [b"NUMBER %d" % number for number in range(50)]
        for one in (sock, *several):
            one.close()

        driver.listen(GUEST_PORT)
        with socket.socket(socket.AF_UNIX) as host:
            host.connect(str(path))
            host.sendall(b"CONNECT %d\n" % GUEST_PORT)
            taken = driver.accept(GUEST_PORT)
            assert host.recv(100).startswith(b"OK ")
            sender = threading.Thread(target=host.sendall, args=(data,))
            sender.start()
            seen, length = hashlib.sha256(), 0
            while length < len(data):
                piece = taken.receive()
                seen.update(piece)
                length += len(piece)
            sender.join()
            assert seen.digest() == hashlib.sha256(data).digest()
            received = b""
            taken.send(data[:100_000])
            while len(received) < 100_000:
                received += host.recv(1 << 16)
            assert received == data[:100_000]
            taken.close()


def test_a_port_where_nobody_is(tmp_path: Path) -> None:
    """It says nothing of a port that nobody serves, or refuses."""
    with driven(tmp_path / "v") as driver, pytest.raises((ConnectionRefusedError, NoAnswer)):
        driver.connect(HOST_PORT, timeout=2)
