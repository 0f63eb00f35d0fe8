"""The device side of a split virtqueue: the reference engine, written to be read.

The driver is not trusted. Each shared byte is read once into private memory, the copy is checked,
and the copy is used; indexes that the device wrote are never read back.
"""

from __future__ import annotations

from pyvirtio.errors import ChainError, LocalError, NotMapped, RingError
from pyvirtio.memory import full_fence, read_barrier, write_barrier
from pyvirtio.ring.chain import Chain
from pyvirtio.ring.layout import SplitLayout
from pyvirtio.spec import split
from pyvirtio.spec.features import Feature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import ClassVar

    from pyvirtio.memory import MemoryTable
    from pyvirtio.ring.journal import Journal
    from pyvirtio.ring.queue import RingSetup

    Buffers = list[tuple[int, int]]
    """Guest addresses and lengths, in bytes."""

_IDX, _FLAGS, _RING = split.IDX, split.FLAGS, split.RING
_NEXT, _WRITE, _INDIRECT = split.F_NEXT, split.F_WRITE, split.F_INDIRECT

MOST_BYTES = 1 << 32
"""A chain may have no more bytes than this (VIRTIO 1.4, 2.7.5.2)."""


class SplitDeviceQueue:
    """The device's end of a split virtqueue; a `pyvirtio.ring.queue.DeviceQueue`.

    ``memory`` translates the addresses of ``setup`` and of buffers. Where ``journal`` was used before, the queue goes
    on from it, and otherwise at the position of the set-up.

    Raises:
        LocalError, RingError: the areas cannot be a queue's; see `SplitLayout`.
        RingError: the journal cannot belong to this queue.
    """

    has_records: ClassVar[bool] = False
    has_streams: ClassVar[bool] = False

    def __init__(self, setup: RingSetup, memory: MemoryTable, *, journal: Journal) -> None:
        self.size = setup.size
        self.journal = journal
        self._event_idx = bool(setup.features & Feature.EVENT_IDX)
        self._may_indirect = bool(setup.features & Feature.INDIRECT_DESC)
        self._mask = setup.size - 1
        self._used_event, self._avail_event = split.used_event_word(setup.size), split.avail_event_word(setup.size)
        self._broken: RingError | None = None
        self.unfinished: list[Chain] = []
        self._use(SplitLayout.of(setup, memory), memory)
        if journal.was_used:
            self._recover()
        else:
            self._used_index = self._used[_IDX]
            self._next_available = setup.position
            journal.start(self._used_index, self._next_available)
            self._in_flight = 0
        self._interrupted_at = self._used_index

    def _use(self, layout: SplitLayout, memory: MemoryTable) -> None:
        self.memory = memory
        self._layout = layout
        self._table = layout.table
        self._available = layout.available
        self._used = layout.used
        self._pairs = layout.used_pairs

    def _recover(self) -> None:
        self._used_index = self.journal.recover(self._used[_IDX])
        self._used[_IDX] = self._used_index
        heads = self.journal.in_flight()
        self._in_flight = len(heads)
        self._next_available = self.journal.position()
        for head in heads:
            try:
                self.unfinished.append(self._chain(head, self.journal.sequence_of(head)))
            except RingError as error:  # `pop` raises it, once the others are answered
                self._broken = error

    def relocate(self, layout: SplitLayout, memory: MemoryTable) -> None:
        """Go on with the same queue where its areas lie in other memory: regions were added, removed or mapped again.

        Indexes, journal and requests in flight stay valid. What was popped keeps the buffers that it had.

        Raises:
            LocalError: the layout is that of a queue of another size.
        """
        if layout.size != self.size:
            raise LocalError(
                f"a queue of {self.size} entries cannot go on with {layout.size}; stop it and start another"
            )
        self._use(layout, memory)

    # Popping.

    def pop(self, limit: int = 64) -> list[Chain]:
        """Take up to ``limit`` chains that the driver made available.

        A chain whose buffers cannot be used comes with its ``error`` set. Chains that came before
        a broken one are returned first; the error is raised by the next call.

        Raises:
            RingError: the driver broke the ring; retire the queue.
        """
        if self._broken:
            raise self._broken
        pending = self.backlog()
        if not pending:
            return []
        if pending > self.size - self._in_flight:
            self._broken = RingError(
                f"the available index is {pending} ahead, and {self._in_flight} requests are in flight; "
                f"the queue has {self.size} entries",
                section="2.7.13.3.1",
            )
            raise self._broken
        read_barrier()
        chains: list[Chain] = []
        try:
            for _ in range(min(pending, limit)):
                chains.append(self._pop_one())  # noqa: PERF401  # what was popped before an error is kept
        except RingError as error:
            self._broken = error
            if not chains:
                raise
        return chains

    def _pop_one(self) -> Chain:
        head = self._available[_RING + (self._next_available & self._mask)]
        if head >= self.size:
            raise RingError(f"descriptor {head} was made available; the queue has {self.size}", section="2.7.6")
        chain = self._chain(head, self.journal.track(head))
        self._next_available = (self._next_available + 1) & 0xFFFF
        self._in_flight += 1
        return chain

    def unpop(self, chain: Chain) -> bool:
        """Put a request that was popped and not begun back on the ring, as if it had not been popped.

        That is possible only for the one that was popped last, so a whole tail goes back from the newest to the
        oldest. Return False, and change nothing, for any other, or where the driver has rewritten the ring's slot.
        """
        # The theory of operation in journal.py says why this is safe. With EVENT_IDX no wake-up is lost, either:
        # avail_event may now be ahead of the position, but whoever gives a request back knows that there is one, and
        # before anybody sleeps again, `enable_kicks` stores the new position and finds the request in its last look.
        before = (self._next_available - 1) & 0xFFFF
        head = self._available[_RING + (before & self._mask)]
        if head != chain.head or not self.journal.release(head):
            return False
        self._next_available = before
        self._in_flight -= 1
        return True

    # Following a chain.

    def _chain(self, head: int, sequence: int) -> Chain:
        try:
            readable, writable = self._buffers(head)
            return Chain(head, sequence, self._translate(readable), self._translate(writable))
        except ChainError as error:
            return Chain(head, sequence, error=error)

    def _buffers(self, head: int) -> tuple[Buffers, Buffers]:
        """Return a chain's readable and writable buffers, read from the queue's table and perhaps an indirect one."""
        readable: Buffers = []
        writable: Buffers = []
        reference = self._follow(self._table, head, self.size, readable, writable)
        if reference is not None:
            table, number = self._indirect_table(*reference)
            if self._follow(table, 0, number, readable, writable) is not None:
                raise RingError("an indirect descriptor inside an indirect table", section="2.7.5.3.1")
        buffers = readable + writable
        if len(buffers) > self.size:
            raise RingError(f"a chain of more than {self.size} buffers", section="2.7.5.3.1")
        total = 0
        for _, length in buffers:
            total += length
        if total > MOST_BYTES:
            raise ChainError(f"a chain of {total} bytes; 2**32 is the most", section="2.7.5.2")
        return readable, writable

    def _follow(
        self, table: memoryview | bytes, index: int, limit: int, readable: Buffers, writable: Buffers
    ) -> tuple[int, int, int] | None:
        """Follow a chain from ``index`` on through a table of ``limit`` descriptors, and collect its buffers.

        Return address, length and flags of the descriptor that refers to an indirect table, if the chain comes to one.
        """
        unpack = split.DESCRIPTOR.unpack_from
        for _ in range(limit):
            address, length, flags, following = unpack(table, 16 * index)
            if flags & _INDIRECT:
                return address, length, flags
            if flags & _WRITE:
                writable.append((address, length))
            elif writable:
                raise RingError("a device-readable descriptor behind a device-writable one", section="2.7.4.2")
            else:
                readable.append((address, length))
            if not flags & _NEXT:
                return None
            if following >= limit:
                raise RingError(f"descriptor {index} continues at {following}; its table has {limit}", section="2.7.5")
            index = following
        raise RingError(f"a chain is longer than its table, which has {limit} descriptors", section="2.7.5.2")

    def _indirect_table(self, address: int, length: int, flags: int) -> tuple[bytes, int]:
        """Return a private copy of an indirect table, which is checked and used, and how many descriptors it has."""
        # The WRITE flag of the descriptor that refers to the table means nothing (2.7.5.3.2).
        if not self._may_indirect:
            raise RingError("an indirect descriptor, and INDIRECT_DESC was not negotiated", section="2.7.5.3.1")
        if flags & _NEXT:
            raise RingError("a descriptor is both indirect and continued", section="2.7.5.3.1")
        if not length or length % split.DESCRIPTOR_SIZE:
            raise RingError(f"an indirect table of {length} bytes; a descriptor has 16", section="2.7.5.3")
        number = length // split.DESCRIPTOR_SIZE
        if number > self.size:
            raise RingError(
                f"an indirect table of {number} descriptors; the queue has {self.size}", section="2.7.5.3.1"
            )
        try:
            return self.memory.read(address, length), number
        except NotMapped as error:
            raise _outside("an indirect table", error) from error

    def _translate(self, buffers: Buffers) -> list[memoryview]:
        """Return buffers as views of memory; the whole chain is known to be well-formed by now."""
        views: list[memoryview] = []
        try:
            for address, length in buffers:
                views += self.memory.views(address, length)
        except NotMapped as error:
            raise _outside("a buffer", error) from error
        return views

    # Pushing.

    def push(self, chains: Sequence[Chain]) -> None:
        """Return chains to the driver, each with as many bytes as were written into it.

        The used index is published once for all of them. None of them counts as running afterwards.
        """
        self._publish([chain.head for chain in chains], [chain.written for chain in chains])

    def _publish(self, heads: Sequence[int], lengths: Sequence[int]) -> None:
        pairs, used, mask = self._pairs, self._used_index, self._mask
        for head, length in zip(heads, lengths, strict=True):
            slot = 2 * (used & mask)
            pairs[slot] = head
            pairs[slot + 1] = length
            used += 1
        used &= 0xFFFF
        self.journal.prepare(heads)
        write_barrier()
        self._used[_IDX] = used
        self.journal.commit(heads, used)
        self._used_index = used
        self._in_flight -= len(heads)

    # Notifications.

    def needs_interrupt(self) -> bool:
        """Return whether the driver wants an interrupt for what was pushed since the last call.

        (VIRTIO 1.4, 2.7.7.2)
        """
        old, new = self._interrupted_at, self._used_index
        self._interrupted_at = new
        full_fence()  # the used index must be out before the driver's wish is read
        if self._event_idx:
            return split.event_passed(self._available[self._used_event], new, old)
        return new != old and not self._available[_FLAGS] & split.NO_INTERRUPT

    def disable_kicks(self) -> None:
        """Let the driver know that the device is looking anyway (VIRTIO 1.4, 2.7.10.2).

        With EVENT_IDX there is nothing to do: avail_event stays behind, and only passing it kicks.
        """
        if not self._event_idx:
            self._used[_FLAGS] = split.NO_NOTIFY

    def enable_kicks(self) -> bool:
        """Ask for a kick at the next request; return whether one is there already, for which no kick comes."""
        if self._event_idx:
            self._used[self._avail_event] = self._next_available
        else:
            self._used[_FLAGS] = 0
        full_fence()  # the wish must be out before the last look
        return self.has_more()

    def has_more(self) -> bool:
        """Return whether there is something to pop."""
        return bool(self._available[_IDX] != self._next_available)

    def backlog(self) -> int:
        """Return how many requests wait to be popped, as far as the available index can be believed."""
        return (self._available[_IDX] - self._next_available) & 0xFFFF

    @property
    def position(self) -> int:
        """The available index at which `pop` goes on."""
        return self._next_available

    def retire(self, error: RingError) -> None:
        """Stop popping for good: the ring cannot be trusted any further, and `pop` raises ``error``."""
        self._broken = error


def _outside(what: str, error: NotMapped) -> ChainError:
    return ChainError(f"{what} is outside memory: {error}", section="2.7.5")
