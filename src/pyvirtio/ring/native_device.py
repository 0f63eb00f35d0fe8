"""The device side of a split virtqueue, with C for everything that is well-formed.

Anything else the C code leaves where it is: then the reference engine looks at it, and raises what there is to raise.
So there is one place that decides which rule was broken.
"""

from __future__ import annotations

from pyvirtio.errors import RingError
from pyvirtio.ring import _native
from pyvirtio.ring.journal import already_in_flight
from pyvirtio.ring.split_records import SplitRecordQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

    from pyvirtio.memory import MemoryTable
    from pyvirtio.ring.chain import Chain
    from pyvirtio.ring.journal import Journal
    from pyvirtio.ring.layout import SplitLayout
    from pyvirtio.ring.queue import RingSetup


_METHODS = (
    "unpop",
    "push",
    "pop_records",
    "push_records",
    "answer_records",
    "call_records",
    "call_streams",
    "step_streams",
    "parked",
    "parked_count",
    "has_ready",
    "cancel_parked",
    "set_on_ready",
    "needs_interrupt",
    "disable_kicks",
    "enable_kicks",
    "has_more",
    "backlog",
)


class NativeDeviceQueue(SplitRecordQueue):
    """The device's end of a split virtqueue; see `SplitRecordQueue`.

    Raises:
        ValueError: the rings or the journal are not aligned as the C code needs them.
        TypeError, BufferError: they are not plain memory.
    """

    has_streams: ClassVar[bool] = True
    batch_pays_from: ClassVar[int] = _native.BATCH_PAYS_FROM

    def __init__(self, setup: RingSetup, memory: MemoryTable, *, journal: Journal) -> None:
        super().__init__(setup, memory, journal=journal)
        self._ring = _native.Ring(
            _hold(memory),
            self._table,
            self._available,
            self._used,
            *journal.parts,
            setup.size,
            self._event_idx,
            self._may_indirect,
        )
        # The ring's functions are the queue's methods: a method that forwards would take as long as they do.
        for name in _METHODS:
            setattr(self, name, getattr(self._ring, name))
        self._push_state()

    # The indexes live in the C code; the reference engine borrows them for one step.

    def _push_state(self) -> None:
        self._ring.set_state(
            self._next_available,
            self._used_index,
            self._interrupted_at,
            self._in_flight,
            self.journal.last_sequence,
            self._broken is not None,
        )

    def _pull_state(self) -> None:
        (
            self._next_available,
            self._used_index,
            self._interrupted_at,
            self._in_flight,
            self.journal.last_sequence,
        ) = self._ring.state

    def _pop_by_reference(self) -> list[Chain]:
        self._pull_state()
        try:
            return super().pop(1)
        finally:
            self._push_state()

    def pop(self, limit: int = 64) -> list[Chain]:
        """Take up to ``limit`` chains; see `SplitDeviceQueue.pop`."""
        if (head := self._ring.duplicate) is not None and not self._broken:
            # It need not be in flight any more: the batch that it ended was answered meanwhile.
            self._broken = already_in_flight(head)
        if self._broken:
            raise self._broken
        chains = self._ring.pop(limit)
        if chains is not None and (len(chains) == limit or not self._ring.has_more()):
            return chains
        chains = chains or []
        while len(chains) < limit:
            more = self._ring.pop(limit - len(chains))
            if more is None:
                try:
                    more = self._pop_by_reference()
                except RingError:
                    if not chains:
                        raise
                    break  # what came before it is returned first; the next call raises
            if not more:
                break
            chains += more
        return chains

    def relocate(self, layout: SplitLayout, memory: MemoryTable) -> None:
        """Go on with the same queue where its areas lie in other memory; see `SplitDeviceQueue.relocate`.

        Raises:
            RingError: the areas are not aligned there as the C code needs them; set the queue up again.
        """
        before = self._layout, self.memory
        super().relocate(layout, memory)
        try:
            self._ring.relocate(_hold(memory), layout.table, layout.available, layout.used)
        except (ValueError, TypeError, BufferError) as error:
            super().relocate(*before)
            raise RingError("the queue's areas were moved to an odd place; stop it and set it up again") from error

    def codec(self, structure: Any) -> object:
        """Return what `call_records` needs to know of a structure; None where C cannot deal with it."""
        codes = structure.codes()
        try:
            return None if codes is None else _native.Codec(structure, codes)
        except ValueError:  # a field of an unknown kind, or very large
            return None

    def retire(self, error: RingError) -> None:
        """Stop popping for good; see `SplitDeviceQueue.retire`."""
        self._pull_state()
        super().retire(error)
        self._push_state()

    @property
    def position(self) -> int:
        """The available index at which `pop` goes on."""
        return self._ring.position


def _hold(memory: MemoryTable) -> _native.Memory:
    return _native.Memory([(region.base, region.view) for region in memory.regions])
