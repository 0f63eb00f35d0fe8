"""What the device's side of a queue offers, whatever its ring format and whichever engine runs it.

Whoever serves a queue relies on `DeviceQueue` alone. A `RecordQueue` also takes requests of one shape from the ring
without an object for each, and a `StreamQueue` calls the device's method for requests of any length by itself;
`record_queue` and `stream_queue` return them where a queue is one. The protocols exist for type checkers only: `typing`
is slow to import.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, ClassVar, Protocol, TypeAlias

    from pyvirtio.errors import RingError
    from pyvirtio.memory import MemoryTable
    from pyvirtio.ring.chain import Chain
    from pyvirtio.ring.journal import Journal
    from pyvirtio.ring.layout import SplitLayout
    from pyvirtio.ring.records import RecordBatch

    Clock: TypeAlias = Callable[[], int]

    Unusual: TypeAlias = tuple[Chain, object, bool]
    """A chain whose call was unusual, what the method raised or returned, and whether nobody uses its memory."""

    Ended: TypeAlias = tuple[Chain, object, bool, int, bool]
    """A chain whose coroutine has ended in an unusual way: what it raised, whether nobody uses its memory, since when
    it ran, and whether it was cancelled."""

    HandedOver: TypeAlias = tuple[Chain, Any, object, Any, Any, int, bool]
    """A chain whose coroutine is to go on elsewhere: the coroutine, what it awaits, reader and writer, since when it
    runs, and whether it was cancelled."""

    class RingSetup(Protocol):
        """What a ring needs to know of a queue's set-up.

        The three areas (VIRTIO 1.4, 2.6) are guest addresses in bytes, ``size`` is in entries, ``features`` are all
        negotiated bits, ``position`` is the available index to go on from.
        """

        @property
        def size(self) -> int:
            """The number of entries."""
            ...

        @property
        def descriptor_area(self) -> int:
            """Where the descriptor table of a split ring lies."""
            ...

        @property
        def driver_area(self) -> int:
            """Where the available ring lies."""
            ...

        @property
        def device_area(self) -> int:
            """Where the used ring lies."""
            ...

        @property
        def features(self) -> int:
            """All negotiated feature bits."""
            ...

        @property
        def position(self) -> int:
            """The available index to go on from."""
            ...

    class DeviceQueue(Protocol):
        """The device's side of a queue: pop requests, push answers, ask who wants to be notified.

        ``unfinished`` are the requests that a dead process had popped and not answered, in order of arrival.
        ``memory`` translates the addresses of buffers.
        """

        has_records: ClassVar[bool]
        has_streams: ClassVar[bool]
        size: int
        journal: Journal
        unfinished: list[Chain]
        memory: MemoryTable

        def pop(self, limit: int = 64) -> list[Chain]:
            """Take up to ``limit`` requests; raises `RingError` where the driver broke the ring."""
            ...

        def unpop(self, chain: Chain) -> bool:
            """Put the request that was popped last back on the ring, and return whether that was possible."""
            ...

        def push(self, chains: Sequence[Chain]) -> None:
            """Return requests to the driver, with one publication for all of them."""
            ...

        def needs_interrupt(self) -> bool:
            """Return whether the driver wants an interrupt for what was pushed since the last call."""
            ...

        def disable_kicks(self) -> None:
            """Let the driver know that the device is looking anyway."""
            ...

        def enable_kicks(self) -> bool:
            """Ask for a kick at the next request, and return whether one is there already."""
            ...

        def has_more(self) -> bool:
            """Return whether there is something to pop."""
            ...

        @property
        def position(self) -> int:
            """The available index to go on from."""
            ...

        def relocate(self, layout: SplitLayout, memory: MemoryTable) -> None:
            """Go on with the same queue where its areas lie in other memory."""
            ...

        def retire(self, error: RingError) -> None:
            """Stop popping for good: from now on `pop` raises ``error``."""
            ...

    class RecordQueue(DeviceQueue, Protocol):
        """A queue that also deals in records: requests of one shape, without an object for each.

        `pyvirtio.ring.split_records.SplitRecordQueue` describes the methods. A batch method pays from
        ``batch_pays_from`` requests on.
        """

        batch_pays_from: ClassVar[int]

        def backlog(self) -> int:
            """Return how many requests wait, as far as the available index can be believed."""
            ...

        def pop_records(self, limit: int, request_size: int, response_size: int) -> RecordBatch | None:
            """Take up to ``limit`` requests of one shape; None where `pop` is the way."""
            ...

        def push_records(self, batch: Any, answers: Any) -> None:
            """Answer the next records of a batch, as many as ``answers`` holds."""
            ...

        def answer_records(
            self, batch: Any, answers: Callable[[Any], Any], most: int, deadline: int, clock: Clock | None
        ) -> None:
            """Have ``answers`` answer a whole batch."""
            ...

        def codec(self, structure: Any) -> object:
            """Return what `call_records` needs to know of a structure; None where it cannot deal with it."""
            ...

        def call_records(
            self,
            batch: Any,
            method: Callable[..., object],
            request: Any,
            response: Any,
            deadline: int,
            clock: Clock | None,
        ) -> object:
            """Answer the records of a batch by one call of ``method`` each."""
            ...

    class StreamQueue(DeviceQueue, Protocol):
        """A queue that also answers requests of any length, by calls of a method that takes a reader and a writer.

        The method may be ``async def``. Its coroutines are stepped by `step_streams`, and *parked* while they wait for
        operations of our own.
        """

        def call_streams(
            self, limit: int, method: Callable[..., object], deadline: int, clock: Clock | None
        ) -> int | Unusual:
            """Call ``method`` for up to ``limit`` requests, one after the other, until ``deadline`` on ``clock``.

            Return for how many it was called, also for those that came meanwhile; 0 where `pop` is the way. Without
            ``clock`` it is the system's. It ends early where the driver wants an interrupt, which is the caller's
            business, and at an unusual call: an exception, something to be awaited, memory that is still in use. That
            request is returned, and still counts as running.
            """
            ...

        def step_streams(
            self,
            limit: int,
            method: Callable[..., object],
            deadline: int,
            clock: Clock | None,
            most: int,
            task: object,
            bell: object,
            context: object,
        ) -> int | Ended | HandedOver:
            """Go on with what is parked and can, and call ``method``, an ``async def``, as `call_streams` does.

            ``most`` may be parked. ``task``, ``bell`` and ``context`` are those in which it runs: see
            `pyvirtio.runtime.tasks.Tasks.lend`.
            """
            ...

        def parked_count(self) -> int:
            """Return how many requests are parked."""
            ...

        def parked(self) -> list[tuple[Chain, int, bool]]:
            """Return what is parked, the oldest first: since when each runs, and whether it was cancelled."""
            ...

        def has_ready(self) -> bool:
            """Return whether something that is parked can go on."""
            ...

        def cancel_parked(self, upto: int) -> None:
            """Cancel what is parked and was begun at ``upto`` or earlier; it goes on with that, once it can."""
            ...

        def set_on_ready(self, function: Callable[[], object] | None) -> None:
            """Have ``function`` called when the first of those that are parked can go on."""
            ...


def record_queue(queue: DeviceQueue) -> RecordQueue | None:
    """Return ``queue`` if it also deals in records, otherwise None."""
    return queue if queue.has_records else None  # type: ignore[return-value]  # the flag promises it


def stream_queue(queue: DeviceQueue) -> StreamQueue | None:
    """Return ``queue`` if it also calls stream methods by itself, otherwise None."""
    return queue if queue.has_streams else None  # type: ignore[return-value]  # the flag promises it
