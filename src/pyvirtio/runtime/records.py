"""Requests of one shape, served together: by the device's batch method, or by one call each without a chain.

It is an optional way beside chains, for rings that offer `RecordQueue`. What is unusual in any way is left to the
service, which answers it as a chain.
"""

from __future__ import annotations

import time

from pyvirtio.device.batches import BatchMethod

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.device import Device
    from pyvirtio.device.queue import Queue
    from pyvirtio.ring.queue import RecordQueue
    from pyvirtio.ring.records import RecordBatch

MAX_BATCH = 1024
"""The most requests that a device's batch method is given at once."""

MAX_SINGLE = 128
"""The most records that are popped at once to be answered by one call each."""

BACK_OFF = 64
"""After the batch method declined, how many batches are served otherwise before it is tried again."""


def engine_clock(clock: Callable[[], int]) -> Callable[[], int] | None:
    """Return ``clock`` for an engine, which reads the system's own by itself: None."""
    return None if clock is time.monotonic_ns else clock


class RecordDispatcher:
    """Chooses how records are answered, and how many are taken at once.

    ``time_slice`` is in nanoseconds of ``clock``.
    """

    def __init__(
        self, queue: RecordQueue, declared: Queue, device: Device, clock: Callable[[], int], time_slice: int
    ) -> None:
        assert declared.request is not None
        assert declared.response is not None
        self._queue = queue
        self._clock = clock
        self._time_slice = time_slice
        self._own_clock = engine_clock(clock)
        self._sizes = declared.request.nbytes, declared.response.nbytes
        each, batch = declared.methods.get("each"), declared.methods.get("batch")
        self._method = getattr(device, each) if each else None
        self._batch = BatchMethod(getattr(device, batch), declared.request, declared.response) if batch else None
        self._codecs = queue.codec(declared.request), queue.codec(declared.response)
        self._fewest, self._most = queue.batch_pays_from, 128
        self._pauses = 0
        self.open: RecordBatch | None = None
        """Records that were popped and are not answered yet."""

    @classmethod
    def suits(cls, declared: Queue, device: Device) -> bool:
        """Return whether the requests of a queue can be served as records."""
        request, response = declared.request, declared.response
        if request is None or response is None or not (request.nbytes and response.nbytes):
            return False
        each = "each" in declared.methods and not declared.is_async(device)
        return each or "batch" in declared.methods

    @property
    def is_useful(self) -> bool:
        """Whether there is a way to answer records: none where the only one is a batch method, and NumPy is missing."""
        return self._batch is not None or self.calls

    @property
    def calls(self) -> bool:
        """Whether the device's method can be called for each record."""
        return self._method is not None and None not in self._codecs

    def pop(self) -> RecordBatch | None:
        """Take records off the ring if there is a way to answer them that is worth it."""
        if self._pauses:
            self._pauses -= 1
        elif self._batch and self._queue.backlog() >= self._fewest:
            return self._queue.pop_records(self._most, *self._sizes)
        return self._queue.pop_records(MAX_SINGLE, *self._sizes) if self.calls else None

    def take(self, now: int, report: Callable[[str, str, Exception], object] | None) -> RecordBatch | None:
        """Return records that are to be answered one by one, perhaps none; None where what waits comes otherwise.

        Those that come first are left to the batch method where that pays. If it fails, which ``report`` is told, all
        of them are answered again one by one: without ``report``, for what must not be done twice, it is not called.
        """
        batch, self.open = self.open, None
        if batch is not None or (batch := self.pop()) is None:
            return batch
        if report and self._batch is not None and len(batch) >= self._fewest and not self._pauses:
            try:
                self.answer_batch(batch, now)
            except Exception as error:  # noqa: BLE001  # the author's code may raise anything; the queue goes on
                self.back_off()
                text = f"the device's batch method failed, requests are answered singly: {error!r}"
                report("method-failed", text, error)
        return batch

    def answer_batch(self, batch: RecordBatch, began: int) -> None:
        """Have the batch method answer records, and others that wait behind them; some may be left in the batch.

        Raises:
            Exception: what the method raised.
        """
        assert self._batch is not None
        if not self._batch.use_numpy():
            self._batch = None
            return
        # Not for a whole time slice, so that the time of one call can be told.
        deadline = began + self._time_slice // 8
        self._queue.answer_records(batch, self._batch.answers, self._most, deadline, self._own_clock)
        if len(batch):
            self.back_off()
        else:
            self._adapt(self._clock() - began)

    def _adapt(self, took: int) -> None:
        """Keep a call of the batch method well below the length of a time slice."""
        if took > self._time_slice // 2:
            self._most = max(self._fewest, self._most // 2)
        elif took < self._time_slice // 8:
            self._most = min(MAX_BATCH, 2 * self._most)

    def back_off(self) -> None:
        """Do without the batch method for a while."""
        self._pauses = BACK_OFF

    def call_each(self, batch: RecordBatch, deadline: int) -> object:
        """Call the device's method for each record; return ``batch``, or the unusual outcome of the next record."""
        assert self._method is not None
        return self._queue.call_records(batch, self._method, *self._codecs, deadline, self._own_clock)
