"""Definitions of structures and fields that cannot be: they are refused where they stand, in plain words."""

from __future__ import annotations

import types
from enum import IntEnum
from typing import Any

import pytest

from pyvirtio.errors import LocalError
from pyvirtio.spec.struct import Struct, array, be16, chars, le16, le32, nested, raw, u8


class Cache(IntEnum):
    WRITETHROUGH = 0
    WRITEBACK = 1


class Point(Struct):
    x: int = le16()
    y: int = le16()


class Other(Struct):
    x: int = le32()


@pytest.mark.parametrize(
    ("path", "declare", "arguments"),
    [
        ("Wrong.field", u8, (256,)),
        ("Wrong.field", le16, (-1,)),
        ("Wrong.field", be16, ("1",)),
        ("Wrong.field", chars, (3, "long")),
        ("Wrong.field", raw, (3, "text")),
        ("Wrong.field[0]", array, (u8(256), 2)),
        ("Wrong.field", array, (u8(), 2, (1,))),
        ("Wrong.field", nested, (Point, Other())),
    ],
)
def test_a_default_is_checked_where_it_is_declared(path: str, declare: Any, arguments: tuple[Any, ...]):
    with pytest.raises(LocalError) as caught:
        types.new_class("Wrong", (Struct,), {}, lambda body: body.update(field=declare(*arguments)))
    assert str(caught.value).split(" ")[0] == path


@pytest.mark.parametrize(
    ("declare", "arguments"),
    [
        (array, (le16(), 0)),
        (array, (le16(), -1)),
        (array, (le16(), "2")),
        (array, (Point, 2)),
        (array, (int, 2)),
        (nested, (int,)),
        (nested, (Point(),)),
        (nested, (le16(),)),
        (chars, (0,)),
        (raw, (-1,)),
        (raw, ("6",)),
    ],
)
def test_a_field_that_cannot_be(declare: Any, arguments: tuple[Any, ...]):
    with pytest.raises(LocalError):
        declare(*arguments)


@pytest.mark.parametrize("kind", [int, str, Point, Cache.WRITEBACK, "Cache"])
@pytest.mark.parametrize("declare", [u8, le32, be16])
def test_a_kind_that_is_not_an_enumeration(declare: Any, kind: Any):
    with pytest.raises(LocalError):
        declare(kind=kind)


def test_a_field_is_declared_once():
    with pytest.raises(LocalError, match="'reserved'"):

        class Twice(Struct):
            reserved: int = le16()
            value: int = le16()
            reserved: int = le32()  # type: ignore[no-redef]  # noqa: PIE794  # what this test is about

    with pytest.raises(LocalError, match="'value'"):

        class Hidden(Struct):
            value: int = le16()

            def value(self) -> int:  # type: ignore[no-redef]  # noqa: F811  # what this test is about
                return 1

    with pytest.raises(LocalError, match="'x'"):

        class Again(Point):
            x: int = le32()

    with pytest.raises(LocalError, match="'pack'"):

        class Taken(Struct):
            pack: int = le32()  # type: ignore[assignment]  # what this test is about
