"""A device object that is served by this process."""

from __future__ import annotations

import select
import threading
from typing import TYPE_CHECKING

import pytest

from pyvirtio import Device, Driver, Queue, RequestQueue, Struct, le32, open_driver, serving
from pyvirtio.errors import LocalError

if TYPE_CHECKING:
    from pathlib import Path


class Number(Struct):
    value: int = le32()


class Knob(Device):
    device_id = 63
    config = Number(1)
    requests = Queue(Number, Number)

    @requests.each
    def add(self, request: Number) -> int:
        return request.value + int(self.config.value)


class KnobDriver(Driver):
    device_id = 63
    config = Number
    requests = RequestQueue(Number, Number)


def test_a_change_that_no_request_caused_is_told_to_the_driver_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with serving(Knob(), path) as served, open_driver(KnobDriver, f"vhost-user:{path}") as driver:
        assert driver.requests.call(Number(1)).value == 2
        before = driver.transport.config_generation()
        served.call(served.device.update_config, value=5)
        assert select.select([driver.transport.hangup_fd()], [], [], 10)[0], "nobody told the driver"
        assert driver.transport.config_generation() == before + 1
        assert driver.read_config() == Number(5)
        assert driver.requests.call(Number(1)).value == 6


def test_a_call_runs_in_the_thread_of_the_device(tmp_path: Path) -> None:
    with serving(Knob(), str(tmp_path / "s")) as served:
        assert served.call(threading.get_ident) not in {threading.get_ident(), 0}
        assert served.call(lambda: threading.current_thread().name) == "serving-Knob"
        with pytest.raises(ZeroDivisionError):
            served.call(lambda: 1 // 0)
    with pytest.raises(LocalError):
        served.call(threading.get_ident)
