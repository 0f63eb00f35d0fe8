"""What tables are measured with, and what this machine lacks for them."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.errors import LocalError, ProvisionError, VirtioError
from pyvirtio_bench.backends import C_PEER, Backend, c_peer, pyvirtio
from pyvirtio_bench.programs import Programs
from pyvirtio_bench.storage import VARIANTS, daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvirtio.vm.launch import GuestBuilder
    from pyvirtio_bench.installs import Installs
    from pyvirtio_bench.runs import Runnable, Runner


@dataclass(frozen=True)
class GivenBackend:
    """A back-end that somebody else runs."""

    socket: Path
    name: str = "the given back-end"

    @contextlib.contextmanager
    def running(self, _folder: Path) -> Iterator[Path]:
        """Start nothing; the value is the socket."""
        yield self.socket


@dataclass(frozen=True)
class Bench:
    """What tables are measured with. What cannot be had is left out, and ``missing`` says why.

    Attributes:
        runner: measures back-ends by turns.
        installs: makes the environments that pyvirtio is served from.
        builder: makes guests, and knows the cache.
        requests: how many requests the table of memory makes.
        given: a back-end that is measured instead of ours, if there is one.
        missing: what this machine lacks, and what follows from that.
    """

    runner: Runner
    installs: Installs
    builder: GuestBuilder
    requests: int
    given: GivenBackend | None = None
    missing: list[str] = field(default_factory=list)

    def pyvirtio(self, name: str, device: str, *arguments: str, extra: str = "", engine: str = "") -> list[Backend]:
        """Return ``pyvirtio serve DEVICE`` from an install with an extra, or without one; nothing if one is given.

        Raises:
            ProvisionError: not even the package alone can be installed.
        """
        if self.given:
            return []
        try:
            install = self.installs.install(extra)
        except ProvisionError as error:
            if not extra:
                raise
            return self._without(name, error)
        return [pyvirtio(install, device, *arguments, name=name, engine=engine)]

    def peer(self, device: str, *arguments: str, name: str = C_PEER) -> list[Backend]:
        """Return a device on libvhost-user."""
        try:
            program = Programs(self.builder.cache, self.builder.progress).backend()
        except ProvisionError as error:
            return self._without(name, error)
        return [c_peer(program, device, *arguments, name=name)]

    def daemons(self, image: Path, *, direct: bool) -> dict[str, Backend]:
        """Return the storage daemons that can be had here, and start: io_uring may be forbidden."""
        found = {}
        for variant, (release, aio) in VARIANTS.items():
            try:
                backend = daemon(release.program(self.builder), image, aio=aio, direct=direct)
                with tempfile.TemporaryDirectory(prefix="pv-") as folder, backend.running(Path(folder)):
                    found[variant] = backend
            except (LocalError, ProvisionError) as error:
                self._without(f"the {variant} storage daemon", error)
        return found

    @property
    def images(self) -> Path:
        """The folder for images: on a disk, for a file system in memory may not know direct I/O."""
        return self.builder.cache.root / "bench-images"

    def measured(self, *ours: list[Backend]) -> list[Runnable]:
        """Return the given back-end, or else those that are ours."""
        return [self.given] if self.given else [backend for several in ours for backend in several]

    def _without(self, name: str, error: VirtioError) -> list[Backend]:
        text = f"{name} ({error}): it is left out"
        if text not in self.missing:
            self.missing.append(text)
        return []
