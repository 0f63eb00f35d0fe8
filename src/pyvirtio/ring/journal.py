"""What must survive the process that runs a queue: requests in flight, and what is half published.

Two pieces of memory. The first is the in-flight region of vhost-user ("Inflight I/O tracking" in
QEMU's vhost-user specification), so that a front-end may bring its own; it marks which heads are
in flight and in what order they came. The second, the ledger, is pyvirtio's: the used index that
is about to be published, which requests are inside the device's method, strikes against requests
that killed a worker, and counters.

A worker that starts calls `recover`: it finishes a publication that was begun and gives the
requests that are still in flight. Every step of a publication can be done twice.
"""

from __future__ import annotations

from pyvirtio.errors import RingError
from pyvirtio.memory import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_HEADER = 16
_STATE = 16
_VERSION = 1

# The in-flight region's header, seen as 16-bit words. Behind it, each head's state: whether it is in flight (the first
# byte), which head was published before it (the fourth word), and its place in the order of arrival (the last 8 bytes).
_W_VERSION, _W_SIZE, _W_LAST_HEAD, _W_USED = 4, 5, 6, 7

MAXIMUM_STRIKES = 3
"""After so many deaths of a worker inside the device's method, a request is completed empty."""


class Count:
    """Where each number stands in the ledger, counted in 64-bit words."""

    STARTED, INTENT, LEAD, RUNNING_FROM, RUNNING_NUMBER, RUNNING_SINCE = range(6)
    REQUESTS, EMPTY, FAILED, BYTES_READ, BYTES_WRITTEN, KICKS, CALLS, TURNS = range(6, 14)


_INTENT, _RUNNING_FROM, _RUNNING_NUMBER, _RUNNING_SINCE = (
    Count.INTENT,
    Count.RUNNING_FROM,
    Count.RUNNING_NUMBER,
    Count.RUNNING_SINCE,
)

COUNTERS = {
    "requests": (Count.REQUESTS, "requests answered"),
    "empty": (Count.EMPTY, "requests returned with length 0"),
    "failed": (Count.FAILED, "exceptions of the device's own method"),
    "bytes_read": (Count.BYTES_READ, "bytes taken from the driver"),
    "bytes_written": (Count.BYTES_WRITTEN, "bytes given to the driver"),
    "kicks": (Count.KICKS, "kicks received"),
    "calls": (Count.CALLS, "interrupts sent"),
    "turns": (Count.TURNS, "turns of the worker"),
}
"""The counters of a queue: where each stands, and what it counts."""

_LEDGER_HEADER = 128


def region_size(size: int) -> int:
    """Give the bytes of the in-flight region of a queue with ``size`` entries, rounded to 64."""
    return (_HEADER + _STATE * size + 63) & ~63


def ledger_size(size: int) -> int:
    """Give the bytes of the ledger of a queue with ``size`` entries, rounded to 64."""
    return (_LEDGER_HEADER + size + 63) & ~63


def twice(head: int) -> RingError:
    """Give the error for a head that is in flight and comes again."""
    return RingError(f"descriptor {head} was made available while it is in use", section="2.7.13")


