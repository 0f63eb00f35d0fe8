"""Rings for tests: memory of any shape, both ends in one process, and stores that fail when a test says so."""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING, Any

from pyvirtio.device import Device, Queue, Reader, Writer
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.ring import Chain, Journal, SplitDriverQueue, SplitLayout
from pyvirtio.ring import device_queue as new_device_queue
from pyvirtio.ring.engine import engine
from pyvirtio.ring.journal import ledger_size, region_size
from pyvirtio.spec.features import RING_FEATURES, Feature
from pyvirtio.spec.struct import Struct, le32
from pyvirtio.testing import LocalQueue, RawDriver, RingLayout, lay_out
from pyvirtio.transport import QueueSetup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyvirtio.ring.queue import RecordQueue

FLAGS_ONLY = RING_FEATURES & ~Feature.EVENT_IDX
EVENT_IDX = RING_FEATURES
SUPPRESSIONS = {"event_idx": EVENT_IDX, "flags": FLAGS_ONLY}


def memory_of(*regions: tuple[int, int]) -> MemoryTable:
    """Make memory of regions ``(base, size)``, all zeros."""
    return MemoryTable([Region(base, bytearray(size)) for base, size in regions])


def rings_at(memory: MemoryTable, layout: RingLayout) -> SplitLayout:
    """See the ring at ``layout`` as the library does."""
    return SplitLayout(memory, layout.size, layout.descriptors, layout.available, layout.used)


def setup_at(layout: RingLayout, features: int = RING_FEATURES, position: int = 0) -> QueueSetup:
    """Return the set-up of a queue whose ring is at ``layout``."""
    return QueueSetup(0, layout.size, layout.descriptors, layout.available, layout.used, features, position=position)


def device_queue(raw: RawDriver, features: int = RING_FEATURES, position: int | None = None) -> RecordQueue:
    """Build the real device side of a raw driver's ring; it goes on at the used index unless told otherwise."""
    setup = setup_at(raw.layout, features, raw.used_idx if position is None else position)
    return new_device_queue(setup, raw.memory, journal=Journal.private(raw.layout.size))


def both_ends(
    size: int, features: int = RING_FEATURES, *, index: int = 0, room: int = 1 << 16
) -> tuple[SplitDriverQueue, RecordQueue, MemoryTable, int]:
    """Build the real driver and the real device on one ring; return them, the memory, and the first address behind.

    ``index`` is where both start, as if that many requests had gone through already.
    """
    layout = lay_out(size, 0x1000)
    memory = memory_of((0x1000, layout.end + room - 0x1000))
    driver = driver_at(rings_at(memory, layout), memory, features, index)
    device = new_device_queue(setup_at(layout, features, index), memory, journal=Journal.private(size))
    return driver, device, memory, layout.end


def driver_at(rings: SplitLayout, memory: MemoryTable, features: int, index: int) -> SplitDriverQueue:
    """Build the real driver as if ``index`` requests had gone through the ring."""
    driver = SplitDriverQueue(rings, memory, features)
    driver._available_index = driver._used_index = driver._kicked_at = index
    driver.publish()
    rings.used[1] = index
    driver.enable_interrupts()
    return driver


class Number(Struct):
    """A number."""

    value: int = le32()


def unchecked(value: int) -> Number:
    """Make a structure as no constructor makes it: with a number that may not fit."""
    return tuple.__new__(Number, (value,))


class Doubler(Device):
    """Doubles a number; the typed way."""

    device_id = 63
    requests = Queue(Number, Number, size=128, count=2)

    @requests.each
    def double(self, request: Number) -> Number:
        """Answer one request."""
        return Number((2 * request.value) & 0xFFFFFFFF)


class Echo(Device):
    """Returns every byte; the stream way."""

    device_id = 63
    requests = Queue(size=32768)

    @requests.stream
    def echo(self, reader: Reader, writer: Writer) -> None:
        """Answer one request."""
        writer.write(reader.read(reader.left))


