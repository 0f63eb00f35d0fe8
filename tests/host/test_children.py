"""Processes that a device starts: they neither hide a worker's death nor outlive it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pyvirtio import Driver, RequestQueue, open_driver
from pyvirtio.testing.served import served
from tests.support.devices import pooled
from tests.support.devices.pooled import Number
from tests.support.vhost import until


class PooledDriver(Driver):
    device_id = 63
    requests = RequestQueue(Number, Number)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("way", ["the worker", "the keeper"])
def test_a_pool_of_processes_ends_with_its_worker(way: str) -> None:
    with served(f"{pooled.__file__}:Pooled") as server:
        with open_driver(PooledDriver, f"vhost-user:{server.path}") as driver:
            child = driver.requests.call(Number()).value
            [worker] = server.workers()
            assert child not in {worker, os.getpid()}
            if way == "the worker":
                os.kill(worker, signal.SIGKILL)
                assert driver.requests.call(Number()).value != child
        if way == "the keeper":
            server.end(signal.SIGKILL)
        until(lambda: not is_running(child))
