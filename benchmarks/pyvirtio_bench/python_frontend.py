"""A front-end that needs no compiler: our own driver. It costs more than a back-end in C, so it measures the pair."""

from __future__ import annotations

import itertools
import os
import socket as sockets
import struct
import time
from statistics import quantiles
from typing import TYPE_CHECKING, ClassVar

from pyvirtio.devices.factorial import WRAPPED, Request
from pyvirtio.drivers.factorial import FactorialDriver
from pyvirtio.errors import DeviceError, LocalError
from pyvirtio.spec.features import RING_FEATURES, Feature
from pyvirtio.vhost_user.client import VhostUserTransport
from pyvirtio_bench.processes import processor_time
from pyvirtio_bench.workload import Sample

if TYPE_CHECKING:
    from pathlib import Path

    from pyvirtio_bench.workload import Workload

NUMBERS = range(len(WRAPPED))


class PythonFrontend:
    """The front-end in Python: one queue of the driver's own size, one region of memory."""

    can_sustain: ClassVar[bool] = False

    def measure(self, socket: Path, workload: Workload) -> Sample:
        """Return what driving the back-end that listens on `socket` has shown.

        Raises:
            DeviceError: a response was wrong or missing.
            LocalError: nobody listens.
        """
        connection = sockets.socket(sockets.AF_UNIX)
        try:
            connection.connect(str(socket))
        except OSError as error:
            connection.close()
            raise LocalError(f"nobody serves {socket}: {error.strerror}") from error
        pid, _, _ = struct.unpack("3i", connection.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, 12))
        ring = RING_FEATURES if workload.indirect else RING_FEATURES & ~Feature.INDIRECT_DESC
        with FactorialDriver(VhostUserTransport(connection), features=0, ring_features=ring) as driver:
            self._rounds(driver, workload, workload.warm_up or 10 * workload.in_flight, 0)
            cpu, own, start = processor_time(pid), os.times(), time.perf_counter_ns()
            rounds = self._rounds(driver, workload, workload.requests, workload.seconds)
            wall, done = time.perf_counter_ns() - start, os.times()
            cpu = processor_time(pid) - cpu
        requests = len(rounds) * workload.in_flight
        cuts = quantiles(rounds * 2, n=100)  # doubled: there may be one round only
        return Sample(
            requests=requests,
            wall=wall / requests,
            cpu=cpu / requests if cpu else None,
            p50=cuts[49],
            p99=cuts[98],
            frontend=(done.user + done.system - own.user - own.system) * 1e9 / requests,
        )

    def _rounds(self, driver: FactorialDriver, workload: Workload, requests: int, seconds: float) -> list[int]:
        """Return the nanoseconds of each round."""
        numbers = itertools.cycle(NUMBERS)
        end = time.perf_counter_ns() + int(seconds * 1e9) if seconds else None
        rounds: list[int] = []
        while True:
            batch = list(itertools.islice(numbers, workload.in_flight))
            start = time.perf_counter_ns()
            tickets = driver.compute.submit_all(Request(number) for number in batch)
            responses = [ticket.result().ret for ticket in tickets]
            now = time.perf_counter_ns()
            if responses != [WRAPPED[number] for number in batch]:
                raise DeviceError(f"the device answered {batch} with {responses}")
            rounds.append(now - start)
            if (end is not None and now >= end) or (requests and len(rounds) * workload.in_flight >= requests):
                return rounds
