r"""Wire structures, declared once: requests, configuration spaces, protocol messages.

>>> class Request(Struct):
...     arg1: int = le32()
...     arg2: str = chars(32)
>>> request = Request(5, "hello back end!")
>>> request.nbytes, request.pack()[:8]
(36, b'\x05\x00\x00\x00hell')
>>> Request.unpack(request.pack()) == request
True

A structure is an immutable tuple of its raw values, so unpacking costs one call of ``struct`` and
reading a number costs one tuple access. Byte order is little-endian (VIRTIO 1.4, 1.4) unless a
legacy device asks for its guest's.
"""

from __future__ import annotations

import struct
from operator import itemgetter

from pyvirtio.errors import ChainError, LocalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, Literal, Self

    import numpy as np

    ByteOrder = Literal["little", "big"]


class Field:
    """One field of a `Struct`: how it looks on the wire, and its default.

    ``code`` is the field's letter in the ``struct`` module's language. ``writable`` says that a
    driver may write the field where the structure is a configuration space.
    """

    def __init__(self, code: str, default: object, *, writable: bool = False) -> None:
        self.code = code
        self.default = default
        self.writable = writable
        self.size = struct.calcsize("<" + code)

    def encode(self, value: Any) -> object:
        """Turn what a user gives into what ``struct`` packs."""
        return value

    def getter(self, index: int) -> property:
        """Give the attribute that reads this field from the tuple."""
        return property(itemgetter(index))

    def numpy_type(self) -> str:
        """Give the field's type in NumPy's language."""
        kinds = {"B": "u1", "H": "<u2", "I": "<u4", "Q": "<u8"}
        return kinds.get(self.code, f"S{self.size}")


class Text(Field):
    """Text in a fixed number of bytes, padded with NULs; what is no UTF-8 reads as U+FFFD."""

    def encode(self, value: Any) -> object:
        """Encode text as UTF-8 and refuse what does not fit."""
        raw = value if isinstance(value, bytes) else value.encode()
        if len(raw) > self.size:
            raise LocalError(f"{value!r} takes {len(raw)} bytes; this field holds {self.size}")
        return raw.ljust(self.size, b"\0")

    def getter(self, index: int) -> property:
        """Decode only when somebody reads the text: most requests are never logged."""
        return property(lambda self: self[index].split(b"\0", 1)[0].decode("utf-8", "replace"))


class Raw(Field):
    """Bytes in a fixed number, padded with zeros."""

    def encode(self, value: Any) -> object:
        """Refuse bytes that do not fit, and pad those that do."""
        if len(value) > self.size:
            raise LocalError(f"{len(value)} bytes do not fit in a field of {self.size}")
        return bytes(value).ljust(self.size, b"\0")


# Declared as Any, as dataclasses.field() is, so that `arg1: int = le32()` satisfies a type checker.
def u8(default: int = 0, *, writable: bool = False) -> Any:
    """Declare an unsigned byte."""
    return Field("B", default, writable=writable)


def le16(default: int = 0, *, writable: bool = False) -> Any:
    """Declare an unsigned number of 2 bytes."""
    return Field("H", default, writable=writable)


def le32(default: int = 0, *, writable: bool = False) -> Any:
    """Declare an unsigned number of 4 bytes."""
    return Field("I", default, writable=writable)


def le64(default: int = 0, *, writable: bool = False) -> Any:
    """Declare an unsigned number of 8 bytes."""
    return Field("Q", default, writable=writable)


def chars(size: int, default: str = "", *, writable: bool = False) -> Any:
    """Declare text in ``size`` bytes, NUL-padded."""
    return Text(f"{size}s", default, writable=writable)


def raw(size: int, default: bytes = b"", *, writable: bool = False) -> Any:
    """Declare ``size`` bytes, zero-padded."""
    return Raw(f"{size}s", default, writable=writable)