class Journal:
    """The journal of one queue with ``size`` entries.

    Without memory given it lives in the process only, for queues that need not survive it.

    Raises:
        RingError: the region is too small, or was written for another size or version.
    """

    def __init__(self, size: int, region: memoryview | None = None, ledger: memoryview | None = None) -> None:
        region = memoryview(bytearray(region_size(size))) if region is None else region
        ledger = memoryview(bytearray(ledger_size(size))) if ledger is None else ledger
        if len(region) < _HEADER + _STATE * size:
            raise RingError(f"an in-flight region of {len(region)} bytes cannot track a queue of {size} entries")
        self.size = size
        usable = _HEADER + _STATE * size
        self._region = region
        self._words = words(region[:usable], "H")
        self._marks = region[_HEADER:usable:_STATE]
        self._links = self._words[11::8]
        self._orders = words(region[:usable], "Q")[3::2]
        self._strikes = ledger[_LEDGER_HEADER : _LEDGER_HEADER + size]
        self.numbers = words(ledger[:_LEDGER_HEADER], "Q")
        version, entries = self._words[_W_VERSION], self._words[_W_SIZE]
        if version and (version, entries) != (_VERSION, size):
            raise RingError(
                f"an in-flight region of version {version} for {entries} entries was given to a queue of {size}"
            )
        self.was_used = version == _VERSION
        self.last_order = 0
        """The place in the order of arrival that was given last."""

    def start(self, used: int, available: int) -> None:
        """Begin a fresh journal of a queue that starts with these two indexes.

        They are the same unless a front-end counts them apart; then the difference stays.
        """
        self._words[_W_USED] = used
        self.numbers[Count.LEAD] = (available - used) & 0xFFFF
        self._words[_W_SIZE] = self.size
        self.numbers[Count.INTENT] = used
        self.numbers[Count.STARTED] = 1
        self._words[_W_VERSION] = _VERSION

    # A request's life: begin, (running), intend, finish.

    def begin(self, head: int) -> int:
        """Mark ``head`` in flight; gives its place in the order of arrival.

        Raises:
            RingError: it is in flight already.
        """
        if self._marks[head]:
            raise twice(head)
        order = self.last_order = self.last_order + 1
        self._orders[head] = order
        self._marks[head] = 1
        return order

    def intend(self, heads: Iterable[int], used: int) -> None:
        """Note that ``heads`` are about to be published by setting the used index to ``used``."""
        links, last = self._links, self._words[_W_LAST_HEAD]
        for head in heads:
            links[head] = last
            last = head
        self._words[_W_LAST_HEAD] = last
        self.numbers[_INTENT] = used

    def finish(self, heads: Iterable[int], used: int) -> None:
        """Note that ``heads`` are published."""
        marks, strikes = self._marks, self._strikes
        for head in heads:
            marks[head] = 0
            if strikes[head]:
                strikes[head] = 0
        self._words[_W_USED] = used

    def running(self, order: int, number: int, since: int) -> None:
        """Note that ``number`` requests from ``order`` on are inside the device's method since ``since`` (ns)."""
        numbers = self.numbers
        numbers[_RUNNING_FROM] = order
        numbers[_RUNNING_SINCE] = since
        numbers[_RUNNING_NUMBER] = number

    def idle(self) -> None:
        """Note that no request is inside the device's method."""
        self.numbers[_RUNNING_NUMBER] = 0

    # What others ask.

    def in_flight(self) -> list[int]:
        """Give the heads that are in flight, in the order of their arrival."""
        return sorted((head for head in range(self.size) if self._marks[head]), key=self.order_of)

    def order_of(self, head: int) -> int:
        """Give the place of ``head`` in the order of arrival."""
        return self._orders[head]

    @property
    def parts(self) -> tuple[memoryview, memoryview, memoryview]:
        """The memory itself, for the other engines: the in-flight region, the strikes, the ledger's numbers."""
        return self._region, self._strikes, self.numbers

    @property
    def started(self) -> bool:
        """Whether a worker has taken the queue up."""
        return bool(self.numbers[Count.STARTED])

    def used_index(self) -> int:
        """Give the used index that the queue goes on from: an intent counts as done."""
        return self.numbers[Count.INTENT] & 0xFFFF if self.started else self._words[_W_USED]

    def next_available(self) -> int:
        """Give the available index that the queue goes on from once what is in flight is answered."""
        return (self.used_index() + self.numbers[Count.LEAD] + len(self.in_flight())) & 0xFFFF

    def strikes(self, head: int) -> int:
        """Give how often a worker died with this request inside the device's method."""
        return self._strikes[head]

    # After a death.

    def recover(self, published: int) -> int:
        """Finish what a dead worker had begun to publish; gives the used index.

        ``published`` is the index in the ring. It is believed only where the ledger is new, which
        is after the keeper itself died and the front-end brought its region back.

        Raises:
            RingError: the region contradicts itself.
        """
        if not self.started:
            self.numbers[Count.INTENT] = published
            self.numbers[Count.STARTED] = 1
        intent = self.numbers[Count.INTENT] & 0xFFFF
        batch = (intent - self._words[_W_USED]) & 0xFFFF
        if batch > self.size:
            raise RingError(f"the in-flight region says that {batch} requests of {self.size} were published at once")
        head = self._words[_W_LAST_HEAD]
        for _ in range(batch):
            if head >= self.size:
                raise RingError(f"the in-flight region names descriptor {head} of {self.size}")
            self._marks[head] = 0
            self._strikes[head] = 0
            head = self._links[head]
        self._words[_W_USED] = intent
        self.last_order = max(map(self.order_of, self.in_flight()), default=0) & ((1 << 63) - 1)
        return intent

    def blame(self) -> int:
        """Count a strike against each request inside the device's method; gives the most that one has.

        The keeper calls this when a worker died. It gives 0 where no request was running.
        """
        number = self.numbers[Count.RUNNING_NUMBER]
        if not number:
            return 0
        first = self.numbers[Count.RUNNING_FROM]
        guilty = [head for head in self.in_flight() if first <= self._orders[head] < first + number]
        for head in guilty:
            self._strikes[head] = min(MAXIMUM_STRIKES, self._strikes[head] + 1)
        self.idle()
        return max((self._strikes[head] for head in guilty), default=0)
