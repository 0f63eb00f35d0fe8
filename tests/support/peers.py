"""Programs that nobody here wrote and that speak vhost-user: out of Debian's packages, run without installing them.

A back-end gets its socket as a descriptor, which listens before the program starts, so nobody has to wait for it; and
the socket outlives the program, as under a service manager.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvirtio.errors import ProvisionError
from pyvirtio.provision.cache import Cache, default_root, digest
from pyvirtio.provision.packages import Registry
from pyvirtio.vm.guest_packages import EMULATOR, GUEST, prune
from pyvirtio.vm.monitor import Monitor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pyvirtio.provision.packages import Suites

PATIENCE = 60.0  # seconds


@dataclass(frozen=True)
class Packages:
    """Packages of a release: those that are unpacked with all that they need, and those that are unpacked alone."""

    suites: Suites
    whole: tuple[str, ...]
    alone: tuple[str, ...]

    def unpacked(self, registry: Registry) -> Path:
        """Return the folder that they are in; raises ProvisionError where they cannot be had."""

        def make(folder: Path) -> None:
            registry.unpack(self.suites, self.whole, folder, dependencies=True)
            if self.alone:
                registry.unpack(self.suites, self.alone, folder)
            prune(folder)

        return registry.cache.entry("peers", digest(self.suites.name, *self.whole, "", *self.alone), make)


NEW = Packages(EMULATOR, ("qemu-utils", "virtiofsd", "libblkio1"), ("nbdkit", "qemu-block-extra"))
OLD = Packages(GUEST, ("qemu-utils", "libseccomp2"), ("qemu-system-common",))  # the last one needs a desktop


@dataclass(frozen=True)
class Peers:
    """The programs of one release; they run with the C library that came with them."""

    root: Path

    @classmethod
    def of(cls, packages: Packages) -> Peers:
        """Return the programs of ``packages``; skip the test where they cannot be had."""
        try:
            return cls(packages.unpacked(Registry(Cache(default_root()))))
        except ProvisionError as error:
            pytest.skip(f"nothing can be provisioned here: {error}")

    def find(self, pattern: str) -> Path:
        """Return a file of the packages."""
        return next(iter(sorted(self.root.glob(pattern))))

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return the command line that runs a program, by its path below the root."""
        libraries = ":".join(str(path) for path in sorted(self.root.glob("**/lib/*-linux-gnu")))
        loader = next(iter([*self.root.glob("usr/lib*/ld-linux-*.so.*"), *self.root.glob("lib*/ld-linux-*.so.*")]))
        return [str(loader), "--library-path", libraries, str(self.root / program), *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """Where QEMU's programs find their modules."""
        return {**os.environ, "QEMU_MODULE_DIR": str(self.root / self.find("usr/lib/*-linux-gnu") / "qemu")}

    def run(self, program: str, *arguments: str) -> str:
        """Run a program that ends by itself, and return what it prints; raises AssertionError where it fails."""
        done = subprocess.run(
            self.command(program, *arguments),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{program} {' '.join(arguments)}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    @contextlib.contextmanager
    def running(
        self, program: str, *arguments: str, fds: Sequence[int] = (), environment: Mapping[str, str] | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a program while the block runs; it inherits ``fds``. What it says is shown where the block fails."""
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                self.command(program, *arguments),
                env={**self.environment, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                pass_fds=fds,
            )
            try:
                yield process
            except BaseException as error:
                said.seek(0)
                error.add_note(f"{program} said:\n{said.read().decode(errors='replace')}")
                raise
            finally:
                process.kill()
                process.wait(PATIENCE)


class Listener:
    """A socket that listens, at a path in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "s")
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.bind(self.path)
        self._sock.listen()

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()


@contextlib.contextmanager
def listening() -> Iterator[Listener]:
    """Listen while the block runs."""
    with tempfile.TemporaryDirectory(prefix="p-") as folder, contextlib.closing(Listener(Path(folder))) as listener:
        yield listener


class StorageDaemon:
    """A qemu-storage-daemon that exports an image as a vhost-user disk.

    Attributes:
        process: the program.
        monitor: its QMP.
    """

    def __init__(self, process: subprocess.Popen[bytes], monitor: Monitor) -> None:
        self.process = process
        self.monitor = monitor

    def resize(self, size: int) -> None:
        """Have the image grow or shrink."""
        self.monitor.execute("block_resize", {"node-name": "disk", "size": size})

    def kill(self) -> None:
        """Kill it, without a word to its front-end."""
        self.process.kill()
        self.process.wait(PATIENCE)


@contextlib.contextmanager
def storage_daemon(
    peers: Peers, listener: Listener, image: Path, *, writable: bool = True, queues: int = 1
) -> Iterator[StorageDaemon]:
    """Export ``image`` on ``listener`` while the block runs."""
    ours, theirs = socket.socketpair()
    blockdev = f"driver=file,node-name=disk,filename={image},discard=unmap,read-only={'off' if writable else 'on'}"
    export = (
        f"type=vhost-user-blk,id=export,node-name=disk,addr.type=fd,addr.str={listener.fileno()},"
        f"writable={'on' if writable else 'off'},num-queues={queues}"
    )
    with ours, theirs, contextlib.ExitStack() as stack:
        fds = (theirs.fileno(), listener.fileno())
        monitor = f"socket,id=monitor,fd={theirs.fileno()}"
        options = ("--chardev", monitor, "--monitor", "monitor", "--blockdev", blockdev, "--export", export)
        process = stack.enter_context(peers.running("usr/bin/qemu-storage-daemon", *options, fds=fds))
        theirs.close()
        opened = Monitor(ours)
        stack.callback(opened.close)
        opened.execute("query-block-exports")  # it has started when it answers
        yield StorageDaemon(process, opened)
