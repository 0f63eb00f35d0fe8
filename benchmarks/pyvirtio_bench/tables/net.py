"""Two guests and a network between them, measured by iperf3: ours, and the sockets of QEMU's own network cards."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.devices.net import Config
from pyvirtio.errors import GuestError
from pyvirtio.network import Mac
from pyvirtio.vm import VhostUserDevice, guest
from pyvirtio_bench.backends import Backend
from pyvirtio_bench.page import GOAL, Table
from pyvirtio_bench.statistics import Quartiles, format3, ratio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvirtio.vm import Guest
    from pyvirtio_bench.bench import Bench

TWO_CARDS = Path(__file__).parents[1] / "two_cards.py"
IN_PROCESS, SWITCH, PEER = "a Switch in Python", "pyvirtio switch", "QEMU's stream"
GOALS = {IN_PROCESS: 1.0, SWITCH: 1.0}
BOOT = 60.0  # seconds that a guest may take beside a measurement
MEGABYTE = 1 << 20


def mac(number: int, side: int) -> Mac:
    """Return the address of the card that one of the guests has at a cable."""
    return Mac(f"52:54:00:00:{number:02x}:{side:02x}")


@dataclass(frozen=True)
class Cable:
    """A network between two guests: what each of them has of it."""

    name: str
    number: int
    sockets: tuple[Path, Path]

    def mac(self, side: int) -> Mac:
        """Return the address of one guest's card."""
        return mac(self.number, side)

    def address(self, side: int) -> str:
        """Return its address in the network of this cable."""
        return f"10.0.{self.number}.{side + 1}"

    def device(self, side: int) -> VhostUserDevice:
        """Return the card, where a back-end serves it."""
        config = Config(self.mac(side)).pack()
        return VhostUserDevice(self.sockets[side], 1, 3, 256, len(config), config=config)

    def qemu_options(self, side: int) -> list[str]:
        """Return QEMU's arguments for a card of its own, where the first socket is what joins the two guests."""
        server = "off" if side else "on"
        return [
            *("-netdev", f"stream,id=own,server={server},addr.type=unix,addr.path={self.sockets[0]}"),
            *("-device", f"virtio-net-pci,netdev=own,mac={self.mac(side)}"),
        ]


def measure(bench: Bench) -> list[Table]:
    """Boot two guests that have a card at each network, and measure these by turns; then two without QEMU."""
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="pv-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        own = Cable(PEER, 3, (folder / "own",) * 2)
        cables = [_in_process(bench, folder, stack), *_by_switch(bench, folder, stack)]
        for arch, measured in (("x86_64", [*cables, own]), ("um", cables[:1])):
            for cable, rate in _measured(bench, arch, measured):
                rates[arch, cable.name].append(rate)
    return [_table(rates)]


def _in_process(bench: Bench, folder: Path, stack: contextlib.ExitStack) -> Cable:
    install = bench.installs.install()
    words = ("{socket}", str(mac(1, 0)), "{socket}-2", str(mac(1, 1)))
    backend = Backend(IN_PROCESS, (install.python, str(TWO_CARDS), *words))
    socket = stack.enter_context(backend.running(folder))
    return Cable(IN_PROCESS, 1, (socket, socket.with_name(f"{socket.name}-2")))


def _by_switch(bench: Bench, folder: Path, stack: contextlib.ExitStack) -> Iterator[Cable]:
    install = bench.installs.install()
    switch = stack.enter_context(Backend(SWITCH, (*install.command, "switch", "{socket}")).running(folder))
    one, two = (
        stack.enter_context(card.running(folder))
        for side in range(2)
        for card in bench.pyvirtio(SWITCH, f"net,stream={switch},mac={mac(2, side)}")
    )
    yield Cable(SWITCH, 2, (one, two))


def _measured(bench: Bench, arch: str, cables: list[Cable]) -> Iterator[tuple[Cable, float]]:
    """Yield the bytes a second that go through each cable, repetition by repetition."""
    schedule = bench.runner.schedule
    with contextlib.ExitStack() as stack:
        step = stack.enter_context(bench.runner.progress.step(f"iperf3 between two guests ({arch})"))
        receiver, sender = (stack.enter_context(_guest(arch, cables, side)) for side in (0, 1))
        _run(receiver, "iperf3 --server --daemon")
        for repetition in range(schedule.repetitions):
            for cable in cables:
                seconds = max(1, round(4 * schedule.seconds))
                said = _run(sender, f"iperf3 --client {cable.address(0)} --time {seconds} --json")
                yield cable, json.loads(said)["end"]["sum_received"]["bits_per_second"] / 8
            step((repetition + 1) / schedule.repetitions)


@contextlib.contextmanager
def _guest(arch: str, cables: list[Cable], side: int) -> Iterator[Guest]:
    """Boot a guest; each of its cards has an address in the network of its cable."""
    served = [cable.device(side) for cable in cables if cable.name != PEER]
    own = [word for cable in cables if cable.name == PEER for word in cable.qemu_options(side)]
    with guest(*served, arch=arch, packages=["iperf3"], qemu_options=own) as machine:
        for cable in cables:
            [found] = _run(machine, f"grep -l {cable.mac(side)} /sys/class/net/*/address").splitlines()
            _run(machine, f"ifconfig {Path(found).parent.name} {cable.address(side)} netmask 255.255.255.0 up")
        yield machine


def _run(machine: Guest, command: str) -> str:
    result = machine.run(command, BOOT)
    if result.returncode:
        raise GuestError(f"`{command}` failed in the guest:\n{result.stdout}{result.stderr}")
    return str(result.stdout)


def _table(rates: dict[tuple[str, str], list[float]]) -> Table:
    rows = []
    for (arch, name), values in rates.items():
        peer = rates.get((arch, PEER))
        times, own = [1 / value for value in values], [1 / value for value in peer or ()]
        where = "user-mode Linux" if arch == "um" else "QEMU"
        compared = peer and name != PEER
        title = f"{name} ÷ {PEER}" if compared else name
        speed = format3(Quartiles.of(values).median / MEGABYTE)
        rows.append([title, "clock", str(ratio(times, own)) if compared else "-", speed, where])
        if compared and name in GOALS:
            rows.append(["", GOAL, f"≤ {GOALS[name]:g}", "", ""])
    data = [{"arch": arch, "network": name, "bytes_per_second": values} for (arch, name), values in rates.items()]
    return Table(
        "net", "TCP between two guests, time per byte", ["network", "time", "ratio", "MiB/s", "guests"], rows, data
    )
