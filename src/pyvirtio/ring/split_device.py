"""The device side of a split virtqueue: the reference engine, written to be read.

The driver is not trusted. Each shared byte is read once into private memory, the copy is checked,
and the copy is used; indexes that the device wrote are never read back.
"""

from __future__ import annotations

from time import monotonic_ns

from pyvirtio.errors import ChainError, RingError
from pyvirtio.memory import full_fence, read_barrier, write_barrier
from pyvirtio.ring.chain import Chain
from pyvirtio.ring.journal import Count, Journal
from pyvirtio.ring.records import PythonBatch, PythonCodec
from pyvirtio.spec import split
from pyvirtio.spec.features import Feature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, ClassVar

    from pyvirtio.memory import MemoryTable
    from pyvirtio.ring.layout import SplitLayout
    from pyvirtio.ring.records import Place, RecordBatch

_IDX, _FLAGS, _RING = split.IDX, split.FLAGS, split.RING
MOST_BYTES = 1 << 32
"""A chain may have no more bytes than this (VIRTIO 1.4, 2.7.5.2)."""

_REQUESTS, _BYTES_READ, _BYTES_WRITTEN = Count.REQUESTS, Count.BYTES_READ, Count.BYTES_WRITTEN
_NEXT, _WRITE, _INDIRECT = split.F_NEXT, split.F_WRITE, split.F_INDIRECT


