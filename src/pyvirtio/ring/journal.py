"""What must survive the process that runs a queue: the requests in flight, and a publication that is half done.

The journal is two pieces of shared memory. The *in-flight region* has the layout of vhost-user's "Inflight I/O
tracking", so that a front-end may bring its own: for each head a mark, a sequence number and a link, and a header. The
*ledger* is pyvirtio's own: a few 64-bit words, then for each head the time when its request was begun (nanoseconds of
the monotonic clock, 0 where it was not) and the strikes against it.

Theory of operation
===================

A *head* is the index of a chain's first descriptor; it names the request. It is always in one of five states, and a
process that starts can tell which by looking at memory, for memory is all that a dead process leaves behind::

    available ──track──▸ in flight ──begin──▸ begun ──prepare──▸ prepared ──commit──▸ (the driver's again)
        ▴                    │ │                                    ▴
        └──────release───────┘ └──────────────prepare───────────────┘

These are the stores, in program order, and what a death right after each of them leaves:

===========  ============================================  =========================================================
step         store                                         state of the heads after a death
===========  ============================================  =========================================================
``track``    sequence number of the head                   available: without a mark nobody reads the number
..           mark of the head = 1                          in flight
``begin``    time of the head = now                        begun: in flight, and to blame for the death
push         used elements behind the used index           as before: nobody reads elements behind the index
``prepare``  links from each head to the one before it     as before: a list is followed for INTENT - USED steps only
..           LAST_HEAD = the last of these heads           as before, likewise
..           INTENT += the number of heads                 **prepared**: this one store decides
push         used index in the ring = INTENT               prepared
``commit``   time, strikes and mark of each head = 0       prepared: `recover` does the same again
..           USED = INTENT                                 the driver's: nothing of the publication is left to do
``release``  mark of the head = 0                          available again
===========  ============================================  =========================================================

*Each answer is published exactly once, whatever the order of completion.* Before INTENT is stored, the driver has seen
nothing, and all heads of the batch are still in flight: the next process answers them again (a method may run twice),
and overwrites the elements. After that store the batch is exactly the INTENT - USED heads at the end of the list from
LAST_HEAD, and all its elements are in the ring, so `recover` can finish without the device's help: it stores the same
used index once more and repeats ``commit``. Every store of both is of a constant, so repeating them any number of
times changes nothing. A head cannot be in two publications, for it is tracked again only once its mark is 0, and that
is after USED, or `recover`, has closed the first one: the process that commits is the one that pops. None of this
mentions the order in which heads came, so they may be answered in any order.

*The position follows from counting.* ``track`` moves the position in the available ring by one and adds one in flight,
a publication moves the used index by n and takes n out of flight, and ``release`` undoes a ``track``. So *position -
used index - requests in flight* never changes; it is LEAD, which is 0 unless a front-end started the queue with two
different indexes. What was popped is always a prefix of the available ring's entries, and a count says how long it is;
which of them are still in flight does not matter.

*Un-pop is safe* (`SplitDeviceQueue.unpop`). What was popped must remain a prefix of the available ring, so only the
entry right before the position can be given back, and the slot there says which head that is. An honest driver cannot
have reused the slot: it would need as many more heads as the queue has entries, while this one is still out. If the
slot names this head, then this request is the one that was popped last: had it been popped from an earlier slot, its
head would have been in flight already when this slot was popped, which is an error. A hostile driver may rewrite the
slot; then it gets the head that it names once more, after this one was given up, and nothing is answered twice. The
single store of the mark decides: before it the head is in flight, after it the count puts the position back by one. A
request that was begun is not given back, for its method may have had effects.

*Whom to blame.* A time is set only while the mark is, and cleared before it. So after a death, the heads with a time
are exactly the requests that were begun and neither ended nor published, each by itself and in any order: `blame`
counts a strike against each of them.

*No fence is needed for the watchdog*, which reads the times from another process while they change. "Begun" and "since
when" are one aligned 64-bit store, so no processor can show one without the other, AArch64 included; and whoever sees
that store late sees what was true a moment before. After a death there are no stores under way: what the dead process
stored is in memory.
"""

from __future__ import annotations

from pyvirtio.errors import RingError
from pyvirtio.memory import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# The in-flight region: a header, then an entry of 16 bytes for each head.
_HEADER, _ENTRY = 16, 16
_VERSION = 1
# In 16-bit words of the header.
_W_VERSION, _W_ENTRIES, _W_LAST_HEAD, _W_USED = 4, 5, 6, 7
# Where the first head's fields are, in units of their own size: the mark, the link, the sequence number.
_MARK, _LINK, _SEQUENCE = _HEADER, (_HEADER + 6) // 2, (_HEADER + 8) // 8

