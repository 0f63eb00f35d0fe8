"""Asks the QEMU at hand whether it creates a device, before a guest is booted with it.

QEMU's generic vhost-user device aborts on virtio ids for which that version of QEMU knows no name, so it
is started with the device and no guest. Once it speaks vhost-user the device was created: QEMU is ended
there, after some 25 ms, and no back-end is needed. The answer is kept for that binary.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.errors import GuestError, LocalError
from pyvirtio.provision.cache import digest
from pyvirtio.spec.ids import DEFAULT_ID, LARGEST_PCI_ID
from pyvirtio.vm.frontends import FRONTENDS, GENERIC

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyvirtio.provision.cache import Cache
    from pyvirtio.vm.frontends import Frontend
    from pyvirtio.vm.machine import Machine, VhostUserDevice
    from pyvirtio.vm.qemu import Qemu

PROBE_LIMIT = 10.0  # seconds
# QEMU ends by abort() where it does not take an id; a core dump of that would be of no use.
WITHOUT_CORE = ("/bin/sh", "-c", 'ulimit -c 0; exec "$@"', "sh")


def refusal(qemu: Qemu, machine: Machine, device: VhostUserDevice, limit: float = PROBE_LIMIT) -> str:
    """Start QEMU with a device and no guest; return why it does not create the device, empty if it does.

    QEMU has ended when this returns. `limit` is in seconds.

    Raises:
        GuestError: QEMU neither speaks vhost-user nor ends.
    """
    with tempfile.TemporaryDirectory(prefix="pyvirtio-") as folder, socket.socket(socket.AF_UNIX) as listener:
        path = Path(folder, "s")
        listener.bind(str(path))
        listener.listen()
        process = subprocess.Popen(
            [*WITHOUT_CORE, *qemu.prefix, *machine.stopped(replace(device, socket=path))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            spoke = _speaks(listener, process.pid, limit)
        finally:
            process.kill()
            output, _ = process.communicate()
    if spoke:
        return ""
    words = output.decode(errors="replace").strip().splitlines()
    return words[-1] if words else "it ended without a word"


def _speaks(listener: socket.socket, pid: int, limit: float) -> bool:
    """Return whether a process sends something over a connection that it makes; False if it ends first."""
    ended = os.pidfd_open(pid)
    try:
        ready, _, _ = select.select([listener.fileno(), ended], [], [], limit)
        if ready == [ended]:
            return False
        if ready:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(ConnectionResetError):
                connection.settimeout(limit)
                return bool(connection.recv(1))
            return False
    except TimeoutError:
        pass
    finally:
        os.close(ended)
    raise GuestError(f"QEMU, started without a guest, did nothing for {limit:g} s; try again")


@dataclass(frozen=True)
class DeviceProbe:
    """What one QEMU creates on one machine.

    Attributes:
        qemu: the QEMU to ask.
        machine: which board and transport to ask for.
        cache: where the answers are kept.
    """

    qemu: Qemu
    machine: Machine
    cache: Cache

    def refusal(self, device: VhostUserDevice) -> str:
        """Return why the device is not created, as `refusal` does; empty if it is."""
        asked = replace(device, socket=Path("/"), bus="", name="")
        key = digest(self.qemu.identity(), *self.machine.stopped(asked))
        name = f"device-{self.machine.name}-{device.frontend.device}-{device.id}"
        return self.cache.note(name, key, lambda: refusal(self.qemu, self.machine, asked))

    def ids(self, device: VhostUserDevice) -> list[int]:
        """Return every virtio id under which the generic front-end creates the device."""
        asked = [replace(device, id=device_id, frontend=GENERIC) for device_id in range(1, LARGEST_PCI_ID + 1)]
        with ThreadPoolExecutor(2) as pool:
            return [one.id for one, why in zip(asked, pool.map(self.refusal, asked), strict=True) if not why]

    def accepted(self, device: VhostUserDevice) -> VhostUserDevice:
        """Return the device under an id that QEMU takes: its own, or another one that its driver knows.

        Raises:
            LocalError: QEMU takes none of them; the message says which ids it takes.
        """
        candidates = dict.fromkeys((device.id, *device.driver_ids))
        for candidate in (replace(device, id=device_id) for device_id in candidates):
            why = self.refusal(candidate)
            if not why:
                return candidate
        if device.frontend is not GENERIC:
            raise LocalError(
                f"QEMU does not create its {device.frontend.device} device: {why}; try --generic, or another --qemu"
            )
        known = self.ids(device)
        if not known:
            raise LocalError(f"QEMU does not create {self.machine.device}: {why}; give another --qemu")
        example = DEFAULT_ID if DEFAULT_ID in known else known[-1]
        tried = " or ".join(map(str, candidates))
        raise LocalError(
            f"QEMU {self.qemu.version()} does not create a device with virtio id {tried} ({why}); "
            f"it takes {spans(known)}: use device_id = {example}, or serve it with --device-id {example}"
        )

    def frontend(self, device_id: int) -> Frontend:
        """Return the front-end that this QEMU has for a standard type of device, or else the generic one."""
        found = FRONTENDS.get(device_id, GENERIC)
        return found if self.qemu.has_device(found.model(self.machine.transport)) else GENERIC


def spans(numbers: Iterable[int]) -> str:
    """Return ascending numbers in words, with runs shortened.

    >>> spans([1, 2, 3, 16, 38, 39])
    '1 to 3, 16, 38, 39'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    shown = [[f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run) for run in runs]
    return ", ".join(word for words in shown for word in words)
