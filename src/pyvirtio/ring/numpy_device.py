"""The device side of a split virtqueue, with NumPy for batches of requests of one shape.

A call of NumPy takes a few tenths of a microsecond for any number of requests, so a batch takes a fixed number of
them and no loop. Four habits make that fast, all measured: copy descriptors whole and look at the copy through strided
views; validate by comparing bytes with a pattern, which beats masks and ``any()`` by a factor of ten; gather and
scatter through windows, arrays whose records overlap at every byte address; and make no array twice that can be kept,
for making one takes as long as filling it.

A batch is taken only if it is plainly right: all requests of the same layout, two descriptors each (or one that
refers to an indirect table of two), each buffer within one region. The longest run of such requests is taken; what
comes behind it goes the way of the reference engine, which also says what is wrong.
"""

from __future__ import annotations

from pyvirtio.memory import read_barrier, words, write_barrier
from pyvirtio.ring.chain import Chain
from pyvirtio.ring.split_device import MOST_BYTES, SplitDeviceQueue
from pyvirtio.spec import split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from pyvirtio.memory import MemoryTable
    from pyvirtio.ring.records import PythonCodec, RecordBatch

    Indexes = NDArray[np.intp]
    Numbers = NDArray[Any]

FEWEST = 8
"""Below so many requests plain Python is as fast."""

MOST = 1024
"""As many requests are compared with a layout that was prepared; it grows where more come at once."""

_IDX, _RING = split.IDX, split.RING
_NEXT, _WRITE, _INDIRECT = split.F_NEXT, split.F_WRITE, split.F_INDIRECT
_PLAIN_FLAGS = _NEXT.to_bytes(2, "little") + _WRITE.to_bytes(2, "little")
_INDIRECT_FLAGS = _INDIRECT.to_bytes(2, "little")
_DESCRIPTOR, _PAIR = split.DESCRIPTOR_SIZE, 2 * split.DESCRIPTOR_SIZE


class NumpyDeviceQueue(SplitDeviceQueue):
    """The device's end of a queue; see `SplitDeviceQueue`."""

    _views: _Views | None = None
    _has_numpy = True

    def pop_records(self, limit: int, request_size: int, response_size: int) -> RecordBatch | None:
        """Take up to ``limit`` requests of one shape; see `SplitDeviceQueue.pop_records`."""
        pending = (self._available[_IDX] - self._next_available) & 0xFFFF
        number = pending if pending < limit else limit
        if number < FEWEST:
            return super().pop_records(limit, request_size, response_size)
        if self._broken or pending > self.size - self._in_flight:
            return None
        views = self._views or self._make_views()
        if views is None:
            return None
        read_barrier()
        journal = self.journal
        try:
            batch = views.pop(self._next_available, number, journal.last_order + 1, (request_size, response_size))
        except IndexError:  # an index beyond the table: NumPy looks at each
            return None
        if batch is None:
            return None
        number = len(batch.heads)
        journal.last_order += number
        self._next_available = (self._next_available + number) & 0xFFFF
        self._in_flight += number
        return batch

    def push_records(self, batch: Any, answers: Any) -> None:
        """Answer the next records of a batch; see `SplitDeviceQueue.push_records`."""
        if not isinstance(batch, NumpyBatch):
            super().push_records(batch, answers)
            return
        views = self._views or self._make_views()
        assert views is not None
        done, journal, layout = batch.done, self.journal, batch.layout
        batch.answer(answers)
        names, heads = batch.names, batch.heads
        number = batch.done - done
        if number < len(heads):
            names, heads = names[done : batch.done], heads[done : batch.done]
            if not number:
                return
        written = layout.response.itemsize
        used = (self._used_index + number) & 0xFFFF
        views.use(names, self._used_index, written)
        views.intend(names, heads)
        journal.intend((), used)
        write_barrier()
        self._used[_IDX] = used
        views.finish(heads)
        journal.finish((), used)
        journal.idle()
        self._used_index = used
        self._in_flight -= number
        self._count_records(number, number * layout.readable, number * written)

    def _memory_changed(self) -> None:
        self._views = None  # a batch that is still out keeps its own

    def _make_views(self) -> _Views | None:
        if not self._has_numpy:
            return None
        try:
            parts = (self._table, self._available, self._pairs, *self.journal.parts[:2])
            self._views = _Views(self._memory, parts, may_indirect=self._may_indirect)
        except (ImportError, TypeError, ValueError):  # no NumPy, or something that is not plain memory
            self._has_numpy = False
        return self._views