class Struct(tuple):  # type: ignore[type-arg]  # its items are of the fields' types
    """A wire structure. Subclass it and give each field as ``name: type = le32()`` and so on.

    Fields lie on the wire in the order of their declaration, without padding. ``nbytes`` is how many bytes they
    take together; ``is_number`` says that there is one field, and that a number.
    """

    __slots__ = ()
    _fields: ClassVar[dict[str, Field]] = {}
    nbytes: ClassVar[int] = 0
    is_number: ClassVar[bool] = False
    _codecs: ClassVar[dict[str, struct.Struct]] = {}
    _plain: ClassVar[int] = -1

    def __init_subclass__(cls) -> None:
        """Compile the declared fields into ``struct`` codecs and attributes."""
        declared = {name: item for name, item in vars(cls).items() if isinstance(item, Field)}
        cls._fields = {**cls._fields, **declared}
        code = "".join(field.code for field in cls._fields.values())
        cls._codecs = {"little": struct.Struct("<" + code), "big": struct.Struct(">" + code)}
        cls.nbytes = cls._codecs["little"].size
        # As many fields as there are if none of them needs encoding: then a tuple of the values is all it takes.
        cls._plain = len(cls._fields) if all(type(field) is Field for field in cls._fields.values()) else -1
        cls.is_number = cls._plain == 1
        for index, (name, field) in enumerate(cls._fields.items()):
            setattr(cls, name, field.getter(index))

    def __new__(cls, *values: Any, **named: Any) -> Self:
        """Build a structure from values in order, by name, or both; the rest takes its default."""
        if len(values) == cls._plain and not named:
            return tuple.__new__(cls, values)
        names = list(cls._fields)
        if len(values) > len(names):
            raise LocalError(f"{cls.__name__} has {len(names)} fields; {len(values)} values were given")
        given = dict(zip(names, values, strict=False))
        if doubled := given.keys() & named.keys():
            raise LocalError(f"{cls.__name__}: {', '.join(sorted(doubled))} given twice")
        given |= named
        if unknown := given.keys() - cls._fields.keys():
            raise LocalError(f"{cls.__name__} has no field {', '.join(sorted(unknown))}; it has {', '.join(names)}")
        items = cls._fields.items()
        return tuple.__new__(cls, (field.encode(given.get(name, field.default)) for name, field in items))

    def replace(self, **changes: Any) -> Self:
        """Give a copy with some fields changed.

        >>> class Config(Struct):
        ...     actual: int = le32()
        >>> Config().replace(actual=7)
        Config(actual=7)
        """
        as_they_are = dict(zip(self._fields, self, strict=True))  # text is not decoded, for that may lose bytes
        return type(self)(**{**as_they_are, **changes})

    def as_dict(self) -> dict[str, Any]:
        """Give the fields by name."""
        return {name: getattr(self, name) for name in self._fields}

    def pack(self, order: ByteOrder = "little") -> bytes:
        """Give the bytes for the wire.

        Raises:
            LocalError: a value does not fit in its field.
        """
        try:
            return self._codecs[order].pack(*self)
        except struct.error as error:
            raise LocalError(f"{self!r} cannot be packed: {error}") from None

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview, order: ByteOrder = "little") -> Self:
        """Read a structure from the start of ``data``; more bytes than it takes are no error.

        Raises:
            ChainError: ``data`` is shorter than the structure.
        """
        try:
            return tuple.__new__(cls, cls._codecs[order].unpack_from(data))
        except struct.error:
            raise ChainError(f"{cls.__name__} takes {cls.nbytes} bytes; only {len(data)} came") from None

    @classmethod
    def codes(cls) -> list[str]:
        """Give the fields' letters in the ``struct`` module's language, in order."""
        return [field.code for field in cls._fields.values()]

    @classmethod
    def offset_of(cls, name: str) -> int:
        """Give the distance in bytes of field ``name`` from the start of the structure."""
        before = list(cls._fields)[: list(cls._fields).index(name)]
        return sum(cls._fields[other].size for other in before)

    @classmethod
    def size_of(cls, name: str) -> int:
        """Give the bytes that field ``name`` takes."""
        return cls._fields[name].size

    @classmethod
    def writable_mask(cls) -> bytes:
        """Give a byte for each byte of the structure: 255 where a driver may write, 0 elsewhere."""
        return b"".join((b"\xff" if field.writable else b"\0") * field.size for field in cls._fields.values())

    @classmethod
    def numpy_dtype(cls) -> np.dtype[Any]:
        """Give the little-endian NumPy record type of this structure; imports NumPy."""
        import numpy as np

        return np.dtype([(name, field.numpy_type()) for name, field in cls._fields.items()])

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.as_dict().items())
        return f"{type(self).__name__}({values})"
