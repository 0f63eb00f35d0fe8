"""Numbers, and numbers that have names: enumerations and flags."""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

from pyvirtio.errors import LocalError
from pyvirtio.spec.fields import Leaf, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvirtio.spec.fields import Items

    Reader = Callable[[Any], Any] | None


class Number(Leaf):
    """An unsigned number, in the byte order of its structure.

    ``code`` is its code in the language of the module ``struct``. With ``kind``, an IntEnum or an IntFlag, it reads as
    a member of that, or as an int where the peer sent what ``kind`` does not know.

    Raises:
        LocalError: ``kind`` is something else.
    """

    is_plain = True

    def __init__(self, code: str, default: int, *, kind: type[int] | None, writable: bool) -> None:
        self._codec = struct.Struct(f">{code}")
        super().__init__(code, self._codec.size, default, writable=writable, read=_members(kind))
        self.kind = kind

    def encode(self, value: Any, path: str) -> Items:
        """Return the number itself."""
        try:
            self._codec.pack(value)
        except struct.error as error:
            raise self._misfit(value, path) from error
        return (value,)

    def _misfit(self, value: object, path: str) -> LocalError:
        return LocalError(f"{path} is {shown(value)}; give a whole number from 0 to {2 ** (8 * self.nbytes) - 1}")

    def encode_each(self, values: Items, path: str) -> Items:
        """Check all numbers with one call; which of them is wrong is looked for only where one is."""
        try:
            struct.pack(f"<{len(values)}{self.codes[0]}", *values)
        except struct.error:
            return super().encode_each(values, path)
        return values

    def numpy_type(self) -> str:
        """Return a little-endian number."""
        return f"<u{self.nbytes}"

    def text(self, value: Any) -> str:
        """Return the number, in hexadecimal where it holds flags, and its name or names."""
        if self.kind is not None and issubclass(self.kind, IntFlag):
            return f"{value:#x} {'|'.join(flag.name or '' for flag in self.kind if flag & value)}".rstrip()
        return f"{value:d} {value.name}" if isinstance(value, IntEnum) else f"{value:d}"


class BigEndian(Number):
    """An unsigned number that is big-endian whatever the byte order of its structure; its item is its bytes."""

    is_plain = False

    def __init__(self, code: str, default: int, *, kind: type[int] | None, writable: bool) -> None:
        super().__init__(code, default, kind=kind, writable=writable)
        self.codes = (f"{self.nbytes}s",)
        self._read = _big_endian(self._read)

    def encode(self, value: Any, path: str) -> Items:
        """Return the number's bytes."""
        try:
            return (self._codec.pack(value),)
        except struct.error as error:
            raise self._misfit(value, path) from error

    encode_each = Leaf.encode_each

    def numpy_type(self) -> str:
        """Return a big-endian number."""
        return f">u{self.nbytes}"


def _big_endian(read: Reader) -> Callable[[bytes], Any]:
    if read is None:
        return lambda data: int.from_bytes(data, "big")
    return lambda data: read(int.from_bytes(data, "big"))


def _members(kind: type[int] | None) -> Reader:
    """Return the function that turns a number into a member of ``kind``, and leaves one that ``kind`` does not know.

    Flags with an unknown bit are such a number: Python keeps each combination of flags that it has met for ever, and
    which bits come is the peer's choice.
    """
    if kind is None:
        return None
    if isinstance(kind, type) and issubclass(kind, IntEnum):
        members = {int(member): member for member in kind}
        return lambda number: members.get(number, number)
    if isinstance(kind, type) and issubclass(kind, IntFlag):
        unknown = ~0
        for flag in kind.__members__.values():
            unknown &= ~int(flag)
        return lambda number: number if number & unknown else kind(number)
    raise LocalError(f"the kind of a number is a subclass of enum.IntEnum or enum.IntFlag; give one, not {shown(kind)}")
