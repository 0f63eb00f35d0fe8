"""The device side of a split virtqueue, with the accelerator for everything that is plainly right.

What is not, the accelerator leaves where it is: then the reference engine looks at it afresh, and raises what there is
to raise. So there is one place that decides which rule was broken.
"""

from __future__ import annotations

from pyvirtio.errors import RingError
from pyvirtio.ring import _accel
from pyvirtio.ring.journal import twice
from pyvirtio.ring.split_device import SplitDeviceQueue
from pyvirtio.spec.struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pyvirtio.memory import MemoryTable
    from pyvirtio.ring.chain import Chain
    from pyvirtio.ring.journal import Journal
    from pyvirtio.ring.records import RecordBatch
    from pyvirtio.ring.rings import SplitRings


class AccelDeviceQueue(SplitDeviceQueue):
    """The device's end of a queue; see `SplitDeviceQueue`.

    Raises:
        ValueError: the rings or the journal are not aligned as the accelerator needs them.
        TypeError, BufferError: they are not plain memory.
    """

    calls_records = True

    def __init__(
        self,
        rings: SplitRings,
        memory: MemoryTable,
        features: int,
        *,
        journal: Journal | None = None,
        base: int | None = None,
    ) -> None:
        super().__init__(rings, memory, features, journal=journal, base=base)
        self._ring = _accel.Ring(
            _accel.Memory([(region.base, region.view) for region in memory.regions]),
            rings.table,
            rings.available,
            rings.used,
            *self.journal.parts,
            rings.size,
            self._event_idx,
            self._may_indirect,
        )
        self._hand_over()

    # The indexes live in the accelerator; the reference engine borrows them for one step.

    def _hand_over(self) -> None:
        self._ring.indexes = (
            self._next_available,
            self._used_index,
            self._called_at,
            self._in_flight,
            self.journal.last_order,
        )

    def _borrow(self) -> None:
        self._next_available, self._used_index, self._called_at, self._in_flight, order = self._ring.indexes
        self.journal.last_order = order

    def _pop_odd(self) -> list[Chain]:
        self._borrow()
        try:
            return super().pop(1)
        finally:
            self._hand_over()

    # The verbs.

    def pop(self, limit: int = 64) -> list[Chain]:
        """Take up to ``limit`` chains; see `SplitDeviceQueue.pop`."""
        if self._broken:
            raise self._broken
        chains = self._ring.pop(limit)
        if chains is not None and (len(chains) == limit or not self.backlog):
            return chains
        chains = chains or []
        while len(chains) < limit:
            more = self._ring.pop(limit - len(chains))
            if more is None:
                try:
                    more = self._pop_odd()
                except RingError:
                    if not chains:
                        raise
                    break  # what came before it is given first; the next call raises
            if not more:
                break
            chains += more
        return chains

    def push(self, chains: Sequence[Chain]) -> None:
        """Give chains back; see `SplitDeviceQueue.push`."""
        self._ring.push(chains)

    def pop_records(self, limit: int, request_size: int, response_size: int) -> RecordBatch | None:
        """Take up to ``limit`` requests of one shape; see `SplitDeviceQueue.pop_records`."""
        if self._broken:
            return None
        batch = self._ring.pop_records(limit, request_size, response_size)
        if batch is not None and (head := self._ring.twice) is not None:
            # It may not be in flight any more by the time that this batch is answered.
            self._broken = twice(head)
        return batch

    def push_records(self, batch: Any, answers: Any) -> None:
        """Answer the next records of a batch; see `SplitDeviceQueue.push_records`."""
        self._ring.push_records(batch, answers)

    def codec(self, structure: Any) -> object:
        """Give what `call_records` needs to know of a structure, or None for one with fields that it does not know."""
        try:
            codec = _accel.Codec(structure, structure.codes(), structure.__new__)
        except ValueError:
            return None
        if structure.__new__ is Struct.__new__:
            # A device's method makes one of its answers for each request: it is a good part of the time.
            structure.__new__ = codec.construct
        return codec

    def call_records(
        self,
        batch: Any,
        method: Callable[..., object],
        request: Any,
        response: Any,
        deadline: int,
        clock: Callable[[], int] | None,
    ) -> object:
        """Answer a batch with one call a record; see `SplitDeviceQueue.call_records`."""
        return self._ring.each(batch, method, request, response, deadline, clock)

    def call_wanted(self) -> bool:
        """Tell whether the driver wants an interrupt; see `SplitDeviceQueue.call_wanted`."""
        return self._ring.call_wanted()

    def suppress_kicks(self) -> None:
        """Tell the driver that the device is looking anyway; see `SplitDeviceQueue.suppress_kicks`."""
        self._ring.suppress_kicks()

    def allow_kicks(self) -> bool:
        """Ask for a kick; see `SplitDeviceQueue.allow_kicks`."""
        return self._ring.allow_kicks()

    @property
    def backlog(self) -> int:
        """How many requests wait to be popped, as far as the available index can be believed."""
        return self._ring.backlog

    @property
    def next_available(self) -> int:
        """The available index at which `pop` goes on."""
        return self._ring.indexes[0]
