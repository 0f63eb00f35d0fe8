"""The choice between a batch method, one call a record, and chains."""

from __future__ import annotations

import time

from pyvirtio.device.records import write_answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.device.records import Answer, RecordAnswer
    from pyvirtio.ring import Chain
    from pyvirtio.ring.queue import RecordQueue
    from pyvirtio.ring.records import RecordBatch

MOST = 1024
"""The most requests that a device's batch method is given at once."""

SINGLY = 128
"""The most records that are popped at once to be answered one call each."""

REST = 64
"""How often, after a batch method did not answer, its requests go another way before it is asked again."""


class Records:
    """Which ways are open to answer records, and how many to take at once.

    ``turn`` is the length of a turn, in nanoseconds of ``clock``.
    """

    def __init__(
        self, queue: RecordQueue, answer: RecordAnswer, clock: Callable[[], int], turn: int, *, repeatable: bool
    ) -> None:
        self._queue = queue
        self._answer = answer
        self._clock = clock
        self._turn = turn
        self._own_clock = None if clock is time.monotonic_ns else clock  # the engines know the system's
        # A batch that fails is answered again, one by one: nothing for what must not be done twice.
        self._has_batch = answer.batch is not None and repeatable
        self._request_size, self._response_size = answer.request.nbytes, answer.response.nbytes
        self._fewest, self._most = queue.batch_pays_from, 128
        self._rest = 0
        self._codecs = queue.codec(answer.request), queue.codec(answer.response)
        self.calls = answer.method is not None and None not in self._codecs
        """Whether the device's method can be called for each record."""

    def pop(self) -> RecordBatch | None:
        """Take records off the ring, if there is a way to answer them that is worth it."""
        if self._rest:
            self._rest -= 1
        elif self._has_batch and self._queue.backlog() >= self._fewest:
            return self._queue.pop_records(self._most, self._request_size, self._response_size)
        if not self.calls:
            return None
        return self._queue.pop_records(SINGLY, self._request_size, self._response_size)

    def wants(self, number: int) -> bool:
        """Tell whether ``number`` records are a batch for the device's batch method."""
        return self._has_batch and number >= self._fewest and not self._rest

    def answer(self, batch: RecordBatch, began: int) -> None:
        """Have the batch method answer records, and others that wait behind them; some may be left in the batch.

        Raises:
            Exception: what the method raised.
        """
        # Not for a whole turn, so that what one call takes can be told.
        deadline = began + self._turn // 8
        self._queue.answer_records(batch, self._answer.answers, self._most, deadline, self._own_clock)
        if len(batch):
            self.rest()
        else:
            self._adapt(self._clock() - began)

    def _adapt(self, took: int) -> None:
        """Keep a call of the batch method well below the length of a turn."""
        if took > self._turn // 2:
            self._most = max(self._fewest, self._most // 2)
        elif took < self._turn // 8:
            self._most = min(MOST, 2 * self._most)

    def rest(self) -> None:
        """Do without the batch method for a while."""
        self._rest = REST

    def call(self, batch: RecordBatch, deadline: int) -> object:
        """Call the device's method for each record; see `SplitRecordQueue.call_records`."""
        method = self._answer.method
        assert method is not None
        return self._queue.call_records(batch, method, *self._codecs, deadline, self._own_clock)

    def late(self, outcome: object) -> Answer:
        """Give the function that answers a chain with what came of a call."""

        def answer(chain: Chain) -> None:
            if isinstance(outcome, Exception):
                raise outcome
            write_answer(chain, outcome, self._answer.response, "little")

        return answer
