"""Memory in pieces: what a request lent, and what is to be in it once that is known."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def fill(views: Sequence[memoryview], data: bytes) -> None:
    """Write ``data`` into views that have room for just that.

    >>> memory = bytearray(4)
    >>> fill([memoryview(memory)[:1], memoryview(memory)[1:]], b"abcd")
    >>> bytes(memory)
    b'abcd'
    """
    at = 0
    for view in views:
        view[:] = data[at : at + len(view)]
        at += len(view)
