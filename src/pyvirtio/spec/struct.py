r"""Wire structures, declared once: requests, configuration spaces, protocol messages.

>>> class Request(Struct):
...     arg1: int = le32()
...     arg2: str = chars(32)
>>> request = Request(5, "hello back end!")
>>> request.nbytes, request.pack()[:8]
(36, b'\x05\x00\x00\x00hell')
>>> Request.unpack(request.pack()) == request
True

Fields may be arrays, structures, and numbers with names:

>>> from enum import IntEnum
>>> class Cache(IntEnum):
...     WRITETHROUGH = 0
...     WRITEBACK = 1
>>> class Geometry(Struct):
...     cylinders: int = le16()
...     heads: int = u8()
...     sectors: int = u8()
>>> class Config(Struct):
...     capacity: int = le64()
...     geometry: Geometry = nested(Geometry)
...     cache: Cache = u8(kind=Cache, writable=True)
...     zones: tuple[int, ...] = array(le16(), 4)
>>> config = Config(2048, Geometry(16, heads=4), cache=Cache.WRITEBACK, zones=(1, 2, 3, 4))
>>> config.geometry.heads, config.cache, config.zones[2]
(4, <Cache.WRITEBACK: 1>, 3)
>>> print(config.describe())
 0  8  capacity     2048
 8  4  geometry     Geometry
 8  2    cylinders  16
10  1    heads      4
11  1    sectors    0
12  1  cache        1 WRITEBACK
13  8  zones        (1, 2, 3, 4)

A structure is an immutable, flat tuple of raw values, nested ones included, so unpacking costs one call of ``struct``
and reading a number costs one tuple access. Numbers are little-endian (VIRTIO 1.4, 1.4) unless a legacy device asks for
its guest's byte order; `be16` and its like are big-endian in any case.
"""

from __future__ import annotations

import struct

from pyvirtio.errors import LocalError, ShortData
from pyvirtio.spec.fields import Field, Raw, Text
from pyvirtio.spec.layout import Array, Layout, Nested
from pyvirtio.spec.numbers import BigEndian, Number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, ClassVar, Literal, Self

    import numpy as np

    ByteOrder = Literal["little", "big"]


# Declared as Any, as dataclasses.field() is, so that `arg1: int = le32()` satisfies a type checker.
def u8(default: int = 0, *, kind: type[int] | None = None, writable: bool = False) -> Any:
    """Declare an unsigned byte.

    Args:
        default: the value of a field that is not given.
        kind: an IntEnum or IntFlag. The field reads as a member of it, or as an int where it has a value that ``kind``
            does not know: a peer may send any.
        writable: whether a driver may write the field, where the structure is a configuration space.

    Raises:
        LocalError: ``kind`` is something else.
    """
    return Number("B", default, kind=kind, writable=writable)


def le16(default: int = 0, *, kind: type[int] | None = None, writable: bool = False) -> Any:
    """Declare an unsigned number of 2 bytes; see `u8`."""
    return Number("H", default, kind=kind, writable=writable)


def le32(default: int = 0, *, kind: type[int] | None = None, writable: bool = False) -> Any:
    """Declare an unsigned number of 4 bytes; see `u8`."""
    return Number("I", default, kind=kind, writable=writable)


def le64(default: int = 0, *, kind: type[int] | None = None, writable: bool = False) -> Any:
    """Declare an unsigned number of 8 bytes; see `u8`."""
    return Number("Q", default, kind=kind, writable=writable)


def be16(default: int = 0, *, kind: type[int] | None = None, writable: bool = False) -> Any:
    """Declare an unsigned, big-endian number of 2 bytes; see `u8`."""
    return BigEndian("H", default, kind=kind, writable=writable)


def be32(default: int = 0, *, kind: type[int] | None = None, writable: bool = False) -> Any:
    """Declare an unsigned, big-endian number of 4 bytes; see `u8`."""
    return BigEndian("I", default, kind=kind, writable=writable)


def be64(default: int = 0, *, kind: type[int] | None = None, writable: bool = False) -> Any:
    """Declare an unsigned, big-endian number of 8 bytes; see `u8`."""
    return BigEndian("Q", default, kind=kind, writable=writable)


