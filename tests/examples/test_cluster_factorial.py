"""The factorial of very large numbers, computed by threads, processes and a cluster."""

from __future__ import annotations

import contextlib
import math
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from examples import cluster_factorial
from examples.cluster_factorial import LEAF, ClusterFactorial
from pyvirtio import open_driver
from pyvirtio.devices.factorial import DONE, ExactResponse, Request
from pyvirtio.drivers.factorial import FactorialDriver
from pyvirtio.errors import LocalError
from pyvirtio.testing.served import served
from tests.support.dask import Cluster

if TYPE_CHECKING:
    from pyvirtio.driver import Ticket

LARGE = 200_000
SPLIT = 4 * LEAF
SOURCE = Path(cluster_factorial.__file__)


@pytest.fixture(scope="module")
def large_factorial() -> int:
    return math.factorial(LARGE)


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, ProcessPoolExecutor, None])
def test_a_very_large_value_is_exact_whoever_computes(kind: type[Executor] | None, large_factorial: int) -> None:
    device = ClusterFactorial()
    with contextlib.ExitStack() as stack:
        if kind is not None:
            device.executor = stack.enter_context(kind(2))  # type: ignore[call-arg]  # both kinds take a number
        driver = stack.enter_context(open_driver(FactorialDriver, device))
        assert driver.factorial(LARGE) == large_factorial


@pytest.mark.parametrize("n", [0, 1, LEAF - 1, LEAF, LEAF + 1, 2 * LEAF + 1, 5 * LEAF])
def test_values_around_the_size_of_a_piece(n: int) -> None:
    with open_driver(FactorialDriver, ClusterFactorial()) as driver:
        assert driver.factorial(n) == math.factorial(n)


def test_a_number_above_the_limit_is_refused() -> None:
    with open_driver(FactorialDriver, ClusterFactorial()) as driver, pytest.raises(LocalError):
        driver.factorial(ClusterFactorial.config.max_exact + 1)


def submit(driver: FactorialDriver, n: int) -> Ticket:
    """Ask for n!, and do not wait for it."""
    return driver.compute.submit(Request(n), room=ExactResponse.nbytes + math.factorial(n).bit_length() // 8 + 1)


def value_of(ticket: Ticket) -> int:
    data = ticket.data(timeout=100)
    assert ExactResponse.unpack(data).status == DONE
    return int.from_bytes(data[ExactResponse.nbytes :], "little")


@pytest.mark.long
def test_a_cluster_computes_is_lost_and_comes_back(tmp_path: Path, large_factorial: int) -> None:
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(Cluster(tmp_path))
        server = stack.enter_context(served(f"{SOURCE}:ClusterFactorial,cluster={cluster.address}"))
        driver = stack.enter_context(open_driver(FactorialDriver, f"vhost-user:{server.path}"))
        assert value_of(submit(driver, LARGE)) == large_factorial

        # While the cluster takes its time, others are answered.
        cluster.pause_workers()
        waiting = submit(driver, SPLIT)
        assert driver.factorial(20) == math.factorial(20)
        assert not waiting.done
        cluster.resume_workers()
        assert value_of(waiting) == math.factorial(SPLIT)

        # It dies with a request: that one fails, and the device lives.
        cluster.pause_workers()
        waiting = submit(driver, SPLIT)
        assert driver.factorial(21) == math.factorial(21)
        cluster.kill()
        assert waiting.data(timeout=100) == b""
        server.wait_for("[method-failed]")
        assert driver.factorial(22) == math.factorial(22)

        stack.enter_context(Cluster(tmp_path, cluster.port))
        assert value_of(submit(driver, SPLIT)) == math.factorial(SPLIT)
        assert not server.lines("[worker-ended]")
