"""Structures of any shape, against two oracles: bytes put together by hand, and what ctypes makes of the same shape."""

from __future__ import annotations

import ctypes
import types
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvirtio.errors import ShortData
from pyvirtio.spec.struct import Struct, array, be16, be32, be64, chars, le16, le32, le64, nested, raw, u8

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import SearchStrategy


class Cache(IntEnum):
    WRITETHROUGH = 0
    WRITEBACK = 1


class Feature(IntFlag):
    RO = 1 << 5
    FLUSH = 1 << 9


@dataclass(frozen=True)
class Shape:
    """A field as the oracles know it.

    ``wire`` returns the bytes of a value in a byte order. ``leaves`` are the rest of its path, its size and whether it
    is writable, for each leaf in order.
    """

    field: Any
    ctype: Any
    values: SearchStrategy[Any]
    wire: Callable[[Any, Any], bytes]
    leaves: tuple[tuple[str, int, bool], ...]


NUMBERS: dict[Any, tuple[Any, Any]] = {
    u8: (ctypes.c_uint8, None),
    le16: (ctypes.c_uint16, None),
    le32: (ctypes.c_uint32, None),
    le64: (ctypes.c_uint64, None),
    be16: (ctypes.c_uint16.__ctype_be__, "big"),
    be32: (ctypes.c_uint32.__ctype_be__, "big"),
    be64: (ctypes.c_uint64.__ctype_be__, "big"),
}


@st.composite
def numbers(draw: st.DrawFn) -> Shape:
    declare = draw(st.sampled_from(list(NUMBERS)))
    ctype, fixed = NUMBERS[declare]
    size, writable = ctypes.sizeof(ctype), draw(st.booleans())
    kind = draw(st.sampled_from([None, Cache, Feature] if size > 1 else [None, Cache]))
    values = {
        None: st.integers(0, 256**size - 1),
        Cache: st.sampled_from(Cache),
        Feature: st.sampled_from([Feature(0), Feature.RO, Feature.FLUSH, Feature.RO | Feature.FLUSH]),
    }[kind]
    return Shape(
        declare(kind=kind, writable=writable),
        ctype,
        values,
        lambda value, order: int(value).to_bytes(size, fixed or order),
        (("", size, writable),),
    )


@st.composite
def strings(draw: st.DrawFn) -> Shape:
    size, writable = draw(st.integers(1, 6)), draw(st.booleans())
    field: Any
    values: SearchStrategy[Any]
    if draw(st.booleans()):
        alphabet = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
        text = st.text(alphabet, max_size=size).filter(lambda value: len(value.encode()) <= size)
        field, values = chars(size, writable=writable), text
    else:
        field, values = raw(size, writable=writable), st.binary(min_size=size, max_size=size)

    def wire(value: str | bytes, _order: str) -> bytes:
        return (value.encode() if isinstance(value, str) else value).ljust(size, b"\0")

    return Shape(field, ctypes.c_uint8 * size, values, wire, (("", size, writable),))


@st.composite
def arrays(draw: st.DrawFn, inner: SearchStrategy[Shape]) -> Shape:
    item, count = draw(inner), draw(st.integers(1, 4))
    return Shape(
        array(item.field, count),
        item.ctype * count,
        st.tuples(*[item.values] * count),
        lambda values, order: b"".join(item.wire(value, order) for value in values),
        tuple((f"[{at}]{path}", size, writable) for at in range(count) for path, size, writable in item.leaves),
    )


@st.composite
def structures(draw: st.DrawFn, inner: SearchStrategy[Shape]) -> Shape:
    parts = {f"f{index}": part for index, part in enumerate(draw(st.lists(inner, min_size=1, max_size=4)))}
    fields = {name: part.field for name, part in parts.items()}
    kind = types.new_class("Random", (Struct,), exec_body=lambda body: body.update(fields))
    mirror = {"_pack_": 1, "_layout_": "ms", "_fields_": [(name, part.ctype) for name, part in parts.items()]}
    return Shape(
        nested(kind),
        type("Mirror", (ctypes.LittleEndianStructure,), mirror),
        st.builds(kind, **{name: part.values for name, part in parts.items()}),
        lambda value, order: b"".join(part.wire(getattr(value, name), order) for name, part in parts.items()),
        tuple((f".{name}{path}", size, can) for name, part in parts.items() for path, size, can in part.leaves),
    )