class RawQueue(LocalQueue):
    """A queue of ``device``, driven by a raw driver and served as a worker does, on a clock that hardly moves."""

    def __init__(
        self,
        raw: RawDriver,
        device: Device | None = None,
        features: int = RING_FEATURES,
        *,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.raw = raw
        setup = setup_at(raw.layout, features, raw.used_idx)
        super().__init__(device or Doubler(), setup, raw.memory, clock=clock or itertools.count().__next__)

    def settle(self) -> None:
        """Interrupt as after every start, whether the driver wants it or not; count from here on."""
        self.service.interrupt()
        self.interrupts = 0

    def kick(self) -> list[tuple[int, int]]:
        """Serve the queue until it is empty or broken; return what the driver got back."""
        self.serve()
        return [(element.id, element.len) for element in self.raw.reap()]

    def double(self, value: int) -> int:
        """Send a well-formed request through it."""
        head = self.raw.request(Number(value).pack(), room=4)
        self.raw.make_available(head)
        assert (head, 4) in self.kick()
        return Number.unpack(self.raw.answer(head)).value


class Cut(BaseException):
    """The process died here. (No `Exception`: nobody may catch it.)"""


class Fuse:
    """Counts stores and, after ``limit`` of them, lets the process die instead of making the next one.

    Stores of plain Python are counted here. Those of the native engine are counted by itself, in the build for tests
    (RING_STORE_HOOK), and Python's are then counted there, too: from the limit on, nothing reaches memory any more.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._stores = 0
        self._native: Any = None
        self._start = 0

    def attach(self, native: Any) -> None:
        """Have the native engine count, for a process that starts now."""
        self._native = native
        self._start = native.stores()
        self.limit = self._limit

    @property
    def stores(self) -> int:
        """How many stores were made."""
        return self._native.stores() - self._start if self._native else self._stores

    @property
    def limit(self) -> int | None:
        """How many stores may be made; None: as many as it likes."""
        return self._limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        self._limit = limit
        if self._native:
            self._native.allow_stores(2**63 if limit is None else self._start + limit)

    def burn(self) -> None:
        """Count one store that Python is about to make."""
        if self._native:
            if not self._native.count_store():
                raise Cut
        elif self._limit is not None and self._stores >= self._limit:
            raise Cut
        else:
            self._stores += 1

    def check(self) -> None:
        """End here if the process died inside the native engine."""
        if self._native and self._native.is_dead():
            raise Cut


class Mortal:
    """A native queue that dies once its process did."""

    def __init__(self, queue: RecordQueue, fuse: Fuse) -> None:
        self._queue = queue
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._queue, name)
        return partial(self._call, found) if callable(found) else found

    def _call(self, method: Callable[..., object], *arguments: object) -> object:
        result = method(*arguments)
        self._fuse.check()
        return result


class FusedView:
    """A memoryview whose stores burn a fuse, and are noted: what was stored to, and where, in items of its width."""

    def __init__(self, view: memoryview, fuse: Fuse, log: list[tuple[str, int]], name: str) -> None:
        self.view = view
        self.fuse = fuse
        self.log = log
        self.name = name

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, place: Any) -> Any:
        found = self.view[place]
        return FusedView(found, self.fuse, self.log, self.name) if isinstance(place, slice) else found

    def __setitem__(self, place: int, value: int) -> None:
        self.fuse.burn()
        self.log.append((self.name, place))
        self.view[place] = value

    def cast(self, width: Any) -> FusedView:
        """See it in another width."""
        return FusedView(self.view.cast(width), self.fuse, self.log, f"{self.name} {width}")

    def tolist(self) -> list[int]:
        """Return its items."""
        return self.view.tolist()


class _FusedMemory(MemoryTable):
    """Memory whose used ring burns a fuse."""

    def __init__(self, memory: MemoryTable, used: int, fused: Callable[[memoryview, str], Any]) -> None:
        super().__init__(memory.regions)
        self._used = used
        self._fused = fused

    def view(self, address: int, length: int) -> Any:
        """Find memory, as `MemoryTable.view` does."""
        view = super().view(address, length)
        return self._fused(view, "used") if address == self._used else view


class _DurableJournal(Journal):
    """A journal whose stores burn a fuse, and that shows an engine the memory as it is."""

    def __init__(self, durable: Durable) -> None:
        size = durable.layout.size
        super().__init__(size, durable.fused(durable.region, "region"), durable.fused(durable.ledger, "ledger"))
        self._parts = durable.region, durable.ledger

    @property
    def parts(self) -> tuple[memoryview, memoryview]:
        return self._parts


class Durable:
    """What survives a worker: the ring's memory and the two parts of the journal."""

    def __init__(self, memory: MemoryTable, layout: RingLayout, features: int = RING_FEATURES) -> None:
        self.memory = memory
        self.layout = layout
        self.features = features
        self.region = memoryview(bytearray(region_size(layout.size)))
        self.ledger = memoryview(bytearray(ledger_size(layout.size)))
        self.fuse = Fuse()
        self.log: list[tuple[str, int]] = []

    def journal(self) -> Journal:
        """Open the journal as it is, as the keeper does."""
        return Journal(self.layout.size, self.region, self.ledger)

    def worker(self, fuse: Fuse | None = None, position: int | None = None) -> RecordQueue:
        """Start a worker's queue: a new one, or one that goes on from the journal."""
        self.fuse = fuse or Fuse()
        if position is None:
            position = self.memory.view(self.layout.used, 4).cast("H")[1]
        setup = setup_at(self.layout, self.features, position)
        if engine() == "reference":
            return new_device_queue(setup, self.fused_memory(self.memory), journal=_DurableJournal(self))
        from pyvirtio.ring import native_device

        native = vars(native_device)["_native"]
        assert hasattr(native, "stores"), "use the fixture `mortal_engine`"
        self.fuse.attach(native)
        queue = native_device.NativeDeviceQueue(setup, self.memory, journal=_DurableJournal(self))
        return Mortal(queue, self.fuse)  # type: ignore[return-value]  # it has all of the queue's attributes

    def fused(self, view: memoryview, name: str) -> Any:
        """See memory of plain Python such that its stores burn the worker's fuse."""
        return FusedView(view, self.fuse, self.log, name)

    def fused_memory(self, memory: MemoryTable) -> MemoryTable:
        """Return memory such that Python's stores to the used ring burn the worker's fuse; C counts its own."""
        return _FusedMemory(memory, self.layout.used, self.fused) if engine() == "reference" else memory


def heads_of(chains: Iterable[Chain]) -> list[int]:
    """Return the heads of chains."""
    return [chain.head for chain in chains]
