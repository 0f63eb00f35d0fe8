"""Records on a split virtqueue: requests of one shape, without an object for each.

A *record* is a request of one readable and one writable buffer, each within one region, with at least as many bytes as
its structure takes and room for an answer. It is answered exactly as its chain would be, and can be taken out of its
batch as a chain at any time. Whatever is not plainly a record is left to `pop`, untouched.
"""

from __future__ import annotations

from time import monotonic_ns

from pyvirtio.errors import RingError
from pyvirtio.memory import read_barrier
from pyvirtio.ring.records import PythonBatch, PythonCodec
from pyvirtio.ring.split_device import MOST_BYTES, SplitDeviceQueue
from pyvirtio.spec import split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar

    from pyvirtio.ring.records import Location, RecordBatch

_RING, _NEXT, _WRITE = split.RING, split.F_NEXT, split.F_WRITE


class SplitRecordQueue(SplitDeviceQueue):
    """The device's end of a split virtqueue that also deals in records; a `pyvirtio.ring.queue.RecordQueue`."""

    has_records: ClassVar[bool] = True
    batch_pays_from: ClassVar[int] = 8
    """How many records a batch method must be given to cost less than a call for each of them."""

    def pop_records(self, limit: int, request_size: int, response_size: int) -> RecordBatch | None:
        """Take up to ``limit`` requests of at least ``request_size`` bytes, with room for ``response_size`` each.

        Each byte of them is read once. Return None where the next chain is not of that kind, or where nothing waits;
        then `pop` is the way, which also says what is wrong.
        """
        pending = self.backlog()
        if not pending or self._broken or pending > self.size - self._in_flight:
            return None
        read_barrier()
        journal, available, mask, at = self.journal, self._available, self._mask, self._next_available
        first, records = journal.last_sequence + 1, []
        for _ in range(min(pending, limit)):
            head = available[_RING + (at & mask)]
            locations = self._locate_record(head)
            if locations is None or locations[0][2] < request_size or locations[1][2] < response_size:
                break
            try:
                journal.track(head)
            except RingError as error:  # it need not be in flight any more by the time that `pop` looks
                self._broken = error
                break
            records.append((head, *locations))
            at += 1
        if not records:
            return None
        self._next_available = at & 0xFFFF
        self._in_flight += len(records)
        return PythonBatch(records, first, request_size, response_size)

    def _locate_record(self, head: int) -> tuple[Location, Location] | None:
        """Return where the buffers of a chain of one readable and one writable descriptor lie."""
        unpack, size, table, locate = split.DESCRIPTOR.unpack_from, self.size, self._table, self.memory.locate
        if head >= size:
            return None
        address, length, flags, following = unpack(table, 16 * head)
        if flags != _NEXT or following >= size:
            return None
        readable = locate(address, length)
        address, room, flags, _ = unpack(table, 16 * following)
        if flags != _WRITE or length + room > MOST_BYTES:
            return None
        writable = locate(address, room)
        return (readable, writable) if readable and writable else None

    def push_records(self, batch: Any, answers: Any) -> None:
        """Answer the next records of ``batch``, as many as ``answers`` holds, as `push` does."""
        size = batch.response_size
        heads = batch.answer(answers)
        self._publish(heads, [size] * len(heads))

    def answer_records(
        self,
        batch: Any,
        answers: Callable[[Any], Any],
        most: int,  # noqa: ARG002  # for engines that go on
        deadline: int,  # noqa: ARG002
        clock: Callable[[], int] | None,
    ) -> None:
        """Have ``answers`` answer ``batch`` as a whole: it takes all requests and returns all answers, as buffers.

        It may return None; then the batch is left as it is. An engine may go on with what else waits, in batches of up
        to ``most``, until ``deadline`` on ``clock``, or until few wait or the driver wants an interrupt. Without
        ``clock`` it is the system's. What the batch holds then is not answered, and does not count as running.

        Raises:
            Exception: what ``answers`` raised. Then the batch is not answered, and does not count as running, either.
        """
        now, heads, journal = (clock or monotonic_ns)(), batch.heads, self.journal
        for head in heads:
            journal.begin(head, now)
        try:
            found = answers(batch.requests)
        except Exception:
            self._end(heads)
            raise
        if found is None:
            self._end(heads)
        else:
            self.push_records(batch, found)

    def _end(self, heads: list[int]) -> None:
        for head in heads:
            self.journal.end(head)

    def codec(self, structure: Any) -> object:
        """Return what `call_records` needs to know of a structure, or None where it cannot deal with it."""
        codes = structure.codes()
        return None if codes is None else PythonCodec(structure, codes)

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

        ``request`` and ``response`` are codecs of the structures that ``method`` takes and returns; without ``clock``
        it is the system's. Stops early at an unusual outcome, an exception or an answer of another type, and returns
        that; it belongs to the record that is now the next, which still counts as running. Returns ``batch`` where
        nothing was unusual.
        """
        clock = clock or monotonic_ns
        now, outcome = clock(), batch
        answers: list[bytes] = []
        begin, end, pack = self.journal.begin, self.journal.end, response.pack
        kind, new = request.structure, tuple.__new__
        for head, values in batch.unpacked(request):
            begin(head, now)
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
                break  # the last one is published while it still counts as running: see `Device.repeatable`
            end(head)
        self.push_records(batch, b"".join(answers))
        return outcome
