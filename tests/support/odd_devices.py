"""Devices that misbehave on request, for tests of keeper and workers. A request is a number, and so is its answer."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

from pyvirtio.device import Device, Queue
from pyvirtio.spec.struct import Struct, le32

if TYPE_CHECKING:
    from collections.abc import Callable

# What a device is told to do. Any other number is answered with its double.
EXIT, CRASH, RAISE, HANG, WAIT, KNOB, STATE, CHANGE, FLOOD, PID = range(1_000_000, 1_000_010)


class Number(Struct):
    value: int = le32()


class Config(Struct):
    """One field that drivers write, and one that the device does."""

    knob: int = le32(writable=True)
    state: int = le32()


class Odd(Device):
    """Notes each request in the file that ODD_RECORD names, before it does anything else with it."""

    device_id = 38
    config = Config(state=100)
    requests = Queue(Number, Number, size=64)

    @requests.each
    def answer(self, request: Number) -> Number:
        value = request.value
        if record := os.environ.get("ODD_RECORD"):
            fd = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(fd, f"{value}\n".encode())
            os.close(fd)
        if value in ACTIONS:
            return Number(ACTIONS[value](self))
        return Number(2 * value % 2**32)


class Impatient(Odd):
    patience = 0.3


class TwoSeconds(Odd):
    patience = 2.0


class Unrepeatable(Odd):
    repeatable = False


class Closing(Odd):
    """Notes that it is closed."""

    def close(self) -> None:
        with open(os.environ["ODD_RECORD"], "a", encoding="ascii") as record:
            record.write("closed\n")


class Stubborn(Odd):
    """Never comes to the end of being closed."""

    def close(self) -> None:
        _hang(self)


class Four(Device):
    """Four queues; an answer is the double of its request."""

    device_id = 38
    requests = Queue(Number, Number, size=64, count=4)
    answer = requests.each(Odd.answer)


def _exit(_device: Odd) -> int:
    os._exit(7)


def _crash(_device: Odd) -> int:
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


def _raise(_device: Odd) -> int:
    raise ValueError("as it was told to")


def _hang(_device: Odd) -> int:
    while True:
        signal.pause()


def _wait(_device: Odd) -> int:
    """Wait until somebody writes a number into the pipe that ODD_PIPE names, having said in ODD_BEGUN that it waits."""
    with open(os.environ["ODD_BEGUN"], "wb", buffering=0) as begun:
        begun.write(b"!")
    with open(os.environ["ODD_PIPE"], "rb", buffering=0) as pipe:
        return int(pipe.read())


def _change(device: Odd) -> int:
    assert isinstance(device.config, Config)
    device.update_config(state=device.config.state + 1)
    return device.config.state


def _flood(device: Odd) -> int:
    for _ in range(3000):
        _change(device)
    return 3000


ACTIONS: dict[int, Callable[[Any], int]] = {
    EXIT: _exit,
    CRASH: _crash,
    RAISE: _raise,
    HANG: _hang,
    WAIT: _wait,
    KNOB: lambda device: device.config.knob,
    STATE: lambda device: device.config.state,
    CHANGE: _change,
    FLOOD: _flood,
    PID: lambda _device: os.getpid(),
}


class Plain(Device):
    """Has no configuration space."""

    requests = Queue(Number, Number)

    @requests.each
    def answer(self, request: Number) -> Number:
        return request
