"""What a wire structure is made of: fields, text and bytes among them.

A structure is a flat tuple of *items*, one for each code of the module ``struct``; a field knows which values its items
stand for. Numbers are in `pyvirtio.spec.numbers`; what has several items, arrays and structures, is in
`pyvirtio.spec.layout`.
"""

from __future__ import annotations

from operator import itemgetter

from pyvirtio.errors import LocalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    Items = tuple[Any, ...]
    Row = tuple[int, int, str, str]


class Field:
    """A field: how it looks on the wire, and which values its items stand for.

    Attributes:
        codes: the codes of its items in the language of the module ``struct``.
        nbytes: the bytes that it takes.
        writable_mask: a byte for each of them, 255 where a driver may write.
        default: the value of a field that is not given.
        is_plain: whether a value is its own, only item.
        is_leaf: whether it has no parts with names or numbers of their own.
    """

    is_plain = False
    is_leaf = True

    def __init__(self, codes: Sequence[str], writable_mask: bytes, default: object) -> None:
        self.codes = tuple(codes)
        self.nbytes = len(writable_mask)
        self.writable_mask = writable_mask
        self.default = default

    def encode(self, value: Any, path: str) -> Items:
        """Return the items that stand for ``value``.

        Raises:
            LocalError: the value does not fit; the message calls the field ``path``.
        """
        raise NotImplementedError

    def decode(self, items: Items) -> Any:
        """Return the value that ``items``, which may come from a peer, stand for."""
        raise NotImplementedError

    def encode_each(self, values: Items, path: str) -> Items:
        """Return the items of an array of such fields; raises as `encode` does."""
        return tuple(item for index, value in enumerate(values) for item in self.encode(value, f"{path}[{index}]"))

    def decode_each(self, items: Items) -> Items:
        """Return the values of an array of such fields."""
        width = len(self.codes)
        return tuple(self.decode(items[start : start + width]) for start in range(0, len(items), width))

    def getter(self, start: int) -> property:
        """Return the attribute that reads this field from a structure, where its items begin at ``start``."""
        decode, end = self.decode, start + len(self.codes)
        return property(lambda items: decode(items[start:end]))

    def part(self, step: str) -> tuple[int, Field]:
        """Return the offset in bytes and the field that ``step`` names: ``"heads"`` or ``"[2]"``.

        Raises:
            LookupError: there is no such part.
        """
        raise LookupError(step)

    def numpy_type(self) -> Any:
        """Return the field's type in the language of ``numpy.dtype``."""
        raise NotImplementedError

    def text(self, value: Any) -> str:
        """Return ``value`` for a line of `Struct.describe`."""
        raise NotImplementedError

    def rows(self, name: str, offset: int, items: Items) -> Iterator[Row]:
        """Return the lines of `Struct.describe` for this field: offset and size in bytes, name, value."""
        yield offset, self.nbytes, name, self.text(self.decode(items))


class Leaf(Field):
    """A field of one item. ``read`` turns the item into the value; without it the item is the value."""

    def __init__(
        self, code: str, size: int, default: object, *, writable: bool, read: Callable[[Any], Any] | None = None
    ) -> None:
        super().__init__((code,), (b"\xff" if writable else b"\0") * size, default)
        self._read = read

    def decode(self, items: Items) -> Any:
        """Return the value of the only item."""
        (item,) = items
        return self._read(item) if self._read else item

    def decode_each(self, items: Items) -> Items:
        """Return the values of all items, which are all there is where nothing is to be read."""
        return tuple(map(self._read, items)) if self._read else items

    def getter(self, start: int) -> property:
        """Return an attribute that costs one access to the tuple, where nothing is to be read."""
        read = self._read
        return property(itemgetter(start)) if read is None else property(lambda items: read(items[start]))


class Raw(Leaf):
    """Bytes in a fixed number, padded with zeros.

    Raises:
        LocalError: ``size`` is not a number of bytes.
    """

    def __init__(self, size: int, default: object, *, writable: bool, read: Callable[[Any], Any] | None = None) -> None:
        check_count(size, "a field of text or bytes takes its size in bytes")
        super().__init__(f"{size}s", size, default, writable=writable, read=read)

    def encode(self, value: Any, path: str) -> Items:
        """Return the bytes, padded."""
        try:
            data = bytes(memoryview(value))
        except TypeError as error:
            raise LocalError(f"{path} is {shown(value)}; give bytes") from error
        return self._padded(data, path)

    def _padded(self, data: bytes, path: str) -> Items:
        if len(data) > self.nbytes:
            raise LocalError(f"{path} is {len(data)} bytes, {shown(data)}; this field holds {self.nbytes}")
        return (data.ljust(self.nbytes, b"\0"),)

    def numpy_type(self) -> str:
        """Return NumPy's type for bytes, which reads without the zeros at the end."""
        return f"S{self.nbytes}"

    def text(self, value: Any) -> str:
        """Return the first bytes in hexadecimal."""
        return shortened([f"{byte:02x}" for byte in value], " ")


class Text(Raw):
    """Text in a fixed number of bytes, padded with NULs; what is not UTF-8 reads as U+FFFD.

    It is decoded only when somebody reads it: most requests are never logged.
    """

    def __init__(self, size: int, default: object, *, writable: bool) -> None:
        super().__init__(size, default, writable=writable, read=_decoded)

    def encode(self, value: Any, path: str) -> Items:
        """Return the text as UTF-8, padded; bytes are taken as they are."""
        try:
            data = value if isinstance(value, bytes) else value.encode()
        except (AttributeError, UnicodeEncodeError) as error:
            raise LocalError(f"{path} is {shown(value)}; give text") from error
        return self._padded(data, path)

    def text(self, value: Any) -> str:
        """Return the text quoted, with control characters escaped."""
        return repr(value)


def _decoded(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "replace")


MOST_SHOWN = 16
"""How many bytes of a field, or values of an array, `Struct.describe` shows."""


def shortened(parts: Sequence[str], separator: str) -> str:
    """Return the first of ``parts``, and how many there are where these are not all."""
    more = f"{separator}... {len(parts)} in all" if len(parts) > MOST_SHOWN else ""
    return separator.join(parts[:MOST_SHOWN]) + more


def shown(value: object) -> str:
    """Return ``value`` for an error message. Python refuses to write very large numbers out in decimal."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    try:
        text = repr(value)
    except ValueError:
        return f"a {type(value).__name__} with a very large number"
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_count(count: object, what: str) -> None:
    """Check that ``count`` is a number from 1 on.

    Raises:
        LocalError: it is not; the message begins with ``what`` it is for.
    """
    if not isinstance(count, int) or count < 1:
        raise LocalError(f"{what}, a whole number from 1 on; not {shown(count)}")
