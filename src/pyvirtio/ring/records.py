"""Requests of one shape, taken from the ring as one piece of private memory."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from pyvirtio.ring.chain import Chain

    class RecordBatch(Protocol):
        """What `pop_records` gives.

        ``requests`` is memory that holds all of them, one behind the other, and does not change. ``len`` is the number
        of records that are not answered yet; ``order`` is the place of the first of them in the order of arrival, and
        the others follow without a gap.
        """

        @property
        def requests(self) -> Any:
            """All requests, also those that are answered, in a buffer."""
            ...

        @property
        def order(self) -> int:
            """The next record's place in the order of arrival."""
            ...

        def take(self) -> Chain:
            """Take the next record out, to answer it as a chain."""
            ...

        def __len__(self) -> int: ...