def chars(size: int, default: str = "", *, writable: bool = False) -> Any:
    """Declare text in ``size`` bytes of UTF-8, padded with NULs."""
    return Text(size, default, writable=writable)


def raw(size: int, default: bytes = b"", *, writable: bool = False) -> Any:
    r"""Declare ``size`` bytes, padded with zeros.

    >>> class Header(Struct):
    ...     mac: bytes = raw(6)
    >>> Header(b"\x52\x54").mac
    b'RT\x00\x00\x00\x00'
    """
    return Raw(size, default, writable=writable)


def array(item: Any, count: int, default: Iterable[Any] | None = None) -> Any:
    """Declare ``count`` fields one behind the other, which read as a tuple; each is like ``item``.

    >>> class Point(Struct):
    ...     x: int = le16()
    ...     y: int = le16()
    >>> class Path(Struct):
    ...     counters: tuple[int, ...] = array(le32(writable=True), 2)
    ...     points: tuple[Point, ...] = array(nested(Point), 3)
    >>> Path(points=[Point(1, 2), Point(3, 4), Point()]).points[1].x
    3
    >>> Path.offset_of("points[2].y")
    18

    Raises:
        LocalError: ``item`` is not a field, or ``count`` not a number from 1 on.
    """
    return Array(item, count, default)


def nested(structure: type[Struct], default: Struct | None = None) -> Any:
    """Declare a structure inside of a structure.

    Raises:
        LocalError: ``structure`` is not a subclass of `Struct`.
    """
    return Nested(structure, default)


class _Body(dict[str, object]):
    """The body of a structure's class, in which a field is declared once."""

    def __setitem__(self, name: str, value: object) -> None:
        if isinstance(self.get(name), Field):
            raise LocalError(f"the field {name!r} is declared twice; give each field a name of its own")
        super().__setitem__(name, value)


class _StructType(type):
    @classmethod
    def __prepare__(cls, _name: str, _bases: tuple[type, ...], /, **_named: object) -> _Body:
        return _Body()


_make = tuple.__new__


def _definition(kind: type, name: str) -> object:
    """Return what ``kind`` or the nearest of its bases defines as ``name``."""
    return next(vars(base)[name] for base in kind.__mro__ if name in vars(base))