class NumpyBatch:
    """Requests of one shape; see `RecordBatch`.

    ``names`` are the heads as the ring has them. ``places`` say where in the windows the requests begin, and behind
    them where the answers do; ``slots`` say the same for the address space.
    """

    def __init__(
        self, order: int, names: Numbers, heads: Indexes, layout: _Layout, slots: Indexes, places: Indexes
    ) -> None:
        self.order = order
        self.names = names
        self.heads = heads
        self.layout = layout
        self.done = 0
        self._slots = slots
        self._places = places
        self.requests: Any = layout.requests[places[: len(heads)]]

    def __len__(self) -> int:
        return len(self.heads) - self.done

    def unpacked(self, codec: PythonCodec) -> Iterator[tuple[Any, ...]]:
        """Read the records that are left, one after the other."""
        return codec.iter_unpack(memoryview(self.requests)[self.done :])

    def answer(self, answers: Any) -> None:
        """Write answers of the next records into guest memory."""
        layout, done, places = self.layout, self.done, self._places[len(self.heads) :]
        records = layout.frombuffer(answers, layout.response)
        number = len(records)
        if number > len(places) - done:
            raise ValueError("the answers are not as long as the records that are left")
        if number < len(places):
            places = places[done : done + number]
        layout.responses[places] = records
        self.done = done + number
        self.order += number

    def take(self) -> Chain:
        """Take the next record out, to answer it as a chain."""
        at, order, number = self.done, self.order, len(self.heads)
        self.done += 1
        self.order += 1
        readable, writable = (
            self.layout.buffer(length, int(self._slots[where]), int(self._places[where]))
            for where, length in ((at, self.layout.readable), (at + number, self.layout.writable))
        )
        return Chain(int(self.heads[at]), order, readable, writable)


