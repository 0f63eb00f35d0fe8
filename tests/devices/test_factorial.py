"""The factorial device: the tutorial's bytes, and exact values."""

from __future__ import annotations

import logging
import math

import pytest

from pyvirtio import open_driver
from pyvirtio.connect.in_process import InProcessTransport
from pyvirtio.devices.article import Article
from pyvirtio.devices.factorial import CAN_PRINT, DONE, EXACT, TOO_LARGE, TOO_SMALL, ExactResponse, Factorial, Request
from pyvirtio.driver import Driver, RequestQueue
from pyvirtio.drivers.factorial import FactorialDriver
from pyvirtio.errors import LocalError

KNOWN = {0: 1, 5: 120, 10: 3628800, 12: 479001600, 13: 1932053504, 20: 2192834560, 33: 2147483648, 34: 0, 2**32 - 1: 0}


class Raw(Driver):
    """Sends bytes and shows bytes."""

    device_id = 45
    features = EXACT | CAN_PRINT
    compute = RequestQueue()


@pytest.mark.parametrize("device", [Factorial, Article])
@pytest.mark.parametrize("n", KNOWN)
def test_article_answers_byte_for_byte(device, n):
    with open_driver(Raw, device(), features=0) as driver:
        request = n.to_bytes(4, "little") + b"hello back end!".ljust(32, b"\0")
        assert driver.compute.call(request, room=4) == KNOWN[n].to_bytes(4, "little")
        assert driver.compute.call(request, room=64) == KNOWN[n].to_bytes(4, "little")


@pytest.mark.parametrize("n", [0, 1, 2, 5, 12, 13, 20, 33, 34, 35, 100, 1000, 20000])
def test_exact_values(n):
    with open_driver(FactorialDriver, Factorial()) as driver:
        assert driver.factorial(n) == math.factorial(n)


def test_exact_answer_byte_for_byte():
    with open_driver(Raw, Factorial()) as driver:
        value = (120).to_bytes(1, "little")
        assert driver.compute.call(Request(5), room=12) == ExactResponse(120, TOO_SMALL, 1).pack()
        assert driver.compute.call(Request(5), room=13) == ExactResponse(120, DONE, 1).pack() + value
        assert driver.compute.call(Request(5), room=4096) == ExactResponse(120, DONE, 1).pack() + value
        assert driver.compute.call(Request(20001), room=4096) == ExactResponse(0, TOO_LARGE, 0).pack()
        assert driver.compute.call(Request(5), room=11) == b""  # no room for what precedes the value


def test_number_above_the_limit_is_refused_with_the_limit():
    with open_driver(FactorialDriver, Factorial()) as driver, pytest.raises(LocalError, match=r"up to n = 20000"):
        driver.factorial(20001)


@pytest.mark.parametrize("n", [-1, 2**32])
def test_number_that_cannot_be_sent_is_refused(n):
    with open_driver(FactorialDriver, Factorial()) as driver, pytest.raises(LocalError, match="0 to 4294967295"):
        driver.factorial(n)


def test_request_too_short_comes_back_empty_and_the_queue_goes_on():
    transport = InProcessTransport(Factorial())
    with Raw(transport, features=0) as driver:
        assert driver.compute.call(b"\x05\0\0\0", room=4) == b""
        assert driver.compute.call(Request(5), room=4) == b"\x78\0\0\0"
    assert any("36 bytes" in fault for fault in transport.faults)


def test_configuration_space_is_the_articles_and_max_exact():
    with open_driver(FactorialDriver, Factorial()) as driver:
        driver.write_config(num_pages=9, actual=7, event=3, max_exact=1)
        config = driver.read_config().as_dict()
        assert config == {"num_pages": 0, "actual": 7, "event": 3, "max_exact": 20000}


@pytest.mark.parametrize("device", [Factorial, Article])
def test_can_print_logs_the_articles_two_lines(caplog, device):
    with caplog.at_level(logging.INFO, "pyvirtio"), open_driver(Raw, device(), features=CAN_PRINT) as driver:
        driver.compute.call(Request(5), room=4)
    assert caplog.messages == [
        "QEMU: >>> get arg1 [ 5 ] form the front end <<<",
        "QEMU: >>> get arg2 [ hello back end! ] form the front end <<<",
    ]


@pytest.mark.parametrize("device", [Factorial, Article])
def test_control_characters_of_a_guest_never_reach_the_log(caplog, device):
    with caplog.at_level(logging.INFO, "pyvirtio"), open_driver(Raw, device(), features=CAN_PRINT) as driver:
        driver.compute.call(Request(5, b"a\x1b[2J\nb\xff"), room=4)
    assert caplog.messages[1] == "QEMU: >>> get arg2 [ a\\x1b[2J\\nb\ufffd ] form the front end <<<"


@pytest.mark.parametrize("device", [Factorial, Article])
@pytest.mark.parametrize(("level", "features"), [(logging.WARNING, CAN_PRINT), (logging.INFO, 0)])
def test_nothing_is_logged_below_info_or_without_can_print(caplog, level, features, device):
    with caplog.at_level(level, "pyvirtio"), open_driver(Raw, device(), features=features) as driver:
        driver.compute.call(Request(5), room=4)
    assert not caplog.messages


def test_the_article_offers_what_the_tutorials_driver_needs():
    assert Article().description().features & 0xFFFFFF == CAN_PRINT


async def _three(driver):
    tickets = driver.compute.submit_all([Request(n) for n in (3, 4, 5)])
    return [(await ticket).ret for ticket in tickets]


def test_answers_can_be_awaited():
    import asyncio

    with open_driver(FactorialDriver, Factorial(), features=0) as driver:
        assert asyncio.run(_three(driver)) == [6, 24, 120]
