"""What stands for names of `typing` while a program runs: importing that module takes as long as this package.

A type checker sees the real ones::

    if TYPE_CHECKING:
        from typing import overload
    else:
        from pyvirtio.system.typing import overload
"""

from __future__ import annotations


class Generic:
    """Stands for `typing.Generic`."""

    def __class_getitem__(cls, _parameter: object) -> type:
        return cls


def overload(function: object) -> object:
    """Stand for `typing.overload`."""
    return function
