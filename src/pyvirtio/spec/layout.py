"""How fields lie one behind the other: arrays, and the structures themselves, alone or nested.

Fields have no padding between them (VIRTIO 1.4, 1.4), so a field's offset is the sum of the sizes before it.
"""

from __future__ import annotations

from pyvirtio.errors import LocalError
from pyvirtio.spec.fields import Field, check_count, shortened, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from pyvirtio.spec.fields import Items, Row
    from pyvirtio.spec.struct import Struct


class Place:
    """Where a field lies: its first item and the one behind its last, and its offset in bytes.

    ``path`` is what error messages call the field; ``default`` are the items of its default.
    """

    __slots__ = ("default", "end", "field", "offset", "path", "start")

    def __init__(self, field: Field, path: str, start: int, offset: int) -> None:
        self.field = field
        self.path = path
        self.start = start
        self.end = start + len(field.codes)
        self.offset = offset
        self.default = field.encode(field.default, path)


class Layout:
    """The fields of the structure ``name``, in order.

    Raises:
        LocalError: the default of a field does not fit in it.
    """

    def __init__(self, name: str, fields: Mapping[str, Field]) -> None:
        self.name = name
        self.fields = fields
        self.codes = [code for field in fields.values() for code in field.codes]
        self.writable_mask = b"".join(field.writable_mask for field in fields.values())
        self.places: dict[str, Place] = {}
        start = offset = 0
        for field_name, field in fields.items():
            self.places[field_name] = Place(field, f"{name}.{field_name}", start, offset)
            start += len(field.codes)
            offset += field.nbytes

    def encode(self, given: Mapping[str, Any]) -> list[Any]:
        """Return the items of a structure with the values ``given``; the other fields take their defaults.

        Raises:
            LocalError: a value does not fit in its field.
        """
        items: list[Any] = []
        for name, place in self.places.items():
            items += place.field.encode(given[name], place.path) if name in given else place.default
        return items

    def check_names(self, names: Iterable[str]) -> None:
        """Check that there are fields of these names.

        Raises:
            LocalError: one of them is missing.
        """
        if missing := [name for name in names if name not in self.fields]:
            raise self._no_field(", ".join(missing))

    def _no_field(self, name: str) -> LocalError:
        return LocalError(f"{self.name} has no field {name}; name one of {', '.join(self.fields)}")

    def part(self, name: str) -> tuple[int, Field]:
        """Return the offset in bytes of the field ``name``, and the field; raises LookupError where there is none."""
        place = self.places[name]
        return place.offset, place.field

    def find(self, path: str) -> tuple[int, Field]:
        """Return the offset in bytes of the field at ``path``, such as ``"zones[2].start"``, and the field.

        Raises:
            LocalError: there is no such field.
        """
        first, *others = path.replace("[", ".[").split(".")
        try:
            offset, field = self.part(first)
            for step in others:
                distance, field = field.part(step)
                offset += distance
        except LookupError as error:
            raise self._no_field(path) from error
        return offset, field

    def rows(self, offset: int, items: Items) -> Iterator[Row]:
        """Return the lines of `Struct.describe` for a structure that lies at ``offset``."""
        for name, place in self.places.items():
            yield from place.field.rows(name, offset + place.offset, items[place.start : place.end])


def fields_of(structure: type[Struct]) -> Mapping[str, Field]:
    """Return the fields of a structure by name, in order: for what is made from declarations, such as a C header."""
    return structure._layout.fields


class Array(Field):
    """``count`` fields that are like ``item``, one behind the other; it reads as a tuple.

    Raises:
        LocalError: ``item`` is not a field, or there are none.
    """

    def __init__(self, item: Field, count: int, default: object) -> None:
        if not isinstance(item, Field):
            raise LocalError(f"an array is of a field, such as le16() or nested(Point); not of {shown(item)}")
        check_count(count, "an array takes how many items it has")
        self.item = item
        self.count = count
        super().__init__(
            item.codes * count, item.writable_mask * count, (item.default,) * count if default is None else default
        )
        self.is_leaf = item.is_leaf

    def encode(self, value: Any, path: str) -> Items:
        """Return the items of all values, as many as there have to be."""
        try:
            values = tuple(value)
        except TypeError as error:
            raise LocalError(f"{path} is {shown(value)}; give {self.count} values") from error
        if len(values) != self.count:
            raise LocalError(f"{path} takes as many values as it declares; give {self.count}, not {len(values)}")
        return self.item.encode_each(values, path)

    def decode(self, items: Items) -> Any:
        """Return the values."""
        return self.item.decode_each(items)

    def part(self, step: str) -> tuple[int, Field]:
        """Return where the item with the number in ``step``, such as ``"[2]"``, lies."""
        number = step[1:-1]
        if step != f"[{number}]" or not number.isdecimal() or int(number) >= self.count:
            raise LookupError(step)
        return int(number) * self.item.nbytes, self.item

    def numpy_type(self) -> Any:
        """Return a sub-array."""
        return self.item.numpy_type(), (self.count,)

    def text(self, value: Any) -> str:
        """Return the first values."""
        return f"({shortened([self.item.text(item) for item in value], ', ')})"

    def rows(self, name: str, offset: int, items: Items) -> Iterator[Row]:
        """Return one line, or where the items are structures what each of them has."""
        if self.is_leaf:
            yield from super().rows(name, offset, items)
            return
        width = len(self.item.codes)
        for index in range(self.count):
            part = items[index * width : (index + 1) * width]
            yield from self.item.rows(f"{name}[{index}]", offset + index * self.item.nbytes, part)


class Nested(Field):
    """A structure as a field of another.

    Raises:
        LocalError: ``structure`` is not a subclass of `Struct`.
    """

    is_leaf = False

    def __init__(self, structure: type[Struct], default: object) -> None:
        layout = getattr(structure, "_layout", None)
        if not isinstance(structure, type) or not isinstance(layout, Layout):
            raise LocalError(f"a nested structure is a subclass of Struct; give one, not {shown(structure)}")
        self.structure = structure
        self._layout = layout
        super().__init__(layout.codes, layout.writable_mask, structure() if default is None else default)

    def encode(self, value: Any, path: str) -> Items:
        """Return the structure's items, checked when it was made."""
        if not isinstance(value, self.structure) or len(value) != len(self.codes):
            raise LocalError(f"{path} is {shown(value)}; give a {self.structure.__name__}")
        return tuple(value)

    def decode(self, items: Items) -> Any:
        """Return the structure."""
        return tuple.__new__(self.structure, items)

    def part(self, step: str) -> tuple[int, Field]:
        """Return where the field ``step`` lies."""
        return self._layout.part(step)

    def numpy_type(self) -> Any:
        """Return the structure's own type."""
        return self.structure.numpy_dtype()

    def rows(self, name: str, offset: int, items: Items) -> Iterator[Row]:
        """Return a line with the structure's name, and indented below it one for each of its fields."""
        yield offset, self.nbytes, name, self.structure.__name__
        for at, size, inner, text in self._layout.rows(offset, items):
            yield at, size, f"  {inner}", text
