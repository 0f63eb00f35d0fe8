"""The factorial driver, and what every driver's queue does with its memory."""

from __future__ import annotations

import math

import pytest

from pyvirtio import open_driver
from pyvirtio.devices.factorial import Factorial, Request
from pyvirtio.drivers.factorial import FactorialDriver
from pyvirtio.errors import LocalError


def test_many_numbers_in_order():
    numbers = [*range(300), 5000, *range(300), 20000]
    with open_driver(FactorialDriver, Factorial()) as driver:
        assert list(driver.factorials(numbers)) == [math.factorial(n) for n in numbers]


def test_a_refused_request_gives_its_memory_back():
    with open_driver(FactorialDriver, Factorial()) as driver:
        free = driver.compute.ring.free
        for _ in range(10):
            with pytest.raises(LocalError):
                driver.compute.submit(Request(5), room=1 << 33)
        first = driver.transport.arena.allocate(64)
        driver.transport.arena.free(first, 64)
        driver.compute.call(Request(5), room=13)
        assert driver.compute.ring.free == free


def test_more_bytes_than_a_chain_may_have_are_refused():
    with open_driver(FactorialDriver, Factorial()) as driver, pytest.raises(LocalError, match=r"2\*\*32 bytes"):
        driver.compute.ring.add([(0, 1 << 31), (0, 1 << 31)], [(0, 1 << 31)], None)