class _Views:
    """The ring, its journal and guest memory, seen as arrays."""

    def __init__(self, memory: MemoryTable, parts: tuple[memoryview, ...], *, may_indirect: bool) -> None:
        import numpy as np

        table, available, pairs, marks, strikes = parts
        size = len(table) // _DESCRIPTOR
        self._np = np
        self._memory = _Memory(memory)
        self._mask = size - 1
        self._may_indirect = may_indirect and size > 1
        self._table = np.frombuffer(table, f"V{_DESCRIPTOR}")
        self._ring = np.frombuffer(available, "<u2")[_RING : _RING + size]
        used = np.frombuffer(pairs, "<u4")
        self._used_heads, self._used_lengths = used[0::2], used[1::2]
        # The journal; see there.
        states = 16 * (size + 1)
        self._marks = np.frombuffer(marks, "u1", states)[16::16]
        self._orders = np.frombuffer(marks, "<u8", states // 8)[3::2]
        self._links = np.frombuffer(marks, "<u2", states // 2)[11::8]
        self._last_head = words(marks[12:14], "H")
        self._strikes = np.frombuffer(strikes, "u1")
        self._struck = bool(self._strikes.any())  # the keeper strikes only while no worker runs
        # Private memory, made once.
        self._seen = np.zeros(size, "<u8")
        self._unmarked = bytes(size)
        self._stock, self._stock_from = np.zeros(0, "<u8"), 0
        self._desks: dict[int, _Desk] = {}
        self._layout = _Layout(self._memory, bytes(8), (0, 0), 0)

    # Popping.

    def pop(self, next_available: int, number: int, order: int, sizes: tuple[int, int]) -> NumpyBatch | None:
        """Take the longest run of plain requests of one layout, up to ``number`` of them; the first gets ``order``.

        Raises:
            IndexError: an index in the ring or in a descriptor is beyond the table.
        """
        found = self._look(next_available, number, order, sizes)
        if isinstance(found, int) and found >= FEWEST:  # so many are alike, unless somebody changes them
            found = self._look(next_available, found, order, sizes)
        return None if isinstance(found, int) else found

    def _look(self, next_available: int, number: int, order: int, sizes: tuple[int, int]) -> NumpyBatch | int:
        """Take ``number`` requests, or give how many, from the first on, may be alike where not all are."""
        desk = self._desks.get(number) or self._desk(number)
        names = self._names(next_available & self._mask, number)
        heads = names.astype(self._np.intp)
        if (alike := self._copy_descriptors(desk, heads)) < number:
            return alike
        layout, alike = self._compare(desk, sizes)
        if alike < number:
            return alike
        desk.addresses[...] = desk.columns
        slots = layout.edges.searchsorted(desk.flat_addresses, "right")
        if 0 in self._memory.inside[slots].tobytes():  # not even the longer buffer fits everywhere
            slots, alike = self._slots_apart(desk, layout)
            if alike < number:
                return alike
        places = self._memory.deltas[slots]
        places += desk.offsets
        orders = self._orders_from(order, number)
        if self._any_in_flight(heads, orders):
            return 0
        batch = NumpyBatch(order, names, heads, layout, slots, places)
        self._orders[heads] = orders
        self._marks[heads] = 1
        return batch

    def _desk(self, number: int) -> _Desk:
        if len(self._desks) > 256:
            self._desks.clear()
        desk = self._desks[number] = _Desk(number)
        return desk

    def _names(self, start: int, number: int) -> Numbers:
        ring, beyond = self._ring, start + number - self._mask - 1
        if beyond <= 0:
            return ring[start : start + number].copy()
        return self._np.concatenate((ring[start:], ring[:beyond]))

    def _copy_descriptors(self, desk: _Desk, heads: Indexes) -> int:
        """Read the two descriptors of each request, once; gives how many requests may have them."""
        desk.first[...] = self._table[heads]
        flags = desk.flags.item(0)
        if flags == _NEXT:
            desk.following[...] = desk.nexts
            desk.second[...] = self._table[desk.following]
            return len(heads)
        if flags == _INDIRECT and self._may_indirect:
            return self._copy_tables(desk)
        return 0

    def _copy_tables(self, desk: _Desk) -> int:
        """Read the two descriptors of each indirect table; gives how many requests have such tables."""
        number, memory = len(desk.nexts), self._memory
        slots = memory.edges(_PAIR).searchsorted(desk.columns[0], "right")
        outside = memory.inside[slots].tobytes().find(0)
        alike = min(
            _alike(desk.flags[::2].tobytes(), _INDIRECT_FLAGS * number, 2),
            _alike(desk.lengths[::2].tobytes(), _PAIR.to_bytes(4, "little") * number, 4),
            number if outside < 0 else outside,
        )
        if alike < number:
            return alike
        places = memory.deltas[slots]
        places += desk.columns[0].view(places.dtype)
        desk.pairs[...] = memory.window(_PAIR)[places]
        return _alike(desk.nexts.tobytes(), b"\1\0" * number, 2)

    def _compare(self, desk: _Desk, sizes: tuple[int, int]) -> tuple[_Layout, int]:
        """Compare descriptors with the layout that came last; gives theirs, and how many, from the first on, have it.

        A layout that does not suit requests and responses of these ``sizes`` is none.
        """
        layout = self._layout
        lengths, flags = desk.lengths.tobytes(), desk.flags.tobytes()
        if not layout.all_lengths.startswith(lengths) or layout.sizes != sizes:
            layout = self._layout = _Layout(self._memory, lengths[:8], sizes, max(len(desk.nexts), MOST))
        if layout.all_lengths.startswith(lengths) and layout.all_flags.startswith(flags):
            return layout, len(desk.nexts) if layout.fits else 0
        alike = min(_alike(lengths, layout.all_lengths, 8), _alike(flags, layout.all_flags, 4))
        return layout, alike if layout.fits else 0

    def _slots_apart(self, desk: _Desk, layout: _Layout) -> tuple[Indexes, int]:
        """Give the slots of readable and writable buffers, and how many of both, from the first on, are inside."""
        memory, lengths = self._memory, (layout.readable, layout.writable)
        rows = [
            memory.edges(length).searchsorted(row, "right") for row, length in zip(desk.addresses, lengths, strict=True)
        ]
        outside = [memory.inside[row].tobytes().find(0) for row in rows]
        number = min((where for where in outside if where >= 0), default=len(rows[0]))
        return self._np.concatenate(rows), number

    def _orders_from(self, order: int, number: int) -> Numbers:
        """Give the places in the order of arrival from ``order`` on, out of a stock."""
        start = order - self._stock_from
        if not 0 <= start <= len(self._stock) - number:
            self._stock = self._np.arange(order, order + 8 * max(number, MOST), dtype="<u8")
            self._stock_from, start = order, 0
        return self._stock[start : start + number]

    def _any_in_flight(self, heads: Indexes, orders: Numbers) -> bool:
        """Tell whether one of ``heads`` is in flight, or stands there twice."""
        if not self._unmarked.startswith(self._marks[heads].tobytes()):
            return True
        seen = self._seen
        seen[heads] = orders  # of one that is there twice, only the last place stays
        return bool(seen[heads].tobytes() != orders.tobytes())

    # Pushing. The journal's stores, for many at once, are the same in the same order as in `Journal`.

    def use(self, names: Numbers, used: int, length: int) -> None:
        """Write used elements, from the used index ``used`` on."""
        start = used & self._mask
        stop, size = start + len(names), self._mask + 1
        self._used_heads[start:stop] = names[: size - start] if stop > size else names
        self._used_lengths[start:stop] = length
        if stop > size:
            self._used_heads[: stop - size] = names[size - start :]
            self._used_lengths[: stop - size] = length

    def intend(self, names: Numbers, heads: Indexes) -> None:
        """Link the heads that are about to be published."""
        self._links[heads[1:]] = names[:-1]
        self._links[heads.item(0)] = self._last_head[0]
        self._last_head[0] = names.item(-1)

    def finish(self, heads: Indexes) -> None:
        """Unmark the heads that are published."""
        self._marks[heads] = 0
        if self._struck:
            self._strikes[heads] = 0


class _Desk:
    """Where the descriptors of so many requests are laid out, in pairs, to be looked at from all sides."""

    def __init__(self, number: int) -> None:
        import numpy as np

        self.pairs = np.zeros(number, f"V{_PAIR}")
        descriptors = self.pairs.view(f"V{_DESCRIPTOR}")
        self.first, self.second = descriptors[0::2], descriptors[1::2]
        self.lengths, self.flags = self.pairs.view("<u4")[2::4], self.pairs.view("<u2")[6::8]
        self.nexts = self.pairs.view("<u2")[7::16]
        self.following = np.zeros(number, np.intp)
        self.columns = self.pairs.view("<u8")[0::2].reshape(number, 2).T
        # The same without gaps: those of the readable buffers, and behind them those of the writable ones.
        self.flat_addresses = np.zeros(2 * number, "<u8")
        self.addresses = self.flat_addresses.reshape(2, number)
        self.offsets = self.flat_addresses.view(np.intp)


class _Layout:
    """What all requests of a batch have in common: the lengths of their two buffers, and their flags."""

    def __init__(self, memory: _Memory, lengths: bytes, sizes: tuple[int, int], number: int) -> None:
        self.all_lengths = lengths * number
        self.all_flags = _PLAIN_FLAGS * number
        self.sizes = sizes
        self.readable, self.writable = int.from_bytes(lengths[:4], "little"), int.from_bytes(lengths[4:], "little")
        self.fits = (
            self.readable >= sizes[0] and self.writable >= sizes[1] and self.readable + self.writable <= MOST_BYTES
        )
        self.edges = memory.edges(max(self.readable, self.writable))
        self.requests, self.responses = map(memory.window, sizes)
        self.response, self.frombuffer = self.responses.dtype, memory.frombuffer
        self.buffer = memory.views


def _alike(found: bytes, pattern: bytes, size: int) -> int:
    """Count how many items of ``size`` bytes are as in a pattern, from the first on, without a gap."""
    import numpy as np

    if pattern.startswith(found):
        return len(found) // size
    differ = np.frombuffer(found, "u1") != np.frombuffer(pattern, "u1", len(found))
    return int(differ.argmax()) // size


class _Memory:
    """Guest memory: where buffers may begin, and where that is in this process.

    Slots of the address space alternate: outside, inside the first region, outside, ... An address's slot is found by
    bisection, for any number of regions in about the same time, and what is to be added to it stands in a table.
    """

    def __init__(self, memory: MemoryTable) -> None:
        import numpy as np

        self._np = np
        self.frombuffer = np.frombuffer
        self._table = memory
        self._regions = [region for region in memory.regions if region.end <= 1 << 64]
        origin, deltas = _origin(memory), [0]
        for region in self._regions:
            deltas += [(_address(region.view) - origin - region.base) & (1 << 64) - 1, 0]
        self.deltas = np.array(deltas, "<u8").view(np.intp)
        self.inside = np.arange(len(deltas)).astype("u1") & 1
        self._edges: dict[int, Numbers] = {}
        self._windows: dict[int, Numbers] = {}

    def edges(self, length: int) -> Numbers:
        """Give the edges of the slots for buffers of one length."""
        edges = self._edges.get(length)
        if edges is None:
            if len(self._edges) > 16:  # a driver chooses the lengths: do not collect them
                self._edges.clear()
            ends = [(region.base, max(region.base, region.end - max(length, 1) + 1)) for region in self._regions]
            numbers = [edge for pair in ends for edge in pair]
            if numbers and numbers[-1] == 1 << 64:  # the last byte of the address space: there is nothing behind it
                numbers.pop()
            edges = self._edges[length] = self._np.array(numbers, "<u8")
        return edges

    def window(self, size: int) -> Numbers:
        """See everything from the lowest region to the highest as records of ``size`` bytes, one at each byte.

        What lies between the regions is none of ours: only places inside may be touched.
        """
        window = self._windows.get(size)
        if window is None:
            origin = _origin(self._table)
            end = max(_address(region.view) + len(region.view) for region in self._table.regions)
            window = self._windows[size] = self._np.asarray(_Pointer(origin, end - origin, size))
        return window

    def views(self, length: int, slot: int, place: int) -> list[memoryview]:
        """Give a buffer at a place of a window, as `MemoryTable.views` does."""
        return self._table.views((place - int(self.deltas[slot])) & (1 << 64) - 1, length)


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