# The ledger: a header of 64-bit words, a word for each head, a byte for each head.
_LEDGER_HEADER = 64
# FIRST is the used index at which the queue started. INTENT is the used index that is about to be published or was
# published last, and counts on beyond 16 bits. LEAD is how far the available index was ahead of it at the start.
_STARTED, _FIRST, _INTENT, _LEAD = range(4)

MOST_STRIKES = 255
"""Strikes are counted up to here."""


def region_size(size: int) -> int:
    """Return the bytes of the in-flight region of a queue with ``size`` entries, a multiple of 64.

    >>> region_size(128)
    2112
    """
    return (_HEADER + _ENTRY * size + 63) & ~63


def ledger_size(size: int) -> int:
    """Return the bytes of the ledger of a queue with ``size`` entries, a multiple of 64.

    >>> ledger_size(128)
    1216
    """
    return (_LEDGER_HEADER + 9 * size + 63) & ~63


def already_in_flight(head: int) -> RingError:
    """Return the error for a head that is made available while it is in flight."""
    return RingError(f"descriptor {head} was made available while it is in use", section="2.7.13")


class Journal:
    """The journal of one queue with ``size`` entries, in two pieces of memory; the module says how it works.

    ``region`` has at least `region_size` bytes, or what a front-end sent; ``ledger`` has `ledger_size` bytes. Both
    start at an address that is a multiple of 8.

    Raises:
        RingError: the region is too small, or was written for another size or version.

    >>> journal = Journal.private(8)
    >>> journal.start(used=0, position=0)
    >>> journal.track(5)
    1
    >>> journal.begin(5, now=1_000)
    >>> journal.in_flight(), journal.oldest_running()
    ([5], 1000)
    """

    def __init__(self, size: int, region: memoryview, ledger: memoryview) -> None:
        usable = _HEADER + _ENTRY * size
        if len(region) < usable:
            raise RingError(f"an in-flight region of {len(region)} bytes cannot track a queue of {size} entries")
        self.size = size
        self._region = region
        self._ledger = ledger
        self._words = words(region[:usable], "H")
        self._marks = region[_MARK:usable:_ENTRY]
        self._links = self._words[_LINK :: _ENTRY // 2]
        self._sequences = words(region[:usable], "Q")[_SEQUENCE :: _ENTRY // 8]
        times = _LEDGER_HEADER + 8 * size
        self._numbers = words(ledger[:_LEDGER_HEADER], "Q")
        self._begun = words(ledger[_LEDGER_HEADER:times], "Q")
        self._strikes = ledger[times : times + size]
        version, entries = self._words[_W_VERSION], self._words[_W_ENTRIES]
        if version and (version, entries) != (_VERSION, size):
            raise RingError(
                f"an in-flight region of version {version} for {entries} entries was given to a queue of {size}"
            )
        self.was_used = version == _VERSION
        """Whether an earlier process ran the queue, so that it goes on with `recover`, and not with `start`."""
        self.last_sequence = 0
        """The sequence number that was assigned last. Later requests have higher ones."""

    @classmethod
    def private(cls, size: int) -> Journal:
        """Return a journal in memory of this process, for a queue that need not survive it."""
        return cls(size, memoryview(bytearray(region_size(size))), memoryview(bytearray(ledger_size(size))))

    def start(self, used: int, position: int) -> None:
        """Begin the journal of a queue that starts at these two indexes, of the used and of the available ring.

        They are equal unless a front-end counts them apart; then the difference stays.
        """
        self._words[_W_USED] = used
        self._numbers[_FIRST] = self._numbers[_INTENT] = used
        self._numbers[_LEAD] = (position - used) & 0xFFFF
        self._words[_W_ENTRIES] = self.size
        self._numbers[_STARTED] = 1
        self._words[_W_VERSION] = _VERSION

    # The steps of a request's life.

    def track(self, head: int) -> int:
        """Mark ``head`` in flight and return its sequence number.

        Raises:
            RingError: it is in flight already.
        """
        if self._marks[head]:
            raise already_in_flight(head)
        sequence = self.last_sequence = self.last_sequence + 1
        self._sequences[head] = sequence
        self._marks[head] = 1
        return sequence

    def release(self, head: int) -> bool:
        """Undo `track`; return False, and do nothing, where ``head`` is not in flight or was begun.

        Its strikes stay: the same request comes again.
        """
        if self._begun[head] or not self._marks[head]:
            return False
        self._marks[head] = 0
        return True

    def begin(self, head: int, now: int) -> None:
        """Note that the request of ``head`` is inside the device's method since ``now``, in nanoseconds, not 0."""
        self._begun[head] = now

    def end(self, head: int) -> None:
        """Note that the device's method has returned, where the answer is not published at once.

        A death from now on is not this request's fault, but makes its method run again.
        """
        self._begun[head] = 0

    def prepare(self, heads: Sequence[int]) -> None:
        """Note that ``heads``, whose used elements are written, are about to be published."""
        links, last = self._links, self._words[_W_LAST_HEAD]
        for head in heads:
            links[head] = last
            last = head
        self._words[_W_LAST_HEAD] = last
        self._numbers[_INTENT] += len(heads)

    def commit(self, heads: Sequence[int], used: int) -> None:
        """Note that ``heads`` are published, with the used index ``used``."""
        begun, strikes, marks = self._begun, self._strikes, self._marks
        for head in heads:
            begun[head] = 0
            if strikes[head]:
                strikes[head] = 0
            marks[head] = 0
        self._words[_W_USED] = used

    # What others ask.

    @property
    def parts(self) -> tuple[memoryview, memoryview]:
        """The memory itself, for another engine: the in-flight region and the ledger."""
        return self._region, self._ledger

    @property
    def started(self) -> bool:
        """Whether a process has taken the queue up."""
        return bool(self._numbers[_STARTED])

    @property
    def answered(self) -> int:
        """The number of requests that were published since the queue started."""
        return self._numbers[_INTENT] - self._numbers[_FIRST]

    def in_flight(self) -> list[int]:
        """Return the heads that are in flight, in order of arrival."""
        return sorted((head for head, mark in enumerate(self._marks.tolist()) if mark), key=self.sequence_of)

    def sequence_of(self, head: int) -> int:
        """Return the sequence number of a head that is in flight."""
        return self._sequences[head]

    def used_index(self) -> int:
        """Return the used index that the queue goes on from, which counts what is prepared."""
        return self._numbers[_INTENT] & 0xFFFF if self.started else self._words[_W_USED]

    def position(self) -> int:
        """Return the available index that the queue goes on from once what is in flight is answered."""
        return (self.used_index() + self._numbers[_LEAD] + len(self.in_flight())) & 0xFFFF

    def strikes(self, head: int) -> int:
        """Return how often a process died with this request inside the device's method."""
        return self._strikes[head]

    def oldest_running(self) -> int:
        """Return when the request began that is inside the device's method for longest, in ns; 0 if none is."""
        return min(filter(None, self._begun.tolist()), default=0)

    # After a death.

    def recover(self, published: int) -> int:
        """Finish what a dead process had begun to publish, and return the used index.

        ``published`` is the index in the ring. It is believed only where the ledger is new, which is after the
        keeper itself died and the front-end brought its region back.

        Raises:
            RingError: the region contradicts itself.
        """
        if not self.started:
            self._numbers[_FIRST] = self._numbers[_INTENT] = published
            self._numbers[_STARTED] = 1
        used = self._numbers[_INTENT] & 0xFFFF
        self.commit(self._prepared((used - self._words[_W_USED]) & 0xFFFF), used)
        in_flight = self.in_flight()
        for head in in_flight:
            self._begun[head] = 0  # this process has not called a method yet
        self.last_sequence = max(map(self.sequence_of, in_flight), default=0) & ((1 << 63) - 1)
        return used

    def _prepared(self, number: int) -> list[int]:
        """Return the heads of the publication that ``number`` of them are in, the last one first."""
        if number > self.size:
            raise RingError(f"the in-flight region says that {number} requests of {self.size} were published at once")
        heads: list[int] = []
        head = self._words[_W_LAST_HEAD]
        for _ in range(number):
            if head >= self.size:
                raise RingError(f"the in-flight region names descriptor {head} of {self.size}")
            heads.append(head)
            head = self._links[head]
        return heads

    def blame(self) -> int:
        """Count a strike against each request inside the device's method, and return the most that one has now.

        The keeper calls this when a worker died. It returns 0 where no request was running.
        """
        running = [head for head, since in enumerate(self._begun.tolist()) if since]
        for head in running:
            self._strikes[head] = min(MOST_STRIKES, self._strikes[head] + 1)
            self._begun[head] = 0
        return max((self._strikes[head] for head in running), default=0)
