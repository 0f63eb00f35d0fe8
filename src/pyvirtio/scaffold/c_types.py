"""How the fields of a structure are declared in C, with the types that Linux has for what devices see.

A structure of Python has no padding (VIRTIO 1.4, 1.4). C inserts some where a member is not at a multiple of its
alignment; such a structure is declared ``__packed``, and no other.
"""

from __future__ import annotations

from pyvirtio.errors import LocalError
from pyvirtio.spec.fields import Raw, Text
from pyvirtio.spec.layout import Array, Nested, fields_of
from pyvirtio.spec.numbers import BigEndian, Number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.spec.fields import Field
    from pyvirtio.spec.struct import Struct

LITTLE_ENDIAN = {1: "__u8", 2: "__le16", 4: "__le32", 8: "__le64"}
BIG_ENDIAN = {1: "__u8", 2: "__be16", 4: "__be32", 8: "__be64"}
"""Linux's types for numbers, by their size in bytes."""


def declaration(field: Field, structure: Callable[[type[Struct]], str]) -> tuple[str, str]:
    """Return what stands before and what behind the name of a member; ``structure`` says what C calls a structure.

    >>> from pyvirtio.spec.struct import array, be16, chars, le32
    >>> declaration(array(le32(), 4), str), declaration(array(chars(8), 2), str), declaration(be16(), str)
    (('__le32', '[4]'), ('char', '[2][8]'), ('__be16', ''))
    """
    if isinstance(field, Array):
        before, behind = declaration(field.item, structure)
        return before, f"[{field.count}]{behind}"
    if isinstance(field, Nested):
        return f"struct {structure(field.structure)}", ""
    if isinstance(field, Raw):
        return "char" if isinstance(field, Text) else "__u8", f"[{field.nbytes}]"
    if isinstance(field, Number):
        return (BIG_ENDIAN if isinstance(field, BigEndian) else LITTLE_ENDIAN)[field.nbytes], ""
    raise LocalError(f"a field of the kind {type(field).__name__} has no counterpart in C; use those of pyvirtio")


def innermost(field: Field) -> Field:
    """Return what an array is an array of, and any other field as it is."""
    while isinstance(field, Array):
        field = field.item
    return field


def needs_packing(structure: type[Struct]) -> bool:
    """Return whether C would put padding into a structure."""
    offset, largest = 0, 1
    for field in fields_of(structure).values():
        alignment = _alignment(field)
        if offset % alignment:
            return True
        offset += field.nbytes
        largest = max(largest, alignment)
    return offset % largest != 0


def _alignment(field: Field) -> int:
    inner = innermost(field)
    if isinstance(inner, Nested):
        if needs_packing(inner.structure):
            return 1
        return max(map(_alignment, fields_of(inner.structure).values()), default=1)
    return inner.nbytes if isinstance(inner, Number) else 1
