"""The device side of a split virtqueue, with NumPy for batches of requests of one shape.

A call of NumPy takes a few tenths of a microsecond for any number of requests, so a batch takes a fixed number of
them and no loop. Three habits make that fast, all measured: index by strided views of single fields; validate by
comparing bytes with a pattern, which beats masks and ``any()`` by a factor of ten; gather and scatter through windows,
arrays whose records overlap at every byte address.

A batch is taken only if it is plainly right: all requests of the same layout, two descriptors each (or one that
refers to an indirect table of two), each buffer within one region. The longest run of such requests is taken; what
comes behind it goes the way of the reference engine, which also says what is wrong.
"""

from __future__ import annotations

from pyvirtio.memory import order_loads, order_stores
from pyvirtio.ring.chain import Chain
from pyvirtio.ring.journal import Count
from pyvirtio.ring.split_device import SplitDeviceQueue
from pyvirtio.spec import split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from pyvirtio.memory import MemoryTable
    from pyvirtio.ring.records import RecordBatch

    Indexes = NDArray[np.intp]
    Numbers = NDArray[Any]
    _Found = tuple[Indexes, tuple[Numbers, int], tuple[Numbers, int], Numbers, Numbers, Indexes]

FEWEST = 8
"""Below so many requests plain Python is as fast."""

_IDX, _RING = split.IDX, split.RING
_NEXT, _WRITE, _INDIRECT = split.F_NEXT, split.F_WRITE, split.F_INDIRECT


class NumpyDeviceQueue(SplitDeviceQueue):
    """The device's end of a queue; see `SplitDeviceQueue`."""

    _views: _Views | None = None
    _has_numpy = True

    def pop_records(self, limit: int, request_size: int, response_size: int) -> RecordBatch | None:
        """Take up to ``limit`` requests of one shape; see `SplitDeviceQueue.pop_records`."""
        pending = self.backlog()
        number = min(pending, limit)
        if number < FEWEST or self._broken or pending > self.size - self._in_flight or not self._has_numpy:
            return None
        views = self._views or self._make_views()
        if views is None:
            return None
        order_loads()
        try:
            found = views.find(self._next_available, number, request_size, response_size)
        except IndexError:  # an index beyond the table: NumPy looks at each
            return None
        if found is None:
            return None
        heads, order = found[0], self.journal.last_order + 1
        number = len(heads)
        views.begin(heads, order)
        self.journal.last_order += number
        self._next_available = (self._next_available + number) & 0xFFFF
        self._in_flight += number
        return NumpyBatch(self._memory, heads, order, *found[1:])

    def push_records(self, batch: Any, answers: Any) -> None:
        """Answer the next records of a batch; see `SplitDeviceQueue.push_records`."""
        views = self._views or self._make_views()
        assert views is not None
        heads = batch.answer(answers)
        number, size = len(heads), batch.response_size
        if not number:
            return
        journal, used = self.journal, self._used_index
        views.use(heads, used, size)
        used = (used + number) & 0xFFFF
        views.intend(heads)
        journal.intend((), used)
        order_stores()
        self._used[_IDX] = used
        views.finish(heads)
        journal.finish((), used)
        self._used_index = used
        self._in_flight -= number
        self.count(Count.REQUESTS, number)
        self.count(Count.BYTES_READ, number * batch.readable_bytes)
        self.count(Count.BYTES_WRITTEN, number * size)

    def _memory_changed(self) -> None:
        self._views = None  # a batch that is still out keeps its own

    def _make_views(self) -> _Views | None:
        try:
            journal = self.journal.parts[:2]
            parts = (self._table, self._available, self._pairs, *journal)
            self._views = _Views(self._memory, parts, may_indirect=self._may_indirect)
        except (ImportError, TypeError, ValueError):  # no NumPy, or something that is not plain memory
            self._has_numpy = False
        return self._views


