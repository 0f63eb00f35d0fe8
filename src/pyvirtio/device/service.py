"""What runs a queue of a device: turns of bounded length, and what to do about bad requests."""

from __future__ import annotations

from pyvirtio.device.batching import Records
from pyvirtio.device.records import RecordAnswer
from pyvirtio.errors import DriverError, RingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.device.records import Answer
    from pyvirtio.ring import Chain
    from pyvirtio.ring.queue import RecordQueue
    from pyvirtio.ring.records import RecordBatch

TURN = 10_000_000
"""The longest that a queue is served before its neighbours get their turn, in nanoseconds."""

BATCH = 64
"""The most requests that are popped at once and answered one by one."""

MAXIMUM_STRIKES = 3
"""After so many deaths of a worker inside the device's method, a request is completed empty."""


class QueueService:
    """Serves one queue.

    Args:
        queue: the device's side of the ring.
        answer: answers one chain; see `Queue.bind`.
        call: interrupts the driver.
        report: takes a message about a fault, and the exception behind it.
        clock: gives nanoseconds that only grow.
        repeatable: see `Device.repeatable`.
    """

    def __init__(
        self,
        queue: RecordQueue,
        answer: Answer,
        call: Callable[[], None],
        report: Callable[[str, BaseException | None], None],
        clock: Callable[[], int],
        *,
        repeatable: bool = True,
    ) -> None:
        self.queue = queue
        self.retired = False
        self._answer = answer
        self._call = call
        self._report = report
        self._clock = clock
        self._repeatable = repeatable
        self._waiting: list[Chain] = []
        self._records: Records | None = None
        if isinstance(answer, RecordAnswer):
            self._records = Records(queue, answer, clock, TURN, repeatable=repeatable)
        self._open: RecordBatch | None = None
        self._reported: set[str] = set()

    def _was_fatal(self, chain: Chain) -> bool:
        strikes = self.queue.journal.strikes(chain.head)
        return strikes >= (MAXIMUM_STRIKES if self._repeatable else 1)

    def resume(self) -> None:
        """Answer what a dead worker had taken, one by one, and interrupt the driver in any case.

        The dead worker may have published answers without having called.
        """
        unfinished, self.queue.unfinished = self.queue.unfinished, []
        for chain in unfinished:
            if self._was_fatal(chain):
                self._report(f"the request at descriptor {chain.head} ended the worker and is returned empty", None)
                self._return_empty(chain)
            else:
                self._answer_some([chain], self._clock(), deadline=0)
            self.queue.push([chain])
        self.queue.needs_interrupt()
        self._call()

    def turn(self, *, linger: bool = False) -> bool:
        """Serve the queue until it is empty, or for `TURN`; gives whether there is more to do.

        With ``linger`` the driver is not asked to kick: the caller goes on looking, and calls `rest` in the end.
        """
        if self.retired:
            return False
        queue, now = self.queue, self._clock()
        deadline = now + TURN
        queue.disable_kicks()
        try:
            while now < deadline:
                self._batch(now, deadline)
                # A look costs less than a pop that finds nothing; with one request in flight that is every second.
                waits = self._waiting or self._open or queue.has_more()
                if not waits and (linger or not queue.enable_kicks()):
                    return False
                now = self._clock()
        except RingError as error:
            self._retire(error)
            return False
        return True

    def rest(self) -> bool:
        """Ask the driver to kick from now on; gives whether there is something to do already."""
        return not self.retired and self.queue.enable_kicks()

    def finish(self) -> None:
        """Answer what was popped, before the queue stops."""
        while self._waiting or self._open:
            now = self._clock()
            self._batch(now, now + TURN)

    def _batch(self, now: int, deadline: int) -> None:
        """Answer some of what waits."""
        # What must not be done twice is published before the next is begun.
        deadline = deadline if self._repeatable else 0
        if self._records and not self._waiting and self._answer_records(self._records, now, deadline):
            return
        chains = self._waiting or self.queue.pop(BATCH)
        if not chains:
            return
        done = self._answer_some(chains, now, deadline)
        self.queue.push(chains[:done])
        self._waiting = chains[done:]
        if self.queue.needs_interrupt():
            self._call()

    def _answer_records(self, records: Records, now: int, deadline: int) -> bool:
        """Answer requests of one shape without making a chain of each; gives whether they came like that."""
        batch, fresh, self._open = self._open, self._open is None, None
        if batch is None and (batch := records.pop()) is None:
            return False
        if fresh and records.wants(len(batch)):
            self._answer_whole(records, batch, now)
        if len(batch) and records.calls:
            self._call_each(records, batch, deadline)
        elif len(batch):
            self._waiting = [batch.take() for _ in range(len(batch))]
            return False
        if self.queue.needs_interrupt():
            self._call()
        return True

    def _answer_whole(self, records: Records, batch: RecordBatch, now: int) -> None:
        """Have the device's batch method answer; what it does not answer stays in the batch."""
        try:
            records.answer(batch, now)
        except Exception as error:  # noqa: BLE001  # the author's code may raise anything; the queue goes on
            records.rest()
            self._report_once(f"the device's batch method failed, its requests are answered singly: {error!r}", error)

    def _call_each(self, records: Records, batch: RecordBatch, deadline: int) -> None:
        outcome = records.call(batch, deadline)
        if outcome is not batch:
            # What is unusual need not be fast: this one is answered as a chain, with what came of the call.
            chain = batch.take()
            self._answer_some([chain], self._clock(), deadline=0, answer=records.late(outcome))
            self.queue.push([chain])
        if len(batch):
            self._open = batch

    def _answer_some(self, chains: list[Chain], now: int, deadline: int, answer: Answer | None = None) -> int:
        """Answer chains until ``deadline``, at least one; gives how many."""
        journal, clock, answer = self.queue.journal, self._clock, answer or self._answer
        done = 0
        for chain in chains:
            journal.begin(chain.head, now or 1)
            try:
                if chain.error:
                    raise chain.error
                answer(chain)
            except DriverError as error:
                self._return_empty(chain)
                self._report_once(f"a request is returned empty: {error}", None)
            except Exception as error:  # noqa: BLE001  # the author's code may raise anything; the queue goes on
                self._return_empty(chain)
                self._report_once(f"the device's method failed, the request is returned empty: {error!r}", error)
            done += 1
            now = clock()
            if now >= deadline:
                break
            journal.end(chain.head)
        return done

    def _return_empty(self, chain: Chain) -> None:
        chain.written = 0

    def _retire(self, error: RingError) -> None:
        self.retired = True
        self.queue.retire(error)
        self._report(f"the queue is retired until it is set up afresh: {error}", None)

    def _report_once(self, message: str, error: BaseException | None) -> None:
        # A guest chooses what is wrong, and so the message: neither it nor the set may grow without bound.
        if message not in self._reported and len(self._reported) < 100:
            self._reported.add(message)
            self._report(message, error)
