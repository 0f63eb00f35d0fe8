"""How fast bytes go through a serial port of a guest: ours against the one that QEMU has itself, both on sockets."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.devices.console import Config
from pyvirtio.errors import GuestError
from pyvirtio.vm import VhostUserDevice, guest
from pyvirtio_bench.page import GOAL, Table
from pyvirtio_bench.statistics import Quartiles, format3, ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyvirtio.vm import Guest
    from pyvirtio_bench.bench import Bench

OURS, QEMUS = "ours", "qemus"
TITLES = {OURS: "pyvirtio", QEMUS: "QEMU's virtio-serial"}
QUEUES = 4  # of a console with one named port
PIECE = 64 << 10
PIECES = 1024  # of a transfer: 64 MiB
LIMIT = 120.0  # seconds for a transfer
UPTIME = "cut -d' ' -f1 /proc/uptime"  # seconds


def measure(bench: Bench) -> list[Table]:
    """Boot a guest with both ports, and send bytes each way by turns."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="pv-") as folder, contextlib.ExitStack() as stack:
        paths = {name: Path(folder) / name for name in TITLES}
        [backend] = bench.pyvirtio(TITLES[OURS], f"console,ports={OURS}=unix:{paths[OURS]}")
        device = VhostUserDevice(stack.enter_context(backend.running(Path(folder))), 3, QUEUES, 64, Config.nbytes)
        options = [
            *("-chardev", f"socket,id={QEMUS},path={paths[QEMUS]},server=on,wait=off"),
            *("-device", "virtio-serial-pci", "-device", f"virtserialport,chardev={QEMUS},name={QEMUS}"),
        ]
        running = stack.enter_context(guest(device, qemu_options=options))
        ends = {name: stack.enter_context(_connected(path)) for name, path in paths.items()}
        update = stack.enter_context(bench.runner.progress.step("console"))
        for repetition in range(bench.runner.schedule.repetitions):
            for name in TITLES:
                for way, transfer in WAYS.items():
                    times[name, way].append(transfer(running, _port(running, name), ends[name]))
            update((repetition + 1) / bench.runner.schedule.repetitions)
    return [_table(times)]


@contextlib.contextmanager
def _connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        yield connection


def _port(running: Guest, name: str) -> str:
    """Return the guest's device for a port."""
    found = running.run(f"cd /sys/class/virtio-ports && grep -lx {name} */name").stdout
    return f"/dev/{found.partition('/')[0]}"


def _out(running: Guest, port: str, end: socket.socket) -> float:
    """Have the guest write; return the seconds for a MiB."""

    def take() -> None:
        left = PIECE * PIECES
        while left:
            left -= len(end.recv(min(left, 1 << 20)))

    return _timed(running, f"dd if=/dev/zero of={port} bs={PIECE} count={PIECES}", take)


def _in(running: Guest, port: str, end: socket.socket) -> float:
    """Have the guest read; return the seconds for a MiB."""
    command = f"dd if={port} of=/dev/null bs={PIECE} count={PIECES} iflag=fullblock"
    return _timed(running, command, lambda: end.sendall(bytes(PIECE * PIECES)))


def _timed(running: Guest, command: str, host_side: Callable[[], object]) -> float:
    thread = threading.Thread(target=host_side, daemon=True)
    thread.start()
    result = running.run(f"{UPTIME} && {command} && {UPTIME}", LIMIT)
    thread.join(LIMIT)
    if result.returncode or thread.is_alive():
        raise GuestError(f"`{command}` failed in the guest:\n{result.stdout}{result.stderr}")
    begun, ended = map(float, result.lines)
    return (ended - begun) / (PIECE * PIECES / (1 << 20))


WAYS: dict[str, Callable[[Guest, str, socket.socket], float]] = {"guest to host": _out, "host to guest": _in}


def _table(times: dict[tuple[str, str], list[float]]) -> Table:
    def speed(name: str, way: str) -> str:
        return f"{format3(1 / Quartiles.of(times[name, way]).median)} MiB/s"

    rows = [
        [f"{TITLES[OURS]} ÷ {TITLES[QEMUS]}", *(str(ratio(times[OURS, way], times[QEMUS, way])) for way in WAYS)],
        [GOAL, *("≤ 1" for _ in WAYS)],
        *([TITLES[name], *(speed(name, way) for way in WAYS)] for name in TITLES),
    ]
    data = [{"port": name, "way": way, "seconds": values} for (name, way), values in times.items()]
    title = "Bytes through a serial port of a guest under QEMU, time as a ratio"
    return Table("console", title, ["port", *WAYS], rows, data)
