"""Runs a queue on which the driver asks and the device answers, at once or later and in any order.

A request is in one of four places: on the ring; *waiting*, popped and not begun; *running*, inside the device's
method; *answered*, and pushed at the end of the turn. What waits can be given back to the ring, what runs cannot.

A plain method that raises `NotNow` puts its request back to what waits; nothing is begun until the queue is resumed.

After a worker died, what was in flight waits again. A request that was running then has a strike against it, and is
begun alone: if the worker dies once more, it is known whose fault it was.
"""

from __future__ import annotations

from pyvirtio.device.handlers import StillInUse, accept_outcome, write_outcome
from pyvirtio.errors import NotNow, PeerError
from pyvirtio.ring.queue import record_queue, stream_queue
from pyvirtio.runtime.failures import StruckOut, TookTooLong, WasHeld, write_failure
from pyvirtio.runtime.in_progress import ANY_TIME, InProgress, Running
from pyvirtio.runtime.records import RecordDispatcher
from pyvirtio.runtime.service import SERVING, TIME_SLICE_NS, UNBROKEN, QueueService
from pyvirtio.runtime.streams import CoroutineDispatcher, StreamDispatcher
from pyvirtio.runtime.waiting import Waiting
from pyvirtio.transport import MAXIMUM_STRIKES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.device import Device
    from pyvirtio.device.handlers import Handler
    from pyvirtio.device.queue import Queue
    from pyvirtio.ring import Chain
    from pyvirtio.ring.queue import DeviceQueue
    from pyvirtio.ring.records import RecordBatch
    from pyvirtio.runtime.service import Interrupter, Surroundings
    from pyvirtio.runtime.tasks import Tasks

MAX_POP = 64
"""The most requests that are popped at once and answered one by one."""

MAX_CALLS = 32768
"""The most requests that an engine answers by itself before anything else has its turn; time ends it before."""


