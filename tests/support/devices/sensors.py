"""A device that has one of each thing that a C header can have."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Any

from pyvirtio import Device, OutgoingQueue, Queue, Struct, array, be16, be64, chars, le16, le32, le64, nested, raw, u8


class Feature(IntFlag):
    """What driver and device agree on."""

    CALIBRATION = 1 << 0
    HISTORY = 1 << 50


class Unit(IntEnum):
    """What a value counts, by the name of the */ unit, which is written out wherever somebody reads it at length.

    This is not in the header.
    """

    KELVIN = 0
    PASCAL = 0x8000_0000


class Flags(IntFlag):
    VALID = 1
    FRESH = 1 << 35


class Range(Struct):
    """From where to where."""

    low: int = le16()
    high: int = le64()


class Config(Struct):
    """The configuration space."""

    sensors: int = le32()
    interval_ms: int = le32(writable=True)


class Request(Struct):
    type_: int = u8()
    unused: tuple[int, ...] = array(u8(), 3)
    unit: int = le32(kind=Unit)
    ranges: tuple[Range, ...] = array(nested(Range), 2)
    grid: tuple[Any, ...] = array(array(be16(), 4), 2)
    keys: tuple[bytes, ...] = array(raw(6), 2)
    name: str = chars(16)
    kinds_of_values_that_the_driver_wants_to_have: int = le64(kind=Flags)


class Answer(Struct):
    stamp: int = be64()
    flags: int = le64(kind=Flags)


class Sensors(Device):
    config = Config()
    features = Feature.CALIBRATION
    requests = Queue(Request, Answer, count=2)
    events = OutgoingQueue()

    @requests.each
    def answer(self, request: Request) -> Answer:
        return Answer()
