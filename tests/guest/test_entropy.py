"""The source of random bytes under Linux's own driver. One boot, much in it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pyvirtio import serving
from pyvirtio.devices.entropy import Entropy
from pyvirtio.testing.served import served
from pyvirtio.vm import VhostUserDevice
from tests.support.guests import guest, unremarkable

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

CURRENT = "/sys/class/misc/hw_random/rng_current"
DRIVER = "/sys/bus/virtio/drivers/virtio_rng"
READ = "head -c {} /dev/hwrng | md5sum"


def chosen(position: int) -> str:
    """Return the command that has the guest read the source at this position, and none other."""
    return f"ls {DRIVER} | grep virtio; echo virtio_rng.{position} >{CURRENT}; cat {CURRENT}"


def test_linux_reads_random_bytes_whatever_happens(tmp_path: Path) -> None:
    state = {"fails": False, "asked": 0}

    def source(number: int) -> bytes:
        state["asked"] += 1
        if state["fails"]:
            raise OSError("the source is broken")
        return b"\xa5" * number

    with (
        served("entropy,rate=1M") as server,
        serving(Entropy(source), str(tmp_path / "s")) as own,
        guest(own, VhostUserDevice.of(Entropy().description(), Path(server.path))) as machine,
        unremarkable(machine),
    ):
        # Ours comes first; the driver keeps a buffer of what it read ahead.
        assert machine.run(chosen(0)).lines[-1] == "virtio_rng.0"
        assert machine.run("head -c 64 /dev/hwrng | tr -d '\\245' | wc -c").lines == ["0"]
        machine.stop()
        machine.cont()
        assert machine.run("head -c 4096 /dev/hwrng | tr -d '\\245' | wc -c").lines == ["0"]

        # A source that fails gives nothing, and the guest asks again when it works.
        state["fails"], asked = True, state["asked"]
        machine.send("head -c 4096 /dev/hwrng | wc -c")
        while state["asked"] == asked:
            assert server.is_alive()
        state["fails"] = False
        assert machine.result().lines == ["4096"]

        # The other one is the host's randomness, at most a MiB of it in a second; its worker dies meanwhile.
        assert machine.run(chosen(1)).lines[-1] == "virtio_rng.1"
        for _ in range(3):
            [worker] = server.workers()
            machine.send(READ.format(200_000))
            os.kill(worker, signal.SIGKILL)
            assert machine.result().returncode == 0
        assert machine.run(READ.format(4096)).stdout != machine.run(READ.format(4096)).stdout

        again = "for d in $(ls -d virtio[0-9]*); do echo $d >unbind; echo $d >bind; done"
        assert machine.run(f"cd {DRIVER}; {again}; ls -d virtio[0-9]* | wc -l").lines == ["2"]
        machine.reset()
        assert machine.run("head -c 4096 /dev/hwrng | wc -c").lines == ["4096"]

        # It is pulled out while it is read.
        assert machine.run(chosen(1)).lines[-1] == "virtio_rng.1"
        machine.send("head -c 3000000 /dev/hwrng >/dev/null; echo ended")
        machine.unplug(1)
        assert machine.result().lines == ["ended"]
        assert machine.run(f"ls -d {DRIVER}/virtio[0-9]* | wc -l").lines == ["1"]