class SplitDeviceQueue:
    """The device's end of a queue.

    ``rings`` are its three parts, ``memory`` translates buffer addresses, ``features`` are those
    negotiated, ``base`` is the available index to go on from (by default, the used index).

    Raises:
        RingError: the journal cannot belong to this queue.
    """

    batch_pays_from: ClassVar[int] = 8
    """How many records a batch method has to be given to cost less than a call for each of them."""

    def __init__(
        self,
        rings: SplitLayout,
        memory: MemoryTable,
        features: int,
        *,
        journal: Journal | None = None,
        base: int | None = None,
    ) -> None:
        self.size = rings.size
        self._memory = memory
        self.journal = journal or Journal(rings.size)
        self._table = rings.table
        self._available = rings.available
        self._used = rings.used
        self._pairs = rings.used_pairs
        self._event_idx = bool(features & Feature.EVENT_IDX)
        self._may_indirect = bool(features & Feature.INDIRECT_DESC)
        self._mask = rings.size - 1
        self._used_event, self._avail_event = split.used_event_word(rings.size), split.avail_event_word(rings.size)
        self._broken: RingError | None = None
        self.unfinished: list[Chain] = []
        """What a worker that died had popped and not answered, in order of arrival."""
        if self.journal.was_used:
            self._recover()
        else:
            self._used_index = self._used[_IDX]
            self._next_available = self._used_index if base is None else base
            self.journal.start(self._used_index, self._next_available)
            self._in_flight = 0
        self._called_at = self._used_index

    def _recover(self) -> None:
        self._used_index = self.journal.recover(self._used[_IDX])
        self._used[_IDX] = self._used_index
        heads = self.journal.in_flight()
        self._in_flight = len(heads)
        self._next_available = self.journal.next_available()
        for head in heads:
            try:
                self.unfinished.append(self._chain(head, self.journal.order_of(head)))
            except RingError as error:  # `pop` raises it, once the others are answered
                self._broken = error

    @property
    def memory(self) -> MemoryTable:
        """What translates the addresses of buffers. It can be replaced; what was popped keeps the old one."""
        return self._memory

    @memory.setter
    def memory(self, memory: MemoryTable) -> None:
        self._memory = memory
        self._memory_changed()

    def _memory_changed(self) -> None:
        """Make of the new memory what this engine needs."""

    # Popping.

    def pop(self, limit: int = 64) -> list[Chain]:
        """Take up to ``limit`` chains that the driver made available.

        A chain whose buffers cannot be used comes with its ``error`` set. Chains that came before
        a broken one are given first; the error is raised by the next call.

        Raises:
            RingError: the driver broke the ring; retire the queue.
        """
        if self._broken:
            raise self._broken
        pending = (self._available[_IDX] - self._next_available) & 0xFFFF
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
        next_available = self._next_available
        head = self._available[_RING + (next_available & self._mask)]
        if head >= self.size:
            raise RingError(f"descriptor {head} was made available; the queue has {self.size}", section="2.7.6")
        chain = self._chain(head, self.journal.begin(head))
        self._next_available = (next_available + 1) & 0xFFFF
        self._in_flight += 1
        return chain

    def _chain(self, head: int, order: int) -> Chain:
        try:
            readable, writable = self._buffers(head)
        except ChainError as error:
            return Chain(head, order, error=error)
        return Chain(head, order, readable, writable)

    def _buffers(self, head: int) -> tuple[list[memoryview], list[memoryview]]:
        """Follow a chain through the descriptor table, and at its end perhaps through an indirect one."""
        readable: list[tuple[int, int]] = []
        writable: list[tuple[int, int]] = []
        unpack, table, index = split.DESCRIPTOR.unpack_from, self._table, head
        for _ in range(self.size):
            address, length, flags, following = unpack(table, 16 * index)
            if flags & _INDIRECT:
                self._indirect(address, length, flags, readable, writable)
                break
            if flags & _WRITE:
                writable.append((address, length))
            elif writable:
                raise _readable_too_late()
            else:
                readable.append((address, length))
            if not flags & _NEXT:
                break
            if following >= self.size:
                raise RingError(
                    f"descriptor {index} continues at {following}; the queue has {self.size}", section="2.7.5"
                )
            index = following
        else:
            raise RingError(f"the chain of descriptor {head} is longer than the queue", section="2.7.5.2")
        # Only now that the whole chain is known to be well-formed is anything translated.
        if len(readable) + len(writable) > self.size:
            raise RingError(f"a chain of more than {self.size} buffers", section="2.7.5.3.1")
        return self._translate(readable, writable)

    def _indirect(
        self,
        address: int,
        length: int,
        flags: int,
        readable: list[tuple[int, int]],
        writable: list[tuple[int, int]],
    ) -> None:
        # The WRITE flag of the descriptor that refers to the table means nothing (2.7.5.3.2).
        if not self._may_indirect:
            raise RingError("an indirect descriptor, and INDIRECT_DESC was not negotiated", section="2.7.5.3.1")
        if flags & _NEXT:
            raise RingError("a descriptor is both indirect and continued", section="2.7.5.3.1")
        if not length or length % 16:
            raise RingError(f"an indirect table of {length} bytes; a descriptor has 16", section="2.7.5.3")
        number = length // 16
        if number > self.size:
            raise RingError(
                f"an indirect table of {number} descriptors; the queue has {self.size}", section="2.7.5.3.1"
            )
        table = self._memory.read(address, length)  # one private copy: what is checked is what is used
        index = 0
        for _ in range(number):
            address, length, flags, following = split.DESCRIPTOR.unpack_from(table, 16 * index)
            if flags & _INDIRECT:
                raise RingError("an indirect descriptor inside an indirect table", section="2.7.5.3.1")
            if flags & _WRITE:
                writable.append((address, length))
            elif writable:
                raise _readable_too_late()
            else:
                readable.append((address, length))
            if not flags & _NEXT:
                return
            if following >= number:
                raise RingError(
                    f"an indirect descriptor continues at {following}; the table has {number}",
                    section="2.7.5.3",
                )
            index = following
        raise RingError("the chain inside an indirect table never ends", section="2.7.5.3")

    def _translate(
        self, readable: list[tuple[int, int]], writable: list[tuple[int, int]]
    ) -> tuple[list[memoryview], list[memoryview]]:
        views = self._memory.views
        if len(readable) == len(writable) == 1:  # most requests; two lengths of 32 bits may be too much together
            ((address, length),), ((place, room),) = readable, writable
            if length + room <= MOST_BYTES:
                return views(address, length), views(place, room)
        total = sum(length for _, length in readable) + sum(length for _, length in writable)
        if total > MOST_BYTES:
            raise ChainError(f"a chain of {total} bytes; 2**32 is the most", section="2.7.5.2")
        return (
            [view for address, length in readable for view in views(address, length)],
            [view for address, length in writable for view in views(address, length)],
        )

    # Pushing.

    def push(self, chains: Sequence[Chain]) -> None:
        """Give chains back to the driver, each with as many bytes as were written into it.

        The used index is published once for all of them. No request counts as running afterwards.
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
        self.journal.intend(heads, used)
        write_barrier()
        self._used[_IDX] = used
        self.journal.finish(heads, used)
        self.journal.idle()
        self._used_index = used
        self._in_flight -= len(heads)

    # Records: requests of one shape, without an object for each. What is odd is left to `pop`, untouched.

    def pop_records(self, limit: int, request_size: int, response_size: int) -> RecordBatch | None:
        """Take up to ``limit`` requests of at least ``request_size`` bytes, with room for ``response_size`` each.

        Each byte of them is read once. Gives None where the next chain is not of that kind, where nothing waits, or
        where this engine does not think it worth the while; then `pop` is the way, which also says what is wrong.
        """
        pending = (self._available[_IDX] - self._next_available) & 0xFFFF
        if not pending or self._broken or pending > self.size - self._in_flight:
            return None
        read_barrier()
        journal, available, mask, at = self.journal, self._available, self._mask, self._next_available
        order, records = journal.last_order + 1, []
        for _ in range(min(pending, limit)):
            head = available[_RING + (at & mask)]
            places = self._plain_places(head)
            if places is None or places[0][2] < request_size or places[1][2] < response_size:
                break
            try:
                journal.begin(head)
            except RingError as error:  # it need not be in flight any more by the time that `pop` looks
                self._broken = error
                break
            records.append((head, *places))
            at += 1
        if not records:
            return None
        self._next_available = at & 0xFFFF
        self._in_flight += len(records)
        return PythonBatch(records, order, response_size)

    def _plain_places(self, head: int) -> tuple[Place, Place] | None:
        """Find the buffers of a chain of one readable and one writable descriptor, each within one region."""
        unpack, size, table, place_of = split.DESCRIPTOR.unpack_from, self.size, self._table, self._memory.place
        if head >= size:
            return None
        address, length, flags, following = unpack(table, 16 * head)
        if flags != _NEXT or following >= size:
            return None
        readable = place_of(address, length)
        address, room, flags, _ = unpack(table, 16 * following)
        if flags != _WRITE or length + room > MOST_BYTES:
            return None
        writable = place_of(address, room)
        return (readable, writable) if readable and writable else None

    def push_records(self, batch: Any, answers: Any) -> None:
        """Answer the next records of ``batch``, as many as ``answers`` holds, as `push` does; and count them."""
        heads, read, size = batch.answer(answers)
        number = len(heads)
        self._publish(heads, [size] * number)
        self._count_records(number, read, size * number)

    def answer_records(
        self,
        batch: Any,
        answers: Callable[[Any], Any],
        most: int,  # noqa: ARG002  # for engines that go on
        deadline: int,  # noqa: ARG002
        clock: Callable[[], int] | None,
    ) -> None:
        """Have ``answers`` answer ``batch`` as a whole: it takes all requests in a buffer and gives all answers in one.

        It may give None; then the batch is left as it is. An engine may go on with what else waits, in batches of up
        to ``most``, until ``deadline`` on ``clock``, or until few wait or the driver wants an interrupt. Without
        ``clock`` it is the system's. What the batch holds then is not answered.
        """
        self.journal.running(batch.order, len(batch), (clock or monotonic_ns)())
        found = answers(batch.requests)
        if found is not None:
            self.push_records(batch, found)

    def _count_records(self, number: int, read: int, written: int) -> None:
        numbers = self.journal.numbers
        numbers[_REQUESTS] += number
        numbers[_BYTES_READ] += read
        numbers[_BYTES_WRITTEN] += written

    def codec(self, structure: Any) -> object:
        """Give what `call_records` needs to know of a structure, or None where it cannot deal with it."""
        return PythonCodec(structure)

    def call_records(
        self,
        batch: Any,
        method: Callable[..., object],
        request: Any,
        response: Any,
        deadline: int,
        clock: Callable[[], int] | None,
    ) -> object:
        """Answer the records of ``batch`` by ``method``, one call each, until ``deadline`` on ``clock``.

        ``request`` and ``response`` are codecs of the structures that ``method`` takes and gives; without ``clock``
        it is the system's. Stops early at an unusual outcome, an exception or an answer of another type, and gives
        that, which belongs to the record that is now the next. Gives ``batch`` where nothing was unusual.
        """
        clock = clock or monotonic_ns
        now, outcome = clock(), batch
        answers: list[bytes] = []
        running, order, pack = self.journal.running, batch.order, response.pack
        kind, new = request.structure, tuple.__new__
        for values in batch.unpacked(request):
            running(order + len(answers), 1, now)
            try:
                outcome = method(new(kind, values))
            except Exception as error:  # noqa: BLE001  # the author's code may raise anything; the caller reports it
                outcome = error
                break
            if (answer := pack(outcome)) is None:
                break
            answers.append(answer)
            outcome = batch
            now = clock()
            if now >= deadline:
                break
        self.push_records(batch, b"".join(answers))
        return outcome

    # Notifications.

    def needs_interrupt(self) -> bool:
        """Tell whether the driver wants an interrupt for what was pushed since the last time it was asked.

        (VIRTIO 1.4, 2.7.7.2)
        """
        old, new = self._called_at, self._used_index
        self._called_at = new
        full_fence()  # the used index must be out before the driver's wish is read
        if self._event_idx:
            return split.event_passed(self._available[self._used_event], new, old)
        return new != old and not self._available[_FLAGS] & split.NO_INTERRUPT

    def disable_kicks(self) -> None:
        """Tell the driver that the device is looking anyway (VIRTIO 1.4, 2.7.10.2).

        With EVENT_IDX there is nothing to do: avail_event stays behind, and only passing it kicks.
        """
        if not self._event_idx:
            self._used[_FLAGS] = split.NO_NOTIFY

    def enable_kicks(self) -> bool:
        """Ask for a kick at the next request; gives whether one is there already, and then nobody kicks."""
        if self._event_idx:
            self._used[self._avail_event] = self._next_available
        else:
            self._used[_FLAGS] = 0
        full_fence()  # the wish must be out before the last look
        return self._available[_IDX] != self._next_available

    @property
    def pending(self) -> bool:
        """Whether there is something to pop."""
        return self.backlog() != 0

    def backlog(self) -> int:
        """How many requests wait to be popped, as far as the available index can be believed."""
        return (self._available[_IDX] - self._next_available) & 0xFFFF

    @property
    def next_available(self) -> int:
        """The available index at which `pop` goes on."""
        return self._next_available

    @property
    def numbers(self) -> memoryview:
        """The queue's counters, at the places that `Count` names."""
        return self.journal.numbers

    def count(self, place: int, number: int = 1) -> None:
        """Add to a counter that `Count` names."""
        self.journal.numbers[place] += number

    def retire(self, error: RingError) -> None:
        """Stop popping for good: the ring cannot be trusted any further."""
        self._broken = error


def _readable_too_late() -> RingError:
    return RingError("a device-readable descriptor behind a device-writable one", section="2.7.4.2")
