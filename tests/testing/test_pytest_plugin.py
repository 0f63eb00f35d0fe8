"""The fixtures, as a project that has pyvirtio installed uses them: pytest runs inside pytest."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

DEVICES = """
import pytest
from pyvirtio import Device, Driver, Queue, RequestQueue, Struct, le32

class Number(Struct):
    value: int = le32()

class Double(Device):
    requests = Queue(Number, Number, size=64)

    @requests.each
    def double(self, number):
        if number.value == 13:
            raise ValueError("thirteen")
        return Number(2 * number.value)

class DoubleDriver(Driver):
    device_id = 38
    requests = RequestQueue(Number, Number)
"""


def test_a_served_device_a_driver_and_a_seed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        DEVICES
        + """
def test_one(virtio_serve, virtio_driver, virtio_rng):
    served = virtio_serve(Double())
    driver = virtio_driver(DoubleDriver, f"vhost-user:{served.path}")
    n = virtio_rng.randrange(100, 1000)
    assert driver.requests.call(Number(n)).value == 2 * n
    assert served.watch.requested.wait().request == Number(n)

def test_that_fails(virtio_serve, virtio_driver, virtio_rng):
    served = virtio_serve(Double())
    driver = virtio_driver(DoubleDriver, f"vhost-user:{served.path}")
    driver.requests.call(Number(12))
    with pytest.raises(Exception):
        driver.requests.call(Number(13))
    assert served.watch.failed.wait().request is None
"""
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-n2")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*what was wrong at Double*",
            "*thirteen*",
            "*last requests to Double*",
            "requests: Number(value=12) -> answered",
            "requests: Number(value=13) -> ValueError: thirteen",
            "*random choices*",
            "repeat them with PYVIRTIO_SEED=*",
        ]
    )


@pytest.mark.guest
def test_guests_for_a_test_and_for_a_module(pytester: pytest.Pytester, request: pytest.FixtureRequest) -> None:
    pytester.makepyfile(
        f"""
import sys
sys.path.insert(0, {str(request.config.rootpath)!r})
import pytest
from tests.support.disk import Disk

@pytest.fixture(scope="module")
def machine(virtio_guest_factory):
    with virtio_guest_factory(Disk()) as machine:
        yield machine

def test_first(machine):
    assert machine.run("touch /tmp/here; uname -m").returncode == 0

def test_second(machine):
    assert machine.run("ls /tmp").lines == ["here"], "it is the same guest"

def test_own(virtio_guest):
    disk = Disk()
    machine = virtio_guest(disk)
    assert machine.run("ls /tmp").lines == []
    assert machine.run("echo a complaint >&2; false").returncode == 0
"""
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--virtio-arch=um")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        ["*console of guest 1*", "a complaint", "*last requests to Disk*", "requests: 16 bytes*"]
    )