class Struct(tuple, metaclass=_StructType):  # type: ignore[type-arg]  # its items are of the fields' types
    """A wire structure. Subclass it and give each field as ``name: type = le32()`` and so on.

    Fields lie on the wire in the order of their declaration, without padding. ``nbytes`` is how many bytes they
    take together; ``is_number`` says that there is one field, and that a number.

    A *path* names a field, or a part of one: ``"capacity"``, ``"geometry.heads"``, ``"zones[2]"``.

    Raises:
        LocalError: a declared field is not possible, or a value does not fit in its field.
    """

    __slots__ = ()
    nbytes: ClassVar[int] = 0
    is_number: ClassVar[bool] = False
    _layout: ClassVar[Layout] = Layout("Struct", {})
    _codecs: ClassVar[dict[str, struct.Struct]] = {}
    _check: ClassVar[Callable[..., bytes] | None] = None
    if TYPE_CHECKING:
        # Fields may have these names, for nobody looks for the methods of tuples here.
        count: Any
        index: Any

    def __init_subclass__(cls) -> None:
        """Compile the declared fields into ``struct`` codecs and attributes."""
        declared = {name: item for name, item in vars(cls).items() if isinstance(item, Field)}
        if taken := declared.keys() & vars(Struct).keys():
            raise LocalError(f"{cls.__name__}: a structure has a {min(taken)!r} already; give the field another name")
        if doubled := cls._layout.fields.keys() & vars(cls).keys():
            raise LocalError(f"{cls.__name__}: its base class declares {min(doubled)!r}; give the field another name")
        fields = {**cls._layout.fields, **declared}
        cls._layout = layout = Layout(cls.__name__, fields)
        code = "".join(layout.codes)
        cls._codecs = {"little": struct.Struct("<" + code), "big": struct.Struct(">" + code)}
        cls.nbytes = cls._codecs["little"].size
        # Where every value is its own item, packing the values checks them all.
        cls._check = cls._codecs["little"].pack if all(field.is_plain for field in fields.values()) else None
        cls.is_number = [isinstance(field, Number) for field in fields.values()] == [True]
        for name, place in layout.places.items():
            setattr(cls, name, place.field.getter(place.start))

    def __new__(cls, *values: Any, **named: Any) -> Self:
        """Build a structure from values in order, by name, or both; the rest takes its default."""
        check, layout = cls._check, cls._layout
        if check and not named:
            try:
                check(*values)
                return _make(cls, values)
            except struct.error:
                pass  # values are missing, and have defaults, or are wrong; what follows tells
        if len(values) > len(layout.places):
            raise LocalError(
                f"{cls.__name__} has {len(layout.places)} fields, and {len(values)} values were given; "
                "give no more than it has"
            )
        given = dict(zip(layout.places, values, strict=False))
        if named:
            layout.check_names(named)
            if doubled := given.keys() & named.keys():
                raise LocalError(f"{cls.__name__}: {', '.join(sorted(doubled))} given twice; give each once")
            given |= named
        return _make(cls, layout.encode(given))

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed; every byte of the others stays.

        >>> class Config(Struct):
        ...     actual: int = le32()
        >>> Config().replace(actual=7)
        Config(actual=7)

        Raises:
            LocalError: there is no such field, or a value does not fit in its field.
        """
        self._layout.check_names(changes)
        items = list(self)
        for name, value in changes.items():
            place = self._layout.places[name]
            items[place.start : place.end] = place.field.encode(value, place.path)
        return _make(type(self), items)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {name: getattr(self, name) for name in self._layout.fields}

    def pack(self, order: ByteOrder = "little") -> bytes:
        """Return the bytes for the wire, with numbers in byte order ``order``."""
        return self._codecs[order].pack(*self)

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview, order: ByteOrder = "little") -> Self:
        """Read a structure from the start of ``data``; more bytes than it takes are not an error.

        Raises:
            ShortData: ``data`` is shorter than the structure.
        """
        try:
            return _make(cls, cls._codecs[order].unpack_from(data))
        except struct.error:
            came = memoryview(data).nbytes
            raise ShortData(f"{cls.__name__} takes {cls.nbytes} bytes; only {came} came") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).unpack, (self.pack(),)

    @classmethod
    def codes(cls) -> list[str] | None:
        """Return the codes of the items in the language of the module ``struct``, in order.

        They say all of how the structure looks on the wire. Return None where the class has a ``pack`` or an
        ``unpack`` of its own, so that they do not.
        """
        is_plain = all(_definition(cls, name) is vars(Struct)[name] for name in ("pack", "unpack"))
        return list(cls._layout.codes) if is_plain else None

    @classmethod
    def offset_of(cls, path: str) -> int:
        """Return the distance in bytes of a field from the start of the structure.

        Raises:
            LocalError: there is no such field.
        """
        return cls._layout.find(path)[0]

    @classmethod
    def size_of(cls, path: str) -> int:
        """Return the bytes that a field takes; raises as `offset_of` does."""
        return cls._layout.find(path)[1].nbytes

    @classmethod
    def writable_mask(cls) -> bytes:
        """Return a byte for each byte of the structure: 255 where a driver may write, 0 elsewhere."""
        return cls._layout.writable_mask

    @classmethod
    def numpy_dtype(cls) -> np.dtype[Any]:
        """Return the NumPy record type of this little-endian structure; imports NumPy.

        Nested structures are record types inside of it, arrays are sub-arrays.
        """
        import numpy as np

        return np.dtype([(name, field.numpy_type()) for name, field in cls._layout.fields.items()])

    def describe(self) -> str:
        """Return a line for each field: its offset and size in bytes, its name and its value.

        Flags and bytes are in hexadecimal; of long fields and arrays the line shows the beginning. What is part of a
        nested structure is indented below it.

        >>> class Header(Struct):
        ...     length: int = le32()
        ...     mac: bytes = raw(6)
        >>> print(Header(1500, b"RT").describe())
        0  4  length  1500
        4  6  mac     52 54 00 00 00 00
        """
        rows = list(self._layout.rows(0, self))
        widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
        return "\n".join(
            f"{offset:{widths[0]}}  {size:{widths[1]}}  {name:{widths[2]}}  {text}".rstrip()
            for offset, size, name, text in rows
        )

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.as_dict().items())
        return f"{type(self).__name__}({values})"
