"""What a device asks of the place where its bytes are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from pyvirtio.device import Reader, Writer


class Storage(Protocol):
    """Bytes that can be read and written from any offset.

    Offsets and lengths are in bytes, and lie inside `size`: the caller has checked that. Every method but `size` may
    be called while others have not ended.

    Attributes:
        block_size: the bytes that are read and written at once; a request covers whole blocks.
    """

    block_size: int

    def size(self) -> int:
        """Return how many bytes there are now; files grow and shrink."""

    def read_into(self, writer: Writer, length: int, offset: int, /) -> Awaitable[int]:
        """Read ``length`` bytes into the request's next room; await the number that came.

        There are fewer only at the end of the content. Raises OSError where they cannot be read.
        """

    def write_from(self, reader: Reader, length: int, offset: int, /) -> Awaitable[int]:
        """Write the request's next ``length`` bytes, all of them; raises OSError where they cannot be written."""

    async def sync(self) -> None:
        """End only when everything written before is on the medium; raises OSError where it may not be."""

    async def discard(self, offset: int, length: int) -> None:
        """Take note that nobody needs these bytes any more; what they read as afterwards is not said."""

    async def zero(self, offset: int, length: int, *, may_unmap: bool) -> None:
        """Let these bytes read as zeros; with ``may_unmap`` their space may be given back."""

    def close(self) -> None:
        """Release what is held."""
