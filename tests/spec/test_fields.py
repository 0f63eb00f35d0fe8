"""Fields of a wire structure: named and big-endian numbers, arrays, structures; their paths, how they are printed."""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvirtio.errors import LocalError
from pyvirtio.spec.struct import Struct, array, be16, be32, be64, chars, le16, le32, le64, nested, raw, u8


class Cache(IntEnum):
    WRITETHROUGH = 0
    WRITEBACK = 1


class Feature(IntFlag):
    RO = 1 << 5
    FLUSH = 1 << 9


class Disk(Struct):
    cache: Cache = u8(kind=Cache, writable=True)
    features: Feature = le16(Feature.RO, kind=Feature)
    peer: Cache = be32(Cache.WRITEBACK, kind=Cache)


def test_numbers_that_have_names():
    disk = Disk(Cache.WRITEBACK, Feature.RO | Feature.FLUSH, Cache.WRITETHROUGH)
    assert disk.pack() == b"\1" + b"\x20\x02" + bytes(4)
    for same in (disk, Disk.unpack(disk.pack()), Disk(1, 0x220, 0)):
        assert same.cache is Cache.WRITEBACK
        assert same.peer is Cache.WRITETHROUGH
        assert isinstance(same.features, Feature)
        assert same.features == Feature.RO | Feature.FLUSH
    assert repr(Disk().peer) == repr(Cache.WRITEBACK)


@given(st.binary(min_size=7, max_size=7))
def test_a_number_whose_name_is_not_known_reads_as_itself(data):
    disk = Disk.unpack(data)
    cache, features = struct.unpack("<BH", data[:3])
    assert (disk.cache, disk.features, disk.peer) == (cache, features, int.from_bytes(data[3:], "big"))
    assert isinstance(disk.cache, Cache) == (cache < 2)
    assert isinstance(disk.features, Feature) == (not features & ~0x220)
    assert disk.pack() == data
    repr(disk)


def test_flags_with_unknown_bits_leave_nothing_behind():
    """Python keeps every combination of flags that it has met; which ones come is a peer's choice."""
    before = len(Feature._value2member_map_)
    for number in range(1, 1 << 16, 2):
        assert Disk.unpack(struct.pack("<BHI", 0, number, 0)).features == number
    assert len(Feature._value2member_map_) == before


def test_big_endian_numbers_do_not_depend_on_the_order_of_the_structure():
    class Frame(Struct):
        little: int = le16(0x0102)
        two: int = be16(0x0304)
        four: int = be32(0x05060708)
        eight: int = be64(0x090A0B0C0D0E0F10)
        more: tuple[int, ...] = array(be16(), 2, (0x1112, 0x1314))

    tail = bytes(range(3, 0x15))
    assert Frame().pack() == b"\2\1" + tail
    assert Frame().pack("big") == b"\1\2" + tail
    assert Frame.unpack(b"\1\2" + tail, "big").as_dict() == Frame().as_dict()
    assert (Frame().two, Frame().eight, Frame().more) == (0x0304, 0x090A0B0C0D0E0F10, (0x1112, 0x1314))
    assert [Frame(two=0, four=2**32 - 1).two, Frame(four=2**32 - 1).four] == [0, 2**32 - 1]


def test_fields_may_have_the_names_of_tuple_methods():
    class Ring(Struct):
        index: int = le16()
        count: int = le32(4)

    assert (Ring(3).index, Ring(3).count, Ring(3).pack()) == (3, 4, b"\3\0\4\0\0\0")


class Point(Struct):
    x: int = le16(1, writable=True)
    y: int = le16()


class Path(Struct):
    kind: int = u8()
    start: Point = nested(Point, Point(7, 8))
    counters: tuple[int, ...] = array(le32(9, writable=True), 3)
    points: tuple[Point, ...] = array(nested(Point), 2)
    grid: tuple[tuple[int, ...], ...] = array(array(u8(), 2), 2)


def test_arrays_and_structures_inside():
    default = Path()
    assert default.start == Point(7, 8)
    assert (default.counters, default.points, default.grid) == ((9, 9, 9), (Point(), Point()), ((0, 0), (0, 0)))
    path = Path(1, Point(2, 3), [4, 5, 6], (Point(7, 8), Point(9, 10)), [(11, 12), (13, 14)])
    data = struct.pack("<BHHIIIHHHHBBBB", *range(1, 15))
    assert path.pack() == data
    assert Path.unpack(data) == path
    assert (path.start.y, path.counters[1], path.points[1].x, path.grid[1][0]) == (3, 5, 9, 13)
    assert type(path.points[0]) is Point
    assert type(path.counters) is tuple
    assert path.replace(start=Point(0, 0)).pack() == data[:1] + bytes(4) + data[5:]
    assert eval(repr(path), globals()) == path


def test_a_path_names_a_part():
    offsets = {"start": 1, "start.y": 3, "counters[2]": 13, "points[1]": 21, "points[1].y": 23, "grid[1][1]": 28}
    assert {path: Path.offset_of(path) for path in offsets} == offsets
    assert [Path.size_of(path) for path in ("start", "counters", "counters[0]", "points", "grid[0]")] == [
        4,
        12,
        4,
        8,
        2,
    ]
    two = b"\xff\xff\0\0"
    assert Path.writable_mask() == b"\0" + two + 12 * b"\xff" + 2 * two + bytes(4)


