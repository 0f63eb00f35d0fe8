"""Exact factorials through the virtqueue, against Python's own and the copy of the value."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pyvirtio.devices.factorial import ExactResponse, Request
from pyvirtio.drivers.factorial import FactorialDriver
from pyvirtio.vhost_user.client import VhostUserTransport
from pyvirtio_bench.backends import pyvirtio_backend
from pyvirtio_bench.engines import engines
from pyvirtio_bench.page import Table
from pyvirtio_bench.processes import pinned, split_cpus
from pyvirtio_bench.statistics import Quartiles, ratio

if TYPE_CHECKING:
    from pyvirtio_bench.runs import Bench

NUMBERS = (100, 1000, 5000, 20000)


def measure(bench: Bench) -> list[Table]:
    """Ask the device and compute here, by turns."""
    times: dict[int, list[tuple[float, float]]] = {number: [] for number in NUMBERS}
    backend = pyvirtio_backend("exact", "factorial", engine_name=engines()[0])
    one_processor, _ = split_cpus()  # they take turns, and two processors may run at two speeds
    with (
        pinned(one_processor),
        tempfile.TemporaryDirectory(prefix="pv-") as folder,
        backend.running(Path(folder)) as socket,
        FactorialDriver(VhostUserTransport.connect(str(socket))) as driver,
        bench.progress.step("exact") as update,
    ):
        for repetition in range(3 * bench.schedule.repetitions):
            for number in NUMBERS:
                times[number].append((_ask(driver, number), _compute(number)))
            update((repetition + 1) / (3 * bench.schedule.repetitions))
    rows = []
    for number, pairs in times.items():
        asked, computed = zip(*pairs, strict=True)
        rows.append([f"{number}!", _microseconds(asked), _microseconds(computed), str(ratio(asked, computed))])
    title = "Microseconds for an exact value as bytes: median (quartiles)"
    header = ["n", "by the device", "math.factorial and the copy", "ratio"]
    data = [{"n": number, "asked_s": [a for a, _ in p], "computed_s": [c for _, c in p]} for number, p in times.items()]
    return [Table("exact", title, header, rows, data)]


def _ask(driver: FactorialDriver, number: int) -> float:
    capacity = ExactResponse.nbytes + math.factorial(number).bit_length() // 8 + 1
    start = time.perf_counter()
    driver.compute.submit(Request(number), room=capacity).data()
    return time.perf_counter() - start


def _compute(number: int) -> float:
    start = time.perf_counter()
    value = math.factorial(number)
    value.to_bytes((value.bit_length() + 7) // 8, "little")
    return time.perf_counter() - start


def _microseconds(seconds: tuple[float, ...]) -> str:
    return str(Quartiles.of(1e6 * value for value in seconds))
