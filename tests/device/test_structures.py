"""Requests, answers and configuration spaces with arrays, structures and named numbers, on every engine."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import pytest

from pyvirtio.connect.in_process import InProcessTransport
from pyvirtio.device import Device, Queue, Reader, Writer
from pyvirtio.driver import Driver, RequestQueue
from pyvirtio.errors import LocalError
from pyvirtio.spec.struct import Struct, array, be32, le16, le32, nested, u8

pytestmark = pytest.mark.usefixtures("engine")  # each of them


class Status(IntEnum):
    OK = 0
    UNSUPPORTED = 2


class Point(Struct):
    x: int = le16()
    y: int = le16()


class Request(Struct):
    corner: Point = nested(Point)
    sizes: tuple[int, ...] = array(le16(), 2)
    counter: int = be32()


class Sums(Struct):
    sums: tuple[int, ...] = array(le32(), 1)


class Answer(Struct):
    status: Status = u8(kind=Status)
    far: Point = nested(Point)


class Count(Struct):
    count: int = be32()


class Config(Struct):
    limit: int = le32()
    corner: Point = nested(Point, Point(1, 2))
    levels: tuple[int, ...] = array(u8(writable=True), 4)


class Shapes(Device):
    device_id = 63
    config = Config(7)
    corners = Queue(Request, Answer, size=256)
    sums = Queue(Request, Sums, size=256)
    counters = Queue(Request, Answer, size=256)
    streams = Queue(size=256)
    counts = Queue(Request, Count, size=256)

    @corners.each
    def far_corner(self, request: Request) -> Answer:
        far = Point(request.corner.x + request.sizes[0], request.corner.y + request.sizes[1])
        return Answer(Status.OK if far.x < 1000 else Status.UNSUPPORTED, far)

    @sums.each
    def sum(self, request: Request) -> Sums:
        return Sums((sum(request.sizes) + request.counter,))

    @counters.each
    def wrong(self, request: Request) -> Any:
        return Answer(status=request.counter)

    @streams.stream
    def take(self, reader: Reader, writer: Writer) -> None:
        writer.put(reader.take(Request).corner)

    @counts.each
    def count(self, request: Request) -> int:
        return request.counter


class ShapesDriver(Driver):
    device_id = 63
    config = Config
    corners = RequestQueue(Request, Answer)
    sums = RequestQueue(Request, Sums)
    counters = RequestQueue(Request, Answer)
    streams = RequestQueue(size=256)
    counts = RequestQueue(Request, Count)


def connected() -> tuple[Any, InProcessTransport]:
    transport = InProcessTransport(Shapes())
    return ShapesDriver(transport), transport


def requests(number: int) -> list[Request]:
    return [Request(Point(20 * at, at), (at, 2), at << 16) for at in range(number)]


def test_many_requests_of_one_shape():
    driver, transport = connected()
    with driver:
        answers = [ticket.result() for ticket in driver.corners.submit_all(requests(100))]
        assert [answer.far for answer in answers] == [Point(21 * at, at + 2) for at in range(100)]
        assert [answer.status for answer in answers] == [Status.OK] * 48 + [Status.UNSUPPORTED] * 52
        assert transport.faults == []


def test_an_array_of_one_number_is_no_number():
    driver, _ = connected()
    with driver:
        answers = [ticket.result() for ticket in driver.sums.submit_all(requests(100))]
        assert [answer.sums for answer in answers] == [(2 + at + (at << 16),) for at in range(100)]
        assert Sums((3,)).sums == (3,)  # whatever engine has seen it
        with pytest.raises(LocalError):
            Sums(3)


def test_a_big_endian_answer_may_be_given_as_its_number():
    driver, _ = connected()
    with driver:
        tickets = driver.counts.submit_all(requests(100))
        assert [ticket.data() for ticket in tickets] == [(at << 16).to_bytes(4, "big") for at in range(100)]


def test_a_value_that_does_not_fit_fails_its_own_request():
    driver, transport = connected()
    with driver:
        tickets = driver.counters.submit_all([Request(counter=value) for value in (0, 256, 2, 5)])
        assert [ticket.data() for ticket in tickets] == [bytes(5), b"", b"\2" + bytes(4), b"\5" + bytes(4)]
        assert tickets[3].result().status == 5
        assert any("Answer.status" in fault for fault in transport.faults)


def test_a_short_request_is_returned_empty_and_is_not_the_method_s_fault():
    driver, transport = connected()
    with driver:
        whole = Request(Point(3, 4)).pack()
        tickets = driver.streams.submit_all([whole, whole[:-1], whole + b"more", b"\0"], room=4)
        assert [ticket.data() for ticket in tickets] == [Point(3, 4).pack(), b"", Point(3, 4).pack(), b""]
        assert len(transport.faults) == 2
        assert not any("method failed" in fault for fault in transport.faults)


def test_a_configuration_space():
    driver, transport = connected()
    with driver:
        assert driver.read_config() == Config(7, Point(1, 2), (0, 0, 0, 0))
        driver.write_config(levels=(1, 2, 3, 4), limit=9)
        assert transport.device.config == driver.read_config() == Config(7, levels=(1, 2, 3, 4))
        transport.device.update_config(corner=Point(5, 6))
        assert driver.read_config().corner == Point(5, 6)
