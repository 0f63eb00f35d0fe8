"""The device side of a split virtqueue, with the accelerator for everything that is plainly right.

What is not, the accelerator leaves where it is: then the reference engine looks at it afresh, and raises what there is
to raise. So there is one place that decides which rule was broken.
"""

from __future__ import annotations

from pyvirtio.errors import RingError
from pyvirtio.ring import _native
from pyvirtio.ring.journal import twice
from pyvirtio.ring.split_device import SplitDeviceQueue
from pyvirtio.spec.struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvirtio.memory import MemoryTable
    from pyvirtio.ring.chain import Chain
    from pyvirtio.ring.journal import Journal
    from pyvirtio.ring.layout import SplitLayout


_VERBS = (
    "push",
    "pop_records",
    "push_records",
    "answer_records",
    "call_records",
    "needs_interrupt",
    "disable_kicks",
    "enable_kicks",
    "backlog",
)


class NativeDeviceQueue(SplitDeviceQueue):
    """The device's end of a queue; see `SplitDeviceQueue`.

    Raises:
        ValueError: the rings or the journal are not aligned as the accelerator needs them.
        TypeError, BufferError: they are not plain memory.
    """

    batch_pays_from = _native.BATCH_PAYS_FROM

    def __init__(
        self,
        rings: SplitLayout,
        memory: MemoryTable,
        features: int,
        *,
        journal: Journal | None = None,
        base: int | None = None,
    ) -> None:
        super().__init__(rings, memory, features, journal=journal, base=base)
        self._ring = _native.Ring(
            self._held_memory(),
            rings.table,
            rings.available,
            rings.used,
            *self.journal.parts,
            rings.size,
            self._event_idx,
            self._may_indirect,
        )
        # The accelerator's functions are the verbs: a method that forwards would take as long as they do.
        for verb in _VERBS:
            setattr(self, verb, getattr(self._ring, verb))
        self._hand_over()

    def _held_memory(self) -> _native.Memory:
        return _native.Memory([(region.base, region.view) for region in self._memory.regions])

    def _memory_changed(self) -> None:
        self._ring.memory = self._held_memory()

    # The indexes live in the accelerator; the reference engine borrows them for one step.

    def _hand_over(self) -> None:
        self._ring.indexes = (
            self._next_available,
            self._used_index,
            self._called_at,
            self._in_flight,
            self.journal.last_order,
        )
        self._ring.closed = self._broken is not None

    def _borrow(self) -> None:
        self._next_available, self._used_index, self._called_at, self._in_flight, order = self._ring.indexes
        self.journal.last_order = order

    def _pop_odd(self) -> list[Chain]:
        self._borrow()
        try:
            return super().pop(1)
        finally:
            self._hand_over()

    def pop(self, limit: int = 64) -> list[Chain]:
        """Take up to ``limit`` chains; see `SplitDeviceQueue.pop`."""
        if (head := self._ring.twice) is not None and not self._broken:
            # It need not be in flight any more: what it ended was answered meanwhile.
            self._broken = twice(head)
        if self._broken:
            raise self._broken
        chains = self._ring.pop(limit)
        if chains is not None and (len(chains) == limit or not self.backlog()):
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

    def codec(self, structure: Any) -> object:
        """Give what `call_records` needs to know of a structure, or None for one with fields that it does not know."""
        try:
            codec = _native.Codec(structure, structure.codes(), structure.__new__)
        except ValueError:
            return None
        if structure.__new__ is Struct.__new__ and structure._check:
            # A device's method makes one of its answers for each request: it is a good part of the time.
            structure.__new__ = codec.construct
        return codec

    def retire(self, error: RingError) -> None:
        """Stop popping for good; see `SplitDeviceQueue.retire`."""
        super().retire(error)
        self._ring.closed = True

    @property
    def next_available(self) -> int:
        """The available index at which `pop` goes on."""
        return self._ring.indexes[0]