class RequestService(QueueService):
    """Serves one queue of requests by the device's method."""

    def __init__(
        self,
        index: int,
        queue: DeviceQueue,
        notifier: Interrupter,
        around: Surroundings,
        declared: Queue,
        device: Device,
        tasks: Tasks | None,
    ) -> None:
        super().__init__(index, queue, notifier, around)
        self._declared = declared
        number = device.number_of(index)
        self._handler: Handler = declared.handler(device, number)
        self._failure = declared.failure(device)
        self._device = device
        self._repeatable = device.repeatable if declared.repeatable is None else declared.repeatable
        self._held = declared.held
        self._limit = declared.size
        self._tasks = tasks if declared.is_async(device) else None
        # What an author's code may raise; with coroutines also that what it awaited was cancelled.
        self._failures = (Exception, self._tasks.cancelled) if self._tasks else (Exception,)
        self._waiting = Waiting()
        self._runs_alone = False
        self._holds = False
        self._is_paused = False
        self._by_chains = 0  # requests that are taken as chains before the engine steps coroutines again
        self._running = InProgress(
            self._tasks.loop if self._tasks else None,
            None if declared.held else device.patience,
            self._clock,
            self._ignores_its_end,
        )
        self._overdue = f"it took longer than {device.patience} s"
        self._answered: list[Chain] = []
        self._flushing = False
        self._records: RecordDispatcher | None = None
        if (records := record_queue(queue)) is not None and RecordDispatcher.suits(declared, device):
            self._records = RecordDispatcher(records, declared, device, self._clock, TIME_SLICE_NS)
        streams = stream_queue(queue)
        self._streams = StreamDispatcher.suiting(streams, declared, device, number, self._clock)
        self._coroutines = CoroutineDispatcher.suiting(streams, declared, device, number, self._clock, self._tasks)
        if self._coroutines:
            self._running.parking = self._coroutines.queue
            from weakref import WeakMethod  # slow to import

            wake = WeakMethod(self._wake_parked)  # the garbage collector does not look into engines
            self._coroutines.queue.set_on_ready(lambda: (found := wake()) and found())
        self._take_over_unfinished()

    def _take_over_unfinished(self) -> None:
        """Take what a dead worker had popped: what has strikes against it is begun alone, or fails."""
        for chain, strikes in self._waiting.take_over(self.queue, MAXIMUM_STRIKES if self._repeatable else 1):
            self._fail(chain, StruckOut(f"the request at descriptor {chain.head} ended its worker {strikes} times"))
        if self._answered:
            self._push_answered()

    # Serving.

    def _serve(self, now: int, deadline: int) -> None:
        # What must not be done twice is published before the next is begun.
        deadline = deadline if self._repeatable else 0
        if self._is_paused:
            if self.state is not SERVING:
                self._give_back(fail_suspects=True)
            return
        if self._runs_alone:
            return
        waiting = self._waiting
        takes_more = self.state is SERVING and not waiting
        steps_more = takes_more and self._by_chains <= 0
        if self._coroutines and not steps_more and self._coroutines.is_ready():
            self._step_coroutines(self._coroutines, 0, deadline)
        if waiting.alone:
            if not self._running:
                waiting.alone[:0] = self._serve_chains([waiting.alone.pop(0)], now, 0)
                self._runs_alone = bool(self._running)
            return
        if not takes_more:
            chains = waiting.chains
        elif (
            (self._records and self._serve_records(self._records, now, deadline))
            or (self._streams and self._serve_streams(self._streams, deadline))
            or (self._coroutines and steps_more and self._step_coroutines(self._coroutines, MAX_CALLS, deadline))
        ):
            return
        else:
            chains = self.queue.pop(min(MAX_POP, self._limit - len(self._running)))
            self._by_chains -= len(chains)
        if chains:
            waiting.chains = self._serve_chains(chains, now, deadline)

    def _serve_chains(self, chains: list[Chain], now: int, deadline: int) -> list[Chain]:
        """Begin chains until ``deadline``, at least one; push what is answered; return what was not begun."""
        begun = self._begin_some(chains, now, deadline)
        if self._answered:
            self._push_answered()
        return chains[begun:]

    def has_more(self) -> bool:
        """Return whether there is a request that can be begun now."""
        if self._is_paused:
            return self.state is not SERVING and bool(self._waiting)
        if self._runs_alone or self._waiting.alone:
            return not self._running or bool(self._coroutines and self._coroutines.is_ready())
        if self._waiting or (self._records and self._records.open):
            return True
        if self._coroutines and self._coroutines.is_ready():
            return True
        return self.state is SERVING and len(self._running) < self._limit and self.queue.has_more()

    def _begin_some(self, chains: list[Chain], now: int, deadline: int) -> int:
        """Begin chains until ``deadline``, at least one; return how many. A method that waits goes on in its task."""
        journal, clock, handler, answered = self.queue.journal, self._clock, self._handler, self._answered
        tasks, repeated = self._tasks, self._waiting.repeated
        done = 0
        for chain in chains:
            journal.begin(chain.head, now)
            repeats = self._device.repeats = chain.head in repeated
            try:
                if chain.error:
                    raise chain.error
                work = handler(chain)
                slot = None if tasks is None or work is None else tasks.begin(work)
            except self._failures as error:
                if isinstance(error, NotNow) and self._pause(chain):
                    self._device.repeats = False
                    break
                self._fail(chain, error)
            else:
                if slot is None:
                    answered.append(chain)
                else:
                    self._goes_on(Running(chain, now, slot))
            if repeats:
                repeated.discard(chain.head)
                self._device.repeats = False
            done += 1
            now = clock()
            if now >= deadline:
                break  # the last one is published while it still counts as running: see `Device.repeatable`
            if answered and answered[-1] is chain:
                journal.end(chain.head)
        return done

    # Records: requests of one shape, without a chain for each.

    def _serve_records(self, records: RecordDispatcher, now: int, deadline: int) -> bool:
        """Answer some records; return False where what waits does not come as records."""
        if (batch := records.take(now, self.report_once if self._repeatable else None)) is None:
            return False
        if len(batch) and records.calls:
            self._call_each(records, batch, deadline)
        elif len(batch):
            self._waiting.chains = [batch.take() for _ in range(len(batch))]
        if not records.is_useful:
            self._records = None
        self._interrupt_if_wanted()
        return True

    def _call_each(self, records: RecordDispatcher, batch: RecordBatch, deadline: int) -> None:
        outcome = records.call_each(batch, deadline)
        if outcome is not batch:
            # What is unusual need not be fast: this one is answered as a chain, with what came of the call.
            self._answer_by(write_outcome, batch.take(), outcome, self._declared.response)
        if len(batch):
            records.open = batch

    # Streams: requests of any length, without a way through here for each.

    def _serve_streams(self, streams: StreamDispatcher, deadline: int) -> bool:
        """Have the engine answer what waits; return False where it cannot."""
        outcome = streams.call(MAX_POP if self._records else MAX_CALLS, deadline)
        if isinstance(outcome, tuple):
            self._answer_by(accept_outcome, *outcome)
        self._interrupt_if_wanted()
        return outcome != 0

    def _answer_by(self, answer: Callable[..., None], chain: Chain, *outcome: object) -> None:
        """Answer a chain with what came of a call that the engine made."""
        try:
            answer(chain, *outcome)
        except Exception as error:  # noqa: BLE001  # the author's code may raise anything; the queue goes on
            if isinstance(error, NotNow) and self._pause(chain):
                self._waiting.chains.insert(0, chain)
            else:
                self._fail(chain, error)
        else:
            self._answered.append(chain)
        self._push_answered()

    def _step_coroutines(self, coroutines: CoroutineDispatcher, limit: int, deadline: int) -> bool:
        """Have the engine go on with what is parked, and begin up to ``limit``; return False where it cannot."""
        outcome, slot = coroutines.step(limit, deadline, self._limit - len(self._running.values()))
        if slot is not None:
            chain, _work, _awaited, reader, writer, since, is_cancelled = outcome
            self._goes_on(Running(chain, since, slot, (reader, writer), is_cancelled=is_cancelled))
            self._by_chains = MAX_POP  # to begin a coroutine as a chain takes less if it needs a task
        elif isinstance(outcome, tuple):
            chain, raised, is_closed, _since, is_cancelled = outcome
            self._conclude(chain, raised if is_closed else StillInUse(chain), is_cancelled=is_cancelled)
            self._push_answered()
        if coroutines.queue.parked_count():
            self._running.watch()
        self._interrupt_if_wanted()
        return bool(outcome)

    # Pausing: the device takes no request now.

    def _pause(self, chain: Chain) -> bool:
        """Begin nothing more until the device resumes the queue; False where the method could have waited itself."""
        if self._tasks:
            return False
        self.queue.journal.end(chain.head)
        chain.written = 0
        self._is_paused = True
        return True

    def resume(self) -> None:
        """Go on where the device paused the queue."""
        if self._is_paused:
            self._is_paused = False
            self._around.wake(self.index)

    # Answering later.

    def _goes_on(self, request: Running) -> None:
        request.slot.done = lambda error: self._ended(request, error)
        self._running.add(request)
        if self._held and self.state is not SERVING:
            self._running.cancel_tasks()

    def _ended(self, request: Running, error: BaseException | None) -> None:
        """A method that waited has ended: answer its request at the end of this round of the loop."""
        self._running.remove(request)
        self._runs_alone = False
        if not request.is_closed():
            error = StillInUse(request.chain)
        if not self._conclude(request.chain, error, is_cancelled=request.is_cancelled):
            self._stop_if_drained()
            return
        if not self._repeatable:
            self._flush()
        elif not self._flushing and self._tasks:
            self._flushing = True
            self._tasks.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._answered:
            self._push_answered()
        self._stop_if_drained()
        if self.state in UNBROKEN:
            self._around.wake(self.index)

    def _push_answered(self) -> None:
        if self.state in UNBROKEN:
            self._push(self._answered)
        self._answered.clear()

    def _conclude(self, chain: Chain, error: BaseException | None, *, is_cancelled: bool) -> bool:
        """Take note of what a method that waited ended with; return whether its request is answered."""
        if is_cancelled and not isinstance(error, StillInUse):
            if self.state not in UNBROKEN:  # nothing is answered any more, and nobody took too long
                return False
            if not self._held:
                error = TookTooLong(self._overdue)
            elif isinstance(error, self._failures):
                error = WasHeld("it was held when the queue stopped")
        if error is None:
            self._answered.append(chain)
        else:
            self._fail(chain, error)
        return True

    def _wake_parked(self) -> None:
        """What is parked can go on: at the next turn, or where there are no more turns, by itself."""
        if self.state in UNBROKEN:
            self._around.wake(self.index)
        elif self._tasks:
            self._tasks.loop.call_soon(self._end_parked)

    def _end_parked(self) -> None:
        while self._coroutines and self._coroutines.is_ready():
            self._step_coroutines(self._coroutines, 0, ANY_TIME)
        self._stop_if_drained()

    def _ignores_its_end(self, chain: Chain) -> None:
        self._hold(chain, TookTooLong(f"{self._overdue}, and ignores that it was cancelled"))

    def _hold(self, chain: Chain, error: Exception) -> None:
        """Keep a request whose memory is still used: the driver must not get it back before this process is gone."""
        self._around.stuck(f"queue {self.index}: the request at descriptor {chain.head} cannot be ended: {error}")

    # Failure.

    def _fail(self, chain: Chain, error: BaseException) -> None:
        """Answer a failed request with what the driver is to see of it, and report it."""
        if isinstance(error, StillInUse):
            self._holds = True
            self._hold(chain, error)
            return
        self._answered.append(chain)
        chain.written = 0
        if isinstance(error, (PeerError, StruckOut, TookTooLong, WasHeld)):
            self.report_once("request-failed", f"a request failed: {error}")
        else:
            self.report_once("method-failed", f"the device's method failed: {error!r}", error)
        if self._failure is None or chain.error:
            return
        if (own := write_failure(chain, self._failure)) is not None:
            self.report_once("method-failed", f"the device's method for failed requests failed: {own!r}", own)

    # The end.

    def _drop(self) -> None:
        self._waiting.clear()
        if self._records is not None:
            self._records.open = None
        self._running.cancel_all()

    def _give_back(self, *, fail_suspects: bool) -> None:
        """Un-pop what waits, the newest first, as far as the ring agrees; cancel what is held."""
        if self._records and (batch := self._records.open):
            self._records.open = None
            self._waiting.chains += [batch.take() for _ in range(len(batch))]
        self._waiting.give_back(self.queue, self._may_be_given_back)
        if fail_suspects or self._is_paused:
            for chain in self._waiting.pop_all(alone=not self._is_paused):
                self._fail(chain, StruckOut("it can be neither served nor given back, and the queue has to stop"))
            if self._answered:
                self._push_answered()
        if self._waiting:
            self._around.wake(self.index)
        if self._held:
            self._running.cancel_tasks()

    def _may_be_given_back(self, chain: Chain) -> bool:
        if self._device.kept_size and chain.head in self._waiting.repeated and not self._is_paused:
            return False  # it has to be known as one that comes again, and the ring does not remember that
        return self._repeatable or not self.queue.journal.strikes(chain.head)

    def _is_drained(self) -> bool:
        return not (self._waiting or self._running or self._answered or self._holds)

    def _release(self) -> None:
        self._running.release()
        if self._coroutines:
            self._coroutines.queue.set_on_ready(None)