class NumpyBatch:
    """Requests of one shape; see `RecordBatch`."""

    def __init__(
        self,
        memory: MemoryTable,
        heads: Indexes,
        order: int,
        readable: tuple[Numbers, int],
        writable: tuple[Numbers, int],
        requests: Numbers,
        windows: Numbers,
        places: Indexes,
    ) -> None:
        self.requests = requests
        self.order = order
        self._memory = memory
        self._heads = heads
        self._readable = readable
        self._writable = writable
        self._windows = windows
        self._places = places
        self._done = 0
        self.response_size = windows.itemsize

    def __len__(self) -> int:
        return len(self._heads) - self._done

    @property
    def readable_bytes(self) -> int:
        """The readable bytes of each request."""
        return self._readable[1]

    def answer(self, answers: Any) -> Indexes:
        """Write answers of the next records into guest memory; gives their heads."""
        windows = self._windows
        records = windows.__class__((memoryview(answers).nbytes // windows.itemsize,), windows.dtype, answers)
        start, stop = self._done, self._done + len(records)
        if stop > len(self._heads):
            raise ValueError("the answers are not as long as the records that are left")
        windows[self._places[start:stop]] = records
        self._done = stop
        self.order += len(records)
        return self._heads[start:stop]

    def take(self) -> Chain:
        """Take the next record out, to answer it as a chain."""
        at, order = self._done, self.order
        self._done += 1
        self.order += 1
        (readable, read), (writable, written) = self._readable, self._writable
        views = self._memory.views
        return Chain(int(self._heads[at]), order, views(int(readable[at]), read), views(int(writable[at]), written))


class _Views:
    """The ring, its journal and guest memory, seen as arrays."""

    def __init__(self, memory: MemoryTable, parts: tuple[memoryview, ...], *, may_indirect: bool) -> None:
        import numpy as np

        table, available, pairs, marks, strikes = parts
        size = len(table) // 16
        self._np = np
        self._memory = memory
        self._mask = size - 1
        self._may_indirect = may_indirect and size > 1
        # A descriptor is two words of 64 bits: the address; and length, flags and next.
        words = np.frombuffer(table, "<u8")
        self._low, self._high = words[0::2], words[1::2]
        self._ring = np.frombuffer(available, "<u2")[_RING : _RING + size]
        self._pairs = np.frombuffer(pairs, "<i8")
        # The journal; see there.
        states = 16 * (size + 1)
        self._marks = np.frombuffer(marks, "u1", states)[16::16]
        self._orders = np.frombuffer(marks, "<u8", states // 8)[3::2]
        self._links = np.frombuffer(marks, "<u2", states // 2)[11::8]
        self._last_head = np.frombuffer(marks, "<u2", 7)[6:]
        self._strikes = np.frombuffer(strikes, "u1")
        # Private memory, made once.
        self._counting = np.arange(size, dtype="<u8")
        self._seen = np.zeros(size, "<u8")
        self._spans: dict[int, _Span] = {}
        self._windows: dict[int, Numbers] = {}

    # Popping.

    def find(  # each way out is a look at another part of the layout
        self, next_available: int, number: int, request_size: int, response_size: int
    ) -> _Found | None:
        """Find the longest run of plain requests of one layout, up to ``number`` of them.

        Raises:
            IndexError: an index in the ring or in a descriptor is beyond the table.
        """
        heads = self._heads(next_available & self._mask, number)
        low, high = self._low[heads], self._high[heads]  # each descriptor is read once
        halves = high.view("<u2")
        flags = int(halves[2])
        number = _run(halves[2::4], number)
        if number < FEWEST:
            return None
        if flags == _NEXT:
            following = halves[3 : 4 * number : 4].astype(self._np.intp)
            low1, high1 = self._low[following], self._high[following]
        elif flags == _INDIRECT and self._may_indirect:
            number = min(number, _run(high.view("<u4")[: 2 * number : 2], number))
            tables = self._tables(low[:number], int(high.view("<u4")[0]))
            if tables is None:
                return None
            low, high, low1, high1 = tables[:, 0], tables[:, 1].copy(), tables[:, 2], tables[:, 3].copy()
            halves = high.view("<u2")
            number = min(number, _run(halves[2::4], number), _run(halves[3::4], number))
            if (halves[2], halves[3]) != (_NEXT, 1):
                return None
        else:
            return None
        lengths, lengths1, flags1 = high.view("<u4")[::2], high1.view("<u4")[::2], high1.view("<u2")[2::4]
        read, written = int(lengths[0]), int(lengths1[0])
        if flags1[0] != _WRITE or read < request_size or written < response_size or read + written > 1 << 32:
            return None
        number = min(_run(lengths, number), _run(lengths1, number), _run(flags1, number))
        places, number = self._span(read).places(low, number)
        places1, number = self._span(written).places(low1, number)
        heads = heads[:number]
        if number < FEWEST or self._any_in_flight(heads):
            return None
        return (
            heads,
            (low, read),
            (low1, written),
            self._window(request_size)[places[:number]],
            self._window(response_size),
            places1[:number],
        )

    def _heads(self, start: int, number: int) -> Indexes:
        stop, size = start + number, self._mask + 1
        ring = self._ring
        if stop <= size:
            return ring[start:stop].astype(self._np.intp)
        return self._np.concatenate((ring[start:], ring[: stop - size])).astype(self._np.intp)

    def _tables(self, addresses: Numbers, length: int) -> Numbers | None:
        if length != 2 * split.DESCRIPTOR_SIZE:
            return None
        places, number = self._span(length).places(addresses, len(addresses))
        if number < len(addresses):
            return None
        return self._window(length)[places].view("<u8").reshape(number, 4)

    def _any_in_flight(self, heads: Indexes) -> bool:
        """Tell whether one of ``heads`` is in flight, or stands there twice."""
        number = len(heads)
        if self._marks[heads].tobytes() != bytes(number):
            return True
        seen, counting = self._seen, self._counting[:number]
        seen[heads] = counting  # of one that is there twice, only the last place stays
        return bool(seen[heads].tobytes() != counting.tobytes())

    def _span(self, length: int) -> _Span:
        span = self._spans.get(length)
        if span is None:
            if len(self._spans) > 16:  # a driver chooses the lengths: do not collect them
                self._spans.clear()
            span = self._spans[length] = _Span(self._memory, length)
        return span

    def _window(self, size: int) -> Numbers:
        window = self._windows.get(size)
        if window is None:
            window = self._windows[size] = _window(self._memory, size)
        return window

    # The journal, for many at once: the same stores in the same order as in `Journal`.

    def begin(self, heads: Indexes, order: int) -> None:
        """Mark requests in flight, from place ``order`` in the order of arrival on."""
        self._orders[heads] = self._counting[: len(heads)] + order
        self._marks[heads] = 1

    def use(self, heads: Indexes, used: int, length: int) -> None:
        """Write used elements, from the used index ``used`` on."""
        elements = heads + (length << 32)
        start = used & self._mask
        fit = self._mask + 1 - start
        self._pairs[start : start + len(heads)] = elements[:fit]
        if len(heads) > fit:
            self._pairs[: len(heads) - fit] = elements[fit:]

    def intend(self, heads: Indexes) -> None:
        """Link the heads that are about to be published."""
        self._links[heads[0]] = self._last_head[0]
        self._links[heads[1:]] = heads[:-1]
        self._last_head[0] = heads[-1]

    def finish(self, heads: Indexes) -> None:
        """Unmark the heads that are published."""
        self._marks[heads] = 0
        self._strikes[heads] = 0


def _run(column: Numbers, number: int) -> int:
    """Count how many of the first ``number`` items are as the first one, without a gap."""
    column = column[:number]
    if column.tobytes() == column[:1].tobytes() * number:
        return number
    return int((column != column[0]).argmax())


class _Span:
    """Where buffers of one length may begin, and where that is in this process.

    Slots of the address space alternate: outside, inside the first region, outside, ... An address's slot is found by
    bisection, for any number of regions in about the same time, and what is to be added to it stands in a table.
    """

    def __init__(self, memory: MemoryTable, length: int) -> None:
        import numpy as np

        edges, inside, deltas = [], [0], [0]
        origin = _origin(memory)
        for region in memory.regions:
            if length <= len(region.view) and region.end <= 1 << 64:
                edges += [region.base, region.end - length + 1]
                inside += [1, 0]
                deltas += [(_address(region.view) - origin - region.base) & (1 << 64) - 1, 0]
        if edges and edges[-1] == 1 << 64:  # the last byte of the address space: there is nothing behind it
            edges.pop()
        self._edges = np.array(edges, "<u8")
        self._inside = np.array(inside, "u1")
        self._deltas = np.array(deltas, "<u8")
        self._intp = np.intp

    def places(self, addresses: Numbers, number: int) -> tuple[Indexes, int]:
        """Give the place of each address in a window, and how many, from the first on, are inside."""
        slots = self._edges.searchsorted(addresses, "right")
        inside = self._inside[slots]
        outside = inside.tobytes().find(0)
        places = self._deltas[slots]
        places += addresses
        return places.view(self._intp), number if outside < 0 else min(number, outside)


def _address(view: memoryview) -> int:
    import numpy as np

    return int(np.frombuffer(view, "u1").__array_interface__["data"][0])


def _origin(memory: MemoryTable) -> int:
    return min(_address(region.view) for region in memory.regions)


class _Pointer:
    """A piece of this process's memory, in NumPy's terms."""

    def __init__(self, address: int, length: int, size: int) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (address, False),
            "typestr": f"|V{size}",
            "shape": (max(0, length - size + 1),),
            "strides": (1,),
        }


def _window(memory: MemoryTable, size: int) -> Numbers:
    """See everything from the lowest region to the highest as records of ``size`` bytes, one at each byte.

    What lies between the regions is none of ours: only places that `_Span` gives may be touched.
    """
    import numpy as np

    origin = _origin(memory)
    end = max(_address(region.view) + len(region.view) for region in memory.regions)
    return np.asarray(_Pointer(origin, end - origin, size))