WRONG_PATHS = (
    "end",
    "",
    "start.",
    "start.z",
    "start[0]",
    "kind.x",
    "counters[3]",
    "counters[-1]",
    "counters[]",
    "counters[0",
    "grid[1].x",
    "[0]",
)


@pytest.mark.parametrize("path", WRONG_PATHS)
def test_a_path_to_nowhere(path):
    with pytest.raises(LocalError):
        Path.offset_of(path)
    with pytest.raises(LocalError):
        Path.size_of(path)


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"counters": (1, 2)}, "Path.counters"),
        ({"counters": (1, 2, 3, 4)}, "Path.counters"),
        ({"counters": 5}, "Path.counters"),
        ({"counters": (1, 1 << 32, 3)}, "Path.counters[1]"),
        ({"counters": (1, 2, "3")}, "Path.counters[2]"),
        ({"start": (1, 2)}, "Path.start"),
        ({"start": Path()}, "Path.start"),
        ({"points": (Point(), (1, 2))}, "Path.points[1]"),
        ({"grid": ((1, 2), (3, -1))}, "Path.grid[1][1]"),
        ({"grid": ((1, 2), (3,))}, "Path.grid[1]"),
    ],
)
def test_a_wrong_value_is_named(wrong: dict[str, Any], path: str):
    for call in (Path, Path().replace):
        with pytest.raises(LocalError) as caught:
            call(**wrong)
        assert str(caught.value).split(" ")[0] == path


def test_one_value_in_an_array_is_no_plain_structure():
    class Single(Struct):
        values: tuple[int, ...] = array(le16(), 1)

    class Inside(Struct):
        point: Point = nested(Point)

    assert Single((5,)).values == (5,)
    assert Inside(Point(1, 2)).point == Point(1, 2)
    assert not Single.is_number
    for wrong in (Single, 5), (Inside, 1):
        with pytest.raises(LocalError):
            wrong[0](wrong[1])
    with pytest.raises(LocalError):
        Inside(1, 2)


def test_one_number_is_a_number():
    def of(field: Any) -> type[Struct]:
        class One(Struct):
            value: Any = field

        return One

    assert all(of(field).is_number for field in (u8(), le64(), be32(), u8(kind=Cache)))
    assert not any(of(field).is_number for field in (raw(4), chars(4), array(u8(), 1), nested(Point)))


def test_numpy_sees_the_parts():
    np = pytest.importorskip("numpy")
    path = Path(1, Point(2, 3), [4, 5, 6], (Point(7, 8), Point(9, 10)), [(11, 12), (13, 14)])
    kind: Any = Path.numpy_dtype()
    assert kind.itemsize == Path.nbytes
    assert {name: kind.fields[name][1] for name in kind.names} == {name: Path.offset_of(name) for name in kind.names}
    assert kind.names == tuple(Path().as_dict())
    record = np.frombuffer(path.pack(), kind)[0]
    assert record["counters"].tolist() == [4, 5, 6]
    assert record["grid"].tolist() == [[11, 12], [13, 14]]
    assert record["points"]["x"].tolist() == [7, 9]
    assert record["start"]["y"] == 3
    assert np.frombuffer(Disk().pack(), Disk.numpy_dtype())[0].tolist() == tuple(map(int, Disk().as_dict().values()))


def test_codes_are_those_of_the_tuple():
    assert Path.codes() == list("BHHIIIHHHHBBBB")
    assert Disk.codes() == ["B", "H", "4s"]
    assert len(Path()) == len(Path.codes() or [])


def test_it_describes_itself():
    class Inner(Struct):
        features: Feature = le16(kind=Feature)
        cache: Cache = u8(kind=Cache)

    class Outer(Struct):
        number: int = le32()
        inner: tuple[Inner, ...] = array(nested(Inner), 2)
        bits: Feature = le64(kind=Feature)
        caches: tuple[Cache, ...] = array(u8(kind=Cache), 2)
        text: str = chars(8)
        data: bytes = raw(20)

    outer = Outer(
        1000, (Inner(Feature.RO | Feature.FLUSH, Cache.WRITEBACK), Inner(1, 2)), 0, (0, 7), "a\nb", bytes(range(20))
    )
    assert [line.split(maxsplit=3) for line in outer.describe().splitlines()] == [
        ["0", "4", "number", "1000"],
        ["4", "3", "inner[0]", "Inner"],
        ["4", "2", "features", "0x220 RO|FLUSH"],
        ["6", "1", "cache", "1 WRITEBACK"],
        ["7", "3", "inner[1]", "Inner"],
        ["7", "2", "features", "0x1"],
        ["9", "1", "cache", "2"],
        ["10", "8", "bits", "0x0"],
        ["18", "2", "caches", "(0 WRITETHROUGH, 7)"],
        ["20", "8", "text", r"'a\nb'"],
        ["28", "20", "data", "00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f ... 20 in all"],
    ]
    names = [line[6:].rstrip() for line in outer.describe().splitlines()]
    indents = [len(name) - len(name.lstrip()) for name in names]
    assert indents == [indents[0] + 2 * (name.split()[0] in ("features", "cache")) for name in names]