SHAPES = structures(st.recursive(numbers() | strings(), lambda inner: arrays(inner) | structures(inner), max_leaves=6))


def structure(shape: Shape) -> type[Struct]:
    return type(shape.field.default)


def assert_same(value: Any, mirror: Any) -> None:
    """Compare what a structure reads as with what ctypes reads from the same bytes."""
    if isinstance(value, Struct):
        for name, part in value.as_dict().items():
            assert_same(part, getattr(mirror, name))
    elif isinstance(value, tuple):
        assert len(value) == len(mirror)
        for part, other in zip(value, mirror, strict=True):
            assert_same(part, other)
    elif isinstance(value, str):
        assert value == bytes(mirror).split(b"\0")[0].decode("utf-8", "replace")
    else:
        assert value == (bytes(mirror) if isinstance(value, bytes) else mirror)


@given(SHAPES, st.data())
def test_it_reads_what_ctypes_reads(shape: Shape, data: st.DataObject):
    kind = structure(shape)
    assert kind.nbytes == ctypes.sizeof(shape.ctype)
    wire = data.draw(st.binary(min_size=kind.nbytes, max_size=kind.nbytes + 2))
    value = kind.unpack(wire)
    assert_same(value, shape.ctype.from_buffer_copy(wire))
    assert value.pack() == wire[: kind.nbytes]


@given(SHAPES, st.data(), st.sampled_from(["little", "big"]))
def test_there_and_back(shape: Shape, data: st.DataObject, order: Any):
    kind, value = structure(shape), data.draw(shape.values)
    wire = shape.wire(value, order)
    assert value.pack(order) == wire
    assert kind.unpack(wire, order) == value
    assert kind.unpack(wire, order).as_dict() == value.as_dict()
    assert kind(*value.as_dict().values()) == value


@given(SHAPES)
def test_every_prefix_is_too_short(shape: Shape):
    kind = structure(shape)
    whole = kind().pack()
    for length in range(len(whole)):
        with pytest.raises(ShortData):
            kind.unpack(whole[:length])


@given(SHAPES)
def test_paths_and_masks(shape: Shape):
    kind, offset, mask = structure(shape), 0, b""
    for path, size, writable in shape.leaves:
        assert (kind.offset_of(path[1:]), kind.size_of(path[1:])) == (offset, size)
        offset += size
        mask += (b"\xff" if writable else b"\0") * size
    assert kind.writable_mask() == mask


@given(SHAPES, st.data())
def test_replacing_one_field_leaves_every_other_byte(shape: Shape, data: st.DataObject):
    kind = structure(shape)
    wire = data.draw(st.binary(min_size=kind.nbytes, max_size=kind.nbytes))
    other = data.draw(shape.values)
    name = data.draw(st.sampled_from(list(other.as_dict())))
    start, size = kind.offset_of(name), kind.size_of(name)
    changed = kind.unpack(wire).replace(**{name: getattr(other, name)})
    assert changed.pack() == wire[:start] + other.pack()[start : start + size] + wire[start + size :]


@given(SHAPES, st.data())
def test_any_bytes_are_described(shape: Shape, data: st.DataObject):
    kind = structure(shape)
    value = kind.unpack(data.draw(st.binary(min_size=kind.nbytes, max_size=kind.nbytes)))
    rows = [line.split(maxsplit=3) for line in value.describe().splitlines()]
    offsets = [int(offset) for offset, *_ in rows]
    assert offsets == sorted(offsets)
    assert {name.split("[")[0] for _, _, name, *_ in rows} >= value.as_dict().keys()
    assert repr(value).startswith("Random(f0=")


@given(SHAPES, st.data())
def test_numpy_has_the_same_layout(shape: Shape, data: st.DataObject):
    np = pytest.importorskip("numpy")
    kind = structure(shape)
    wire = data.draw(st.binary(min_size=3 * kind.nbytes, max_size=3 * kind.nbytes))
    records = np.frombuffer(wire, kind.numpy_dtype())
    assert len(records) == 3
    for name in records.dtype.names:
        start, size = kind.offset_of(name), kind.size_of(name)
        assert records[name][1:2].tobytes() == wire[kind.nbytes + start :][:size]
